//! How CPU time is distributed among workers and stages, and what more workers cost: `bench --leaves`.
use super::measure::{How, Measured, Shape, measure};
use crate::engine::WorkerTiming;
use anyhow::Result;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// The number of workers that others are compared with.
const FEW: usize = 2;
/// Measurements of each number of workers, in turn: what else the machine does then affects both alike.
const ROUNDS: usize = 2;

/// The CPU time of the worker threads in the measured steps.
#[derive(Clone, Debug, Serialize)]
pub struct CpuUse {
    /// Microseconds per token.
    cpu_us_per_token: f64,
    /// Mean over workers, divided by that of the worker with the most.
    balance: f64,
    /// CPU time per token relative to two workers: the mean of [`ROUNDS`] pairs of measurements.
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_relative_to_2_workers: Option<f64>,
    /// Seconds by stage, for each worker; `engine` is all that is not in a stage.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    cpu_seconds: BTreeMap<String, Vec<f64>>,
}

impl CpuUse {
    /// That of workers that have processed so many tokens in the measured steps.
    pub fn of(workers: &[WorkerTiming], tokens: u64) -> Self {
        let total: Duration = workers.iter().map(|worker| worker.cpu).sum();
        let most = workers.iter().map(|worker| worker.cpu).max().unwrap_or_default();
        let mut cpu_seconds = BTreeMap::<String, Vec<f64>>::new();
        for worker in workers {
            let in_stages: Duration = worker.stages.iter().map(|stage| stage.cpu).sum();
            let stages = worker.stages.iter().filter(|stage| !stage.cpu.is_zero());
            let stages = stages.map(|stage| (stage.id.as_str(), stage.cpu));
            for (id, cpu) in stages.chain([("engine", worker.cpu.saturating_sub(in_stages))]) {
                cpu_seconds.entry(id.into()).or_default().push(rounded(cpu.as_secs_f64(), 1e3));
            }
        }
        Self {
            cpu_us_per_token: rounded(1e6 * total.as_secs_f64() / tokens as f64, 1e2),
            balance: rounded(total.as_secs_f64() / (most.as_secs_f64() * workers.len() as f64), 1e4),
            cpu_relative_to_2_workers: None,
            cpu_seconds,
        }
    }

    /// With or without the seconds by stage and worker.
    pub fn detailed(mut self, detailed: bool) -> Self {
        if !detailed {
            self.cpu_seconds.clear();
        }
        self
    }
}

fn rounded(value: f64, steps: f64) -> f64 {
    (value * steps).round() / steps
}

/// Measures in turn with two workers and with those of `how`; returns the last measurement of the latter, compared with
/// the others.
///
/// # Errors
/// If any stage fails.
pub fn compared(shape: &Shape, how: &How, limit: f64) -> Result<Measured> {
    let measure = |workers| measure(shape, &How { workers, ..*how }, || limit);
    let mut ratios = Vec::new();
    loop {
        let few = measure(FEW)?.cpu.cpu_us_per_token;
        let mut measured = measure(how.workers)?;
        ratios.push(measured.cpu.cpu_us_per_token / few);
        if ratios.len() == ROUNDS {
            let mean = ratios.iter().sum::<f64>() / ROUNDS as f64;
            measured.cpu.cpu_relative_to_2_workers = Some(rounded(mean, 1e3));
            return Ok(measured);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::StageTiming;

    #[test]
    fn time_is_summed_by_stage_and_worker() {
        let worker = |forward, all| WorkerTiming {
            stages: vec![StageTiming {
                id: "forward".into(),
                cpu: Duration::from_millis(forward),
                ..Default::default()
            }],
            cpu: Duration::from_millis(all),
            ..WorkerTiming::default()
        };
        let cpu = CpuUse::of(&[worker(250, 300), worker(100, 100)], 1000);
        assert_eq!((cpu.cpu_us_per_token, cpu.balance), (400.0, 0.6667));
        let seconds: Vec<_> = cpu.cpu_seconds.iter().map(|(id, seconds)| (id.as_str(), seconds.as_slice())).collect();
        assert_eq!(seconds, [("engine", &[0.05, 0.0][..]), ("forward", &[0.25, 0.1])]);
    }
}

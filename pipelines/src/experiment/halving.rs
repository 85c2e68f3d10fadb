//! Successive halving: after given numbers of steps, only the better half of the variants goes on (Jamieson and Talwalkar
//! 2016, "Non-stochastic Best Arm Identification and Hyperparameter Optimization").
//!
//! What has been decided follows from the metrics of the runs, so nothing else is recorded: an experiment that goes on
//! after a kill comes to the same decisions. Runs that have failed are tried again before anything is decided without them.
use super::cells::{Cell, Experiment};
use super::children::RunPaths;
use super::statistics::mean;
use anyhow::Result;
use serde::Serialize;
use std::path::Path;
use train::record::{METRICS_FILE, StepLine, read_metrics};

/// What was decided after some steps.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rung {
    /// The number of steps.
    pub step: u64,
    /// What is compared.
    pub metric: &'static str,
    /// The variants that go on, the best one first.
    pub go_on: Vec<Ranked>,
    /// The others.
    pub stopped: Vec<Ranked>,
}

/// A variant after some steps.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Ranked {
    /// Its index.
    #[serde(skip)]
    pub index: usize,
    /// Its name.
    pub variant: String,
    /// The mean of its runs: bits per byte, or validation loss if some run has none; `None` if one of them has failed.
    pub mean: Option<f64>,
}

/// The decisions of an experiment so far.
#[derive(Clone, Debug, Default)]
pub struct Halving {
    /// What was decided.
    pub rungs: Vec<Rung>,
    /// The steps after which something is still to be decided.
    pub left: Vec<u64>,
    /// The indices of the variants that go on.
    pub alive: Vec<usize>,
}

impl Halving {
    /// The decisions of an experiment, as far as the runs in `folder` have come. A variant with a run without validation
    /// that `has_failed` now counts as the worst.
    ///
    /// # Errors
    /// If metrics cannot be read.
    pub fn so_far(experiment: &Experiment, folder: &Path, has_failed: impl Fn(&str) -> bool) -> Result<Self> {
        let Experiment { cells, names, halving: after } = *experiment;
        let mut alive: Vec<usize> = (0..names.len()).collect();
        let mut rungs = Vec::new();
        // Of each run, what validation has found after each of these numbers of steps.
        let read = |cell: &Cell| validated(&RunPaths::of(folder, &cell.name).run_dir, after);
        let found: Vec<_> =
            if after.is_empty() { Vec::new() } else { cells.iter().map(read).collect::<Result<_>>()? };
        for (number, step) in after.iter().enumerate() {
            let of_variant = |index: usize| {
                let runs = cells.iter().zip(&found).filter(move |(cell, _)| cell.variant == index);
                runs.map(move |(cell, found)| (&cell.name, found[number]))
            };
            let runs = || alive.iter().flat_map(|index| of_variant(*index));
            let is_open = runs().any(|(name, found)| found.is_none() && !has_failed(name));
            if is_open || runs().all(|(_, found)| found.is_none()) {
                return Ok(Self { left: after[number..].to_vec(), rungs, alive });
            }
            // Tokens of different tokenizers cannot be compared, but bytes can.
            let in_bytes = runs().all(|(_, found)| found.is_none_or(|found| found.bits_per_byte.is_some()));
            let metric = if in_bytes { "bits per byte" } else { "validation loss" };
            let value = |found: &Validated| if in_bytes { found.bits_per_byte } else { Some(found.loss) };
            let ranked = alive.iter().map(|index| {
                let values: Option<Vec<f64>> = of_variant(*index).map(|(_, found)| value(&found?)).collect();
                let mean = values.map(|values| mean(&values)).filter(|mean| mean.is_finite());
                Ranked { index: *index, variant: names[*index].to_owned(), mean }
            });
            let rung = decide(*step, metric, ranked.collect());
            alive = rung.go_on.iter().map(|ranked| ranked.index).collect();
            alive.sort_unstable();
            rungs.push(rung);
        }
        Ok(Self { rungs, left: Vec::new(), alive })
    }

    /// The number of updates that a run of `steps` does until the next decision, or until its end. Validation after a
    /// number of updates is part of the step after them.
    pub fn until(&self, steps: u64) -> u64 {
        self.left.first().map_or(steps, |step| step + 1)
    }

    /// The updates that a run of `steps` that goes on now is still expected to do, of which it has done `done`: each later
    /// decision stops half of the variants.
    pub fn expected(&self, steps: u64, done: u64) -> f64 {
        let (mut share, mut from, mut expected, mut alive) = (1.0, done, 0.0, self.alive.len());
        for until in self.left.iter().map(|step| step + 1).chain([steps]) {
            expected += share * until.saturating_sub(from) as f64;
            from = from.max(until);
            let go_on = alive.div_ceil(2);
            share *= go_on as f64 / alive.max(1) as f64;
            alive = go_on;
        }
        expected
    }
}

/// What validation has found.
#[derive(Clone, Copy)]
struct Validated {
    loss: f64,
    bits_per_byte: Option<f64>,
}

/// The better half goes on, and at least one.
fn decide(step: u64, metric: &'static str, mut ranked: Vec<Ranked>) -> Rung {
    ranked.sort_by(|a, b| a.mean.unwrap_or(f64::INFINITY).total_cmp(&b.mean.unwrap_or(f64::INFINITY)));
    let stopped = ranked.split_off(ranked.len().div_ceil(2));
    Rung { step, metric, go_on: ranked, stopped }
}

/// What validation of a run has found after each of these numbers of updates, as far as it has come.
fn validated(run_dir: &Path, after: &[u64]) -> Result<Vec<Option<Validated>>> {
    let metrics = read_metrics(&run_dir.join(METRICS_FILE))?;
    let of = |line: &StepLine| Some(Validated { loss: line.validation_loss?, bits_per_byte: line.bits_per_byte });
    Ok(after.iter().map(|step| metrics.iter().find(|line| line.step == *step).and_then(of)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_better_half_goes_on_and_a_failed_one_never_before_others() {
        let ranked = |means: &[Option<f64>]| {
            let ranked = means.iter().enumerate();
            ranked.map(|(index, mean)| Ranked { index, variant: index.to_string(), mean: *mean }).collect::<Vec<_>>()
        };
        let indices = |ranked: &[Ranked]| ranked.iter().map(|ranked| ranked.index).collect::<Vec<_>>();
        let rung = decide(9, "loss", ranked(&[Some(3.0), None, Some(1.0), Some(2.0), Some(4.0)]));
        assert_eq!((rung.step, indices(&rung.go_on), indices(&rung.stopped)), (9, vec![2, 3, 0], vec![4, 1]));
        let rung = decide(9, "loss", ranked(&[Some(3.0)]));
        assert_eq!((indices(&rung.go_on), rung.stopped.len()), (vec![0], 0));
    }

    #[test]
    fn later_steps_are_expected_of_half_of_the_runs() {
        let mut halving = Halving { rungs: Vec::new(), left: vec![99, 299], alive: vec![0, 1, 2, 3] };
        assert_eq!((halving.until(1000), halving.expected(1000, 0)), (100, 100.0 + 200.0 / 2.0 + 700.0 / 4.0));
        assert_eq!(halving.expected(1000, 40), 60.0 + 200.0 / 2.0 + 700.0 / 4.0);
        halving.left.clear();
        assert_eq!((halving.until(1000), halving.expected(1000, 300)), (1000, 700.0));
    }
}

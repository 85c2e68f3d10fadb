//! `evaluate`: validation loss and bits per byte of the step's parameters.
use anyhow::{Result, bail};
use contract::{
    At, Built, Corpus, Due, Emit, Env, Gather, Kind, Metric, Metrics, Packet, Port, Problem, Purpose, Route, Schedule,
    Settings, Stage, StageKeys, StageSettings, Step, Turn,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Settings of `type = "evaluate"`.
#[derive(Clone, Debug, Serialize, Deserialize, StageKeys)]
#[serde(default, deny_unknown_fields)]
pub struct Evaluate {
    /// Steps between validations. There is also one at the end of the run; 0: none, not even at the end.
    pub interval: u64,
}

impl Default for Evaluate {
    fn default() -> Self {
        Self { interval: 100 }
    }
}

impl StageSettings for Evaluate {
    const SUMMARY: &'static str = "validation loss (nats per token) and bits per byte on the held-out documents";
    const OBSERVES: bool = true;
    const EXAMPLE: &'static str = "type = \"evaluate\"\ninterval = 100\n";
}

impl Settings for Evaluate {
    fn takes(&self) -> Vec<Port> {
        vec![Port::stream(Kind::Metrics).by(Route::Exchange)]
    }

    fn gives(&self) -> Vec<Kind> {
        vec![Kind::Metrics]
    }

    fn check(&self) -> Vec<Problem> {
        Vec::new()
    }

    fn build(&self, env: &Env) -> Result<Built> {
        let (schedule, corpus, worker) = (env.schedule, env.corpus, env.worker);
        Ok(Built::Stage(Box::new(EvaluateStage { schedule, corpus, worker, parts: BTreeMap::new() })))
    }

    fn due(&self) -> Due {
        Due { evaluate: (self.interval > 0).then_some(self.interval), checkpoint: None }
    }
}

struct EvaluateStage {
    schedule: Schedule,
    corpus: Option<Corpus>,
    worker: usize,
    /// Summed loss and number of targets by `(leaf, part)`: an ordered map, so that they are always added in the same
    /// order.
    parts: BTreeMap<(u32, u32), (f64, f64)>,
}

/// Bits per byte of text: nats per token, divided by ln 2, times tokens per byte.
pub fn bits_per_byte(loss: f64, tokens: u64, bytes: u64) -> f64 {
    loss / std::f64::consts::LN_2 * tokens as f64 / bytes as f64
}

impl Stage for EvaluateStage {
    fn packet(&mut self, _at: At, packet: Packet, _out: &mut dyn Emit) -> Result<Turn> {
        if let Packet::Metrics(metrics) = packet
            && metrics.purpose == Purpose::Validate
        {
            let value = |name| metrics.values.iter().find(|m| m.name == name).map_or(0.0, |m| m.value);
            self.parts.insert(metrics.from, (value("loss"), value("targets")));
        }
        Ok(Turn::Done)
    }

    fn step_done(&mut self, step: Step, out: &mut dyn Emit) -> Result<()> {
        let parts = std::mem::take(&mut self.parts);
        if !self.schedule.validates(step) || self.worker != 0 {
            return Ok(());
        }
        let (loss, targets) = parts.values().fold((0.0, 0.0), |sum, part| (sum.0 + part.0, sum.1 + part.1));
        if targets == 0.0 {
            bail!(
                "nothing to validate on: the held-out documents do not fill one sequence per lane. Hold out more \
                 (`read.validation_fraction`), or set `evaluate.interval = 0`"
            );
        }
        let loss = loss / targets;
        let first = |name, value| Metric { name, gather: Gather::First, value };
        let mut values = vec![first("validation_loss", loss)];
        if let Some(part) = self.corpus.map(|corpus| corpus.validation).filter(|part| part.bytes > 0) {
            values.push(first("bits_per_byte", bits_per_byte(loss, part.tokens, part.bytes)));
        }
        out.give(Packet::Metrics(Metrics { purpose: Purpose::Validate, from: (0, 0), values }));
        Ok(())
    }
}

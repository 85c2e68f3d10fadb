//! `evaluate`: validation loss and bits per byte of the step's parameters.
//!
//! Every held-out document is evaluated alone, after an end-of-text token, and every one of its tokens and the
//! end-of-text token after it count once. Documents that are longer than a sequence are cut into windows, as
//! [transformers' guide to perplexity](https://huggingface.co/docs/transformers/perplexity) does.
use anyhow::{Result, bail};
use contract::{
    At, Built, Corpus, Due, Emit, Env, Gather, Kind, Metric, Metrics, Packet, Port, Purpose, Route, Schedule, Settings,
    Stage, StageKeys, StageSettings, Step, Turn,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Settings of `type = "evaluate"`.
#[derive(Clone, Debug, Serialize, Deserialize, StageKeys)]
#[serde(default, deny_unknown_fields)]
pub struct Evaluate {
    /// Steps between validations. There is also one at the end of the run; 0: none, not even at the end.
    #[key(default = 100)]
    pub interval: u64,
    /// Tokens between the beginnings of the windows into which a document longer than a sequence is cut, from 1 to
    /// `pack.sequence_length`, which is the default. Shorter: every token of a later window has a context of at least
    /// the difference, and validation takes longer.
    #[key(min = 1)]
    pub stride: Option<usize>,
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

    fn build(&self, env: &Env) -> Result<Built> {
        let (schedule, corpus, worker) = (env.schedule, env.corpus, env.worker);
        Ok(Built::Stage(Box::new(EvaluateStage { schedule, corpus, worker, parts: BTreeMap::new() })))
    }

    fn due(&self) -> Due {
        Due { evaluate: (self.interval > 0).then_some(self.interval), checkpoint: None }
    }

    fn validation_stride(&self) -> Option<usize> {
        self.stride
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

/// Bits per byte of text, of which `loss` is the mean cross-entropy in nats per token: the nats of all `tokens`,
/// divided by ln 2 and by the `bytes` of UTF-8. The tokens include the one that ends each document, whose nats are part
/// of the sum although it is no byte of the text: a model has to predict where a document ends.
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
            bail!("no validation batch reached `evaluate`: is there a held-out document, and does `pack` emit it?");
        }
        let loss = loss / targets;
        let first = |name, value| Metric { name, gather: Gather::First, value };
        let mut values = vec![first("validation_loss", loss)];
        if let Some(part) = self.corpus.map(|corpus| corpus.validation).filter(|part| part.bytes > 0) {
            values.push(first("bits_per_byte", bits_per_byte(loss, part.tokens, part.bytes)));
        }
        out.give(Packet::Metrics(Metrics { purpose: Purpose::Validate, from: (0, 0), worker: 0, values }));
        Ok(())
    }
}

//! `evaluate`: validation loss and bits per byte of the step's parameters.
//!
//! Every held-out document is evaluated alone, after an end-of-text token, and every one of its tokens and the
//! end-of-text token after it count once. Documents that are longer than a sequence are cut into windows, as
//! [transformers' guide to perplexity](https://huggingface.co/docs/transformers/perplexity) does.
//!
//! At the end of a run, the loss of each document is written to the run directory (`documents.rs`). With `prompts`, the
//! model also generates samples at each validation (`sample.rs`), from the parameters that are validated.
use crate::documents;
use crate::sample::{Sampler, Sampling};
use anyhow::{Result, bail};
use contract::{
    At, Built, Corpus, DocumentLoss, Due, Emit, Env, Gather, Kind, Metric, Metrics, Packet, Port, Problem, Purpose,
    Route, Schedule, Settings, Stage, StageKeys, StageSettings, Step, Turn,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Settings of `type = "evaluate"`.
#[derive(Clone, Debug, Serialize, Deserialize, StageKeys)]
#[serde(default)]
pub struct Evaluate {
    /// Steps between validations. There is also one at the end of the run; 0: none, not even at the end.
    #[key(default = 100)]
    pub interval: u64,
    /// Tokens between the beginnings of the windows into which a document longer than a sequence is cut, from 1 to
    /// `pack.sequence_length`, which is the default. Shorter: every token of a later window has a context of at least
    /// the difference, and validation takes longer.
    #[key(min = 1)]
    pub stride: Option<usize>,
    /// Samples.
    #[serde(flatten)]
    pub sampling: Sampling,
}

impl StageSettings for Evaluate {
    const SUMMARY: &'static str =
        "validation loss (nats per token) and bits per byte on the held-out documents; samples of text";
    const OBSERVES: bool = true;
    const EXAMPLE: &'static str = "type = \"evaluate\"\ninterval = 100\nprompts = [\"The history of\", \"\"]\n";
}

impl Settings for Evaluate {
    fn takes(&self) -> Vec<Port> {
        let mut ports = vec![Port::stream(Kind::Metrics).by(Route::Exchange)];
        if !self.sampling.prompts.is_empty() {
            ports.push(Port::stream(Kind::Parameters).by(Route::Exchange).of_previous_step());
        }
        ports
    }

    fn gives(&self) -> Vec<Kind> {
        vec![Kind::Metrics]
    }

    fn check(&self) -> Vec<Problem> {
        self.sampling.check(self.interval)
    }

    fn build(&self, env: &Env) -> Result<Built> {
        let (schedule, corpus, worker, run_dir) = (env.schedule, env.corpus, env.worker, env.run_dir.clone());
        let (parts, documents) = (BTreeMap::new(), BTreeMap::new());
        // The parameters are sent to the first worker.
        let sampler = if worker == 0 { Sampler::new(&self.sampling, env)? } else { None };
        Ok(Built::Stage(Box::new(EvaluateStage { schedule, corpus, worker, run_dir, sampler, parts, documents })))
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
    run_dir: Option<PathBuf>,
    /// Of the first worker, if samples are generated.
    sampler: Option<Sampler>,
    /// Summed loss and number of targets by `(leaf, part)`: an ordered map, so that they are always added in the same
    /// order.
    parts: BTreeMap<(u32, u32), (f64, f64)>,
    /// The losses of documents, by the same, if they are reported.
    documents: BTreeMap<(u32, u32), Vec<DocumentLoss>>,
}

/// Bits per byte of text, of which `loss` is the mean cross-entropy in nats per token: the nats of all `tokens`,
/// divided by ln 2 and by the `bytes` of UTF-8. The tokens include the one that ends each document, whose nats are part
/// of the sum although it is no byte of the text: a model has to predict where a document ends.
pub fn bits_per_byte(loss: f64, tokens: u64, bytes: u64) -> f64 {
    loss / std::f64::consts::LN_2 * tokens as f64 / bytes as f64
}

impl Stage for EvaluateStage {
    fn packet(&mut self, at: At, packet: Packet, out: &mut dyn Emit) -> Result<Turn> {
        match (packet, &mut self.sampler) {
            (Packet::Metrics(metrics), _) if metrics.purpose == Purpose::Validate => {
                let value = |name| metrics.values.iter().find(|m| m.name == name).map_or(0.0, |m| m.value);
                self.parts.insert(metrics.from, (value("loss"), value("targets")));
                if !metrics.documents.is_empty() {
                    self.documents.insert(metrics.from, metrics.documents);
                }
            }
            (Packet::Parameters(piece), Some(sampler)) if self.schedule.validates(at.step) => {
                let samples = sampler.take(&piece)?;
                if !samples.is_empty() {
                    let none = Metrics::new(Purpose::Validate, (0, 0), self.worker, Vec::new());
                    out.give(Packet::Metrics(Metrics { samples, ..none }));
                }
            }
            _ => {}
        }
        Ok(Turn::Done)
    }

    fn step_done(&mut self, step: Step, out: &mut dyn Emit) -> Result<()> {
        let (parts, losses) = (std::mem::take(&mut self.parts), std::mem::take(&mut self.documents));
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
        if let Some(run_dir) = self.run_dir.as_ref().filter(|_| !losses.is_empty()) {
            documents::write(run_dir, losses.into_values().flatten())?;
        }
        out.give(Packet::Metrics(Metrics::new(Purpose::Validate, (0, 0), 0, values)));
        Ok(())
    }
}

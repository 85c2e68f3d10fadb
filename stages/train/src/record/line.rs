//! The metrics of a step, and the samples of a validation.
use super::{BlockLine, SourceLine};
use contract::Step;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// The metrics of a step. Serializes to a line of [`METRICS_FILE`](super::METRICS_FILE).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StepLine {
    /// Number of updates so far, including this one.
    pub step: Step,
    /// Passes over the training documents so far.
    pub epoch: f64,
    /// Training tokens so far.
    pub tokens: u64,
    /// Mean cross-entropy of the step's batch, in nats per token.
    pub loss: f64,
    /// Learning rate of the update.
    pub learning_rate: f64,
    /// Global norm of the gradient before clipping.
    pub gradient_norm: f64,
    /// Tokens per second between the previous update and this one, without validation.
    pub tok_per_sec: f64,
    /// Model FLOPs utilization (MFU), 0 to 1, relative to this machine's measured GEMM rate.
    pub mfu: f64,
    /// Milliseconds per worker in which compute waited for a batch.
    pub data_wait_ms: f64,
    /// Completion time of the step, in seconds since 1970 (UTC).
    #[serde(default)]
    pub time: f64,
    /// Validation loss after the step, if computed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub validation_loss: Option<f64>,
    /// Validation bits per byte, if computed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub bits_per_byte: Option<f64>,
    /// The same by source, in a run that mixes several.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub sources: BTreeMap<String, SourceLine>,
    /// What the update has done to each block of the model, if the run validates after it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub blocks: BTreeMap<String, BlockLine>,
    /// Other metrics of stages.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl StepLine {
    /// The line without what depends on the machine and its load. Metrics of other stages may, too.
    #[must_use]
    pub fn reproducible(self) -> Self {
        Self { tok_per_sec: 0.0, mfu: 0.0, data_wait_ms: 0.0, time: 0.0, other: Map::new(), ..self }
    }

    /// Every number of the line by name, those of sources and blocks as `name/source`. Numbers that were not measured
    /// are left out.
    #[must_use]
    pub fn scalars(&self) -> Vec<(String, f64)> {
        let mut scalars = Vec::new();
        let mut add = |of: &str, measured: &[(&str, Option<f64>)]| {
            let measured = measured.iter().filter_map(|(name, value)| Some((format!("{name}{of}"), (*value)?)));
            scalars.extend(measured);
        };
        add(
            "",
            &[
                ("loss", Some(self.loss)),
                ("validation_loss", self.validation_loss),
                ("bits_per_byte", self.bits_per_byte),
                ("learning_rate", Some(self.learning_rate)),
                ("gradient_norm", Some(self.gradient_norm)),
                ("tok_per_sec", Some(self.tok_per_sec)),
                ("mfu", Some(self.mfu)),
                ("data_wait_ms", Some(self.data_wait_ms)),
            ],
        );
        self.other.iter().for_each(|(name, value)| add("", &[(name, value.as_f64())]));
        for (source, line) in &self.sources {
            add(
                &format!("/{source}"),
                &[
                    ("tokens", Some(line.tokens as f64)),
                    ("epoch", Some(line.epoch)),
                    ("validation_loss", line.validation_loss),
                    ("bits_per_byte", line.bits_per_byte),
                ],
            );
        }
        for (block, line) in &self.blocks {
            add(
                &format!("/{block}"),
                &[
                    ("gradient_norm", Some(line.gradient_norm)),
                    ("weight_norm", Some(line.weight_norm)),
                    ("update_ratio", line.update_ratio),
                ],
            );
        }
        scalars
    }

    /// How long the step took, without validation, if the run had trained on so many tokens before it.
    pub fn seconds(&self, tokens_before: u64) -> f64 {
        let tokens = self.tokens.saturating_sub(tokens_before) as f64;
        if self.tok_per_sec > 0.0 { tokens / self.tok_per_sec } else { 0.0 }
    }

    /// The line as it would be if the run did not validate after the step: without what validation has found, and without
    /// blocks.
    #[must_use]
    pub fn not_validated(mut self) -> Self {
        for source in self.sources.values_mut() {
            (source.validation_loss, source.bits_per_byte) = (None, None);
        }
        Self { validation_loss: None, bits_per_byte: None, blocks: BTreeMap::new(), ..self }
    }
}

/// A text that the model has generated. Serializes to a line of [`SAMPLES_FILE`](super::SAMPLES_FILE).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SampleLine {
    /// Number of updates of the model.
    pub step: Step,
    /// What it continues; empty: the beginning of a document.
    pub prompt: String,
    /// The continuation, without the prompt.
    pub text: String,
}

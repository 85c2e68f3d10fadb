//! The metrics of each source of a mixture.
use super::Values;
use crate::evaluate::bits_per_byte;
use anyhow::Result;
use contract::{Allocation, Env, Mixture, SourceSizes, Step};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The metrics of a source after a step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SourceLine {
    /// Tokens of the source that have been trained on so far.
    pub tokens: u64,
    /// Passes over its training documents so far.
    pub epoch: f64,
    /// Loss on its validation documents after the step, if computed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub validation_loss: Option<f64>,
    /// Bits per byte of its validation documents, if computed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub bits_per_byte: Option<f64>,
}

/// What is known about the sources of a run.
pub struct Sources {
    mixture: Arc<Mixture>,
    sizes: Arc<SourceSizes>,
    allocation: Allocation,
    /// Tokens of a sequence.
    length: usize,
}

impl Sources {
    /// Those of the run, if it mixes several.
    pub fn of(env: &Env) -> Option<Self> {
        let mixture = env.resources.get::<Mixture>()?;
        let sizes = env.resources.get::<SourceSizes>().unwrap_or_default();
        Some(Self { mixture, sizes, allocation: Allocation::of(env)?, length: env.shape.length })
    }

    /// What has been trained on after `step`.
    ///
    /// # Errors
    /// If the sources are used up before.
    pub fn trained(&mut self, step: Step) -> Result<BTreeMap<String, SourceLine>> {
        self.allocation.at(step)?;
        let line = |(source, sequences): (&String, &u64)| {
            let tokens = sequences * self.length as u64;
            let epoch = self.sizes.epochs(source, tokens).unwrap_or_default();
            (source.clone(), SourceLine { tokens, epoch, ..SourceLine::default() })
        };
        Ok(self.mixture.sources.iter().zip(self.allocation.used()).map(line).collect())
    }

    /// Adds the loss of each source that has validation documents, from the sums of losses and the numbers of targets
    /// of validation batches. A batch's part says which source it is of ([`contract::Batch::part`]).
    pub fn validated(&self, losses: &Values, targets: &Values, lines: &mut BTreeMap<String, SourceLine>) {
        for (index, source) in self.mixture.sources.iter().enumerate() {
            let own = |((_, part), value): (&(u32, u32), &f64)| {
                (*part as usize % self.mixture.sources.len() == index).then_some(*value)
            };
            let targets: f64 = targets.iter().filter_map(own).sum();
            if targets > 0.0 {
                let loss = losses.iter().filter_map(own).sum::<f64>() / targets;
                let part = self.sizes.of(source).map(|size| size.validation).filter(|part| part.bytes > 0);
                let line = lines.entry(source.clone()).or_default();
                line.validation_loss = Some(loss);
                line.bits_per_byte = part.map(|part| bits_per_byte(loss, part.tokens, part.bytes));
            }
        }
    }
}

//! Whether the held-out documents suffice to validate, which is known once their tokens are counted.
use crate::plan::Plan;
use crate::problem::Usage;
use anyhow::Result;
use contract::{BatchShape, Resources};
use text::CorpusIndex;

/// A note is printed if more than this fraction of the held-out tokens is never used.
const CONSIDERABLE: f64 = 0.1;

/// Rejects a run whose held-out documents do not fill one sequence; returns a note if a considerable part of them is
/// never used. (Every lane has its own held-out documents, and what remains after its last whole sequence is not used.)
///
/// # Errors
/// [`Usage`] with the numbers, and what to set.
pub fn check(plan: &Plan, resources: &Resources, shape: BatchShape) -> Result<Option<String>> {
    let mut lanes: Vec<u64> = Vec::new();
    resources.all::<CorpusIndex>().for_each(|(_, index)| lanes.extend(index.validation_tokens(shape.micro_batches)));
    let cut = |tokens: u64| plan.stages.iter().find_map(|stage| stage.settings.validation_sequences(tokens));
    let Some(sequences) = lanes.iter().map(|tokens| cut(*tokens)).sum::<Option<u64>>() else { return Ok(None) };
    let Some(most) = lanes.iter().copied().max() else { return Ok(None) };
    let (tokens, length): (u64, u64) = (lanes.iter().sum(), shape.length as u64);
    let lanes = shape.micro_batches;
    if sequences == 0 {
        let needed = length + 1;
        return Err(Usage(format!(
            "validation is impossible: the held-out documents have {tokens} tokens in {lanes} lanes \
             (`pack.micro_batches`), at most {most} in one, and a sequence of {length} needs {needed}\n  \
             Hold out more (`read.validation_fraction`), set `pack.sequence_length` or `pack.micro_batches` lower, or \
             do not validate: --set evaluate.interval=0"
        ))
        .into());
    }
    let unused = tokens - sequences * length;
    let fraction = unused as f64 / tokens as f64;
    Ok((fraction > CONSIDERABLE).then(|| {
        format!(
            "{unused} of {tokens} held-out tokens ({:.0} %) are never used: they do not fill a sequence of {length} in \
             their lane (of {lanes})",
            100.0 * fraction
        )
    }))
}

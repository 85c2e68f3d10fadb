//! The first step of a run that differs without some documents.
use super::super::lineage::lineage;
use super::runs::{Both, Runs};
use anyhow::Result;
use contract::Step;
use serde::Serialize;
use text::first_difference;

/// Why a step differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The tokenizer was trained on the documents.
    Tokenizer,
    /// Its sequences have other tokens.
    Documents,
    /// The learning rate is another one, because the length of the run follows from its documents.
    LearningRate,
    /// The run ends before it, because its length follows from its documents.
    Length,
}

/// The first of `done` steps that differs, counted from 1.
///
/// # Errors
/// If the sequences of a step cannot be derived.
pub fn first(runs: &Runs, done: Step) -> Result<Option<(Step, Cause)>> {
    let Both { old, new } = &runs.sessions;
    if runs.tokenizer_changes && done > 0 {
        return Ok(Some((1, Cause::Tokenizer)));
    }
    let both = done.min(new.env.schedule.steps);
    let mut one = lineage("the run", &runs.plans.old, old, &runs.sources.old)?;
    let mut other = lineage("the run", &runs.plans.new, new, &runs.sources.new)?;
    let documents = first_difference(&mut one, &mut other, both)?;
    let rate = match (&old.learning_rate, &new.learning_rate) {
        (Some((_, old)), Some((_, new))) => new.first_difference(old.steps, 0..both),
        _ => None,
    };
    let length = (both < done).then_some(both);
    let causes = [(documents, Cause::Documents), (rate, Cause::LearningRate), (length, Cause::Length)];
    let causes = causes.into_iter().filter_map(|(step, cause)| Some((step? + 1, cause)));
    Ok(causes.min_by_key(|(step, _)| *step))
}

//! What a run trains on of each source of its mixture, before it runs.
use crate::plan::Plan;
use crate::problem::Usage;
use crate::show::SourceUse;
use anyhow::Result;
use contract::{Allocation, BatchShape, Mixture, SourceSizes};
use std::sync::Arc;

/// What `steps` updates train on of each source; nothing if `plan` mixes no sources.
///
/// # Errors
/// [`Usage`] if the sources do not suffice.
pub fn over_run(plan: &Plan, shape: BatchShape, sizes: &SourceSizes, steps: u64) -> Result<Vec<SourceUse>> {
    let mixture = plan.mixture().map(Arc::new);
    let Some(mixture) = mixture.filter(|_| steps > 0) else { return Ok(Vec::new()) };
    let mut allocation = Allocation::new(Arc::clone(&mixture), shape, sizes);
    let mut used_up = vec![None; mixture.sources.len()];
    for step in 0..steps {
        if allocation.next().is_none() {
            return Err(not_enough(plan, &mixture, steps, step));
        }
        for (source, after) in used_up.iter_mut().enumerate().filter(|(_, after)| after.is_none()) {
            *after = allocation.is_used_up(source).then_some(step + 1);
        }
    }
    let all: u64 = allocation.used().iter().sum();
    let used = allocation.used().iter().zip(used_up);
    let uses = mixture.sources.iter().zip(used).map(|(source, (sequences, used_up_after))| {
        let tokens = sequences * shape.length as u64;
        SourceUse {
            source: source.clone(),
            share: *sequences as f64 / all.max(1) as f64,
            tokens,
            epochs: sizes.epochs(source, tokens),
            used_up_after,
        }
    });
    Ok(uses.collect())
}

/// The error if all sources are used up after `after` of `steps` updates.
fn not_enough(plan: &Plan, mixture: &Mixture, steps: u64, after: u64) -> anyhow::Error {
    let limited = mixture.sources.iter().zip(&mixture.max_epochs).filter_map(|(source, most)| Some((source, (*most)?)));
    let limited: Vec<String> = limited.map(|(source, most)| format!("`{source}` {most}")).collect();
    let id = plan.stages.iter().find(|stage| stage.settings.mixes().is_some()).map_or("", |stage| &stage.id);
    let next = format!("raise {id}.max_epochs, give a source without a limit a share, or set run.max_steps={after}");
    Usage(format!(
        "the sources of `{id}` that have a share are used up after {after} of {steps} steps \
         ({id}.max_epochs: {}): {next}",
        limited.join(", ")
    ))
    .into()
}

/// What `uses` has that a user should know before the run starts.
pub fn notes(uses: &[SourceUse], sizes: &SourceSizes, steps: u64) -> Vec<String> {
    let mut notes = Vec::new();
    for SourceUse { source, epochs, used_up_after, .. } in uses {
        if let Some(after) = used_up_after.filter(|after| *after < steps) {
            let epochs = epochs.map(|epochs| format!(", {epochs:.2} times")).unwrap_or_default();
            notes.push(format!(
                "`{source}` is used up after {after} steps{epochs}: from then on the other sources get its share"
            ));
        }
        if sizes.of(source).is_some_and(|size| size.validation.rows == 0) {
            notes.push(format!("`{source}` has no validation documents, so it has no validation loss of its own"));
        }
    }
    notes
}

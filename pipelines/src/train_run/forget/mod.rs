//! Exact forgetting: takes documents out of a run's data, goes back to the last checkpoint that has learned nothing of what
//! changes, and leaves the run as one that never had them.
//!
//! - [`named`]: the documents that are meant
//! - [`runs`]: the run as it was, and the run without them
//! - [`affected`]: the first step that differs between both
//! - [`replay`]: the state of lanes at a step, without training
//! - [`change`]: how the run directory is changed, at once or not at all
mod affected;
mod change;
mod named;
mod replay;
mod runs;

pub use affected::Cause;
pub use change::check_none;
pub use named::Withdrawal;

use super::directory;
use super::status::Hold;
use crate::show::Line;
use anyhow::Result;
use contract::{StageType, Step};
use runs::{Both, Runs};
use serde::Serialize;
use std::path::{Path, PathBuf};
use train::checkpoint;
use train::record::{METRICS_FILE, StepLine, read_metrics};

/// Steps of whose rates the median predicts the time of those that are repeated.
const MEASURED_STEPS: usize = 101;

/// What to forget, and how.
pub struct Options<'a> {
    /// Documents by id, URL or title.
    pub documents: &'a [String],
    /// Where the data of sources is now: `--set` of `paths`.
    pub set: &'a [String],
    /// Whether to change nothing.
    pub dry_run: bool,
    /// Worker threads.
    pub workers: Option<usize>,
    /// The registry of stages.
    pub stages: &'a [StageType],
}

/// What forgetting takes.
#[derive(Debug, Serialize)]
pub struct Cost {
    /// The run's directory, as it was named.
    pub run: String,
    /// The documents that are withdrawn.
    pub withdrawn: Vec<Withdrawal>,
    /// Training documents that are no longer there.
    pub removed_documents: u64,
    /// Training documents that were not there before, such as former duplicates.
    pub added_documents: u64,
    /// Whether other documents are held out than before, so that validation results change.
    pub validation_changes: bool,
    /// Updates so far.
    pub done: Step,
    /// Updates of the whole run, without the documents.
    pub steps: Step,
    /// The first step so far that differs without the documents, counted from 1; `None`: there is none.
    pub first_affected: Option<Step>,
    /// Why it differs.
    pub cause: Option<Cause>,
    /// Updates at which the run goes on: those of a checkpoint, or 0.
    pub from: Step,
    /// Updates so far that are repeated.
    pub repeated_steps: u64,
    /// How long that takes at the rate of the run so far; `None` if that is not known.
    pub seconds: Option<f64>,
    /// What else is to be known.
    pub notes: Vec<String>,
}

/// A run that is about to forget.
pub struct Forgetting {
    /// What it takes.
    pub cost: Cost,
    run: PathBuf,
    runs: Runs,
    /// The checkpoint at which the run goes on.
    checkpoint: Option<PathBuf>,
    _hold: Hold,
}

/// Finds out what forgetting takes in the run in `run`. If a change was interrupted, it is completed before; otherwise
/// nothing is changed.
///
/// # Errors
/// [`Usage`](crate::problem::Usage) if there is no such document, or if the run's data, settings or code are not what they
/// were; an error if a file cannot be read.
pub fn assess(run: &Path, options: &Options, mut line: Line) -> Result<Forgetting> {
    let name = run.display().to_string();
    let absolute = std::path::absolute(run)?;
    let run = if directory::enter(&absolute)?.is_some() { absolute } else { run.to_owned() };
    let hold = Hold::take(&run)?;
    if options.dry_run || !change::complete(&run)? {
        change::check_none(&run)?;
    }
    let runs = Runs::prepare(&run, &name, options, &mut line)?;
    let lines = read_metrics(&run.join(METRICS_FILE))?;
    let checkpoints = checkpoint::list(&run)?;
    let last = checkpoints.last().map_or(0, |(step, _)| *step);
    let done = lines.last().map_or(0, |line| line.step).max(last);
    let affected = affected::first(&runs, done)?;
    let unaffected = affected.as_ref().map_or(Step::MAX, |(step, _)| step - 1);
    let checkpoint = checkpoints.into_iter().rev().filter(|(step, _)| *step <= unaffected);
    let checkpoint = checkpoint.into_iter().find(|(_, path)| checkpoint::verify(path).is_ok());
    let from = checkpoint.as_ref().map_or(0, |(step, _)| *step);
    let (first_affected, cause) = affected.unzip();
    let Both { old, new } = &runs.sessions;
    let changes = runs.changes();
    let cost = Cost {
        run: name,
        withdrawn: runs.withdrawn.clone(),
        removed_documents: changes.removed,
        added_documents: changes.added,
        validation_changes: changes.validation,
        done,
        steps: new.env.schedule.steps,
        first_affected,
        cause,
        from,
        repeated_steps: done.min(new.env.schedule.steps).saturating_sub(from),
        seconds: seconds_per_step(&lines, old.env.shape.tokens()).map(|each| each * done.saturating_sub(from) as f64),
        notes: change::notes(&run, &runs)?,
    };
    line.finish();
    Ok(Forgetting { cost, run, runs, checkpoint: checkpoint.map(|(_, path)| path), _hold: hold })
}

impl Forgetting {
    /// Changes the run directory: the run is then one that has been stopped at [`Cost::from`] and never had the documents.
    /// Returns the directory, as it can be opened from the current one.
    ///
    /// # Errors
    /// If a file cannot be read or written. Nothing is changed then, or the next [`assess`] completes the change.
    pub fn carry_out(self, line: Line) -> Result<PathBuf> {
        let Self { cost, run, runs, checkpoint, .. } = self;
        if !runs.differ() {
            return Ok(run);
        }
        let lanes = match &checkpoint {
            Some(_) => replay::lanes(&runs, cost.from, line)?,
            None => Vec::new(),
        };
        change::prepare(&run, &runs, &cost, checkpoint.as_deref(), lanes)?;
        change::complete(&run)?;
        Ok(run)
    }
}

/// The median time of the last steps, without validation.
fn seconds_per_step(lines: &[StepLine], tokens: u64) -> Option<f64> {
    let last = &lines[lines.len().saturating_sub(MEASURED_STEPS)..];
    let mut rates: Vec<f64> = last.iter().map(|line| line.tok_per_sec).filter(|rate| *rate > 0.0).collect();
    rates.sort_by(f64::total_cmp);
    rates.get(rates.len() / 2).map(|rate| tokens as f64 / rate)
}

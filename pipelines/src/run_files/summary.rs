//! Where a run stands, from the ends of its files.
use crate::experiment::statistics::median;
use crate::train_run::status::{self, State};
use anyhow::Result;
use serde::Serialize;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use train::checkpoint;
use train::record::{FromEnd, METRICS_FILE, StepLine};

/// Number of steps for the median speed of a run.
pub const RECENT: usize = 20;

/// A run, as `pipeline runs --json` shows it.
#[derive(Clone, Debug, Serialize)]
pub struct Ran {
    /// The run's directory.
    pub run: String,
    /// Its state.
    pub state: State,
    /// Updates done.
    pub step: u64,
    /// Updates of the whole run, if training has started.
    pub steps: Option<u64>,
    /// Training loss of the last step.
    pub loss: Option<f64>,
    /// The last validation loss.
    pub validation_loss: Option<f64>,
    /// The last bits per byte.
    pub bits_per_byte: Option<f64>,
    /// Median speed of the last steps, in tokens per second.
    pub tok_per_sec: Option<f64>,
    /// The last checkpoint.
    pub checkpoint: Option<String>,
    /// When training last started, in seconds since 1970.
    pub started: Option<u64>,
    /// Time of the last update of its files, in seconds since 1970.
    pub seen: Option<u64>,
    /// The error, if it failed.
    pub error: Option<String>,
    /// Names of what the last steps have measured.
    #[serde(skip)]
    pub metrics: Vec<String>,
}

/// Reads the state of the run in `folder`. Of a long run, only as much is read as is needed.
///
/// # Errors
/// If its files cannot be read.
pub fn look(folder: &Path) -> Result<Ran> {
    let (state, status) = status::read(folder);
    let path = folder.join(METRICS_FILE);
    let mut lines = FromEnd::<StepLine>::open(&path)?;
    let recent: Vec<StepLine> = lines.by_ref().take(RECENT).collect();
    let is_validated = |line: &StepLine| line.validation_loss.is_some();
    let validated = recent.iter().find(|line| is_validated(line)).cloned().or_else(|| lines.find(is_validated));
    let last = recent.first();
    let ended = status.as_ref().and_then(|status| status.ended).filter(|_| state != State::Running);
    let mut metrics: Vec<String> = Vec::new();
    for (name, _) in last.iter().copied().chain(&validated).flat_map(StepLine::scalars) {
        if !metrics.contains(&name) {
            metrics.push(name);
        }
    }
    Ok(Ran {
        run: folder.display().to_string(),
        state,
        step: last.map_or(0, |line| line.step),
        steps: status.as_ref().map(|status| status.steps).filter(|steps| *steps > 0),
        loss: last.map(|line| line.loss),
        validation_loss: validated.as_ref().and_then(|line| line.validation_loss),
        bits_per_byte: validated.as_ref().and_then(|line| line.bits_per_byte),
        tok_per_sec: median(recent.iter().map(|line| line.tok_per_sec).collect()),
        checkpoint: checkpoint::list(folder)?.pop().map(|(_, path)| path.display().to_string()),
        started: status.as_ref().map(|status| status.started),
        seen: ended.or(written(&path)).or(status.as_ref().map(|status| status.started)),
        error: status.and_then(|status| status.error),
        metrics,
    })
}

/// When a file was last written, in seconds since 1970.
fn written(path: &Path) -> Option<u64> {
    let time: SystemTime = std::fs::metadata(path).and_then(|file| file.modified()).ok()?;
    time.duration_since(UNIX_EPOCH).as_ref().map(Duration::as_secs).ok()
}

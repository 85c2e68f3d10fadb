//! What runs have measured, read from their directories.
use crate::run_files::{Ran, look};
use crate::train_run::status::State;
use anyhow::Result;
use serde::Serialize;
use std::path::Path;
use train::documents::{self, Document};
use train::record::{METRICS_FILE, StepLine, read_metrics};

/// A run that is compared.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    /// As `pipeline runs --json` shows it.
    #[serde(flatten)]
    pub ran: Ran,
    /// Its seed.
    pub seed: u64,
    /// Its metrics.
    #[serde(skip)]
    pub metrics: Vec<StepLine>,
    /// The losses of its held-out documents at its end.
    #[serde(skip)]
    pub documents: Vec<Document>,
}

/// Runs of the same configuration with different seeds.
#[derive(Clone, Debug, Serialize)]
pub struct Variant {
    /// Its name.
    pub name: String,
    /// Its runs that are finished, by seed.
    pub runs: Vec<Measured>,
}

impl Measured {
    /// Reads the run in `run_dir`.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn read(run_dir: &Path, seed: u64) -> Result<Self> {
        let metrics = read_metrics(&run_dir.join(METRICS_FILE))?;
        Ok(Self { ran: look(run_dir)?, seed, metrics, documents: documents::read(run_dir)? })
    }

    /// Its last validation loss, if it is finished: only then is it comparable.
    pub fn loss(&self) -> Option<f64> {
        self.ran.validation_loss.filter(|loss| self.ran.state == State::Done && loss.is_finite())
    }

    /// Seconds of training until validation found a loss of at most `target`.
    pub fn seconds_to(&self, target: f64) -> Option<f64> {
        let (mut seconds, mut before) = (0.0, 0);
        for line in &self.metrics {
            seconds += line.seconds(before);
            before = line.tokens;
            if line.validation_loss.is_some_and(|loss| loss <= target) {
                return Some(seconds);
            }
        }
        None
    }
}

impl Variant {
    /// The losses of its runs.
    pub fn losses(&self) -> Vec<f64> {
        self.runs.iter().filter_map(Measured::loss).collect()
    }
}

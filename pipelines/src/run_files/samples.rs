//! Texts that the model has generated during the run, by its stage `sample`.
use serde::{Deserialize, Serialize};
use std::path::Path;
use train::record::FromEnd;

/// One JSON object per text, the last one at the end.
const SAMPLES_FILE: &str = "samples.jsonl";
/// A page shows at most so many.
const SHOWN: usize = 50;

/// A generated text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// Updates before it.
    pub step: u64,
    /// What it continues.
    #[serde(default)]
    pub prompt: String,
    /// The continuation.
    pub text: String,
}

/// The last texts of the run in `run_dir`, the very last one first; none if it has none or they cannot be read.
pub fn samples_of(run_dir: &Path) -> Vec<Sample> {
    FromEnd::open(&run_dir.join(SAMPLES_FILE)).map_or(Vec::new(), |samples| samples.take(SHOWN).collect())
}

/// The very last one.
pub fn last_sample(run_dir: &Path) -> Option<Sample> {
    FromEnd::open(&run_dir.join(SAMPLES_FILE)).ok()?.next()
}

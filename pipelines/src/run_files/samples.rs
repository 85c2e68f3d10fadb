//! Texts that the model has generated during the run.
use std::path::Path;
pub use train::record::SampleLine as Sample;
use train::record::{FromEnd, SAMPLES_FILE};

/// A page shows at most so many.
const SHOWN: usize = 50;

/// The last texts of the run in `run_dir`, the very last one first; none if it has none or they cannot be read.
pub fn samples_of(run_dir: &Path) -> Vec<Sample> {
    FromEnd::open(&run_dir.join(SAMPLES_FILE)).map_or(Vec::new(), |samples| samples.take(SHOWN).collect())
}

/// The very last one.
pub fn last_sample(run_dir: &Path) -> Option<Sample> {
    FromEnd::open(&run_dir.join(SAMPLES_FILE)).ok()?.next()
}

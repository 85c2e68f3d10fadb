//! What the files of a run say, for everything that shows runs. Only reads, also while the run is in progress.
//!
//! - [`find()`]: the runs in a folder; [`look`]: where a run stands, from the ends of its files
//! - [`History`]: its metrics as columns, which grows with the run; [`samples_of`]: texts that it has generated
//! - [`Interval`]: when it validates and writes checkpoints
mod find;
mod history;
mod interval;
mod samples;
mod summary;

pub use find::{DEPTH, find, is_run, require_run};
pub use history::{Along, History};
pub use interval::Interval;
pub use samples::{Sample, last_sample, samples_of};
pub use summary::{RECENT, Ran, look};

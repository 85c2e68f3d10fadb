//! Removal of exact and near-duplicates, kept up to date by differential dataflow.
//!
//! - [`fragment`]: the dataflow: documents in, verdicts out. Its time is the version of the corpus.
//! - [`mod@run`]: runs it on worker threads, for the last version and this one
mod fragment;
mod run;
#[cfg(test)]
mod tests;

pub use fragment::{Content, Rank};
pub use run::{Corpus, Outcome, run};

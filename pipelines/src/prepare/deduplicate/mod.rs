//! Removal of exact and near-duplicates, kept up to date by differential dataflow.
//!
//! - [`fragment`]: the dataflow, from documents to verdicts. Its time is the version of the corpus.
//! - [`mod@run`]: runs it on worker threads, for the previous version and the changes since
mod fragment;
mod run;
#[cfg(test)]
mod tests;

pub use fragment::{Content, Rank};
pub use run::{Corpus, Outcome, run};

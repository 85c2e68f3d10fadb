//! Near-duplicates: what is compared and how. The settings of stage `minhash`, and pure functions.
//!
//! - [`words`]: what a word is
//! - [`shingles`]: n words in a row, Jaccard similarity
//! - [`minhash`]: signatures in bands
//!
//! Who meets whom, and who is kept, is decided by a fragment of differential dataflow in `pipelines`.
pub mod minhash;
pub mod shingles;
pub mod words;

pub use minhash::MinHasher;
pub use shingles::{Shingler, jaccard};

use anyhow::{Result, bail};
use contract::{Built, Env, Kind, Port, Prepare, Problem, Settings, StageKeys, StageSettings};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Settings of stage `minhash`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, StageKeys)]
#[serde(default, deny_unknown_fields)]
pub struct Deduplicate {
    /// Jaccard similarity of the word shingles from which on two documents are near-duplicates; 0 to 1.
    pub threshold: f64,
    /// Bands of the MinHash signature; more bands find more pairs.
    pub bands: usize,
    /// Minima in a band; more of them find fewer dissimilar pairs.
    pub band_rows: usize,
    /// Consecutive lower-cased words in a shingle.
    pub shingle_words: usize,
}

impl Default for Deduplicate {
    fn default() -> Self {
        Self { threshold: 0.8, bands: 20, band_rows: 6, shingle_words: 5 }
    }
}

impl Deduplicate {
    /// What a document's bands follow from (the threshold is not part of it).
    pub fn signature_key(&self) -> String {
        format!("minhash 1 {} {} {}", self.bands, self.band_rows, self.shingle_words)
    }

    /// Makes bands.
    pub fn hasher(&self) -> MinHasher {
        MinHasher::new(self.bands, self.band_rows, self.shingle_words)
    }
}

impl StageSettings for Deduplicate {
    const SUMMARY: &'static str = "drops exact and near-duplicates: MinHash bands, verified by true Jaccard similarity";
    const EXAMPLE: &'static str = "threshold = 0.8\nbands = 20\nband_rows = 6\n";
}

impl Settings for Deduplicate {
    fn takes(&self) -> Vec<Port> {
        vec![Port::stream(Kind::Rows)]
    }

    fn gives(&self) -> Vec<Kind> {
        vec![Kind::Rows]
    }

    fn check(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if !(self.threshold > 0.0 && self.threshold <= 1.0) {
            problems.push(Problem::at("threshold", format!("{} is not above 0 and up to 1", self.threshold)));
        }
        let positive = [("bands", self.bands), ("band_rows", self.band_rows), ("shingle_words", self.shingle_words)];
        for (key, value) in positive.into_iter().filter(|(_, value)| *value == 0 || *value > 4096) {
            problems.push(Problem::at(key, format!("{value} is not from 1 to 4096")));
        }
        if self.bands * self.band_rows > 1 << 14 {
            let functions = self.bands.saturating_mul(self.band_rows);
            problems.push(Problem::at("bands", format!("times band_rows is {functions}; at most 16384 make sense")));
        }
        problems
    }

    fn needs_whole_corpus(&self) -> bool {
        true
    }

    /// Provides the settings: the preparation makes signatures and compares documents by them.
    fn prepare(&self, before: &mut Prepare) -> Result<()> {
        before.provide(Arc::new(self.clone()));
        Ok(())
    }

    fn build(&self, _: &Env) -> Result<Built> {
        bail!(
            "documents are deduplicated where all of them are known: in a graph that ends in a stage of type `parquet`"
        )
    }
}

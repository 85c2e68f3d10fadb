//! Stage `minhash`: which parts of documents are compared, and how.
//!
//! - [`words`]: splits text into words
//! - [`shingles`]: n words in a row, Jaccard similarity
//! - [`minhash`]: signatures in bands
//!
//! A differential dataflow in `pipelines` decides which documents are compared and which are kept.
pub mod minhash;
pub mod shingles;
pub mod words;

pub use minhash::MinHasher;
pub use shingles::{Shingler, jaccard};

use crate::filter::{texts, with_column};
use crate::parquet::columns::{BANDS, bands_type, dropped};
use anyhow::{Result, bail};
use arrow::array::{Array, ListBuilder, UInt64Builder};
use arrow::datatypes::{DataType, Field};
use contract::{
    At, Built, Emit, Env, Kind, Packet, Port, Prepare, Problem, Rows, Settings, Stage, StageKeys, StageSettings, Turn,
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Settings of stage `minhash`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, StageKeys)]
#[serde(default, deny_unknown_fields)]
pub struct Deduplicate {
    /// Texts are near-duplicates if the Jaccard similarity of their sets of shingles is at least this; above 0, up to
    /// 1.
    pub threshold: f64,
    /// Bands of the MinHash signature. With more bands, fewer near-duplicates are missed.
    #[key(min = 1, max = 4096)]
    pub bands: usize,
    /// Hash minima per band. With more of them, fewer pairs of dissimilar texts are compared.
    #[key(min = 1, max = 4096)]
    pub band_rows: usize,
    /// Words per shingle: a shingle is a sequence of consecutive lower-cased words.
    #[key(min = 1, max = 4096)]
    pub shingle_words: usize,
}

impl Default for Deduplicate {
    fn default() -> Self {
        Self { threshold: 0.8, bands: 20, band_rows: 6, shingle_words: 5 }
    }
}

impl Deduplicate {
    /// A string of everything that a document's bands depend on (not the threshold).
    pub fn signature_key(&self) -> String {
        format!("minhash 1 {} {} {}", self.bands, self.band_rows, self.shingle_words)
    }

    /// A builder of bands with these settings.
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
            problems
                .push(Problem::at("threshold", format!("is {}, but must be above 0 and at most 1", self.threshold)));
        }
        if self.bands.saturating_mul(self.band_rows) > 1 << 14 {
            let functions = self.bands.saturating_mul(self.band_rows);
            problems.push(Problem::at("bands", format!("times band_rows is {functions}; at most 16384 make sense")));
        }
        problems
    }

    fn needs_whole_corpus(&self) -> bool {
        true
    }

    /// Provides the settings: documents are compared with them when all signatures are known.
    fn prepare(&self, before: &mut Prepare) -> Result<()> {
        before.provide(Arc::new(self.clone()));
        Ok(())
    }

    /// The stage adds each row's signature in the column [`BANDS`].
    fn build(&self, _: &Env) -> Result<Built> {
        Ok(Built::Stage(Box::new(Signer { hasher: self.hasher(), keys: Vec::new() })))
    }
}

struct Signer {
    hasher: MinHasher,
    keys: Vec<u64>,
}

impl Stage for Signer {
    fn packet(&mut self, _: At, packet: Packet, out: &mut dyn Emit) -> Result<Turn> {
        let Packet::Rows(rows) = packet else { bail!("minhash takes rows, not {}", packet.kind().name()) };
        let reasons = dropped(&rows.records)?;
        let item = Field::new_list_field(DataType::UInt64, false);
        let mut bands = ListBuilder::new(UInt64Builder::new()).with_field(Arc::new(item));
        for (row, text) in texts(&rows.records)?.iter().enumerate() {
            let is_kept = reasons.is_none_or(|reasons| reasons.is_null(row));
            if let Some(text) = text.filter(|text| is_kept && !text.is_empty()) {
                self.hasher.bands(text, &mut self.keys);
                bands.values().append_slice(&self.keys);
            }
            bands.append(true);
        }
        let field = Field::new(BANDS, bands_type(), false);
        let records = with_column(&rows.records, field, Arc::new(bands.finish()))?;
        out.give(Packet::Rows(Rows { records, ..rows }));
        Ok(Turn::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parquet::columns::DROPPED;
    use crate::parquet::documents::records;
    use arrow::array::{AsArray, LargeStringArray, StringArray};
    use contract::Purpose;
    use contract::testing::{Collect, at};

    #[test]
    fn rows_that_are_kept_are_signed() {
        let texts = LargeStringArray::from_iter_values(["the old mill by the water", "", "the old mill"]);
        let reasons = StringArray::from(vec![None, None, Some("length: short")]);
        let records =
            with_column(&records(texts).unwrap(), Field::new(DROPPED, DataType::Utf8, true), Arc::new(reasons));
        let rows = Rows { lane: 0, source: 0, purpose: Purpose::Train, last: false, records: records.unwrap() };
        let settings = Deduplicate::default();
        let mut signer = Signer { hasher: settings.hasher(), keys: Vec::new() };
        let mut out = Collect::default();
        signer.packet(at(0), Packet::Rows(rows), &mut out).unwrap();
        let [Packet::Rows(signed)] = &out.0[..] else { panic!("one packet of rows") };
        let bands = signed.records[BANDS].as_list::<i32>();
        assert_eq!([0, 1, 2].map(|row| bands.value_length(row)), [settings.bands as i32, 0, 0]);
    }
}

//! Source `scan_rows`: every row once, with all its columns, in chunks, for preparation. A row that the previous
//! version of the corpus contains is not emitted: its catalog row goes directly into the graph's results, and so does
//! what cannot be read. [`row_store`]: the rows of all sources, each of which has such a stage.
mod hashes;
pub mod row_store;

pub use row_store::{MixedSource, RowSource, RowStore};

use crate::filter::with_column;
use crate::input::quarantine_file;
use crate::parquet::columns::{INPUT_HASH, INPUT_ROW, WHERE, field};
use crate::prepare::catalog::{Catalog, Hash};
use crate::prepare::origins;
use crate::prepare::scan_rows::hashes::hashes;
use crate::prepare::scan_rows::row_store::RowsRead;
use anyhow::{Context, Result};
use arrow::array::{AsArray, BooleanArray, RecordBatch, StringArray, UInt32Array, UInt64Array};
use arrow::compute::{and, filter, filter_record_batch, is_not_null, is_null};
use arrow::datatypes::DataType;
use contract::{Built, Emit, Env, Kind, Lane, Packet, Port, Purpose, Records, Rows, Settings, Source, Step, Turn};
use std::collections::HashMap;
use std::sync::Arc;

/// The rows of the previous version of the corpus, by their hash in the input.
#[derive(Default)]
pub struct Known(Option<(Catalog, HashMap<Hash, u32>)>);

impl Known {
    /// The rows of `catalog` with the indices `rows`.
    pub fn new(catalog: Catalog, rows: HashMap<Hash, u32>) -> Self {
        Self(Some((catalog, rows)))
    }

    /// The row with this hash.
    fn row(&self, hash: &[u8]) -> Option<u32> {
        self.0.as_ref()?.1.get(hash).copied()
    }

    /// Rows of the new catalog for those of `rows` that are in the previous version; `known` gives their rows there.
    fn lines(&self, rows: &RecordBatch, known: &UInt32Array, met: &BooleanArray) -> Result<RecordBatch> {
        let (catalog, _) = self.0.as_ref().context("a row is known without a last version")?;
        let known = filter(known, met)?;
        catalog.again(known.as_primitive(), &filter_record_batch(rows, met)?)
    }
}

/// Settings of source `scan_rows`, which occurs only in graphs built in code: the rows of one of the store's sources.
pub struct ScanRows {
    /// The index of the source.
    pub source: usize,
}

impl ScanRows {
    /// Number of steps that `lanes` lanes need for `store`.
    pub fn steps(store: &RowStore, lanes: u32) -> u64 {
        store.chunks().div_ceil(u64::from(lanes.max(1)))
    }
}

impl Settings for ScanRows {
    fn takes(&self) -> Vec<Port> {
        Vec::new()
    }

    fn gives(&self) -> Vec<Kind> {
        vec![Kind::Rows, Kind::Records]
    }

    fn build(&self, env: &Env) -> Result<Built> {
        let store: Arc<RowStore> = env.resource("the rows (RowStore)")?;
        let known = env.resource("what is known (Known)")?;
        Ok(Built::Source(Box::new(Scanner {
            source: self.source,
            mixed: store.mixed(self.source).cloned(),
            store,
            known,
            lanes: u64::from(env.shape.lanes),
        })))
    }
}

struct Scanner {
    source: usize,
    mixed: Option<MixedSource>,
    store: Arc<RowStore>,
    known: Arc<Known>,
    lanes: u64,
}

impl Source for Scanner {
    /// Chunks are numbered across all sources, so that the rows of a step are in the order of the input.
    fn next(&mut self, lane: Lane, step: Step, out: &mut dyn Emit) -> Result<Turn> {
        let number = step * self.lanes + u64::from(lane);
        if number >= self.store.chunks() || self.store.source_of_chunk(number) != Some(self.source) {
            return Ok(Turn::Done);
        }
        let (read, bad) = self.store.chunk(number)?;
        if !bad.is_empty() {
            out.give(Packet::Records(Records { lane, records: quarantine_file::records(&bad)? }));
        }
        read.into_iter().try_for_each(|read| self.give(lane, read, out))?;
        Ok(Turn::Done)
    }
}

impl Scanner {
    /// Emits rows, and the lines of the catalog of those that are known.
    fn give(&self, lane: Lane, RowsRead { first, rows, readable }: RowsRead, out: &mut dyn Emit) -> Result<()> {
        let hashes = hashes(&rows, self.mixed.as_ref().map(|mixed| mixed.key.as_str()))?;
        let known: UInt32Array = hashes.iter().map(|hash| self.known.row(hash.unwrap_or_default())).collect();
        let met = and(&is_not_null(&known)?, &readable)?;
        let fresh = and(&is_null(&known)?, &readable)?;
        let numbers = UInt64Array::from_iter_values(first..first + rows.num_rows() as u64);
        let rows = with_column(&rows, field(INPUT_ROW, DataType::UInt64, false), Arc::new(numbers))?;
        if met.true_count() > 0 {
            let columns: Vec<&str> = [INPUT_ROW].into_iter().chain(WHERE).collect();
            let records = self.known.lines(&project(&rows, &columns)?, &known, &met)?;
            out.give(Packet::Records(Records { lane, records }));
        }
        if fresh.true_count() > 0 {
            let mut rows =
                with_column(&rows, field(INPUT_HASH, DataType::FixedSizeBinary(16), false), Arc::new(hashes))?;
            if let Some(MixedSource { stage, .. }) = &self.mixed {
                let ids = rows["id"].as_string::<i32>().iter().flatten();
                let ids = StringArray::from_iter_values(ids.map(|id| origins::id_of(stage, id)));
                rows = with_column(&rows, field("id", DataType::Utf8, false), Arc::new(ids))?;
            }
            let records = if fresh.true_count() < fresh.len() { filter_record_batch(&rows, &fresh)? } else { rows };
            out.give(Packet::Rows(Rows { lane, source: 0, purpose: Purpose::Train, last: false, records }));
        }
        Ok(())
    }
}

/// The columns `names`.
fn project(rows: &RecordBatch, names: &[&str]) -> Result<RecordBatch> {
    let columns: Vec<usize> = names.iter().map(|name| rows.schema_ref().index_of(name)).collect::<Result<_, _>>()?;
    Ok(rows.project(&columns)?)
}

#[cfg(test)]
mod tests;

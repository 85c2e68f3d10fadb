//! Source `scan`: every document once, in order, for graphs that prepare a corpus or count it.
//!
//! Documents are emitted in [`Chunks`]: at step `s` lane `l` of `L` emits chunk `s × L + l`.
use crate::parquet::documents::{BATCH_BYTES, DocumentStore, records};
use anyhow::Result;
use contract::{Built, Emit, Env, Kind, Lane, Packet, Port, Purpose, Rows, Settings, Source, Step, Turn};
use std::ops::Range;
use std::sync::Arc;

/// Maximum number of rows of a chunk.
const CHUNK: u64 = 256;

/// Rows in chunks of bounded size: the first row of each, and their number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chunks {
    starts: Vec<u64>,
    rows: u64,
}

impl Chunks {
    /// Chunks of rows of these sizes in bytes, of at most [`CHUNK`] rows. A chunk of more than [`BATCH_BYTES`] is one row.
    pub fn of(sizes: &[u64]) -> Self {
        let (mut starts, mut bytes, mut first) = (Vec::new(), 0, 0);
        for (row, size) in (0..).zip(sizes) {
            if starts.is_empty() || bytes + size > BATCH_BYTES as u64 || row - first >= CHUNK {
                starts.push(row);
                (bytes, first) = (0, row);
            }
            bytes += size;
        }
        Self { starts, rows: sizes.len() as u64 }
    }

    /// The number of steps that `lanes` lanes need.
    pub fn steps(&self, lanes: u32) -> u64 {
        (self.starts.len() as u64).div_ceil(u64::from(lanes.max(1)))
    }

    /// The rows of chunk `number`; none after the last one.
    fn rows(&self, number: u64) -> Range<u64> {
        let start = |number: u64| self.starts.get(number as usize).copied().unwrap_or(self.rows);
        start(number)..start(number + 1)
    }
}

/// Settings of source `scan`, which occurs only in graphs built in code.
#[derive(Clone)]
pub struct Scan {
    store: Arc<DocumentStore>,
    chunks: Arc<Chunks>,
}

impl Scan {
    /// A scan of the documents of `store` in these chunks.
    pub fn new(store: Arc<DocumentStore>, chunks: Arc<Chunks>) -> Self {
        Self { store, chunks }
    }
}

impl Settings for Scan {
    fn takes(&self) -> Vec<Port> {
        Vec::new()
    }

    fn gives(&self) -> Vec<Kind> {
        vec![Kind::Rows]
    }

    fn build(&self, env: &Env) -> Result<Built> {
        let lanes = u64::from(env.shape.micro_batches);
        Ok(Built::Source(Box::new(Scanner { scan: self.clone(), lanes })))
    }
}

struct Scanner {
    scan: Scan,
    lanes: u64,
}

impl Source for Scanner {
    fn next(&mut self, lane: Lane, step: Step, out: &mut dyn Emit) -> Result<Turn> {
        let rows = self.scan.chunks.rows(step * self.lanes + u64::from(lane));
        if !rows.is_empty() {
            let records = records(self.scan.store.take(rows)?)?;
            out.give(Packet::Rows(Rows { lane, purpose: Purpose::Train, last: false, records }));
        }
        Ok(Turn::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_bounded_by_rows_and_bytes() {
        let (mega, limit) = (1 << 20, BATCH_BYTES as u64);
        let starts = |sizes: &[u64]| Chunks::of(sizes).starts;
        assert_eq!(starts(&[10; 600]), [0, 256, 512]);
        assert_eq!(starts(&[2 * mega; 5]), [0, 2, 4], "4 MiB each");
        assert_eq!(starts(&[1, limit, 1, 3 * limit, 0, 1]), [0, 1, 2, 3, 4], "a large row is a chunk of its own");
        let chunks = Chunks::of(&[2 * mega; 5]);
        assert_eq!((0..4).map(|number| chunks.rows(number)).collect::<Vec<_>>(), [0..2, 2..4, 4..5, 5..5]);
        assert_eq!((chunks.steps(2), Chunks::of(&[]).steps(2)), (2, 0));
    }
}

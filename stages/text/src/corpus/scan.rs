//! Source `scan`: every document once, in order, for graphs that prepare a corpus or count it.
//!
//! Documents are emitted in chunks of [`CHUNK`] rows: at step `s` lane `l` of `L` emits chunk `s × L + l`.
use crate::parquet::documents::{DocumentStore, records};
use anyhow::Result;
use contract::{Built, Emit, Env, Kind, Lane, Packet, Port, Purpose, Rows, Settings, Source, Step, Turn};
use std::sync::Arc;

/// Rows per chunk.
pub const CHUNK: u64 = 256;

/// Settings of source `scan`, which occurs only in graphs built in code.
#[derive(Clone)]
pub struct Scan {
    store: Arc<DocumentStore>,
}

impl Scan {
    /// A scan of the documents of `store`.
    pub fn new(store: Arc<DocumentStore>) -> Self {
        Self { store }
    }

    /// The number of steps that `lanes` lanes need for `rows` rows.
    pub fn steps(rows: u64, lanes: u32) -> u64 {
        rows.div_ceil(CHUNK).div_ceil(u64::from(lanes.max(1)))
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
        let (store, lanes) = (Arc::clone(&self.store), u64::from(env.shape.micro_batches));
        Ok(Built::Source(Box::new(Scanner { store, lanes })))
    }
}

struct Scanner {
    store: Arc<DocumentStore>,
    lanes: u64,
}

impl Source for Scanner {
    fn next(&mut self, lane: Lane, step: Step, out: &mut dyn Emit) -> Result<Turn> {
        let start = (step * self.lanes + u64::from(lane)) * CHUNK;
        let rows = self.store.rows();
        if start < rows {
            let records = records(self.store.take(start..rows.min(start + CHUNK))?)?;
            out.give(Packet::Rows(Rows { lane, purpose: Purpose::Train, last: false, records }));
        }
        Ok(Turn::Done)
    }
}

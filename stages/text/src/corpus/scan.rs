//! Source `scan`: every document once, in order, for graphs that prepare something.
//!
//! Documents go out in chunks of [`CHUNK`] rows: at step `s` lane `l` of `L` gives chunk `s × L + l`.
use crate::parquet::documents::{DocumentStore, records};
use anyhow::Result;
use contract::{
    Built, Emit, Env, Kind, Lane, Packet, Port, Purpose, Rows, Settings, Source, StageSettings, Step, Turn,
};
use serde::{Deserialize, Serialize};
use std::any::Any;
use std::sync::Arc;

/// Rows of a chunk.
pub const CHUNK: u64 = 256;

/// Settings of source `scan`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Scan {}

impl Scan {
    /// Steps that it takes `lanes` lanes to pass over `rows` rows.
    pub fn steps(rows: u64, lanes: u32) -> u64 {
        rows.div_ceil(CHUNK).div_ceil(u64::from(lanes.max(1)))
    }
}

impl StageSettings for Scan {
    const SUMMARY: &'static str = "passes over every document once, to prepare something";
    const KEYS: &'static [(&'static str, &'static str)] = &[];
    const EXAMPLE: &'static str = "";
}

impl Settings for Scan {
    fn takes(&self) -> Vec<Port> {
        Vec::new()
    }

    fn gives(&self) -> Vec<Kind> {
        vec![Kind::Rows]
    }

    fn build(&self, env: &Env) -> Result<Built> {
        let store = env.resource("the opened documents (DocumentStore)")?;
        Ok(Built::Source(Box::new(Scanner { store, lanes: u64::from(env.shape.micro_batches) })))
    }

    fn as_any(&self) -> &dyn Any {
        self
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

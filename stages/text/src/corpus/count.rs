//! Stage `count`: the number of tokens of each row, after `scan` and a stage that tokenizes.
use anyhow::{Context, Result, bail};
use arrow::array::{Array, ArrayRef, AsArray, ListArray, RecordBatch, UInt32Array};
use arrow::datatypes::UInt32Type;
use contract::{At, Built, Emit, Env, Kind, Packet, Port, Records, Settings, Stage, Turn};
use std::sync::Arc;

/// Settings of stage `count`, which occurs only in graphs built in code.
#[derive(Clone, Copy, Debug, Default)]
pub struct Count;

impl Count {
    /// The counts in the records of a graph that ends in this stage, in row order.
    pub fn counts(records: &[RecordBatch]) -> Vec<u32> {
        let counts = |batch: &RecordBatch| batch.column(0).as_primitive::<UInt32Type>().values().to_vec();
        records.iter().flat_map(counts).collect()
    }
}

impl Settings for Count {
    fn takes(&self) -> Vec<Port> {
        vec![Port::stream(Kind::Tokens)]
    }

    fn gives(&self) -> Vec<Kind> {
        vec![Kind::Records]
    }

    fn build(&self, _: &Env) -> Result<Built> {
        Ok(Built::Stage(Box::new(*self)))
    }
}

impl Stage for Count {
    fn packet(&mut self, _: At, packet: Packet, out: &mut dyn Emit) -> Result<Turn> {
        let Packet::Tokens(tokens) = packet else { bail!("count takes tokens, not {}", packet.kind().name()) };
        let counts: ArrayRef = Arc::new(counts(&tokens.documents)?);
        let records = RecordBatch::try_from_iter([("tokens", counts)])?;
        out.give(Packet::Records(Records { lane: tokens.lane, records }));
        Ok(Turn::Done)
    }
}

/// Tokens of each document, including the end-of-text token; 0 for a dropped document.
fn counts(documents: &ListArray) -> Result<UInt32Array> {
    let count = |row: usize| match documents.is_null(row) {
        true => Some(0),
        false => u32::try_from(documents.value_length(row)).ok()?.checked_add(1),
    };
    let counts: Option<Vec<u32>> = (0..documents.len()).map(count).collect();
    Ok(counts.context("a document of more than 2^31 tokens")?.into())
}

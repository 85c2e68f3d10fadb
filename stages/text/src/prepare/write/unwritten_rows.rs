//! Source `kept`: the texts of each shard to write that have no tokens yet, in row order.
use super::work::{Piece, Work};
use crate::parquet::documents::records;
use anyhow::Result;
use contract::{Built, Emit, Env, Kind, Lane, Packet, Port, Purpose, Rows, Settings, Source, Step, Turn};
use std::sync::Arc;

/// Settings of source `kept`, which occurs only in graphs built in code. At each step, a lane emits the texts of its
/// [`Piece`].
pub struct UnwrittenRows;

impl Settings for UnwrittenRows {
    fn takes(&self) -> Vec<Port> {
        Vec::new()
    }

    fn gives(&self) -> Vec<Kind> {
        vec![Kind::Rows]
    }

    fn build(&self, env: &Env) -> Result<Built> {
        Ok(Built::Source(Box::new(Giver { work: env.resource("what there is to write (Work)")? })))
    }
}

struct Giver {
    work: Arc<Work>,
}

impl Source for Giver {
    fn next(&mut self, lane: Lane, step: Step, out: &mut dyn Emit) -> Result<Turn> {
        let Some(Piece { shard, kept, .. }) = self.work.pieces.get(lane, step) else { return Ok(Turn::Done) };
        let kept = &self.work.shards[*shard].kept[kept.clone()];
        let fresh = kept.iter().filter(|kept| kept.tokens.is_none());
        let rows = fresh.map(|kept| self.work.text_row(kept.row)).collect::<Result<Vec<u64>>>()?;
        if !rows.is_empty() {
            let records = records(self.work.texts.take(rows)?)?;
            out.give(Packet::Rows(Rows { lane, source: 0, purpose: Purpose::Train, last: false, records }));
        }
        Ok(Turn::Done)
    }
}

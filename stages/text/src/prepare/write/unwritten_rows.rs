//! Source `kept`: the texts of each shard to write that have no tokens yet, in row order.
use super::work::Work;
use crate::parquet::documents::{BATCH_BYTES, records};
use anyhow::Result;
use contract::{Built, Emit, Env, Kind, Lane, Packet, Port, Purpose, Rows, Settings, Source, Step, Turn};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Maximum number of rows per packet.
const CHUNK: usize = 128;

/// Settings of source `kept`, which occurs only in graphs built in code. At step `s` lane `l` of `L` emits the texts of
/// shard `s × L + l` of those to write.
pub struct UnwrittenRows;

impl Settings for UnwrittenRows {
    fn takes(&self) -> Vec<Port> {
        Vec::new()
    }

    fn gives(&self) -> Vec<Kind> {
        vec![Kind::Rows]
    }

    fn build(&self, env: &Env) -> Result<Built> {
        let work = env.resource("what there is to write (Work)")?;
        Ok(Built::Source(Box::new(Giver { work, lanes: u64::from(env.shape.micro_batches), given: BTreeMap::new() })))
    }
}

struct Giver {
    work: Arc<Work>,
    lanes: u64,
    /// By lane: the current shard, and how many of its texts have been emitted.
    given: BTreeMap<Lane, (usize, usize)>,
}

impl Source for Giver {
    fn next(&mut self, lane: Lane, step: Step, out: &mut dyn Emit) -> Result<Turn> {
        let index = (step * self.lanes + u64::from(lane)) as usize;
        let Some(shard) = self.work.shards.get(index) else { return Ok(Turn::Done) };
        let given = match self.given.get(&lane) {
            Some((at, given)) if *at == index => *given,
            _ => 0,
        };
        let mut fresh = shard.kept.iter().filter(|kept| kept.tokens.is_none()).skip(given).peekable();
        let (mut rows, mut bytes) = (Vec::new(), 0);
        while let Some(kept) = fresh.peek() {
            bytes += self.work.catalog.bytes(kept.row as usize);
            if rows.len() == CHUNK || !rows.is_empty() && bytes > BATCH_BYTES as u64 {
                break;
            }
            rows.push(self.work.text_row(kept.row)?);
            fresh.next();
        }
        let (count, is_done) = (rows.len(), fresh.peek().is_none());
        // An empty packet is emitted as well: a shard without new texts must be written, too.
        let records = records(self.work.texts.take(rows)?)?;
        out.give(Packet::Rows(Rows { lane, purpose: Purpose::Train, last: false, records }));
        self.given.insert(lane, (index, given + count));
        Ok(if is_done { Turn::Done } else { Turn::More })
    }
}

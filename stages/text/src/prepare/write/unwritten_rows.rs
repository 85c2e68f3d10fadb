//! Source `kept`: of every shard that is to be written, the texts that have no tokens yet, in the order of its rows.
use super::work::Work;
use crate::parquet::documents::records;
use anyhow::Result;
use contract::{Built, Emit, Env, Kind, Lane, Packet, Port, Purpose, Rows, Settings, Source, Step, Turn};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Rows of a packet.
const CHUNK: usize = 128;

/// Settings of source `kept`, which stands in graphs made in code. At step `s` lane `l` of `L` gives shard `s × L + l` of
/// those to write.
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
    /// By lane: which shard it is at, and how many of its texts have been given.
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
        let fresh = shard.kept.iter().filter(|kept| kept.tokens.is_none()).skip(given).take(CHUNK);
        let rows: Vec<u64> = fresh.map(|kept| self.work.text_row(kept.row)).collect::<Result<_>>()?;
        let count = rows.len();
        // An empty packet as well: a shard without fresh texts is to be written, too.
        let records = records(self.work.texts.take(rows)?)?;
        out.give(Packet::Rows(Rows { lane, purpose: Purpose::Train, last: false, records }));
        self.given.insert(lane, (index, given + count));
        Ok(if count == CHUNK { Turn::More } else { Turn::Done })
    }
}

//! Stage `parquet`: the end of preparation. Rows and their tokens become the shards of a version.
//!
//! - [`work`]: the shards to write and their inputs; [`shard_files`]: a shard while it is written; [`written`]: the
//!   shards that were written
//! - [`unwritten_rows`]: the source of the second graph of a preparation: texts that have no tokens yet
//! - [`files`]: `documents-*`, `sequences-*` and `dropped-*.parquet`; the first two with a file for each part of a shard
//! - [`sequences`]: concatenates documents and cuts them into sequences
pub mod files;
pub mod sequences;
mod shard_files;
pub mod unwritten_rows;
pub mod work;
pub mod written;

pub use unwritten_rows::UnwrittenRows;
pub use work::{Pieces, RowToWrite, Shard, Work};
pub use written::ShardWritten;

use anyhow::{Result, bail};
use arrow::array::ListArray;
use contract::{
    At, Built, Emit, Env, Kind, Lane, Packet, Port, Prepare, Problem, Records, Rows, Settings, Stage, StageKeys,
    StageSettings, Step, Tokens, Turn,
};
use serde::{Deserialize, Serialize};
use shard_files::ShardFiles;
use std::collections::BTreeMap;
use std::sync::Arc;
use work::Piece;

/// Settings of stage `parquet`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, StageKeys)]
#[serde(default, deny_unknown_fields)]
pub struct Write {
    /// Number of document files, 1 to 4096. The id of a document determines its file.
    #[key(min = 1, max = 4096)]
    pub shards: u32,
    /// Write token ids too; needs a stage that tokenizes.
    pub tokens: bool,
    /// Also write documents packed into sequences of this many tokens; 0: do not.
    pub sequence_length: u32,
    /// Also write the rows that stages dropped, with the reason.
    pub keep_dropped: bool,
    /// What to do with documents that have the id of an earlier one but another text: "drop" (and warn), "keep" or
    /// "error"; "drop" if not given.
    pub repeated_ids: Option<RepeatedIds>,
}

/// What to do with documents that have the id of an earlier one but another text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RepeatedIds {
    /// Drop them, and warn.
    #[default]
    Drop,
    /// Keep them: id and text identify a document.
    Keep,
    /// Fail.
    Error,
}

impl Default for Write {
    fn default() -> Self {
        Self { shards: 256, tokens: true, sequence_length: 0, keep_dropped: false, repeated_ids: None }
    }
}

impl StageSettings for Write {
    const SUMMARY: &'static str = "writes documents, tokens and packed sequences as a version of Parquet shards";
    const EXAMPLE: &'static str = "shards = 256\nsequence_length = 1024\n";
}

impl Settings for Write {
    fn takes(&self) -> Vec<Port> {
        let tokens = self.tokens.then_some(Port::stream(Kind::Tokens));
        [Port::stream(Kind::Rows)].into_iter().chain(tokens).collect()
    }

    /// The shards that were written ([`ShardWritten`]).
    fn gives(&self) -> Vec<Kind> {
        vec![Kind::Records]
    }

    fn check(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if self.sequence_length == 1 {
            problems.push(Problem::at("sequence_length", "a sequence of 1 token teaches nothing; 0 writes none"));
        }
        if self.sequence_length > 0 && !self.tokens {
            problems.push(Problem::at("sequence_length", "sequences are made of tokens: set tokens = true"));
        }
        problems
    }

    /// Provides the settings: the preparation assigns rows to shards with them.
    fn prepare(&self, before: &mut Prepare) -> Result<()> {
        before.provide(Arc::new(self.clone()));
        Ok(())
    }

    fn build(&self, env: &Env) -> Result<Built> {
        let work: Arc<Work> = env.resource("what there is to write (Work)")?;
        let lanes = env.lanes().collect();
        Ok(Built::Stage(Box::new(Writer { work, lanes, pending: BTreeMap::new(), begun: BTreeMap::new() })))
    }
}

/// What has arrived of a piece of a shard, in row order.
#[derive(Default)]
struct Pending {
    rows: Vec<Rows>,
    tokens: Vec<ListArray>,
}

struct Writer {
    work: Arc<Work>,
    /// The lanes of this worker.
    lanes: Vec<Lane>,
    pending: BTreeMap<(Step, Lane), Pending>,
    /// By lane: the shard that is being written.
    begun: BTreeMap<Lane, ShardFiles>,
}

impl Stage for Writer {
    fn packet(&mut self, at: At, packet: Packet, _: &mut dyn Emit) -> Result<Turn> {
        match packet {
            Packet::Rows(rows) => self.pending.entry((at.step, rows.lane)).or_default().rows.push(rows),
            Packet::Tokens(Tokens { lane, documents, .. }) => {
                self.pending.entry((at.step, lane)).or_default().tokens.push(documents);
            }
            other => bail!("parquet takes rows and tokens, not {}", other.kind().name()),
        }
        Ok(Turn::Done)
    }

    fn step_done(&mut self, step: Step, out: &mut dyn Emit) -> Result<()> {
        for lane in &self.lanes {
            let Some(Piece { shard, kept, is_last }) = self.work.pieces.get(*lane, step) else { continue };
            let shard = &self.work.shards[*shard];
            let Pending { rows, tokens } = self.pending.remove(&(step, *lane)).unwrap_or_default();
            let mut files = self.begun.remove(lane).unwrap_or_default();
            files.write(&self.work, shard, &shard.kept[kept.clone()], &rows, &tokens)?;
            if *is_last {
                let records = files.close(&self.work, shard)?.records(shard.number)?;
                out.give(Packet::Records(Records { lane: *lane, records }));
            } else {
                self.begun.insert(*lane, files);
            }
        }
        Ok(())
    }
}

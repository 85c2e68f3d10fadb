//! The documents of one source in one lane, on their way to batches.
use crate::pack::method::{Cutter, Runs};
use crate::pack::pool::{Pool, SavedPool};
use crate::pack::saved_tokens::SavedTokens;
use crate::pack::windows::Windows;
use anyhow::{Result, ensure};
use contract::{Snapshot, Step};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The documents of a source in a lane.
pub struct Stream {
    /// Makes sequences of training documents.
    pub cutter: Box<dyn Cutter>,
    /// Sequences to draw from.
    pool: Pool,
    /// Sequences drawn for the step that is being packed, each with the token after it.
    pub drawn: Vec<u32>,
    /// The last step whose sequences have all been drawn.
    pub drawn_at: Option<Step>,
    /// Validation documents of this step that are not part of a batch yet.
    pub held_out: Windows,
    /// Number of validation documents of this step so far.
    pub documents: u32,
    /// Number of validation batches of this step so far.
    pub validated: u32,
}

/// A stream's part of a checkpoint: written from a [`PoolSnapshot`](crate::pack::pool::PoolSnapshot), and read as a
/// [`SavedPool`].
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedStream<P> {
    tokens: SavedTokens,
    /// The lengths of incomplete sequences, whose tokens these are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    lengths: Vec<usize>,
    pool: P,
}

/// The state of a lane for a checkpoint: that of its stream, or a list if there are several.
pub fn snapshot(streams: &[Stream]) -> Snapshot {
    let saved = |stream: &Stream| {
        let Runs { tokens, lengths } = stream.cutter.saved();
        SavedStream { tokens: SavedTokens(tokens), lengths, pool: stream.pool.snapshot() }
    };
    match streams {
        [only] => Snapshot::of(saved(only)),
        _ => Snapshot::of(streams.iter().map(saved).collect::<Vec<_>>()),
    }
}

/// Restores what [`snapshot`] returned.
///
/// # Errors
/// If it is not the state of so many streams.
pub fn restore(streams: &mut [Stream], state: Value) -> Result<()> {
    let saved: Vec<SavedStream<SavedPool>> = match state {
        Value::Array(_) => serde_json::from_value(state)?,
        one => vec![serde_json::from_value(one)?],
    };
    let (there, expected) = (saved.len(), streams.len());
    ensure!(there == expected, "it has {there} sources, not {expected}");
    for (stream, saved) in streams.iter_mut().zip(saved) {
        stream.cutter.restore(Runs { tokens: saved.tokens.0, lengths: saved.lengths })?;
        stream.pool.restore(saved.pool)?;
    }
    Ok(())
}

impl Stream {
    /// An empty stream.
    pub fn new(cutter: Box<dyn Cutter>, pool: Pool) -> Self {
        let drawn = Vec::new();
        Self { cutter, pool, drawn, drawn_at: None, held_out: Windows::default(), documents: 0, validated: 0 }
    }

    /// Draws the `sequences` sequences of `step`, up to `at_once` from a full pool. False while there are too few
    /// tokens.
    pub fn draw(&mut self, step: Step, sequences: usize, at_once: usize, length: usize) -> bool {
        if self.drawn_at == Some(step) {
            return true;
        }
        loop {
            let left = sequences - self.drawn.len() / (length + 1);
            if left == 0 {
                self.drawn_at = Some(step);
                return true;
            }
            let more = self.cutter.windows(self.pool.missing());
            self.pool.add(&more);
            if self.pool.missing() > 0 {
                return false;
            }
            self.drawn.extend(self.pool.draw(at_once.min(left)));
        }
    }
}

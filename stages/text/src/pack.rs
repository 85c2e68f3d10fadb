//! Stage `concat`: concatenates the documents of a lane, separated by end-of-text tokens, and cuts them into
//! micro-batches.
use crate::tokenizer::Vocabulary;
use anyhow::{Context, Result, bail};
use arrow::array::{Array, AsArray};
use arrow::buffer::ScalarBuffer;
use arrow::datatypes::UInt32Type;
use contract::parameters::splitmix64;
use contract::{
    At, Batch, BatchShape, Built, Emit, Env, IGNORED, Kind, Lane, Memory, Packet, Port, Problem, Purpose, Schedule,
    Settings, Snapshot, Stage, StageKeys, StageSettings, Step, Turn,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// Most tokens of a micro-batch.
const MOST_MICRO_BATCH: usize = 1 << 24;
/// Most tokens of a batch.
const MOST_BATCH: u64 = 1 << 30;

/// Settings of stage `concat`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, StageKeys)]
#[serde(default, deny_unknown_fields)]
pub struct Concat {
    /// Tokens per sequence; 1 to 1048576.
    pub sequence_length: usize,
    /// Sequences per micro-batch, the unit of work; 1 to 65536.
    pub micro_batch_size: usize,
    /// Micro-batches per step; 1 to 65536. Results depend on it, but not on the number of workers.
    pub micro_batches: u32,
    /// Do not train on predicting a document's first token from the previous document.
    pub mask_across_documents: bool,
    /// Size, in micro-batches, of the pool from which sequences are drawn at random; 0: sequences keep the order of the
    /// documents.
    pub shuffle: usize,
}

impl Default for Concat {
    fn default() -> Self {
        Self { sequence_length: 128, micro_batch_size: 16, micro_batches: 2, mask_across_documents: false, shuffle: 32 }
    }
}

impl StageSettings for Concat {
    const SUMMARY: &'static str = "concatenates documents and cuts them into sequences of one length";
    const EXAMPLE: &'static str = "sequence_length = 128\nmicro_batch_size = 16\nmicro_batches = 2\n";
}

impl Settings for Concat {
    fn takes(&self) -> Vec<Port> {
        vec![Port::stream(Kind::Tokens)]
    }

    fn gives(&self) -> Vec<Kind> {
        vec![Kind::Batch]
    }

    fn check(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut range = |key, value: usize, most: usize| {
            if !(1..=most).contains(&value) {
                problems.push(Problem::at(key, format!("is {value}, but must be from 1 to {most}")));
            }
        };
        range("sequence_length", self.sequence_length, 1 << 20);
        range("micro_batch_size", self.micro_batch_size, 1 << 16);
        range("micro_batches", self.micro_batches as usize, 1 << 16);
        if self.shuffle > 1 << 16 {
            problems.push(Problem::at("shuffle", format!("is {}, but must be at most {}", self.shuffle, 1 << 16)));
        }
        // Each fits, and the products fit into memory's addresses: so many tokens are more than any published batch.
        if problems.is_empty() {
            let micro_batch = self.sequence_length * self.micro_batch_size;
            let batch = micro_batch as u64 * u64::from(self.micro_batches);
            if micro_batch > MOST_MICRO_BATCH {
                let why = format!(
                    "times `sequence_length` is {micro_batch} tokens; at most {MOST_MICRO_BATCH} can be computed at once"
                );
                problems.push(Problem::at("micro_batch_size", why));
            } else if batch > MOST_BATCH {
                let why = format!("make a batch of {batch} tokens; at most {MOST_BATCH} are possible");
                problems.push(Problem::at("micro_batches", why));
            }
        }
        problems
    }

    fn build(&self, env: &Env) -> Result<Built> {
        let vocabulary = Vocabulary::of(env)?;
        Ok(Built::Stage(Box::new(Packer {
            shape: env.shape,
            schedule: env.schedule,
            end_of_text: vocabulary.end_of_text,
            mask: self.mask_across_documents,
            shuffle: self.shuffle,
            seed: env.seed,
            lanes: BTreeMap::new(),
        })))
    }

    fn pulls(&self) -> bool {
        true
    }

    /// The sequences that lanes draw from, their snapshot, and the snapshot as JSON when a checkpoint is written.
    fn memory(&self, env: &Env) -> Memory {
        let BatchShape { micro_batches, sequences, length } = env.shape;
        let tokens = micro_batches as usize * sequences * (self.shuffle + 1) * (length + 1);
        let permanent = (tokens * (2 * size_of::<u32>() + size_of::<Value>() + 8)) as u64;
        Memory { permanent, ..Memory::default() }
    }

    fn batch_shape(&self) -> Option<BatchShape> {
        let Self { sequence_length: length, micro_batch_size: sequences, micro_batches, .. } = *self;
        Some(BatchShape { micro_batches, sequences, length })
    }

    /// Each sequence is followed by one more token, its last target.
    fn validation_sequences(&self, tokens: u64) -> Option<u64> {
        Some(tokens.saturating_sub(1) / self.sequence_length as u64)
    }
}

struct Packer {
    shape: BatchShape,
    schedule: Schedule,
    end_of_text: u32,
    mask: bool,
    shuffle: usize,
    seed: u64,
    lanes: BTreeMap<Lane, LaneState>,
}

#[derive(Default)]
struct LaneState {
    /// Training tokens that are not part of a sequence yet.
    tokens: Vec<u32>,
    /// Sequences to draw from, each with the token after it. Consecutive sequences of a document are similar: a batch
    /// of them would represent the corpus less well than one of sequences from many documents.
    pool: Vec<u32>,
    /// The last step whose training batch has been emitted.
    made: Option<Step>,
    /// Validation tokens of this step that are not part of a batch yet.
    held: Vec<u32>,
    /// Number of validation batches of this step so far.
    parts: u32,
}

/// A lane's part of a checkpoint.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LaneSnapshot {
    tokens: Vec<u32>,
    pool: Vec<u32>,
}

impl Packer {
    /// Removes the first `sequences` sequences from `tokens`, each with the token after it, which also stays as the
    /// first of the remaining tokens: `[sequences, length + 1]`.
    fn cut(&self, tokens: &mut Vec<u32>, sequences: usize) -> Vec<u32> {
        let length = self.shape.length;
        let starts = (0..sequences).map(|i| i * length);
        let windows = starts.flat_map(|start| tokens[start..=start + length].iter().copied()).collect();
        tokens.drain(..sequences * length);
        windows
    }

    /// The training sequences of a step; `None` while there are too few tokens.
    fn draw(&self, state: &mut LaneState, lane: Lane, step: Step) -> Option<Vec<u32>> {
        let (wanted, window) = (self.shape.sequences, self.shape.length + 1);
        let whole = state.tokens.len().saturating_sub(1) / self.shape.length;
        if self.shuffle == 0 {
            return (whole >= wanted).then(|| self.cut(&mut state.tokens, wanted));
        }
        let missing = (wanted * (self.shuffle + 1)).saturating_sub(state.pool.len() / window);
        let more = self.cut(&mut state.tokens, whole.min(missing));
        state.pool.extend(more);
        if whole < missing {
            return None;
        }
        let key = splitmix64(self.seed ^ 0x5348_5546, splitmix64(step, u64::from(lane)));
        let mut drawn = Vec::with_capacity(wanted * window);
        for i in 0..wanted as u64 {
            let left = state.pool.len() / window;
            let at = (splitmix64(key, i) % left as u64) as usize * window;
            drawn.extend_from_slice(&state.pool[at..at + window]);
            // The last sequence takes its place.
            state.pool.copy_within((left - 1) * window.., at);
            state.pool.truncate((left - 1) * window);
        }
        Some(drawn)
    }

    /// Makes a batch of `windows`, `[sequences, length + 1]`.
    fn batch(&self, windows: &[u32], leaf: Lane, purpose: Purpose, part: u32) -> Batch {
        let length = self.shape.length;
        let sequences = windows.len() / (length + 1);
        let n = sequences * length;
        let (mut tokens, mut targets) = (Vec::with_capacity(n), Vec::with_capacity(n));
        let mut document_starts = Vec::with_capacity(n);
        for window in windows.chunks(length + 1) {
            let mut start = 0;
            for (position, pair) in (0u32..).zip(window.windows(2)) {
                let ends = pair[0] == self.end_of_text;
                tokens.push(pair[0]);
                targets.push(if ends && self.mask { IGNORED } else { pair[1] });
                document_starts.push(start);
                if ends {
                    start = position + 1;
                }
            }
        }
        Batch {
            leaf,
            purpose,
            part,
            sequences,
            length,
            tokens: ScalarBuffer::from(tokens),
            targets: ScalarBuffer::from(targets),
            document_starts: ScalarBuffer::from(document_starts),
        }
    }

    /// Cuts validation batches: full ones, and at the end a smaller one of the remaining whole sequences.
    fn validate(&self, lane: Lane, state: &mut LaneState, last: bool, out: &mut dyn Emit) {
        loop {
            let whole = state.held.len().saturating_sub(1) / self.shape.length;
            let sequences = whole.min(self.shape.sequences);
            if sequences == 0 || sequences < self.shape.sequences && !last {
                break;
            }
            let windows = self.cut(&mut state.held, sequences);
            out.give(Packet::Batch(self.batch(&windows, lane, Purpose::Validate, state.parts)));
            state.parts += 1;
        }
        if last {
            state.held.clear();
            state.parts = 0;
        }
    }
}

impl Stage for Packer {
    fn packet(&mut self, at: At, packet: Packet, out: &mut dyn Emit) -> Result<Turn> {
        let Packet::Tokens(tokens) = packet else { bail!("concat takes tokens, not {}", packet.kind().name()) };
        let mut state = self.lanes.remove(&tokens.lane).unwrap_or_default();
        let stream = match tokens.purpose {
            Purpose::Train => &mut state.tokens,
            Purpose::Validate => &mut state.held,
        };
        let ids = tokens.documents.values().as_primitive_opt::<UInt32Type>().context("token ids are not uint32")?;
        // A null is a dropped document.
        let given = |(row, _): &(usize, _)| tokens.documents.is_valid(*row);
        for (_, bounds) in tokens.documents.value_offsets().windows(2).enumerate().filter(given) {
            stream.extend_from_slice(&ids.values()[bounds[0] as usize..bounds[1] as usize]);
            stream.push(self.end_of_text);
        }
        let turn = if tokens.purpose == Purpose::Validate && !tokens.last {
            self.validate(tokens.lane, &mut state, false, out);
            Turn::Starved
        } else {
            if tokens.purpose == Purpose::Validate {
                self.validate(tokens.lane, &mut state, true, out);
            }
            if !self.schedule.trains(at.step) || state.made == Some(at.step) {
                Turn::Done
            } else if let Some(windows) = self.draw(&mut state, tokens.lane, at.step) {
                out.give(Packet::Batch(self.batch(&windows, tokens.lane, Purpose::Train, 0)));
                state.made = Some(at.step);
                Turn::Done
            } else {
                Turn::Starved
            }
        };
        self.lanes.insert(tokens.lane, state);
        Ok(turn)
    }

    fn save(&mut self, lane: Lane) -> Result<Snapshot> {
        let state = self.lanes.entry(lane).or_default();
        Ok(Snapshot::of(LaneSnapshot { tokens: state.tokens.clone(), pool: state.pool.clone() }))
    }

    fn load(&mut self, lane: Lane, state: Value) -> Result<()> {
        let left: LaneSnapshot = serde_json::from_value(state)
            .with_context(|| format!("the checkpoint's state of lane {lane} was not saved by `pack`"))?;
        self.lanes.insert(lane, LaneState { tokens: left.tokens, pool: left.pool, ..LaneState::default() });
        Ok(())
    }
}

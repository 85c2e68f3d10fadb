//! Stage `concat`: concatenates the training documents of a lane, separated by end-of-text tokens, and cuts them into
//! micro-batches. Validation documents are evaluated one by one, in [`windows`].
pub mod batch_rows;
pub mod pool;
pub mod saved_tokens;
pub mod windows;

use crate::pack::batch_rows::BatchRows;
use crate::pack::pool::{Pool, SavedPool};
use crate::pack::saved_tokens::SavedTokens;
use crate::pack::windows::{Window, Windows};
use crate::tokenizer::Vocabulary;
use anyhow::{Context, Result, bail};
use arrow::array::{Array, AsArray};
use arrow::datatypes::UInt32Type;
use contract::parameters::splitmix64;
use contract::{
    At, Batch, BatchShape, Built, DocumentStart, Emit, Env, IGNORED, Kind, Lane, Memory, Packet, Port, Problem,
    Purpose, Schedule, Settings, Snapshot, Stage, StageKeys, StageSettings, Step, Tokens, Turn, ValidationStride,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// Most tokens of a micro-batch.
const MOST_MICRO_BATCH: usize = 1 << 24;
/// Most tokens of a batch.
const MOST_BATCH: u64 = 1 << 30;
/// Most tokens of a pool.
const MOST_POOL: u64 = 1 << 32;

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
    /// Streams of documents that fill the micro-batches, equally many each; a divisor of `micro_batches`. Results depend on
    /// it. Unset: 2, or 1 if `micro_batches` is odd.
    pub lanes: Option<u32>,
    /// Do not train on predicting a document's first token from the previous document.
    pub mask_across_documents: bool,
    /// Tokens of the pool from which sequences are drawn at random, at most those of an epoch; 0: sequences keep the order
    /// of the documents.
    pub shuffle_tokens: u64,
}

impl Default for Concat {
    fn default() -> Self {
        Self {
            sequence_length: 128,
            micro_batch_size: 2,
            micro_batches: 16,
            lanes: None,
            mask_across_documents: false,
            shuffle_tokens: 1 << 23,
        }
    }
}

impl StageSettings for Concat {
    const SUMMARY: &'static str = "concatenates training documents and cuts them into sequences of one length";
    const EXAMPLE: &'static str = "sequence_length = 128\nmicro_batch_size = 2\nmicro_batches = 16\n";
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
            } else if self.shuffle_tokens != 0 && !(batch..=MOST_POOL).contains(&self.shuffle_tokens) {
                let given = self.shuffle_tokens;
                let why = format!("is {given}, but must be 0, or from {batch} (the tokens of a step) to {MOST_POOL}");
                problems.push(Problem::at("shuffle_tokens", why));
            }
            problems.extend(self.check_lanes());
        }
        problems
    }

    fn build(&self, env: &Env) -> Result<Built> {
        let vocabulary = Vocabulary::of(env)?;
        let stride = env.resources.get::<ValidationStride>().map_or(env.shape.length, |stride| stride.0);
        Ok(Built::Stage(Box::new(Packer {
            shape: env.shape,
            schedule: env.schedule,
            end_of_text: vocabulary.end_of_text,
            mask: self.mask_across_documents,
            pool: self.pool(env),
            shuffles: self.shuffle_tokens > 0,
            seed: env.seed,
            stride: stride.clamp(1, env.shape.length),
            document_start: env.resources.get::<DocumentStart>().map_or(vocabulary.end_of_text, |start| start.0),
            lanes: BTreeMap::new(),
            validating: None,
        })))
    }

    fn pulls(&self) -> bool {
        true
    }

    /// The sequences that lanes draw from, and windows of validation documents.
    fn memory(&self, env: &Env) -> Memory {
        let BatchShape { lanes, length, .. } = env.shape;
        let vocabulary = env.model.as_ref().map_or(0, |model| model.vocabulary());
        let windows = env.schedule.evaluate.map_or(0, |_| Windows::memory(env.shape.sequences_of_lane(), length));
        let pool = if env.schedule.steps > 0 { Pool::memory(self.pool(env) * (length + 1), vocabulary) } else { 0 };
        let lane = pool + windows;
        Memory { permanent: (lanes as usize * lane) as u64, ..Memory::default() }
    }

    fn batch_shape(&self) -> Option<BatchShape> {
        let (micro_batches, sequences) = (self.micro_batches, self.micro_batch_size);
        Some(BatchShape { micro_batches, lanes: self.lanes(), sequences, length: self.sequence_length })
    }
}

impl Concat {
    fn lanes(&self) -> u32 {
        self.lanes.unwrap_or(if self.micro_batches.is_multiple_of(2) { 2 } else { 1 })
    }

    /// Lanes that fill different numbers of micro-batches would not read equally much of the corpus.
    fn check_lanes(&self) -> Option<Problem> {
        let (lanes, leaves) = (self.lanes(), self.micro_batches);
        let divides = |lanes: &u32| leaves.is_multiple_of(*lanes);
        if (1..=leaves).contains(&lanes) && divides(&lanes) {
            return None;
        }
        let nearest = (1..=leaves).filter(divides).min_by_key(|divisor| divisor.abs_diff(lanes))?;
        let why = format!("is {lanes}, but must divide `micro_batches`, which is {leaves}; {nearest} is nearest");
        Some(Problem::at("lanes", why))
    }

    /// Number of sequences in the pool of each lane: at least those of a step.
    fn pool(&self, env: &Env) -> usize {
        let epoch = env.corpus.map_or(u64::MAX, |corpus| corpus.train.tokens);
        let lane = self.shuffle_tokens.min(epoch) / u64::from(env.shape.lanes);
        (lane as usize / env.shape.length).max(env.shape.sequences_of_lane())
    }
}

struct Packer {
    shape: BatchShape,
    schedule: Schedule,
    end_of_text: u32,
    mask: bool,
    /// Number of sequences in the pool of each lane.
    pool: usize,
    /// Whether they are drawn at random.
    shuffles: bool,
    seed: u64,
    /// See [`ValidationStride`].
    stride: usize,
    /// See [`DocumentStart`].
    document_start: u32,
    lanes: BTreeMap<Lane, LaneState>,
    /// The lane whose validation documents are being cut, and whether it has all of this step's.
    validating: Option<(Lane, bool)>,
}

struct LaneState {
    /// Training tokens that are not part of a sequence yet.
    tokens: Vec<u32>,
    /// Sequences to draw from.
    pool: Pool,
    /// The last step whose training batches have been emitted.
    made: Option<Step>,
    /// Validation documents of this step that are not part of a batch yet.
    held_out: Windows,
    /// Number of validation documents of this step so far.
    documents: u32,
    /// Number of validation batches of this step so far.
    validated: u32,
}

/// A lane's part of a checkpoint: written from a [`PoolSnapshot`](pool::PoolSnapshot), and read as a [`SavedPool`].
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedLane<P> {
    tokens: SavedTokens,
    pool: P,
}

impl Packer {
    /// The state of a lane, which is put back into `lanes` after use; that of a lane that has got nothing yet is empty.
    fn take(&mut self, lane: Lane) -> LaneState {
        self.lanes.remove(&lane).unwrap_or_else(|| {
            let seed = self.shuffles.then(|| splitmix64(self.seed ^ 0x5348_5546, u64::from(lane)));
            let pool = Pool::new(self.shape.length, self.pool, seed);
            LaneState { tokens: Vec::new(), pool, made: None, held_out: Windows::default(), documents: 0, validated: 0 }
        })
    }

    /// Removes the first `sequences` sequences from `tokens`, each with the token after it, which also stays as the
    /// first of the remaining tokens: `[sequences, length + 1]`.
    fn cut(&self, tokens: &mut Vec<u32>, sequences: usize) -> Vec<u32> {
        let length = self.shape.length;
        let starts = (0..sequences).map(|i| i * length);
        let windows = starts.flat_map(|start| tokens[start..=start + length].iter().copied()).collect();
        tokens.drain(..sequences * length);
        windows
    }

    /// The lane's training sequences of a step, each with the token after it; `None` while there are too few tokens. Which
    /// they are does not depend on how they are cut into micro-batches.
    fn draw(&self, state: &mut LaneState) -> Option<Vec<u32>> {
        let whole = state.tokens.len().saturating_sub(1) / self.shape.length;
        let missing = state.pool.missing();
        let more = self.cut(&mut state.tokens, whole.min(missing));
        state.pool.add(&more);
        (whole >= missing).then(|| state.pool.draw(self.shape.sequences_of_lane()))
    }

    /// Makes a training batch of `windows`, `[sequences, length + 1]`.
    fn training_batch(&self, windows: &[u32], leaf: Lane) -> Batch {
        let length = self.shape.length;
        let mut rows = BatchRows::new(windows.len() / (length + 1), length);
        let target = |pair: &[u32]| if self.mask && pair[0] == self.end_of_text { IGNORED } else { pair[1] };
        for window in windows.chunks(length + 1) {
            rows.push(&window[..length], window.windows(2).map(target), self.end_of_text);
        }
        rows.batch(leaf, Purpose::Train, 0)
    }

    /// Makes a validation batch that is as long as the longest of `windows`; what the others lack is padding.
    fn validation_batch(&self, windows: Vec<Window>, leaf: Lane, part: u32) -> Batch {
        let length = windows.iter().map(|window| window.tokens.len() - 1).max().unwrap_or(0);
        let mut rows = BatchRows::new(windows.len(), length);
        for Window { mut tokens, document, scored } in windows {
            rows.documents.push(document);
            let inputs = tokens.len() - 1;
            let unscored = std::iter::repeat_n(IGNORED, inputs - scored);
            let targets: Vec<u32> = unscored.chain(tokens[inputs + 1 - scored..].iter().copied()).collect();
            tokens.truncate(inputs);
            tokens.resize(length, self.end_of_text);
            rows.push(&tokens, targets.into_iter().chain(std::iter::repeat(IGNORED)), self.end_of_text);
        }
        rows.batch(leaf, Purpose::Validate, part)
    }

    /// Emits the next validation batches of the lane that is being cut, up to one for each of its leaves; when there are no
    /// more, goes on with its training.
    fn go_on(&mut self, step: Step, out: &mut dyn Emit) -> Turn {
        let Some((lane, last)) = self.validating else { return Turn::Done };
        let mut state = self.take(lane);
        let cut = (0..self.shape.leaves_of_lane()).all(|_| self.validate(&mut state, lane, last, out));
        let turn = match (cut, last) {
            (true, _) => Turn::More,
            (false, true) => {
                (state.documents, state.validated) = (0, 0);
                self.train(&mut state, lane, step, out)
            }
            (false, false) => Turn::Starved,
        };
        self.lanes.insert(lane, state);
        turn
    }

    /// Emits the lane's next validation batch, on its leaves in turn. False if there is none.
    fn validate(&self, state: &mut LaneState, lane: Lane, last: bool, out: &mut dyn Emit) -> bool {
        let BatchShape { sequences, length, .. } = self.shape;
        let windows = state.held_out.batch(sequences, self.shape.sequences_of_lane(), length, self.stride, last);
        let Some(windows) = windows else { return false };
        let (leaf, part) = (self.shape.leaf(lane, state.validated), state.validated / self.shape.leaves_of_lane());
        out.give(Packet::Batch(self.validation_batch(windows, leaf, part)));
        state.validated += 1;
        true
    }

    /// Emits the lane's training batches of the step, if the step has some that have not been emitted.
    fn train(&self, state: &mut LaneState, lane: Lane, step: Step, out: &mut dyn Emit) -> Turn {
        if !self.schedule.trains(step) || state.made == Some(step) {
            return Turn::Done;
        }
        let Some(windows) = self.draw(state) else { return Turn::Starved };
        for (n, windows) in (0..).zip(windows.chunks(self.shape.sequences * (self.shape.length + 1))) {
            out.give(Packet::Batch(self.training_batch(windows, self.shape.leaf(lane, n))));
        }
        state.made = Some(step);
        Turn::Done
    }
}

impl Stage for Packer {
    fn packet(&mut self, at: At, packet: Packet, out: &mut dyn Emit) -> Result<Turn> {
        let Packet::Tokens(tokens) = packet else { bail!("concat takes tokens, not {}", packet.kind().name()) };
        let Tokens { lane, purpose, last, documents } = tokens;
        let ids = documents.values().as_primitive_opt::<UInt32Type>().context("token ids are not uint32")?.values();
        let mut state = self.take(lane);
        let lanes = self.shape.lanes;
        // A null is a dropped document.
        let given = |(row, _): &(usize, _)| documents.is_valid(*row);
        for (_, bounds) in documents.value_offsets().windows(2).enumerate().filter(given) {
            let document = &ids[bounds[0] as usize..bounds[1] as usize];
            match purpose {
                Purpose::Train => {
                    state.tokens.extend_from_slice(document);
                    state.tokens.push(self.end_of_text);
                }
                Purpose::Validate => {
                    // Lane l of L gets the held-out documents l, l + L, …
                    let number = lane + lanes * state.documents;
                    state.documents += 1;
                    state.held_out.push(number, document, [self.document_start, self.end_of_text]);
                }
            }
        }
        let trained = (purpose == Purpose::Train).then(|| self.train(&mut state, lane, at.step, out));
        self.lanes.insert(lane, state);
        Ok(trained.unwrap_or_else(|| {
            self.validating = Some((lane, last));
            self.go_on(at.step, out)
        }))
    }

    fn more(&mut self, step: Step, out: &mut dyn Emit) -> Result<Turn> {
        Ok(self.go_on(step, out))
    }

    fn save(&mut self, lane: Lane) -> Result<Snapshot> {
        let state = self.take(lane);
        let snapshot = SavedLane { tokens: SavedTokens(state.tokens.clone()), pool: state.pool.snapshot() };
        self.lanes.insert(lane, state);
        Ok(Snapshot::of(snapshot))
    }

    fn load(&mut self, lane: Lane, state: Value) -> Result<()> {
        let what = || format!("the checkpoint's state of lane {lane} was not saved by `pack`");
        let saved: SavedLane<SavedPool> = serde_json::from_value(state).with_context(what)?;
        let mut state = self.take(lane);
        state.tokens = saved.tokens.0;
        state.pool.restore(saved.pool).with_context(what)?;
        self.lanes.insert(lane, state);
        Ok(())
    }
}

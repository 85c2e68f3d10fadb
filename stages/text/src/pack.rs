//! Stage `concat`: concatenates the training documents of a lane, separated by end-of-text tokens, and cuts them into
//! micro-batches. Validation documents are evaluated one by one, in [`windows`]. Documents of different sources are
//! kept apart: a sequence and a validation batch are of one source.
//!
//! - [`stream`]: tokens and sequences of a source in a lane; [`pool`]: sequences in random order
//! - [`batch_rows`]: sequences and windows as batches; [`draws`]: which sequences each step draws
mod batch_rows;
mod draws;
pub mod pool;
pub mod saved_tokens;
mod stream;
pub mod windows;

use crate::pack::batch_rows::BatchBuilder;
use crate::pack::draws::PoolDraws;
use crate::pack::pool::Pool;
use crate::pack::stream::Stream;
use crate::pack::windows::Windows;
use crate::tokenizer::Vocabulary;
use anyhow::{Context, Result, bail};
use arrow::array::{Array, AsArray};
use arrow::datatypes::UInt32Type;
use contract::parameters::splitmix64;
use contract::{
    Allocation, At, BatchShape, Built, DocumentStart, Draws, Emit, Env, Kind, Lane, Memory, Mixture, Packet, Port,
    Problem, Purpose, Schedule, Settings, Snapshot, SourceSizes, Stage, StageKeys, StageSettings, Step, Tokens, Turn,
    ValidationStride,
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
    /// of the documents. Each source of a mixture has a pool of its own.
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
            builder: BatchBuilder {
                length: env.shape.length,
                end_of_text: vocabulary.end_of_text,
                mask: self.mask_across_documents,
            },
            pools: self.pools(env),
            seed: self.seed(env),
            stride: stride.clamp(1, env.shape.length),
            document_start: env.resources.get::<DocumentStart>().map_or(vocabulary.end_of_text, |start| start.0),
            allocation: Allocation::of(env),
            allocated: None,
            lanes: BTreeMap::new(),
            validating: None,
        })))
    }

    fn pulls(&self) -> bool {
        true
    }

    fn draws(&self, env: &Env) -> Option<Box<dyn Draws>> {
        Some(Box::new(PoolDraws::new(env.shape, &self.pools(env), self.seed(env), Allocation::of(env))))
    }

    /// The sequences that lanes draw from, and windows of validation documents.
    fn memory(&self, env: &Env) -> Memory {
        let BatchShape { lanes, length, .. } = env.shape;
        let vocabulary = env.model.as_ref().map_or(0, |model| model.vocabulary());
        let windows = env.schedule.evaluate.map_or(0, |_| Windows::memory(env.shape.sequences_of_lane(), length));
        let pools = self.pools(env);
        let sources = pools.len();
        let pool = |sequences: usize| Pool::memory(sequences * (length + 1), vocabulary);
        let pools = if env.schedule.steps > 0 { pools.into_iter().map(pool).sum() } else { 0 };
        let lane = pools + sources * windows;
        Memory { permanent: (lanes as usize * lane) as u64, ..Memory::default() }
    }

    fn batch_shape(&self) -> Option<BatchShape> {
        let (micro_batches, sequences) = (self.micro_batches, self.micro_batch_size);
        Some(BatchShape { micro_batches, lanes: self.lanes(), sequences, length: self.sequence_length })
    }
}

/// What decides the order of a lane's pools.
fn seed_of_lane(seed: Option<u64>, lane: Lane) -> Option<u64> {
    seed.map(|seed| splitmix64(seed ^ 0x5348_5546, u64::from(lane)))
}

impl Concat {
    /// What decides the order of sequences, if they are drawn at random.
    fn seed(&self, env: &Env) -> Option<u64> {
        (self.shuffle_tokens > 0).then_some(env.seed)
    }

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

    /// Number of sequences in the pool of each lane, for each source: at least those that are drawn at once. It does
    /// not depend on other sources.
    fn pools(&self, env: &Env) -> Vec<usize> {
        let at_least = |epoch: u64, least: usize| {
            let lane = self.shuffle_tokens.min(epoch) / u64::from(env.shape.lanes);
            (lane as usize / env.shape.length).max(least)
        };
        match env.resources.get::<Mixture>() {
            None => {
                let epoch = env.corpus.map_or(u64::MAX, |corpus| corpus.train.tokens);
                vec![at_least(epoch, env.shape.sequences_of_lane())]
            }
            Some(mixture) => {
                let sizes = env.resources.get::<SourceSizes>().unwrap_or_default();
                let epoch = |source: &String| sizes.of(source).map_or(u64::MAX, |corpus| corpus.train.tokens);
                mixture.sources.iter().map(|source| at_least(epoch(source), 1)).collect()
            }
        }
    }
}

struct Packer {
    shape: BatchShape,
    schedule: Schedule,
    builder: BatchBuilder,
    /// Number of sequences in the pool of each lane, for each source.
    pools: Vec<usize>,
    /// What decides the order in which they are drawn; `None`: that of the documents.
    seed: Option<u64>,
    /// See [`ValidationStride`].
    stride: usize,
    /// See [`DocumentStart`].
    document_start: u32,
    /// Which sources fill the sequences of a step, if there are several.
    allocation: Option<Allocation>,
    /// The last step of which that is known, and the number of sequences by lane and source.
    allocated: Option<(Step, Vec<Vec<usize>>)>,
    lanes: BTreeMap<Lane, LaneState>,
    /// The lane and source whose validation documents are being cut, and whether it has all of this step's.
    validating: Option<(Lane, usize, bool)>,
}

struct LaneState {
    /// By source.
    streams: Vec<Stream>,
    /// The last step whose training batches have been emitted.
    made: Option<Step>,
}

impl Packer {
    /// The state of a lane, which is put back into `lanes` after use; that of a lane that has got nothing yet is empty.
    fn take(&mut self, lane: Lane) -> LaneState {
        self.lanes.remove(&lane).unwrap_or_else(|| {
            let pool = |sequences: &usize| Pool::new(self.shape.length, *sequences, seed_of_lane(self.seed, lane));
            LaneState { streams: self.pools.iter().map(|pool_size| Stream::new(pool(pool_size))).collect(), made: None }
        })
    }

    /// The number of training sequences of a lane that are of this source, and how many of them are drawn at once.
    /// Those of a mixture are drawn one by one, with the pool full each time: so their order does not depend on the
    /// shares.
    fn wanted(&mut self, step: Step, lane: Lane, source: usize) -> Result<(usize, usize)> {
        let Some(allocation) = &mut self.allocation else {
            let all = self.shape.sequences_of_lane();
            return Ok((all, all));
        };
        if self.allocated.as_ref().is_none_or(|(known, _)| *known != step) {
            self.allocated = Some((step, allocation.at(step)?.by_lane));
        }
        let lanes = self.allocated.as_ref().map(|(_, lanes)| lanes);
        Ok((lanes.map_or(0, |lanes| lanes[lane as usize][source]), 1))
    }

    /// Emits the next validation batches of the lane and source that are being cut, up to one for each of the lane's
    /// leaves; when there are no more, goes on with training.
    fn go_on(&mut self, step: Step, out: &mut dyn Emit) -> Result<Turn> {
        let Some((lane, source, last)) = self.validating else { return Ok(Turn::Done) };
        let mut state = self.take(lane);
        let stream = &mut state.streams[source];
        let cut = (0..self.shape.leaves_of_lane()).all(|_| self.validate(stream, (lane, source), last, out));
        let turn = match (cut, last) {
            (true, _) => Ok(Turn::More),
            (false, true) => {
                (stream.documents, stream.validated) = (0, 0);
                self.train(&mut state, (lane, source), step, out)
            }
            (false, false) => Ok(Turn::Starved),
        };
        self.lanes.insert(lane, state);
        turn
    }

    /// Emits the next validation batch of a lane and source, on the lane's leaves in turn. False if there is none.
    fn validate(&self, stream: &mut Stream, (lane, source): (Lane, usize), last: bool, out: &mut dyn Emit) -> bool {
        let BatchShape { sequences, length, .. } = self.shape;
        let windows = stream.held_out.batch(sequences, self.shape.sequences_of_lane(), length, self.stride, last);
        let Some(windows) = windows else { return false };
        let (leaf, part) = (self.shape.leaf(lane, stream.validated), stream.validated / self.shape.leaves_of_lane());
        let part = part * self.pools.len() as u32 + source as u32;
        out.give(Packet::Batch(self.builder.validation(windows, leaf, part)));
        stream.validated += 1;
        true
    }

    /// Draws the training sequences of a source, and emits the lane's training batches of the step once those of all
    /// sources have been drawn. Which sequences they are does not depend on how they are cut into micro-batches.
    fn train(
        &mut self,
        state: &mut LaneState,
        (lane, source): (Lane, usize),
        step: Step,
        out: &mut dyn Emit,
    ) -> Result<Turn> {
        if !self.schedule.trains(step) || state.made == Some(step) {
            return Ok(Turn::Done);
        }
        let (wanted, at_once) = self.wanted(step, lane, source)?;
        if !state.streams[source].draw(step, wanted, at_once, self.shape.length) {
            return Ok(Turn::Starved);
        }
        if state.streams.iter().all(|stream| stream.drawn_at == Some(step)) {
            let windows: Vec<u32> =
                state.streams.iter_mut().flat_map(|stream| std::mem::take(&mut stream.drawn)).collect();
            for (n, windows) in (0..).zip(windows.chunks(self.shape.sequences * (self.shape.length + 1))) {
                out.give(Packet::Batch(self.builder.training(windows, self.shape.leaf(lane, n))));
            }
            state.made = Some(step);
        }
        Ok(Turn::Done)
    }
}

impl Stage for Packer {
    fn packet(&mut self, at: At, packet: Packet, out: &mut dyn Emit) -> Result<Turn> {
        let Packet::Tokens(tokens) = packet else { bail!("concat takes tokens, not {}", packet.kind().name()) };
        let Tokens { lane, source, purpose, last, documents } = tokens;
        let ids = documents.values().as_primitive_opt::<UInt32Type>().context("token ids are not uint32")?.values();
        let mut state = self.take(lane);
        let stream = state.streams.get_mut(source).context("tokens of a source that is not in the mixture")?;
        let (end_of_text, lanes, sources) = (self.builder.end_of_text, self.shape.lanes, self.pools.len() as u32);
        // A null is a dropped document.
        let given = |(row, _): &(usize, _)| documents.is_valid(*row);
        for (_, bounds) in documents.value_offsets().windows(2).enumerate().filter(given) {
            let document = &ids[bounds[0] as usize..bounds[1] as usize];
            match purpose {
                Purpose::Train => {
                    stream.tokens.extend_from_slice(document);
                    stream.tokens.push(end_of_text);
                }
                Purpose::Validate => {
                    // Lane l of L gets the held-out documents l, l + L, … of each source.
                    let of_source = lane + lanes * stream.documents;
                    stream.documents += 1;
                    let number = of_source * sources + source as u32;
                    stream.held_out.push(number, document, [self.document_start, end_of_text]);
                }
            }
        }
        let trained = (purpose == Purpose::Train).then(|| self.train(&mut state, (lane, source), at.step, out));
        self.lanes.insert(lane, state);
        trained.unwrap_or_else(|| {
            self.validating = Some((lane, source, last));
            self.go_on(at.step, out)
        })
    }

    fn more(&mut self, step: Step, out: &mut dyn Emit) -> Result<Turn> {
        self.go_on(step, out)
    }

    fn save(&mut self, lane: Lane) -> Result<Snapshot> {
        let state = self.take(lane);
        let snapshot = stream::snapshot(&state.streams);
        self.lanes.insert(lane, state);
        Ok(snapshot)
    }

    fn load(&mut self, lane: Lane, saved: Value) -> Result<()> {
        let mut state = self.take(lane);
        stream::restore(&mut state.streams, saved)
            .with_context(|| format!("the checkpoint's state of lane {lane} was not saved by `pack`"))?;
        self.lanes.insert(lane, state);
        Ok(())
    }
}

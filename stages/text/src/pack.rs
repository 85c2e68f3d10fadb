//! Stages `concat` and `best_fit`: pack the training documents of a lane, each followed by an end-of-text token, into
//! sequences of one length, and these into micro-batches. Validation documents are evaluated one by one, in [`windows`].
//! Documents of different sources are kept apart: a sequence and a validation batch are of one source.
//!
//! - [`method`]: how documents become sequences: [`mod@concat`] or [`best_fit`]
//! - [`stream`]: documents and sequences of a source in a lane; [`pool`]: sequences in random order
//! - [`batch_rows`]: sequences and windows as batches; [`packer`]: the stage
//! - [`draws`]: which sequences each step draws
mod batch_rows;
mod best_fit;
mod concat;
mod draws;
pub mod method;
mod packer;
pub mod pool;
pub mod saved_tokens;
mod stream;
pub mod windows;

use crate::corpus::index::CorpusIndex;
use crate::pack::best_fit::BestFitPacking;
use crate::pack::concat::Concatenation;
use crate::pack::draws::PoolDraws;
use crate::pack::method::Method;
use crate::pack::packer::Packer;
use crate::pack::pool::Pool;
use crate::pack::windows::Windows;
use anyhow::Result;
use contract::parameters::splitmix64;
use contract::{
    Allocation, BatchShape, Built, Draws, Env, Goal, Key, Kind, Lane, Memory, Mixture, Packing, Port, Prepare, Problem,
    Settings, SourceSizes, StageKeys, StageSettings,
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Most tokens of a micro-batch.
const MOST_MICRO_BATCH: usize = 1 << 24;
/// Most tokens of a batch.
const MOST_BATCH: u64 = 1 << 30;
/// Most tokens of a pool.
const MOST_POOL: u64 = 1 << 32;

/// Settings of stage `concat`.
pub type Concat = Pack<Concatenation>;
/// Settings of stage `best_fit`.
pub type BestFit = Pack<BestFitPacking>;

/// Settings of a stage that packs documents by the method `M`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Pack<M> {
    /// Its keys.
    pub keys: PackKeys,
    #[serde(skip)]
    method: M,
}

/// The keys of a stage that packs documents.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, StageKeys)]
#[serde(default, deny_unknown_fields)]
pub struct PackKeys {
    /// Tokens per sequence; 1 to 1048576.
    pub sequence_length: usize,
    /// Sequences per micro-batch, the unit of work; 1 to 65536.
    pub micro_batch_size: usize,
    /// Micro-batches per step; 1 to 65536. Results depend on it, but not on the number of workers.
    pub micro_batches: u32,
    /// Streams of documents that fill the micro-batches, equally many each; a divisor of `micro_batches`. Results depend on
    /// it. Unset: 2, or 1 if `micro_batches` is odd.
    pub lanes: Option<u32>,
    /// Keep the documents of a sequence apart: a token attends only to its own document, and a document's first token is
    /// not predicted from the one before it.
    pub document_mask: bool,
    /// Tokens of the pool from which sequences are drawn at random, at most those of an epoch; 0: sequences keep the order
    /// of the documents. Each source of a mixture has a pool of its own.
    pub shuffle_tokens: u64,
}

impl Default for PackKeys {
    fn default() -> Self {
        Self {
            sequence_length: 128,
            micro_batch_size: 2,
            micro_batches: 16,
            lanes: None,
            document_mask: false,
            shuffle_tokens: 1 << 23,
        }
    }
}

impl<M: Method> From<PackKeys> for Pack<M> {
    fn from(keys: PackKeys) -> Self {
        Self { keys, method: M::default() }
    }
}

impl<M> StageKeys for Pack<M> {
    fn keys() -> Vec<Key> {
        PackKeys::keys()
    }
}

impl<M: Method> StageSettings for Pack<M> {
    const SUMMARY: &'static str = M::SUMMARY;
    const EXAMPLE: &'static str = "sequence_length = 128\nmicro_batch_size = 2\nmicro_batches = 16\n";
}

impl<M: Method> Settings for Pack<M> {
    fn takes(&self) -> Vec<Port> {
        vec![Port::stream(Kind::Tokens)]
    }

    fn gives(&self) -> Vec<Kind> {
        vec![Kind::Batch]
    }

    fn check(&self) -> Vec<Problem> {
        self.keys.check()
    }

    /// Provides [`Packing`] to each source whose documents' sizes are known.
    fn prepare(&self, before: &mut Prepare) -> Result<()> {
        if before.goal() != Goal::Train {
            return Ok(());
        }
        for (source, index) in before.found::<CorpusIndex>() {
            before.provide_to(source, Arc::new(self.packing(&index)));
        }
        Ok(())
    }

    fn build(&self, env: &Env) -> Result<Built> {
        Ok(Built::Stage(Box::new(Packer::new(self, env)?)))
    }

    fn pulls(&self) -> bool {
        true
    }

    fn draws(&self, env: &Env) -> Option<Box<dyn Draws>> {
        let (pools, open, length) = (self.pools(env), self.open(env), env.shape.length);
        let cuts = move |source: usize| M::cuts(length, open[source]);
        Some(Box::new(PoolDraws::new(env.shape, &pools, self.seed(env), Allocation::of(env), Box::new(cuts))))
    }

    /// The sequences that lanes draw from, those that are incomplete, and windows of validation documents.
    fn memory(&self, env: &Env) -> Memory {
        let BatchShape { lanes, length, .. } = env.shape;
        let vocabulary = env.model.as_ref().map_or(0, |model| model.vocabulary());
        // Tokens that are marked take more bytes.
        let vocabulary = if M::PADS { usize::MAX } else { vocabulary };
        let windows = env.schedule.evaluate.map_or(0, |_| Windows::memory(env.shape.sequences_of_lane(), length));
        let pools = self.pools(env);
        let sources = pools.len();
        let pool = |(sequences, open): (usize, usize)| {
            Pool::memory(sequences * (length + 1), vocabulary) + M::open_tokens(length, open) * size_of::<u32>()
        };
        let pools = pools.into_iter().zip(self.open(env));
        let pools = if env.schedule.steps > 0 { pools.map(pool).sum() } else { 0 };
        let lane = pools + sources * windows;
        Memory { permanent: (lanes as usize * lane) as u64, ..Memory::default() }
    }

    fn batch_shape(&self) -> Option<BatchShape> {
        let keys = &self.keys;
        let (micro_batches, sequences, length) = (keys.micro_batches, keys.micro_batch_size, keys.sequence_length);
        Some(BatchShape { micro_batches, lanes: keys.lanes(), sequences, length })
    }
}

impl PackKeys {
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
}

/// What decides the order of a lane's pools.
fn seed_of_lane(seed: Option<u64>, lane: Lane) -> Option<u64> {
    seed.map(|seed| splitmix64(seed ^ 0x5348_5546, u64::from(lane)))
}

impl<M: Method> Pack<M> {
    /// What decides the order of sequences, if they are drawn at random.
    fn seed(&self, env: &Env) -> Option<u64> {
        (self.keys.shuffle_tokens > 0).then_some(env.seed)
    }

    /// How the training documents of a source, in the order of the files, fill sequences.
    fn packing(&self, index: &CorpusIndex) -> Packing {
        let length = self.keys.sequence_length;
        let open = most_open(index.corpus.train.tokens, length, self.keys.lanes());
        let packing = M::packing(length, open, &mut index.train.tokens.iter().copied());
        Packing { pads: M::PADS, ..packing }
    }

    /// Most incomplete sequences in each lane, for each source.
    fn open(&self, env: &Env) -> Vec<usize> {
        let BatchShape { length, lanes, .. } = env.shape;
        epochs(env).into_iter().map(|tokens| most_open(tokens, length, lanes)).collect()
    }

    /// Number of sequences in the pool of each lane, for each source: at least those that are drawn at once. It does
    /// not depend on other sources.
    fn pools(&self, env: &Env) -> Vec<usize> {
        // Those of a mixture are drawn one by one.
        let least = env.resources.get::<Mixture>().map_or(env.shape.sequences_of_lane(), |_| 1);
        let pool = |epoch: u64| {
            let lane = self.keys.shuffle_tokens.min(epoch) / u64::from(env.shape.lanes);
            (lane as usize / env.shape.length).max(least)
        };
        epochs(env).into_iter().map(pool).collect()
    }
}

/// The tokens of an epoch of each source; those that are not known are very many.
fn epochs(env: &Env) -> Vec<u64> {
    let Some(mixture) = env.resources.get::<Mixture>() else {
        return vec![env.corpus.map_or(u64::MAX, |corpus| corpus.train.tokens)];
    };
    let sizes = env.resources.get::<SourceSizes>().unwrap_or_default();
    mixture.sources.iter().map(|source| sizes.of(source).map_or(u64::MAX, |corpus| corpus.train.tokens)).collect()
}

/// Most incomplete sequences of a lane: no more than an epoch of the source has. A power of two, so that a document more or
/// less seldom changes it.
fn most_open(epoch: u64, length: usize, lanes: u32) -> usize {
    let sequences = epoch / length as u64 / u64::from(lanes);
    1 << sequences.checked_ilog2().unwrap_or(0).min(usize::BITS - 2)
}

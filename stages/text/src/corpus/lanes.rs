//! Which rows a lane gets at a step: the part that all sources of training data share.
//!
//! Training rows form an endless sequence, one epoch after another, each in an order of its own that follows from the
//! contents of its documents ([`epoch_order`](crate::corpus::epoch_order)); lane `l` of `L` takes positions `l`,
//! `l + L`, `l + 2L` … of it. Of the validation rows it takes `l`, `l + L` … in file order, from the beginning at every
//! step that validates. Nothing depends on which worker serves a lane.
use crate::corpus::index::CorpusIndex;
use crate::parquet::documents::BATCH_BYTES;
use anyhow::{Context, Result};
use arrow::array::UInt32Array;
use contract::{Allocation, BatchShape, Env, Lane, Mixture, Packing, Purpose, Schedule, Snapshot, Step};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Maximum number of validation documents per packet.
const VALIDATION_ROWS: usize = 64;
/// Maximum number of training documents per packet.
const TRAINING_ROWS: usize = 4096;

/// The rows of one packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Row numbers.
    pub rows: Vec<u64>,
    /// Training or validation.
    pub purpose: Purpose,
    /// Whether they are the last validation rows of the step.
    pub last: bool,
}

/// The training documents of a lane, in the order in which it reads them: indices into [`CorpusIndex::train`]. It never
/// ends, unless there are none.
#[derive(Clone, Debug)]
pub struct LaneOrder {
    index: Arc<CorpusIndex>,
    lanes: u64,
    seed: u64,
    /// Epoch of the next document.
    epoch: u64,
    /// Its position in the epoch's order.
    position: u64,
    order: Arc<Vec<u32>>,
}

impl LaneOrder {
    /// The order of `lane`, one of `lanes`, from the beginning.
    pub fn new(index: Arc<CorpusIndex>, lane: Lane, lanes: u32, seed: u64) -> Self {
        let n = index.train.rows.len().max(1) as u64;
        Self::at(index, lanes.into(), seed, (u64::from(lane) / n, u64::from(lane) % n))
    }

    /// The order from a position of an epoch on.
    fn at(index: Arc<CorpusIndex>, lanes: u64, seed: u64, (epoch, position): (u64, u64)) -> Self {
        let order = index.epoch(seed, epoch);
        Self { index, lanes, seed, epoch, position, order }
    }

    /// The epoch of the next document.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }
}

impl Iterator for LaneOrder {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let document = *self.order.get(self.position as usize)?;
        self.position += self.lanes;
        let documents = self.order.len() as u64;
        if self.position >= documents {
            self.epoch += self.position / documents;
            self.position %= documents;
            self.order = self.index.epoch(self.seed, self.epoch);
        }
        Some(document as usize)
    }
}

/// Assigns rows to lanes.
pub struct LaneReader {
    index: Arc<CorpusIndex>,
    schedule: Schedule,
    seed: u64,
    shape: BatchShape,
    /// Whether sequences have padding, in at most half of their positions.
    padded: bool,
    lanes: u64,
    /// The index of the source in the mixture, and the allocation before the first step, if it is part of one.
    mixed: Option<(usize, Allocation)>,
    /// The allocation of each lane, which may be at different steps.
    allocations: BTreeMap<Lane, Allocation>,
    state: BTreeMap<Lane, LaneState>,
}

/// A lane's part of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Cursor {
    /// Epoch of the next row.
    epoch: u64,
    /// Its position in the epoch's order.
    position: u64,
    /// Tokens handed out that no step has used yet. This only estimates what `pack` still has, in order to hand out as
    /// much as is needed and not more: if it is too low, `pack` asks again.
    ahead: u64,
}

#[derive(Clone, Debug)]
struct LaneState {
    order: LaneOrder,
    /// See [`Cursor::ahead`].
    ahead: u64,
    at: Option<(Step, Phase)>,
    /// Tokens that the lane trains on in this step.
    a_step: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// This many validation rows of the lane have been handed out.
    Validation(usize),
    /// Training rows are next.
    Train,
    /// Training rows have been handed out at this step.
    TrainAgain,
    Over,
}

impl LaneReader {
    /// A reader for the lanes of `env`. The index must have training rows.
    pub fn new(index: Arc<CorpusIndex>, env: &Env) -> Self {
        let (schedule, seed, shape, lanes) = (env.schedule, env.seed, env.shape, u64::from(env.shape.lanes));
        let mixed = env
            .resources
            .get::<Mixture>()
            .and_then(|mixture| Some((mixture.position(&env.stage)?, Allocation::of(env)?)));
        let (allocations, state) = (BTreeMap::new(), BTreeMap::new());
        let padded = env.resources.of::<Packing>(&env.stage).is_some_and(|packing| packing.pads);
        Self { index, schedule, seed, shape, padded, lanes, mixed, allocations, state }
    }

    /// Tokens of this source that a lane trains on in a step, at least.
    fn tokens_of(&mut self, lane: Lane, step: Step) -> Result<u64> {
        let sequences = match &self.mixed {
            _ if !self.schedule.trains(step) => 0,
            None => self.shape.sequences_of_lane(),
            Some((source, first)) => {
                let allocation = self.allocations.entry(lane).or_insert_with(|| first.clone());
                allocation.at(step)?.by_lane[lane as usize][*source]
            }
        };
        let positions = (sequences * self.shape.length) as u64;
        Ok(if self.padded { positions / 2 } else { positions })
    }

    /// The number of tokens of each row of `chunk`, as counted before training.
    pub fn counted(&self, chunk: &Chunk) -> UInt32Array {
        let documents = match chunk.purpose {
            Purpose::Train => &self.index.train,
            Purpose::Validate => &self.index.validation,
        };
        let tokens = |row| documents.rows.binary_search(row).map_or(0, |document| documents.tokens[document]);
        UInt32Array::from_iter_values(chunk.rows.iter().map(tokens))
    }

    /// The next rows of `lane` at `step`; `None` if there are no more for this step.
    ///
    /// # Errors
    /// If the sources of the run's mixture are used up.
    pub fn next(&mut self, lane: Lane, step: Step) -> Result<Option<Chunk>> {
        let mut state = self.state.remove(&lane).unwrap_or_else(|| self.start(lane));
        let phase = match state.at {
            Some((at, phase)) if at == step => phase,
            _ => {
                state.ahead = settled(&state);
                state.a_step = self.tokens_of(lane, step)?;
                if self.schedule.validates(step) {
                    Phase::Validation(0)
                } else if self.schedule.trains(step) {
                    Phase::Train
                } else {
                    Phase::Over
                }
            }
        };
        let (chunk, phase) = match phase {
            Phase::Validation(given) => {
                let documents = &self.index.validation;
                let mine = (0..documents.rows.len()).skip(lane as usize).step_by(self.lanes as usize);
                let (mut bytes, mut rows) = (0, Vec::new());
                for document in mine.clone().skip(given).take(VALIDATION_ROWS) {
                    bytes += documents.decoded_bytes(document);
                    if !rows.is_empty() && bytes > BATCH_BYTES as u64 {
                        break;
                    }
                    rows.push(documents.rows[document]);
                }
                let given = given + rows.len();
                let last = given == mine.len();
                let then = if self.schedule.trains(step) { Phase::Train } else { Phase::Over };
                let chunk = Chunk { rows, purpose: Purpose::Validate, last };
                (Some(chunk), if last { then } else { Phase::Validation(given) })
            }
            Phase::Train => {
                let wanted = state.a_step;
                (Some(self.training(&mut state, wanted)), Phase::TrainAgain)
            }
            Phase::TrainAgain => {
                if state.ahead > state.a_step {
                    // The estimate was sufficient and yet tokens are missing: it was wrong.
                    state.ahead = 0;
                }
                // A pool that is being filled for the first time needs more than the share of a step.
                let wanted = (self.shape.sequences_of_lane() * self.shape.length) as u64;
                (Some(self.training(&mut state, wanted)), Phase::TrainAgain)
            }
            Phase::Over => (None, Phase::Over),
        };
        state.at = Some((step, phase));
        self.state.insert(lane, state);
        Ok(chunk)
    }

    /// The rows that `pack` needs for `wanted` tokens and the one after them, beyond what it still has.
    fn training(&self, LaneState { order, ahead, .. }: &mut LaneState, wanted: u64) -> Chunk {
        let documents = &self.index.train;
        let mut rows = Vec::new();
        while *ahead <= wanted && rows.len() < TRAINING_ROWS {
            let Some(document) = order.next() else { break };
            *ahead += u64::from(documents.tokens[document]);
            rows.push(documents.rows[document]);
        }
        Chunk { rows, purpose: Purpose::Train, last: false }
    }

    /// The training rows that `lane` takes after those so far, with their size in bytes as text or as token ids.
    pub fn next_rows(&self, lane: Lane) -> impl Iterator<Item = (u64, u64)> + '_ {
        let order = self.state.get(&lane).map_or_else(|| self.start(lane).order, |state| state.order.clone());
        let documents = &self.index.train;
        order.map(move |document| (documents.rows[document], documents.decoded_bytes(document)))
    }

    /// The state of a lane before the first step.
    fn start(&self, lane: Lane) -> LaneState {
        let order = LaneOrder::new(Arc::clone(&self.index), lane, self.shape.lanes, self.seed);
        LaneState { order, ahead: 0, at: None, a_step: 0 }
    }

    /// See [`contract::Source::save`].
    pub fn save(&self, lane: Lane) -> Snapshot {
        let state = self.state.get(&lane).cloned().unwrap_or_else(|| self.start(lane));
        let LaneOrder { epoch, position, .. } = state.order;
        Snapshot::of(Cursor { epoch, position, ahead: settled(&state) })
    }

    /// See [`contract::Source::load`].
    pub fn load(&mut self, lane: Lane, state: Value) -> Result<()> {
        let cursor: Cursor = serde_json::from_value(state)
            .with_context(|| format!("the checkpoint's state of lane {lane} is not a position in the corpus"))?;
        let n = self.index.train.rows.len() as u64;
        anyhow::ensure!(
            cursor.position < n,
            "the checkpoint is at row {} of an epoch, but the corpus has {n} rows: it is not the corpus that the run started with",
            cursor.position
        );
        let at = (cursor.epoch, cursor.position);
        let order = LaneOrder::at(Arc::clone(&self.index), self.lanes, self.seed, at);
        self.state.insert(lane, LaneState { order, ahead: cursor.ahead, at: None, a_step: 0 });
        Ok(())
    }
}

/// [`Cursor::ahead`] after the lane's current step.
fn settled(LaneState { ahead, a_step, .. }: &LaneState) -> u64 {
    ahead.saturating_sub(*a_step)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corpus::split::Part;
    use crate::corpus::survey::Survey;
    use crate::testing::{env, index};
    use proptest::prelude::*;

    fn rows(reader: &mut LaneReader, lane: Lane, steps: std::ops::Range<Step>) -> Vec<u64> {
        steps.flat_map(|step| reader.next(lane, step).unwrap().unwrap().rows).collect()
    }

    #[test]
    fn an_epoch_visits_every_row_once_whatever_the_lanes() {
        for (n, lanes) in [(10, 2), (11, 3), (3, 5)] {
            let env = env(lanes, 1, 4, 1000);
            // A row is five tokens: a step of four uses about one row.
            let mut reader = LaneReader::new(index(&vec![5; n], &[]), &env);
            let mut streams: Vec<_> = (0..lanes).map(|lane| rows(&mut reader, lane, 0..100).into_iter()).collect();
            let mut order: Vec<u64> = (0..4 * n).map(|i| streams[i % lanes as usize].next().unwrap()).collect();
            let epochs: Vec<_> = order.chunks(n).map(<[u64]>::to_vec).collect();
            assert_ne!(epochs[0], epochs[1]);
            for epoch in order.chunks_mut(n) {
                epoch.sort();
                assert!(epoch.iter().copied().eq(0..n as u64), "{n} rows, {lanes} lanes");
            }
        }
    }

    /// The hashes of the documents that lanes read in the first `epochs` epochs, all lanes together.
    fn epochs(hashes: &[u64], lanes: u32, epochs: usize) -> Vec<Vec<u64>> {
        let (n, all_rows) = (hashes.len(), hashes.len() as u64);
        let (rows, parts, bytes) = ((0..all_rows).collect(), vec![Part::Train; n], vec![1; n]);
        let survey = Survey { all_rows, rows, parts, bytes, hashes: hashes.to_vec(), ..Survey::default() };
        let index = Arc::new(CorpusIndex::new(&survey, &vec![2; n]).unwrap());
        let mut orders: Vec<LaneOrder> =
            (0..lanes).map(|lane| LaneOrder::new(Arc::clone(&index), lane, lanes, 7)).collect();
        let read: Vec<u64> = (0..epochs * n).map(|at| hashes[orders[at % lanes as usize].next().unwrap()]).collect();
        read.chunks(n).map(<[u64]>::to_vec).collect()
    }

    #[test]
    fn validation_comes_first_in_bounded_chunks_and_ends_once() {
        let mut env = env(2, 1, 4, 4);
        env.schedule.evaluate = Some(2);
        let mut reader = LaneReader::new(index(&[9; 8], &[3; 259]), &env);
        assert_eq!(reader.next(1, 1).unwrap().unwrap().purpose, Purpose::Train);
        let mut held = Vec::new();
        loop {
            let chunk = reader.next(1, 2).unwrap().unwrap();
            assert_eq!(chunk.purpose, Purpose::Validate);
            assert!(chunk.rows.len() <= VALIDATION_ROWS);
            held.extend(chunk.rows);
            if chunk.last {
                break;
            }
        }
        assert!(held.into_iter().eq((9..8 + 259).step_by(2)));
        assert_eq!(reader.next(1, 2).unwrap().unwrap().purpose, Purpose::Train);
        assert!(reader.next(1, 4).unwrap().unwrap().purpose == Purpose::Validate);
        let chunks: Vec<_> = std::iter::from_fn(|| reader.next(1, 4).unwrap()).collect();
        assert!(chunks.iter().rev().map(|c| c.last).eq((0..chunks.len()).map(|i| i == 0)));
    }

    #[test]
    fn nothing_held_out_is_one_empty_last_chunk() {
        let mut env = env(1, 1, 4, 2);
        env.schedule.evaluate = Some(2);
        let mut reader = LaneReader::new(index(&[9; 8], &[]), &env);
        let empty = Chunk { rows: vec![], purpose: Purpose::Validate, last: true };
        assert_eq!((reader.next(0, 2).unwrap(), reader.next(0, 2).unwrap()), (Some(empty), None));
    }

    #[test]
    fn a_consumer_that_needs_more_is_given_more() {
        let mut reader = LaneReader::new(index(&[9; 8], &[]), &env(1, 1, 4, 9));
        assert!((0..20).all(|_| !reader.next(0, 0).unwrap().unwrap().rows.is_empty()));
    }

    proptest! {
        #[test]
        fn without_some_documents_the_others_are_read_in_the_same_order_in_every_epoch(
            hashes in proptest::collection::vec(any::<u64>(), 1..60), lanes in 1u32..5, kept in any::<u64>(),
        ) {
            let is_kept = |hash: &u64| !hash.is_multiple_of(4) || *hash == kept;
            let left: Vec<u64> = hashes.iter().copied().filter(is_kept).chain([kept]).collect();
            let all: Vec<u64> = hashes.iter().copied().chain([kept]).collect();
            let without = |epoch: Vec<u64>| epoch.into_iter().filter(is_kept).collect::<Vec<_>>();
            let expected: Vec<Vec<u64>> = epochs(&all, lanes, 3).into_iter().map(without).collect();
            prop_assert_eq!(epochs(&left, lanes, 3), expected);
        }

        #[test]
        fn resumes_anywhere(n in 1usize..40, lanes in 1u32..5, stop in 0u64..30, tokens in 2u32..20) {
            let env = env(lanes, 2, 5, 1000);
            let index = index(&vec![tokens; n], &[]);
            for lane in 0..lanes {
                let mut whole = LaneReader::new(index.clone(), &env);
                let expected = rows(&mut whole, lane, 0..60);
                let mut first = LaneReader::new(index.clone(), &env);
                let mut found = rows(&mut first, lane, 0..stop);
                let mut second = LaneReader::new(index.clone(), &env);
                second.load(lane, first.save(lane).value().unwrap()).unwrap();
                found.extend(rows(&mut second, lane, stop..60));
                prop_assert_eq!(found, expected);
                prop_assert_eq!(second.save(lane).value().unwrap(), whole.save(lane).value().unwrap());
            }
        }
    }
}

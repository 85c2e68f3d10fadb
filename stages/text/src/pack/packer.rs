//! The stage that makes batches of the documents of its lanes.
use crate::pack::batch_rows::BatchBuilder;
use crate::pack::method::{Cutter, Method, NOT_A_TARGET};
use crate::pack::pool::Pool;
use crate::pack::stream::{self, Stream};
use crate::pack::{Pack, seed_of_lane};
use crate::tokenizer::Vocabulary;
use anyhow::{Context, Result, bail, ensure};
use arrow::array::{Array, AsArray};
use arrow::datatypes::UInt32Type;
use contract::{
    Allocation, At, BatchShape, DocumentStart, Emit, Env, Lane, Packet, Purpose, Schedule, Snapshot, Stage, Step,
    Tokens, Turn, ValidationStride,
};
use serde_json::Value;
use std::collections::BTreeMap;

/// Makes sequences of the training documents of a source in a lane, of a length, with so many incomplete ones at most, and
/// this end-of-text token.
type NewCutter = fn(usize, usize, u32) -> Box<dyn Cutter>;

/// See the module.
pub struct Packer {
    shape: BatchShape,
    schedule: Schedule,
    builder: BatchBuilder,
    new_cutter: NewCutter,
    /// Most incomplete sequences in each lane, for each source.
    open: Vec<usize>,
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
    /// The stage that `settings` describe.
    ///
    /// # Errors
    /// If the vocabulary is not known, or too large.
    pub fn new<M: Method>(settings: &Pack<M>, env: &Env) -> Result<Self> {
        let vocabulary = Vocabulary::of(env)?;
        let most = NOT_A_TARGET;
        ensure!(vocabulary.size <= most, "the vocabulary has {} tokens; {most} are possible", vocabulary.size);
        let stride = env.resources.get::<ValidationStride>().map_or(env.shape.length, |stride| stride.0);
        Ok(Self {
            shape: env.shape,
            schedule: env.schedule,
            builder: BatchBuilder {
                length: env.shape.length,
                end_of_text: vocabulary.end_of_text,
                document_mask: settings.keys.document_mask,
            },
            new_cutter: M::cutter,
            open: settings.open(env),
            pools: settings.pools(env),
            seed: settings.seed(env),
            stride: stride.clamp(1, env.shape.length),
            document_start: env.resources.get::<DocumentStart>().map_or(vocabulary.end_of_text, |start| start.0),
            allocation: Allocation::of(env),
            allocated: None,
            lanes: BTreeMap::new(),
            validating: None,
        })
    }

    /// The state of a lane, which is put back into `lanes` after use; that of a lane that has got nothing yet is empty.
    fn take(&mut self, lane: Lane) -> LaneState {
        self.lanes.remove(&lane).unwrap_or_else(|| {
            let length = self.shape.length;
            let stream = |(sequences, open): (&usize, &usize)| {
                let cutter = (self.new_cutter)(length, *open, self.builder.end_of_text);
                Stream::new(cutter, Pool::new(length, *sequences, seed_of_lane(self.seed, lane)))
            };
            LaneState { streams: self.pools.iter().zip(&self.open).map(stream).collect(), made: None }
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
        let Packet::Tokens(tokens) = packet else { bail!("`pack` takes tokens, not {}", packet.kind().name()) };
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
                Purpose::Train => stream.cutter.push(document),
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

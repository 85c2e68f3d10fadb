//! Runs any [`Source`] as a timely operator. The source itself runs on a thread of its own, so that files are read and
//! decoded while the worker computes: the operator sends requests and emits what comes back.
use super::operator::{Demand, Demands, OperatorContext};
use super::ports::{Edge, Outbox, OutputPort, OutputPorts, OutputSpec, Reader, reader};
use crate::machine;
use contract::{Lane, Packet, Saved, Snapshot, Source, Step, Turn};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::{Scope, Stream};
use timely::progress::Antichain;
use timely::progress::frontier::MutableAntichain;
use timely::scheduling::SyncActivator;

/// A source and how it is connected.
pub struct SourceSpec<'scope> {
    /// The source.
    pub source: Box<dyn Source>,
    /// The demand of the stages that pull, one for each packet, in order. Without it, a lane's step ends when the
    /// source says so.
    pub demands: Option<Demands<'scope>>,
    /// Which source it is for those stages: see [`Packet::source`].
    pub index: usize,
    /// Its frontier is one step after the one that the slowest worker is working on.
    pub throttle: Stream<'scope, Step, Vec<()>>,
    /// How many steps the source may be ahead of that worker; 0 counts as 1.
    pub prefetch: u64,
    /// Edges that leave it.
    pub outputs: Vec<OutputSpec>,
    /// Counts the nanoseconds that the thread works.
    pub busy: Arc<AtomicU64>,
}

/// Adds a source to the graph, as the operator that `builder` is for. Returns the edges that leave it, in the order of
/// the specification.
pub fn source_operator<'scope>(
    scope: Scope<'scope, Step>,
    mut builder: OperatorBuilder<'scope, Step>,
    context: OperatorContext,
    spec: SourceSpec<'scope>,
) -> Vec<Edge<'scope>> {
    let SourceSpec { source, demands, index, throttle, prefetch, outputs, busy } = spec;
    let address = builder.operator_info().address;
    let wake = scope.worker().sync_activator_for(address.to_vec());
    let activator = scope.activator_for(address);
    // Inputs that are read without anything following from them in timely's progress protocol: they close loops.
    let disconnected = [] as [(usize, Antichain<Step>); 0];
    let throttle = reader(builder.new_input_connection(throttle, Pipeline, disconnected.clone()));
    let demands = demands.map(|demands| reader(builder.new_input_connection(demands, Pipeline, disconnected.clone())));
    let outputs = outputs.into_iter().map(|spec| OutputSpec { initial: true, ..spec });
    let (output_ports, edges): (Vec<_>, Vec<_>) = outputs.map(|spec| OutputPort::new(&mut builder, spec)).unzip();

    builder.build(move |capabilities| {
        let (requests, received) = channel();
        let (reply, replies) = channel();
        serve(source, &context, received, reply, wake, busy);
        let first = context.schedule.first;
        activator.activate();
        let mut operator = SourceOperator {
            throttle,
            demands,
            index,
            prefetch: prefetch.max(1),
            outputs: OutputPorts::new(output_ports, capabilities, first, context.position.clone()),
            lanes: context.lanes.iter().map(|lane| (*lane, LaneState::new(first))).collect(),
            requests,
            replies,
            finished: false,
            context,
        };
        move |frontiers: &[MutableAntichain<Step>]| operator.schedule(frontiers)
    });
    edges
}

/// What the thread answers to a request, in the order of the requests.
struct Reply {
    lane: Lane,
    packets: Vec<Packet>,
    turn: Turn,
    /// The lane's state after it.
    saved: Snapshot,
}

/// How far a lane has got.
struct LaneState {
    step: Step,
    /// A request is under way.
    requested: bool,
    /// The source has emitted something for this step.
    emitted: bool,
    /// Packets that the stage that pulls has not answered yet.
    unanswered: usize,
    /// As of the last reply.
    saved: Snapshot,
    done: bool,
}

impl LaneState {
    fn new(step: Step) -> Self {
        Self { step, requested: false, emitted: false, unanswered: 0, saved: Snapshot::default(), done: false }
    }
}

/// A source's operator while the graph runs.
struct SourceOperator {
    context: OperatorContext,
    throttle: Reader<()>,
    demands: Option<Reader<Demand>>,
    index: usize,
    prefetch: u64,
    outputs: OutputPorts,
    lanes: BTreeMap<Lane, LaneState>,
    requests: Sender<(Lane, Step)>,
    replies: Receiver<Reply>,
    finished: bool,
}

impl SourceOperator {
    /// Called by timely whenever an input or a frontier has changed, or the thread has woken the operator.
    fn schedule(&mut self, frontiers: &[MutableAntichain<Step>]) {
        (self.throttle)(&mut Vec::new());
        let mut demands = Vec::new();
        if let Some(reader) = &mut self.demands {
            reader(&mut demands);
        }
        if self.finished || self.context.failure.happened() {
            return;
        }
        if self.context.stopped.get().is_some() {
            self.finish();
            return;
        }
        while let Ok(reply) = self.replies.try_recv() {
            self.take_reply(reply);
        }
        let own = demands.into_iter().filter(|demand| demand.source == self.index).collect::<Vec<_>>();
        own.into_iter().for_each(|demand| self.take_demand(demand));
        // The edge that feeds back the throttle's frontier has added a step to it.
        let working_on = frontiers[0].frontier().first().map_or(Step::MAX, |step| step.saturating_sub(1));
        self.open_steps(working_on.saturating_add(self.prefetch));
        match self.lanes.values().filter(|lane| !lane.done).map(|lane| lane.step).min() {
            Some(step) => self.outputs.advance(step),
            None => self.finish(),
        }
    }

    /// Emits the source's replies, and requests more for the lane unless the demand of a stage decides that.
    fn take_reply(&mut self, Reply { lane, packets, turn, saved }: Reply) {
        let Some(state) = self.lanes.get_mut(&lane) else { return };
        (state.requested, state.saved) = (false, saved);
        state.emitted |= !packets.is_empty();
        state.unanswered += packets.iter().filter(|packet| packet.lane().is_some()).count();
        packets.into_iter().for_each(|packet| self.outputs.send(packet, state.step, true));
        let more = turn == Turn::More;
        // Otherwise `take_demand` calls `go_on`.
        if self.demands.is_none() || state.unanswered == 0 {
            self.go_on(lane, more);
        }
    }

    /// Goes on with a lane once the last packet of a reply has been answered. The answers to the others do not count:
    /// how often the source is called must not depend on how fast its packets are processed.
    fn take_demand(&mut self, demand: Demand) {
        let Some(state) = self.lanes.get_mut(&demand.lane) else { return };
        if state.done || demand.step != state.step {
            return;
        }
        state.unanswered = state.unanswered.saturating_sub(1);
        if !state.requested && state.unanswered == 0 {
            self.go_on(demand.lane, demand.more);
        }
    }

    /// Requests more for the lane's step, or ends the step.
    fn go_on(&mut self, lane: Lane, more: bool) {
        let Some(state) = self.lanes.get_mut(&lane) else { return };
        if more {
            state.requested = self.requests.send((lane, state.step)).is_ok();
            return;
        }
        let saved = std::mem::take(&mut state.saved);
        if !saved.is_nothing() {
            let saved = Saved { stage: self.context.id.clone(), lane, state: saved };
            self.outputs.send(Packet::Saved(saved), state.step, true);
        }
        state.step += 1;
        (state.requested, state.emitted, state.unanswered) = (false, false, 0);
        state.done |= state.step > self.context.schedule.steps;
    }

    /// Begins the next step of every lane that has ended its last one, up to but not including step `end`.
    fn open_steps(&mut self, end: Step) {
        for (lane, state) in &mut self.lanes {
            let opened = state.requested || state.emitted;
            if !state.done && !opened && state.step < end {
                state.requested = self.requests.send((*lane, state.step)).is_ok();
            }
        }
    }

    fn finish(&mut self) {
        self.finished = true;
        self.outputs.close();
    }
}

/// Starts the thread behind the operator. It ends when the operator has been dropped.
fn serve(
    mut source: Box<dyn Source>,
    context: &OperatorContext,
    requests: Receiver<(Lane, Step)>,
    replies: Sender<Reply>,
    wake: SyncActivator,
    busy: Arc<AtomicU64>,
) {
    let (id, failure, saves) = (context.id.clone(), context.failure.clone(), context.saves);
    let spawned = std::thread::Builder::new().name(id.clone()).spawn(move || {
        machine::run_anywhere();
        for (lane, step) in requests {
            let began = Instant::now();
            let reply = failure.guard(&id, Some(step), || {
                let mut outbox = Outbox::default();
                let turn = source.next(lane, step, &mut outbox)?;
                let saved = if saves { source.save(lane)? } else { Snapshot::default() };
                Ok(Reply { lane, packets: outbox.0, turn, saved })
            });
            busy.fetch_add(began.elapsed().as_nanos() as u64, Ordering::Relaxed);
            let gone = reply.is_none_or(|reply| replies.send(reply).is_err());
            if wake.activate().is_err() || gone {
                return;
            }
        }
    });
    if let Err(error) = spawned {
        context.failure.note(anyhow::Error::new(error).context("cannot start a thread"));
    }
}

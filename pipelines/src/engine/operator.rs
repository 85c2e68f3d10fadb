//! Runs any [`Stage`] as a timely operator.
use super::activity::Activity;
use super::cpu_time::CpuTime;
use super::failure::Failure;
use super::in_flight::MicroBatchInFlight;
use super::ports::{Edge, Outbox, OutputPort, OutputPorts, OutputSpec, PacketReader, Reader, packet_input, reader};
use super::position::Position;
use super::shared_queue::{SharedQueue, Taken};
use super::stage_runner::{Inputs, Ran, Shared, StageRunner};
use super::stop::{Decisions, LastStep, to_its_worker};
use contract::{CommitEvery, Kind, Lane, Packet, Role, Route, Saved, Schedule, Stage, Step, Turn};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::{Scope, Stream};
use timely::progress::Antichain;
use timely::progress::frontier::MutableAntichain;
use timely::scheduling::{Activator, SyncActivator};

/// Shortest and longest time slice of a stage with many short calls. Within these bounds it gets as long as the other
/// operators have just taken, so that gradients are summed between two long calls of backward and do not queue up.
const SLICE: [Duration; 2] = [Duration::from_micros(100), Duration::from_millis(100)];

/// How a stage that pulls (`pack`) answers each packet of a lane, for the sources to read.
#[derive(Clone, Copy, Debug)]
pub struct Demand {
    /// The lane.
    pub lane: Lane,
    /// The source of the packet: see [`Packet::source`].
    pub source: usize,
    /// The step the packet belonged to.
    pub step: Step,
    /// True: the lane needs more input for this step. False: it has enough.
    pub more: bool,
}

/// The edge on which demand goes back to the sources.
pub type Demands<'scope> = Stream<'scope, Step, Vec<Demand>>;

/// What an operator knows about the run and its own part in it.
pub struct OperatorContext {
    /// The stage's id in the plan.
    pub id: String,
    /// Where this worker is.
    pub position: Position,
    /// This worker's lanes.
    pub lanes: Vec<Lane>,
    /// What is due when.
    pub schedule: Schedule,
    /// Whether any stage gathers what stages save.
    pub saves: bool,
    /// How often the state is gathered besides checkpoints.
    pub commits: Option<CommitEvery>,
    /// Counts the calls of stages, if wanted.
    pub activity: Option<Arc<Activity>>,
    /// The step after which the run is stopped, if it is.
    pub stopped: LastStep,
    /// Measures CPU time, if wanted.
    pub cpu: Option<Rc<CpuTime>>,
    /// Where failures are reported.
    pub failure: Failure,
}

impl OperatorContext {
    /// The last step of the run.
    pub fn last_step(&self) -> Step {
        self.stopped.get().unwrap_or(self.schedule.steps)
    }

    /// Is the state gathered after `step`?
    fn checkpoints(&self, step: Step) -> bool {
        let commits = |every: CommitEvery| self.schedule.is_due(every.0, step + 1);
        self.schedule.checkpoints(step) || self.commits.is_some_and(commits) || self.stopped.get() == Some(step)
    }
}

/// An edge that leads to a port of the stage. Several may lead to the same port.
pub struct InputEdge<'scope> {
    /// The index of the port.
    pub port: usize,
    /// The edge.
    pub edge: Edge<'scope>,
    /// How its packets are distributed among workers.
    pub route: Route,
    /// Where packets for any worker wait.
    pub queue: Option<Arc<SharedQueue>>,
}

/// A stage and how it is connected.
pub struct StageSpec<'scope> {
    /// The stage.
    pub stage: Box<dyn Stage>,
    /// The role of each of its ports.
    pub roles: Vec<Role>,
    /// Edges that lead to it.
    pub inputs: Vec<InputEdge<'scope>>,
    /// Edges that leave it.
    pub outputs: Vec<OutputSpec>,
    /// Does it tell the sources how much it needs?
    pub pulls: bool,
    /// The edge that says whether a step is the last; a step is done only when that has been decided.
    pub decisions: Option<Decisions<'scope>>,
}

/// The edges that leave a stage's operator.
pub struct StageEdges<'scope> {
    /// One for each output, in the order of the specification.
    pub edges: Vec<Edge<'scope>>,
    /// The demand of a stage that pulls.
    pub demands: Option<Demands<'scope>>,
    /// Carries no data. Its frontier is the step the stage is working on.
    pub progress: Stream<'scope, Step, Vec<()>>,
}

/// Adds a stage to the graph, as the operator that `builder` is for.
///
/// The operator holds a capability for the step it works on, and gives it up when every input has passed that step and
/// everything that arrived has been processed.
pub fn stage_operator<'scope>(
    scope: Scope<'scope, Step>,
    mut builder: OperatorBuilder<'scope, Step>,
    context: OperatorContext,
    spec: StageSpec<'scope>,
) -> StageEdges<'scope> {
    let StageSpec { stage, mut roles, inputs, outputs, pulls, decisions } = spec;
    let address = builder.operator_info().address;
    let activator = scope.activator_for(address.clone());
    let wake = scope.worker().sync_activator_for(address.to_vec());

    let mut ports: Vec<usize> = inputs.iter().map(|input| input.port).collect();
    let queues: BTreeMap<_, _> = inputs.iter().filter_map(|i| Some((i.port, i.queue.clone()?))).collect();
    let processes = context.position.processes();
    let inputs =
        inputs.into_iter().map(|input| packet_input(&mut builder, input.edge, input.route, processes)).collect();
    // The decision is an additional stream port: the step stays open until it has arrived.
    let decisions = decisions.map(|decisions| {
        ports.push(roles.len());
        roles.push(Role::Stream);
        reader(builder.new_input(decisions, to_its_worker()))
    });

    let begins_micro_batches = outputs.iter().any(|output| output.kind == Kind::Activations);
    let (output_ports, edges): (Vec<_>, Vec<_>) =
        outputs.into_iter().map(|spec| OutputPort::new(&mut builder, spec)).unzip();
    let (demand, demands) = builder.new_output::<Vec<Demand>>();
    let (_progress, progress) = builder.new_output_connection::<Vec<()>, _>([] as [(usize, Antichain<Step>); 0]);

    builder.build(move |mut capabilities| {
        let progress_capability = capabilities.pop();
        let demand_capability = capabilities.pop();
        let first = context.schedule.first;
        activator.activate();
        let mut operator = StageOperator {
            runner: StageRunner::new(stage, roles, first),
            outbox: Outbox::default(),
            ports,
            inputs,
            decisions,
            outputs: OutputPorts::new(output_ports, capabilities, first, context.position.clone()),
            pulls,
            demand: OutputBuilder::from(demand),
            demand_capability,
            progress_capability,
            in_flight: begins_micro_batches.then(|| MicroBatchInFlight::none(wake.clone())),
            queues,
            wake,
            activator,
            context,
            phase: Phase::NotStarted,
            ended: Instant::now(),
        };
        move |frontiers: &[MutableAntichain<Step>]| match operator.context.cpu.clone() {
            None => operator.schedule(frontiers),
            Some(cpu) => {
                let (id, step) = (operator.context.id.clone(), operator.runner.current());
                cpu.of(&id, step, || operator.schedule(frontiers));
            }
        }
    });
    StageEdges { edges, demands: pulls.then_some(demands), progress }
}

#[derive(PartialEq)]
enum Phase {
    NotStarted,
    Running,
    Finished,
}

/// A stage's operator while the graph runs.
struct StageOperator {
    context: OperatorContext,
    runner: StageRunner,
    /// Empty between calls.
    outbox: Outbox,
    /// By timely's index of the input: the port of the stage.
    ports: Vec<usize>,
    inputs: Vec<PacketReader>,
    /// The queues that workers share, by port.
    queues: BTreeMap<usize, Arc<SharedQueue>>,
    /// Wakes this operator.
    wake: SyncActivator,
    decisions: Option<Reader<(u64, Step)>>,
    outputs: OutputPorts,
    pulls: bool,
    demand: OutputBuilder<Step, CapacityContainerBuilder<Vec<Demand>>>,
    demand_capability: Option<Capability<Step>>,
    progress_capability: Option<Capability<Step>>,
    /// For a stage that begins micro-batches.
    in_flight: Option<MicroBatchInFlight>,
    activator: Activator,
    phase: Phase,
    /// When the last time slice ended.
    ended: Instant,
}

impl StageOperator {
    /// Called by timely whenever an input or a frontier has changed, or the operator was activated.
    fn schedule(&mut self, frontiers: &[MutableAntichain<Step>]) {
        self.receive();
        if self.phase == Phase::Finished || self.context.failure.happened() {
            return;
        }
        if self.phase == Phase::NotStarted && self.start().is_none() {
            return;
        }
        let began = Instant::now();
        let slice = (began - self.ended).clamp(SLICE[0], SLICE[1]);
        while self.run_once(frontiers, began, slice) {}
        self.ended = Instant::now();
    }

    /// Takes in everything that has arrived.
    fn receive(&mut self) {
        let finished = self.phase == Phase::Finished;
        for (input, port) in self.inputs.iter_mut().zip(&self.ports) {
            input(&mut |step, packet| {
                match self.queues.get(port) {
                    // From another process, for any worker of this one.
                    Some(queue) => queue.push(step, packet),
                    None if finished => {}
                    None => self.runner.push(*port, step, packet),
                }
            });
        }
        if let Some(decisions) = &mut self.decisions {
            let mut decided = Vec::new();
            decisions(&mut decided);
            decided.into_iter().for_each(|(_, last)| self.context.stopped.set(last));
        }
    }

    /// Calls [`Stage::start`] and sends what it emits.
    fn start(&mut self) -> Option<()> {
        self.phase = Phase::Running;
        let first = self.context.schedule.first;
        self.downgrade(first);
        self.context.failure.guard(&self.context.id, None, || self.runner.stage().start(&mut self.outbox))?;
        self.outbox.0.drain(..).for_each(|packet| self.outputs.send(packet, first, true));
        self.outputs.close_initial();
        Some(())
    }

    /// Calls the stage once. True if it may be called again in this time slice.
    fn run_once(&mut self, frontiers: &[MutableAntichain<Step>], began: Instant, slice: Duration) -> bool {
        let step = self.runner.current();
        let (queues, worker) = (&self.queues, self.context.position.worker);
        let (wake, activator) = (&self.wake, &self.activator);
        let inputs = OperatorInputs { ports: &self.ports, frontiers, queues, worker, wake, activator };
        if step > self.context.last_step() {
            self.finish();
            return false;
        }
        let may_begin = self.in_flight.as_ref().is_none_or(MicroBatchInFlight::is_none);
        let context = &self.context;
        let activity = context.activity.as_deref();
        let call = || Activity::during(activity, step, || self.runner.run_once(&inputs, may_begin, &mut self.outbox));
        let Some(ran) = context.failure.guard(&context.id, Some(step), call) else { return false };
        self.send(step);
        match ran {
            Ran::Idle => false,
            Ran::Called { from, turn } => {
                self.report_demand(from, turn, step);
                if turn == Turn::More || began.elapsed() > slice {
                    self.activator.activate();
                    return false;
                }
                true
            }
            Ran::StepDone => {
                self.end_step(step);
                true
            }
        }
    }

    /// Sends what the stage has emitted.
    fn send(&mut self, step: Step) {
        for mut packet in self.outbox.0.drain(..) {
            if packet.kind() == Kind::OptimizerState && !self.context.checkpoints(step) {
                continue;
            }
            if let Some(in_flight) = &self.in_flight
                && let Some(ticket) = packet.ticket()
            {
                *ticket = in_flight.begin();
            }
            self.outputs.send(packet, step, false);
        }
    }

    /// Tells the sources whether the lane needs more. The stage's last answer to a packet counts: as long as it says
    /// [`Turn::More`], it has not finished with the packet.
    fn report_demand(&mut self, from: Option<(Lane, usize)>, turn: Turn, step: Step) {
        let answered = self.pulls && turn != Turn::More;
        if let (true, Some((lane, source)), Some(capability)) = (answered, from, &self.demand_capability) {
            let demand = Demand { lane, source, step, more: turn == Turn::Starved };
            self.demand.activate().session_with_builder(capability).give(demand);
        }
    }

    /// Sends what the stage saves after `step` and gives up the right to send at it.
    fn end_step(&mut self, step: Step) {
        if self.context.saves {
            let context = &self.context;
            let saved = context.failure.guard(&context.id, Some(step), || save(self.runner.stage(), context));
            let saved = saved.into_iter().flatten();
            saved.for_each(|saved| self.outputs.send(Packet::Saved(saved), step, false));
        }
        self.outputs.advance(step + 1);
        self.downgrade(step + 1);
    }

    /// Downgrades the capabilities of the engine's own outputs.
    fn downgrade(&mut self, step: Step) {
        for capability in [&mut self.progress_capability, &mut self.demand_capability].into_iter().flatten() {
            capability.downgrade(&step);
        }
    }

    /// Calls [`Stage::finish`] and closes all outputs.
    fn finish(&mut self) {
        self.phase = Phase::Finished;
        self.context.failure.guard(&self.context.id, None, || self.runner.stage().finish());
        self.outputs.close();
        (self.progress_capability, self.demand_capability) = (None, None);
    }
}

/// What a stage saves of each of this worker's lanes.
fn save(stage: &mut dyn Stage, context: &OperatorContext) -> anyhow::Result<Vec<Saved>> {
    let mut saved = Vec::new();
    for lane in &context.lanes {
        let state = stage.save(*lane)?;
        if !state.is_nothing() {
            saved.push(Saved { stage: context.id.clone(), lane: *lane, state });
        }
    }
    Ok(saved)
}

/// The frontiers of timely's inputs, seen as those of the stage's ports, and the queues that workers share.
struct OperatorInputs<'a> {
    ports: &'a [usize],
    frontiers: &'a [MutableAntichain<Step>],
    queues: &'a BTreeMap<usize, Arc<SharedQueue>>,
    worker: usize,
    wake: &'a SyncActivator,
    activator: &'a Activator,
}

impl Inputs for OperatorInputs<'_> {
    fn is_open(&self, port: usize, step: Step) -> bool {
        self.ports.iter().zip(self.frontiers).any(|(p, frontier)| *p == port && frontier.less_equal(&step))
    }

    fn take_shared(&self, step: Step) -> Shared {
        let mut answer = Shared::Nothing;
        for (port, queue) in self.queues {
            match queue.take(step, self.worker, self.wake) {
                Taken::Packet(packet) => return Shared::Packet(*port, packet),
                Taken::Nothing => {}
                Taken::Later(wait) => {
                    self.activator.activate_after(wait);
                    answer = Shared::Later;
                }
            }
        }
        answer
    }
}

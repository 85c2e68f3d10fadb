//! Builds the dataflow graph of a plan, for one worker.
use super::cpu_time::CpuTime;
use super::failure::Failure;
use super::operator::{Demand, Demands, InputEdge, OperatorContext, StageSpec, stage_operator};
use super::packet_batch::PacketBatch;
use super::ports::{Edge, OutputSpec};
use super::position::Position;
use super::shared_queue::SharedQueues;
use super::source::{SourceSpec, source_operator};
use super::stop::{Decisions, LastStep, Stop, decisions};
use super::workers::Job;
use crate::plan::{PlannedStage, order};
use contract::{Built, CommitEvery, Env, Kind, Route, Source, Stage, Step};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use timely::dataflow::operators::feedback::Handle;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::operators::{Concatenate, ConnectLoop, Feedback};
use timely::dataflow::{Scope, Stream};

/// A way for packets from a stage to a port of another.
pub struct Connection {
    /// The stage that emits them.
    pub from: usize,
    /// The stage that takes them.
    pub to: usize,
    /// Its port.
    pub port: usize,
    /// Their kind.
    pub kind: Kind,
    /// How they are distributed among workers.
    pub route: Route,
    /// Leads to the next step.
    pub feedback: bool,
}

/// An edge of the graph: the index of its connection, and whether it is the initial edge, without the delay of one
/// step, that a connection with feedback has besides its own.
type EdgeKey = (usize, bool);

/// Builds the graph of `job` in `scope`; `built` are this worker's stages, in the order of the job's. Returns the
/// counters of the time (ns) that sources work on their threads, by stage.
pub fn build<'scope>(
    scope: Scope<'scope, Step>,
    job: &Job,
    queues: &SharedQueues,
    built: Vec<Built>,
    env: &Env,
    cpu: Option<Rc<CpuTime>>,
    failure: &Failure,
) -> Vec<(String, Arc<AtomicU64>)> {
    let stages = &job.stages;
    let connections = connections(stages);
    let mut graph = GraphBuilder::new(scope, job, queues, &connections, env, cpu, failure);
    // Feedback edges come first, because an edge must exist before the operators that it connects.
    graph.add_feedback();
    for (source, _) in built.iter().enumerate().filter(|(_, built)| matches!(built, Built::Source(_))) {
        graph.add_source_inputs(source);
    }
    let inputs = |to: usize| connections.iter().filter(|c| c.to == to && !c.feedback).map(|c| c.from).collect();
    // There is no cycle: plans have none within a step, and edges of saved state lead to stages that save nothing.
    let order = order(stages.len(), &inputs).unwrap_or_else(|cycle| panic!("a cycle within a step: {cycle:?}"));
    // timely schedules operators in the order in which their builders are made. Downstream stages come first, so that
    // work that is there gets done (gradients are summed, also those of other workers) before more is begun.
    let builders: Vec<_> = order.iter().rev().map(|s| OperatorBuilder::new(stages[*s].id.clone(), scope)).collect();
    let mut built: Vec<Option<Built>> = built.into_iter().map(Some).collect();
    for (s, builder) in order.into_iter().zip(builders.into_iter().rev()) {
        match built[s].take() {
            Some(Built::Source(source)) => graph.add_source(s, builder, source),
            Some(Built::Stage(stage)) => graph.add_stage(s, builder, stage),
            None => {}
        }
    }
    graph.clocks
}

/// A graph under construction.
struct GraphBuilder<'a, 'scope> {
    scope: Scope<'scope, Step>,
    stages: &'a [PlannedStage],
    connections: &'a [Connection],
    env: &'a Env,
    prefetch: u64,
    queues: &'a SharedQueues,
    failure: &'a Failure,
    /// Edges whose end has not been connected yet.
    edges: HashMap<EdgeKey, Edge<'scope>>,
    /// Feedback edges whose beginning has not been connected yet.
    loops: HashMap<EdgeKey, Handle<'scope, Step, PacketBatch>>,
    /// For each source: the demand it follows and its throttle.
    source_inputs: HashMap<usize, (Option<Demands<'scope>>, Stream<'scope, Step, Vec<()>>)>,
    /// Where the demand of each stage that pulls goes, as `(stage, loop)`.
    demand_loops: Vec<(usize, Handle<'scope, Step, Vec<Demand>>)>,
    throttle_loops: Vec<Handle<'scope, Step, Vec<()>>>,
    /// The stage that updates what is fed back.
    updates: Option<usize>,
    /// The progress of the stages that feed it.
    computed: Vec<Stream<'scope, Step, Vec<()>>>,
    /// Present if the run can be stopped.
    stop: Option<Arc<Stop>>,
    stopped: LastStep,
    /// Present if CPU time is measured.
    cpu: Option<Rc<CpuTime>>,
    clocks: Vec<(String, Arc<AtomicU64>)>,
}

impl<'a, 'scope> GraphBuilder<'a, 'scope> {
    fn new(
        scope: Scope<'scope, Step>,
        job: &'a Job,
        queues: &'a SharedQueues,
        connections: &'a [Connection],
        env: &'a Env,
        cpu: Option<Rc<CpuTime>>,
        failure: &'a Failure,
    ) -> Self {
        Self {
            scope,
            stages: &job.stages,
            connections,
            env,
            prefetch: job.prefetch,
            queues,
            failure,
            edges: HashMap::new(),
            loops: HashMap::new(),
            source_inputs: HashMap::new(),
            demand_loops: Vec::new(),
            throttle_loops: Vec::new(),
            updates: connections.iter().find(|connection| connection.feedback).map(|connection| connection.from),
            computed: Vec::new(),
            stop: env.resources.get::<Stop>(),
            stopped: LastStep::unknown(env.resources.get::<Stop>()),
            cpu,
            clocks: Vec::new(),
        }
    }

    /// Adds the feedback edges, each with its initial edge.
    fn add_feedback(&mut self) {
        for (c, _) in self.connections.iter().enumerate().filter(|(_, connection)| connection.feedback) {
            for initial in [false, true] {
                let (handle, edge) = self.scope.feedback::<PacketBatch>(if initial { 0 } else { 1 });
                self.loops.insert((c, initial), handle);
                self.edges.insert((c, initial), edge);
            }
        }
    }

    /// Adds the edges that lead back to a source: the demand of stages below that pull, and the throttle.
    fn add_source_inputs(&mut self, source: usize) {
        let mut demands = Vec::new();
        for puller in 0..self.stages.len() {
            if self.stages[puller].settings.pulls() && upstream(self.connections, puller).contains(&source) {
                let (handle, edge) = self.scope.feedback::<Vec<Demand>>(1);
                self.demand_loops.push((puller, handle));
                demands.push(edge);
            }
        }
        let demands = (!demands.is_empty()).then(|| self.scope.concatenate(demands));
        let (handle, throttle) = self.scope.feedback::<Vec<()>>(1);
        self.throttle_loops.push(handle);
        self.source_inputs.insert(source, (demands, throttle));
    }

    fn add_source(&mut self, s: usize, builder: OperatorBuilder<'scope, Step>, source: Box<dyn Source>) {
        let Some((demands, throttle)) = self.source_inputs.remove(&s) else { return };
        let busy = Arc::new(AtomicU64::new(0));
        self.clocks.push((self.stages[s].id.clone(), Arc::clone(&busy)));
        let (keys, outputs) = self.outputs(s);
        let spec = SourceSpec {
            source,
            demands,
            index: source_index(self.stages, self.connections, s),
            throttle,
            prefetch: self.prefetch,
            outputs,
            busy,
        };
        let edges = source_operator(self.scope, builder, self.context(s), spec);
        self.connect(keys, edges);
    }

    fn add_stage(&mut self, s: usize, builder: OperatorBuilder<'scope, Step>, stage: Box<dyn Stage>) {
        let settings = &self.stages[s].settings;
        let (keys, outputs) = self.outputs(s);
        let spec = StageSpec {
            stage,
            roles: settings.takes().iter().map(|port| port.role).collect(),
            inputs: self.inputs(s),
            outputs,
            pulls: settings.pulls(),
            decisions: self.decisions(s),
        };
        let added = stage_operator(self.scope, builder, self.context(s), spec);
        if self.feeds_updates(s) {
            self.computed.push(added.progress.clone());
        }
        if let Some(demands) = added.demands {
            for (_, handle) in self.demand_loops.extract_if(.., |(puller, _)| *puller == s) {
                demands.clone().connect_loop(handle);
            }
        }
        // Sources keep close to the stage that updates, or to the last one of a graph that updates nothing.
        if s == self.updates.unwrap_or(self.stages.len() - 1) {
            self.throttle_loops.drain(..).for_each(|handle| added.progress.clone().connect_loop(handle));
        }
        self.connect(keys, added.edges);
    }

    fn context(&self, s: usize) -> OperatorContext {
        OperatorContext {
            id: self.stages[s].id.clone(),
            position: Position::of(self.env),
            lanes: self.env.lanes().collect(),
            schedule: self.env.schedule,
            saves: self.connections.iter().any(|connection| connection.kind == Kind::Saved),
            commits: self.env.resources.get::<CommitEvery>().map(|every| *every),
            activity: self.env.resources.get(),
            stopped: self.stopped.clone(),
            cpu: self.cpu.clone(),
            failure: self.failure.clone(),
        }
    }

    /// The outputs of a stage: one for each connection that begins there, followed by its initial one if it has one.
    fn outputs(&self, s: usize) -> (Vec<EdgeKey>, Vec<OutputSpec>) {
        let mut outputs = (Vec::new(), Vec::new());
        for (c, connection) in self.connections.iter().enumerate().filter(|(_, connection)| connection.from == s) {
            for initial in [false, true] {
                if connection.feedback || !initial {
                    outputs.0.push((c, initial));
                    let queue = self.queues.of(connection.to, connection.port);
                    outputs.1.push(OutputSpec { kind: connection.kind, route: connection.route, queue, initial });
                }
            }
        }
        outputs
    }

    /// The edges that lead to a stage.
    fn inputs(&mut self, s: usize) -> Vec<InputEdge<'scope>> {
        let mut inputs = Vec::new();
        for (c, connection) in self.connections.iter().enumerate().filter(|(_, connection)| connection.to == s) {
            for initial in [false, true] {
                if let Some(edge) = self.edges.remove(&(c, initial)) {
                    let queue = self.queues.of(s, connection.port);
                    inputs.push(InputEdge { port: connection.port, edge, route: connection.route, queue });
                }
            }
        }
        inputs
    }

    /// Notes the edges that leave a stage, and closes the loops among them.
    fn connect(&mut self, keys: Vec<EdgeKey>, edges: Vec<Edge<'scope>>) {
        for (key, edge) in keys.into_iter().zip(edges) {
            match self.loops.remove(&key) {
                Some(handle) => edge.connect_loop(handle),
                None => drop(self.edges.insert(key, edge)),
            }
        }
    }

    /// Whether the stage directly feeds the stage that updates parameters. When all such stages are done with a step,
    /// the step can still become the last one.
    fn feeds_updates(&self, s: usize) -> bool {
        self.updates.is_some_and(|updates| {
            let direct = |c: &Connection| c.from == s && c.to == updates && !c.feedback && c.kind != Kind::Saved;
            self.connections.iter().any(direct)
        })
    }

    /// For the stage that updates, in a run that can be stopped: the decisions whether a step is the last.
    fn decisions(&mut self, s: usize) -> Option<Decisions<'scope>> {
        let stop = self.stop.as_ref().filter(|_| self.updates == Some(s) && !self.computed.is_empty())?;
        let computed = self.scope.concatenate(self.computed.drain(..));
        let position = Position::of(self.env);
        Some(decisions(self.scope, position, self.env.schedule, Arc::clone(stop), computed))
    }
}

/// All connections of a plan, and those on which the engine brings saved state to the stages that gather it.
pub fn connections(stages: &[PlannedStage]) -> Vec<Connection> {
    let (mut connections, mut gatherers) = (Vec::new(), Vec::new());
    for (to, stage) in stages.iter().enumerate() {
        for (port, takes) in stage.settings.takes().iter().enumerate() {
            let (kind, route) = (takes.kind, takes.route);
            for edge in stage.inputs.get(port).into_iter().flatten() {
                connections.push(Connection { from: edge.from, to, port, kind, route, feedback: edge.feedback });
            }
            if kind == Kind::Saved {
                gatherers.push((to, port, route));
            }
        }
    }
    // Every stage saves, except the gatherers themselves and the stages below them: those come after the checkpoint.
    let gathers = |stage: usize| gatherers.iter().any(|(to, ..)| *to == stage);
    for (to, port, route) in &gatherers {
        let savers: Vec<usize> =
            (0..stages.len()).filter(|from| !gathers(*from) && !upstream(&connections, *from).contains(to)).collect();
        let (to, port, kind, route) = (*to, *port, Kind::Saved, *route);
        connections.extend(savers.into_iter().map(|from| Connection { from, to, port, kind, route, feedback: false }));
    }
    connections
}

/// The index of source `s` where sources are mixed: the port at which its packets arrive. 0 if they are not mixed.
fn source_index(stages: &[PlannedStage], connections: &[Connection], s: usize) -> usize {
    let mixes = |c: &&Connection| stages[c.to].settings.mixes().is_some() && c.kind != Kind::Saved;
    connections.iter().filter(mixes).find(|c| upstream(connections, c.from).contains(&s)).map_or(0, |c| c.port)
}

/// Stage `s` and the stages whose packets reach it within a step.
fn upstream(connections: &[Connection], s: usize) -> Vec<usize> {
    let mut seen = vec![s];
    let mut at = 0;
    while at < seen.len() {
        let stage = seen[at];
        for connection in connections.iter().filter(|c| c.to == stage && !c.feedback && c.kind != Kind::Saved) {
            if !seen.contains(&connection.from) {
                seen.push(connection.from);
            }
        }
        at += 1;
    }
    seen
}

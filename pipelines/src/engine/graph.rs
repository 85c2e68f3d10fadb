//! From a plan to the dataflow of one worker.
use super::failure::Failure;
use super::operator::{Inlet, Place, Want, Wants, operator};
use super::parcel::Parcel;
use super::ports::Edge;
use super::source::source;
use super::stop::{Heard, Stop, decisions};
use crate::plan::{PlannedStage, order};
use contract::{Built, Env, Kind, Route, Step};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::operators::{Concatenate, ConnectLoop, Feedback};
use timely::dataflow::{Scope, Stream};

/// One way from a stage to a port of another.
struct Way {
    from: usize,
    to: usize,
    port: usize,
    kind: Kind,
    route: Route,
    /// Leads to the next step.
    feedback: bool,
}

/// Builds the graph of `stages` in `scope`; `built` are this worker's stages, in the same order. Returns the
/// counters of the time (ns) that sources work on their threads, by stage.
pub fn build<'scope>(
    scope: Scope<'scope, Step>,
    stages: &[PlannedStage],
    built: Vec<Built>,
    env: &Env,
    endless: bool,
    prefetch: u64,
    failure: &Failure,
) -> Vec<(String, Arc<AtomicU64>)> {
    let ways = ways(stages);
    // What closes a loop is made first: its handle waits for the stage below that will feed it.
    let mut loops = HashMap::new();
    let mut edges: HashMap<(usize, bool), Edge<'scope>> = HashMap::new();
    for (w, _) in ways.iter().enumerate().filter(|(_, way)| way.feedback) {
        for seed in [false, true] {
            let (handle, edge) = scope.feedback::<Parcel>(if seed { 0 } else { 1 });
            loops.insert((w, seed), handle);
            edges.insert((w, seed), edge);
        }
    }
    let (mut pulling, mut throttling) = (Vec::new(), Vec::new());
    let mut source_inputs: HashMap<usize, (Option<Wants<'scope>>, Stream<'scope, Step, Vec<()>>)> = HashMap::new();
    let updates = ways.iter().find(|way| way.feedback).map(|way| way.from);
    let throttle = updates.unwrap_or(stages.len() - 1);
    let saves = ways.iter().any(|way| way.kind == Kind::Saved);
    // A run that may be stopped decides that before its updates, when what feeds them is computed.
    let stop = env.resources.get::<Stop>();
    let feeds_updates = |s: usize| {
        let direct = |way: &Way| way.from == s && !way.feedback && way.kind != Kind::Saved;
        updates.is_some_and(|updates| ways.iter().any(|way| direct(way) && way.to == updates))
    };
    let (heard, mut computed) = (Heard::default(), Vec::new());
    for s in (0..stages.len()).filter(|s| matches!(built[*s], Built::Source(_))) {
        let pullers = (0..stages.len()).filter(|p| stages[*p].settings.pulls() && upstream(&ways, *p).contains(&s));
        let wants: Vec<_> = pullers
            .map(|puller| {
                let (handle, edge) = scope.feedback::<Vec<Want>>(1);
                pulling.push((puller, handle));
                edge
            })
            .collect();
        let wants = (!wants.is_empty()).then(|| scope.concatenate(wants));
        let (handle, progress) = scope.feedback::<Vec<()>>(1);
        throttling.push(handle);
        source_inputs.insert(s, (wants, progress));
    }

    let mut built: Vec<Option<Built>> = built.into_iter().map(Some).collect();
    let mut clocks = Vec::new();
    let feeds = |to: usize| ways.iter().filter(|way| way.to == to && !way.feedback).map(|way| way.from).collect();
    // Saved state goes to whoever gathers it, whose plan has no such edge: a cycle would be a fault of `ways`.
    let order = order(stages.len(), &feeds).unwrap_or_else(|cycle| panic!("a cycle within a step: {cycle:?}"));
    // Operators have their turns in the order in which their builders are made: what is below comes first, so that what is
    // there is worked off (gradients are summed, those of other workers too) before more is begun.
    let builders: Vec<_> = order.iter().rev().map(|s| OperatorBuilder::new(stages[*s].id.clone(), scope)).collect();
    for (s, builder) in order.into_iter().zip(builders.into_iter().rev()) {
        let stage = &stages[s];
        let place = Place {
            id: stage.id.clone(),
            worker: (env.worker, env.workers),
            lanes: env.lanes().collect(),
            calendar: env.calendar,
            endless,
            saves,
            heard: heard.clone(),
            failure: failure.clone(),
        };
        // Outlets of this stage: one a way, and a second one, for the start, where the way is fed back.
        let mut outlets: Vec<(usize, bool)> = Vec::new();
        for (w, way) in ways.iter().enumerate().filter(|(_, way)| way.from == s) {
            outlets.push((w, false));
            if way.feedback {
                outlets.push((w, true));
            }
        }
        let asked: Vec<_> = outlets.iter().map(|(w, seed)| (ways[*w].kind, ways[*w].route, *seed)).collect();
        let leaving = match built[s].take() {
            Some(Built::Source(made)) => {
                let (Some((wants, progress)), clock) = (source_inputs.remove(&s), Arc::new(AtomicU64::new(0))) else {
                    continue;
                };
                clocks.push((stage.id.clone(), Arc::clone(&clock)));
                source(scope, builder, place, made, wants, progress, prefetch, &asked, clock)
            }
            Some(Built::Stage(made)) => {
                let mut inlets = Vec::new();
                for (w, way) in ways.iter().enumerate().filter(|(_, way)| way.to == s) {
                    for seed in [false, true] {
                        if let Some(edge) = edges.remove(&(w, seed)) {
                            inlets.push(Inlet { port: way.port, edge, route: way.route });
                        }
                    }
                }
                let roles = stage.settings.takes().iter().map(|port| port.role).collect();
                let decided = match &stop {
                    Some(stop) if updates == Some(s) && !computed.is_empty() => {
                        let computed = scope.concatenate(computed.drain(..));
                        Some(decisions(scope, place.worker, env.calendar, Arc::clone(stop), computed))
                    }
                    _ => None,
                };
                let leaving =
                    operator(scope, builder, place, made, roles, inlets, &asked, stage.settings.pulls(), decided);
                if feeds_updates(s) {
                    computed.push(leaving.progress.clone());
                }
                if let Some(wants) = leaving.wants {
                    for (_, handle) in pulling.extract_if(.., |(puller, _)| *puller == s) {
                        wants.clone().connect_loop(handle);
                    }
                }
                if s == throttle {
                    throttling.drain(..).for_each(|handle| leaving.progress.clone().connect_loop(handle));
                }
                leaving.edges
            }
            None => continue,
        };
        for (way, edge) in outlets.into_iter().zip(leaving) {
            match loops.remove(&way) {
                Some(handle) => edge.connect_loop(handle),
                None => drop(edges.insert(way, edge)),
            }
        }
    }
    clocks
}

/// Every way packets go, those on which the engine itself gathers what checkpoints need included.
fn ways(stages: &[PlannedStage]) -> Vec<Way> {
    let (mut ways, mut savers) = (Vec::new(), Vec::new());
    for (to, stage) in stages.iter().enumerate() {
        for (port, takes) in stage.settings.takes().iter().enumerate() {
            let (kind, route) = (takes.kind, takes.route);
            for edge in stage.inputs.get(port).into_iter().flatten() {
                ways.push(Way { from: edge.from, to, port, kind, route, feedback: edge.feedback });
            }
            if kind == Kind::Saved {
                savers.push((to, port, route));
            }
        }
    }
    // Everybody saves, but for those below whoever gathers: what they do follows from it.
    let gathers = |stage: usize| savers.iter().any(|(to, ..)| *to == stage);
    for (to, port, route) in &savers {
        let above = (0..stages.len())
            .filter(|from| !gathers(*from) && !upstream(&ways, *from).contains(to))
            .collect::<Vec<_>>();
        let (to, port, kind, route) = (*to, *port, Kind::Saved, *route);
        ways.extend(above.into_iter().map(|from| Way { from, to, port, kind, route, feedback: false }));
    }
    ways
}

/// The stages from which something flows to stage `s` within a step.
fn upstream(ways: &[Way], s: usize) -> Vec<usize> {
    let mut seen = vec![s];
    let mut at = 0;
    while at < seen.len() {
        let stage = seen[at];
        for way in ways.iter().filter(|way| way.to == stage && !way.feedback && way.kind != Kind::Saved) {
            if !seen.contains(&way.from) {
                seen.push(way.from);
            }
        }
        at += 1;
    }
    seen
}

//! Connects the stages: derives the graph from the list of stages.
//!
//! - A port is fed by those of its stage's `inputs` that emit its kind; by default, by the nearest stage above that
//!   emits it. Two stages above that emit the same kind are ambiguous, unless one feeds the other with that kind (`read
//!   → clean → pack`: `clean` feeds `pack`).
//! - A [`Role::State`] port whose kind is only emitted below (or by the stage itself) is fed back: what is emitted at a
//!   step arrives at the next. No other edge may close a cycle. So is what a port takes of the previous step
//!   ([`Port::previous`]), wherever it is emitted: by the last stage that emits its kind.
//! - A stage that mixes sources has a port for each: see [`mixture`].
//! - Metrics are collected from every stage that emits them (a stage that derives metrics from metrics does not read
//!   those of similar stages below it); saved state comes from the engine.
use crate::problem::{Diagnostic, Origin, Problems};
use contract::{Kind, Port, Role, Route};

mod mixture;

pub(super) use mixture::settle_mixtures;

/// The origin of a port's packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edge {
    /// Index of the stage that emits them.
    pub from: usize,
    /// Whether they arrive one step after they were emitted.
    pub feedback: bool,
}

/// The properties of a stage that wiring depends on.
pub(crate) struct Node {
    pub id: String,
    pub takes: Vec<Port>,
    pub gives: Vec<Kind>,
    /// Whether the stage's table was valid. If one was not, missing inputs are not reported.
    pub known: bool,
    pub origin: Origin,
    pub inputs: Option<(Vec<String>, Origin)>,
    /// If it mixes sources: their names, and where they are given.
    pub mixes: Option<(Vec<String>, Origin)>,
}

impl Node {
    fn gives(&self, kind: Kind) -> bool {
        self.gives.contains(&kind)
    }

    fn place(&self) -> Origin {
        self.inputs.as_ref().map_or(&self.origin, |(_, origin)| origin).clone()
    }
}

/// For every stage and port, its incoming edges.
pub(crate) type Wires = Vec<Vec<Vec<Edge>>>;

/// Connects `nodes`. `types_giving` returns the registered types that emit a kind. A stage that mixes sources is
/// changed to take and emit what arrives from them.
pub(crate) fn wire(nodes: &mut [Node], types_giving: &dyn Fn(Kind) -> Vec<String>, problems: &mut Problems) -> Wires {
    for at in (0..nodes.len()).filter(|at| nodes[*at].mixes.is_some()).collect::<Vec<_>>() {
        if nodes[at].mixes.as_ref().is_some_and(|(sources, _)| sources.is_empty()) {
            let (sources, port) = (mixture::sources_above(nodes, at), nodes[at].takes.first().cloned());
            nodes[at].takes = port.into_iter().cycle().take(sources.len().max(1)).collect();
            nodes[at].mixes.iter_mut().for_each(|(named, _)| named.clone_from(&sources));
        }
        let wires = connect(nodes, types_giving, &mut Problems::default());
        let arrives = |edge: &Edge| nodes[edge.from].gives.iter().copied().find(|kind| mixture::MIXED.contains(kind));
        if let Some(kind) = wires[at].iter().flatten().find_map(arrives) {
            nodes[at].takes.iter_mut().for_each(|port| port.kind = kind);
            nodes[at].gives = vec![kind];
        }
    }
    connect(nodes, types_giving, problems)
}

fn connect(nodes: &[Node], types_giving: &dyn Fn(Kind) -> Vec<String>, problems: &mut Problems) -> Wires {
    let all_known = nodes.iter().all(|node| node.known);
    let mut wires: Wires = Vec::new();
    for (at, node) in nodes.iter().enumerate() {
        let inputs = explicit(nodes, at, problems);
        if node.mixes.is_some() {
            wires.push(mixture::ports(nodes, &wires, at, problems));
            continue;
        }
        let mut ports = Vec::new();
        for port in &node.takes {
            let named: Vec<usize> = inputs.iter().copied().filter(|i| nodes[*i].gives(port.kind)).collect();
            ports.push(if named.is_empty() {
                nearest(nodes, &wires, at, port, all_known, types_giving, problems)
            } else {
                let feedback = |from: usize| port.previous || port.role == Role::State && from >= at;
                named.into_iter().map(|from| Edge { from, feedback: feedback(from) }).collect()
            });
            if matches!(port.kind, Kind::Activations | Kind::LossGradient) && port.route != Route::Stay {
                let message = format!("`{}` asks for {} of other workers", node.id, port.kind.name());
                problems.push(Diagnostic::new(message, node.origin.clone()).next("they cannot leave their worker"));
            }
            if port.role == Role::State && port.route == Route::AnyWorker {
                let message = format!("`{}` asks for {} as state that any worker takes", node.id, port.kind.name());
                problems
                    .push(Diagnostic::new(message, node.origin.clone()).next("every worker needs the state itself"));
            }
        }
        wires.push(ports);
    }
    one_owner(nodes, &wires, problems);
    if let Err(cycle) = order(nodes.len(), &|at| feeds(&wires, at)) {
        let names: Vec<String> = cycle.iter().chain(cycle.first()).map(|i| format!("`{}`", nodes[*i].id)).collect();
        let message = format!("a cycle within one step: {}", names.join(" → "));
        let place = cycle.iter().find(|i| nodes[**i].inputs.is_some()).or(cycle.first()).map(|i| nodes[*i].place());
        problems.push(Diagnostic::new(message, place.unwrap_or_default()).next("take one out of `inputs`"));
    }
    wires
}

/// The stages that `inputs` names.
fn explicit(nodes: &[Node], at: usize, problems: &mut Problems) -> Vec<usize> {
    let node = &nodes[at];
    let mut found = Vec::new();
    let Some((names, origin)) = &node.inputs else { return found };
    for name in names {
        let Some(index) = nodes.iter().position(|other| other.id == *name) else {
            let ids = nodes.iter().map(|node| node.id.as_str());
            let message = format!("`{}.inputs` names a stage `{name}` that is not there", node.id);
            problems.push(Diagnostic::new(message, origin.clone()).similar_to(name, ids));
            continue;
        };
        let fits = node.mixes.is_some() || node.takes.iter().any(|port| nodes[index].gives(port.kind));
        if !fits && node.known && nodes[index].known {
            let takes = names_of(node.takes.iter().map(|port| port.kind));
            let gives = names_of(nodes[index].gives.iter().copied());
            let message = format!("`{}` takes {takes}, and its input `{name}` gives {gives}", node.id);
            problems.push(Diagnostic::new(message, origin.clone()));
        } else if !found.contains(&index) {
            found.push(index);
        }
    }
    found
}

fn nearest(
    nodes: &[Node],
    wires: &Wires,
    at: usize,
    port: &Port,
    all_known: bool,
    types_giving: &dyn Fn(Kind) -> Vec<String>,
    problems: &mut Problems,
) -> Vec<Edge> {
    let (node, kind) = (&nodes[at], port.kind);
    let givers = |range: std::ops::Range<usize>| range.filter(|i| nodes[*i].gives(kind)).collect::<Vec<_>>();
    let direct = |from| Edge { from, feedback: false };
    match kind {
        Kind::Saved => return Vec::new(),
        Kind::Metrics => {
            // Two stages that take and emit metrics must not wait for each other: the lower one reads the upper one.
            let takes = |node: &Node| node.takes.iter().any(|port| port.kind == Kind::Metrics);
            let later = |i: usize| i >= at && (i == at || node.gives(Kind::Metrics) && takes(&nodes[i]));
            return givers(0..nodes.len()).into_iter().filter(|i| !later(*i)).map(direct).collect();
        }
        _ => {}
    }
    if port.previous {
        let last = givers(0..nodes.len()).last().map(|from| Edge { from: *from, feedback: true });
        if last.is_some() {
            return last.into_iter().collect();
        }
    }
    let above = givers(0..at);
    if let Some(nearest) = above.last() {
        let other = above.iter().rev().find(|i| !fed_by(wires, nodes, *nearest, **i, kind));
        if let (Some(other), true) = (other, all_known) {
            let (a, b) = (&nodes[*other].id, &nodes[*nearest].id);
            let message = format!("`{a}` and `{b}` both give {}: which does `{}` take?", kind.name(), node.id);
            problems
                .push(Diagnostic::new(message, node.place()).next(format!("write inputs = [\"{a}\"], or [\"{b}\"]")));
        }
        return vec![direct(*nearest)];
    }
    if port.role == Role::State
        && let Some(below) = givers(at..nodes.len()).last()
    {
        return vec![Edge { from: *below, feedback: true }];
    }
    if all_known {
        let problem = |message| Diagnostic::new(message, node.place());
        problems.push(match givers(at + 1..nodes.len()).first() {
            Some(below) => {
                let message =
                    format!("`{}` takes {}, which only `{}` below it gives", node.id, kind.name(), nodes[*below].id);
                problem(message).next(format!("move `{}` above `{}`", nodes[*below].id, node.id))
            }
            None => {
                let types = types_giving(kind);
                let problem = problem(format!("`{}` needs {}, which no stage produces", node.id, kind.name()));
                if types.is_empty() { problem } else { problem.next(format!("types that do: {}", types.join(", "))) }
            }
        });
    }
    Vec::new()
}

/// Whether `kind` from stage `from` reaches `to` through stages that take and emit `kind`.
fn fed_by(wires: &Wires, nodes: &[Node], to: usize, from: usize, kind: Kind) -> bool {
    to == from
        || nodes[to]
            .takes
            .iter()
            .zip(&wires[to])
            .filter(|(port, _)| port.kind == kind)
            .any(|(_, edges)| edges.iter().any(|edge| edge.from < to && fed_by(wires, nodes, edge.from, from, kind)))
}

/// Kinds that cannot be shared have a single consumer.
fn one_owner(nodes: &[Node], wires: &Wires, problems: &mut Problems) {
    let mut taken: Vec<(usize, Kind, usize)> = Vec::new();
    for (at, node) in nodes.iter().enumerate() {
        for (port, edges) in node.takes.iter().zip(&wires[at]).filter(|(port, _)| !port.kind.shareable()) {
            for edge in edges {
                let first = taken.iter().find(|(from, kind, _)| (*from, *kind) == (edge.from, port.kind));
                if let Some((_, kind, first)) = first {
                    let (giver, kind) = (&nodes[edge.from].id, kind.name());
                    let message = format!("`{}` and `{}` both take the {kind} of `{giver}`", nodes[*first].id, node.id);
                    problems.push(Diagnostic::new(message, node.place()).next("it can go to one stage only"));
                } else {
                    taken.push((edge.from, port.kind, at));
                }
            }
        }
    }
}

fn names_of(kinds: impl Iterator<Item = Kind>) -> String {
    let names: Vec<&str> = kinds.map(Kind::name).collect();
    if names.is_empty() { "nothing".into() } else { names.join(", ") }
}

/// The stages that feed stage `at` within a step.
pub(crate) fn feeds(wires: &Wires, at: usize) -> Vec<usize> {
    wires[at].iter().flatten().filter(|edge| !edge.feedback).map(|edge| edge.from).collect()
}

/// An order of `stages` stages in which every stage comes after those that feed it, as close as possible to the written
/// order; or a cycle.
pub(crate) fn order(stages: usize, feeds: &dyn Fn(usize) -> Vec<usize>) -> Result<Vec<usize>, Vec<usize>> {
    let mut done: Vec<usize> = Vec::new();
    while done.len() < stages {
        let next = (0..stages).find(|at| !done.contains(at) && feeds(*at).iter().all(|from| done.contains(from)));
        match next {
            Some(at) => done.push(at),
            None => {
                // Every remaining stage is fed by a remaining one: walk back until a stage occurs twice.
                let mut path: Vec<usize> = (0..stages).filter(|at| !done.contains(at)).take(1).collect();
                while let Some(from) =
                    path.last().and_then(|at| feeds(*at).into_iter().find(|from| !done.contains(from)))
                {
                    if let Some(start) = path.iter().position(|at| *at == from) {
                        path.drain(..start);
                        break;
                    }
                    path.push(from);
                }
                path.reverse();
                return Err(path);
            }
        }
    }
    Ok(done)
}

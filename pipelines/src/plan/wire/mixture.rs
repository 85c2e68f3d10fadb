//! Connects a stage that mixes sources: one port for each source that it names, fed by the last stage above it that the
//! rows or tokens of the source pass, or by the one of its `inputs` that they pass. If it names none, it mixes all sources
//! above it, in their order, or all that pass its `inputs`, in the order of these.
use super::{Edge, Node, Wires};
use crate::plan::PlannedStage;
use crate::problem::{Diagnostic, Problems};
use contract::Kind;

/// The kinds that can be mixed.
pub(super) const MIXED: [Kind; 2] = [Kind::Rows, Kind::Tokens];

/// Gives stages that mix sources the settings for what arrives at them, as [`wire`](super::wire) has found it.
pub(crate) fn settle_mixtures(stages: &mut [PlannedStage], nodes: &[Node]) {
    for stage in stages {
        let node = nodes.iter().find(|node| node.id == stage.id);
        let mixing = node.and_then(|node| stage.settings.mixing(*node.gives.first()?, &node.mixes.as_ref()?.0));
        if let Some(mixing) = mixing {
            stage.settings = mixing;
        }
    }
}

/// The sources that the stage `at` mixes if it names none.
pub(super) fn sources_above(nodes: &[Node], at: usize) -> Vec<String> {
    let mixture = Mixing { nodes, wires: &Wires::new(), at };
    let is_source = |source: &usize| mixture.is_source(&nodes[*source]);
    let found: Vec<usize> = match &nodes[at].inputs {
        None => (0..at).filter(is_source).collect(),
        Some((inputs, _)) => {
            let named = inputs.iter().filter_map(|id| nodes.iter().position(|node| node.id == *id));
            let passing = |input| (0..nodes.len()).filter(is_source).filter(move |s| mixture.passes(*s, input));
            named.flat_map(passing).collect()
        }
    };
    let mut sources: Vec<String> = Vec::new();
    for source in found.into_iter().map(|source| &nodes[source].id) {
        sources.extend((!sources.contains(source)).then(|| source.clone()));
    }
    sources
}

/// The edges of each port of the stage `at`.
pub(super) fn ports(nodes: &[Node], wires: &Wires, at: usize, problems: &mut Problems) -> Vec<Vec<Edge>> {
    let mixture = Mixing { nodes, wires, at };
    let Some((names, origin)) = &nodes[at].mixes else { return Vec::new() };
    if names.is_empty() && nodes.iter().all(|node| node.known) {
        let problem = Diagnostic::new(format!("`{}` has no source to mix", nodes[at].id), nodes[at].place());
        problems.push(problem.next("move the stages that read above it, or name those that feed it in `inputs`"));
    }
    let mut ports: Vec<Vec<Edge>> = Vec::new();
    for name in names {
        let fed = mixture.source(name).and_then(|source| mixture.feeding(source));
        ports.push(match fed {
            Ok(from) => vec![Edge { from, feedback: false }],
            Err(problem) => {
                problems.push(Diagnostic { origin: origin.clone(), ..*problem });
                Vec::new()
            }
        });
    }
    mixture.check(&ports, problems);
    ports.resize_with(nodes[at].takes.len(), Vec::new);
    ports
}

#[derive(Clone, Copy)]
struct Mixing<'a> {
    nodes: &'a [Node],
    wires: &'a Wires,
    /// The stage.
    at: usize,
}

impl Mixing<'_> {
    fn problem(&self, message: String) -> Diagnostic {
        Diagnostic::new(message, self.nodes[self.at].origin.clone())
    }

    fn is_source(&self, node: &Node) -> bool {
        node.takes.is_empty() && node.gives.iter().any(|kind| MIXED.contains(kind))
    }

    /// The source called `name`.
    fn source(&self, name: &str) -> Result<usize, Box<Diagnostic>> {
        let id = &self.nodes[self.at].id;
        let Some(found) = self.nodes.iter().position(|node| node.id == name) else {
            let sources = self.nodes.iter().filter(|node| self.is_source(node)).map(|node| node.id.as_str());
            let message = format!("`{id}` mixes `{name}`, and there is no such source");
            let listed: Vec<String> = sources.clone().map(|source| format!("`{source}`")).collect();
            let problem = self.problem(message).similar_to(name, sources);
            return Err(Box::new(if listed.is_empty() {
                problem
            } else {
                problem.next(format!("sources: {}", listed.join(", ")))
            }));
        };
        if self.nodes[found].known && !self.is_source(&self.nodes[found]) {
            let above = self
                .nodes
                .iter()
                .enumerate()
                .filter(|(source, node)| self.is_source(node) && self.passes(*source, found));
            let above: Vec<String> = above.map(|(_, node)| format!("`{}`", node.id)).collect();
            let problem = self.problem(format!("`{id}` mixes `{name}`, which is not a source"));
            let next = format!("name the source above it: {}", above.join(", "));
            return Err(Box::new(if above.is_empty() { problem } else { problem.next(next) }));
        }
        Ok(found)
    }

    /// The stage that feeds the port of `source`.
    fn feeding(&self, source: usize) -> Result<usize, Box<Diagnostic>> {
        let (node, name) = (&self.nodes[self.at], &self.nodes[source].id);
        let gives = |at: &usize| self.nodes[*at].gives.iter().any(|kind| MIXED.contains(kind));
        let last: Vec<usize> = match &node.inputs {
            Some((inputs, _)) => {
                let named = inputs.iter().filter_map(|id| self.nodes.iter().position(|node| node.id == *id));
                named.filter(|from| self.passes(source, *from)).collect()
            }
            None => {
                let passed: Vec<usize> = (0..self.at).filter(gives).filter(|at| self.passes(source, *at)).collect();
                let feeds = |at: usize| passed.iter().any(|other| *other != at && self.passes(at, *other));
                passed.iter().copied().filter(|at| !feeds(*at)).collect()
            }
        };
        match last[..] {
            [from] => Ok(from),
            [] if node.inputs.is_some() => {
                Err(Box::new(self.problem(format!("none of `{}.inputs` gets the rows or tokens of `{name}`", node.id))))
            }
            [] => {
                let message = format!("`{}` mixes `{name}`, which stands below it", node.id);
                Err(Box::new(self.problem(message).next(format!("move `{name}` above `{}`", node.id))))
            }
            [first, second, ..] => {
                let (first, second) = (&self.nodes[first].id, &self.nodes[second].id);
                let message = format!("`{}` can take `{name}` from `{first}` and from `{second}`", node.id);
                Err(Box::new(
                    self.problem(message)
                        .next(format!("name one of them in {}.inputs, and those of the other sources", node.id)),
                ))
            }
        }
    }

    /// Whether rows or tokens of stage `from` pass stage `to`, without passing the mixture.
    fn passes(&self, from: usize, to: usize) -> bool {
        let (mut seen, mut next) = (vec![self.at], vec![to]);
        while let Some(stage) = next.pop() {
            if stage == from {
                return true;
            }
            if !seen.contains(&stage) {
                seen.push(stage);
                next.extend(self.feeders(stage));
            }
        }
        false
    }

    /// The stages whose rows or tokens stage `to` takes.
    fn feeders(&self, to: usize) -> Vec<usize> {
        let node = &self.nodes[to];
        if let Some(ports) = self.wires.get(to) {
            let mixed = node.takes.iter().zip(ports).filter(|(port, _)| MIXED.contains(&port.kind));
            return mixed.flat_map(|(_, edges)| edges).map(|edge| edge.from).collect();
        }
        // A stage below that has not been connected yet.
        let gives = |from: &usize| {
            node.takes.iter().any(|port| MIXED.contains(&port.kind) && self.nodes[*from].gives(port.kind))
        };
        match &node.inputs {
            Some((inputs, _)) => {
                let named = inputs.iter().filter_map(|id| self.nodes.iter().position(|node| node.id == *id));
                named.filter(gives).collect()
            }
            None => (0..to).rev().find(gives).into_iter().collect(),
        }
    }

    /// Checks that all sources arrive as the same kind and that every input is used.
    fn check(&self, ports: &[Vec<Edge>], problems: &mut Problems) {
        let node = &self.nodes[self.at];
        let mut arriving = ports.iter().flatten().map(|edge| &self.nodes[edge.from]);
        let tokens = |node: &Node| node.gives(Kind::Tokens);
        if let Some(first) = arriving.next()
            && let Some(other) = arriving.find(|other| tokens(other) != tokens(first))
        {
            let (rows, with_tokens) = if tokens(first) { (other, first) } else { (first, other) };
            let message = format!(
                "`{}` gets rows from `{}` and tokens from `{}`, and mixes one or the other",
                node.id, rows.id, with_tokens.id
            );
            let next = format!(
                "tokenize `{}` in a stage above `{}`, or let a stage that tokenizes take its input from `{}`",
                rows.id, node.id, node.id
            );
            problems.push(Diagnostic::new(message, node.place()).next(next));
        }
        let Some((inputs, origin)) = &node.inputs else { return };
        let unused = |id: &&String| !ports.iter().flatten().any(|edge| self.nodes[edge.from].id == **id);
        // What is wrong with an unknown type is said elsewhere.
        let there = |id: &&String| self.nodes.iter().any(|node| node.id == **id);
        let all_known = self.nodes.iter().all(|node| node.known);
        let sources: Vec<usize> = (0..self.nodes.len()).filter(|at| self.is_source(&self.nodes[*at])).collect();
        for id in inputs.iter().filter(there).filter(unused).filter(|_| all_known) {
            let at = self.nodes.iter().position(|node| node.id == *id).unwrap_or_default();
            let (why, next) = match sources.iter().any(|source| self.passes(*source, at)) {
                true => ("whose source has no share in the mixture", "give it one, or leave it out"),
                false => ("which passes on the rows of no source above the mixture", "leave it out"),
            };
            let message = format!("`{}.inputs` names `{id}`, {why}", node.id);
            problems.push(Diagnostic::new(message, origin.clone()).next(next));
        }
    }
}

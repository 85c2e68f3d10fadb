//! The purpose of a graph, and whether each of its stages fits it.
//!
//! - A graph in which a stage takes gradients trains a model; any other prepares a corpus.
//! - What a stage emits must be used: a filter whose output nobody reads would drop nothing.
//! - Rows and tokens of several sources may only meet in a stage that mixes them.
//! - A stage that needs the whole corpus belongs to a preparation, below all stages that work row by row and below the one
//!   that mixes sources.
use super::resolve::located;
use super::{Edge, PlannedStage, Resolved, Table, order_of};
use crate::problem::{Diagnostic, Origin, Problems};
use contract::{Goal, Kind};
use std::collections::BTreeSet;

/// Whether a stage ends a preparation: it emits nothing, or only records of what it has written.
fn ends(stage: &PlannedStage) -> bool {
    stage.settings.gives().iter().all(|kind| *kind == Kind::Records)
}

/// The purpose of the graph of `stages`.
pub(crate) fn goal(stages: &[PlannedStage]) -> Goal {
    let trains = stages.iter().flat_map(|stage| stage.settings.takes()).any(|port| port.kind == Kind::Gradient);
    if trains { Goal::Train } else { Goal::PrepareCorpus }
}

/// Checks stages that have been connected without problems.
pub(crate) fn check(stages: &[PlannedStage], resolved: &Resolved, problems: &mut Problems) {
    let plan = Check { stages, resolved, goal: goal(stages) };
    plan.unused(problems);
    plan.several_sources(problems);
    plan.several_mixtures(problems);
    for stage in stages {
        let wrong = stage.settings.check_goal(plan.goal).into_iter();
        problems.0.extend(wrong.map(|problem| located(&stage.id, problem, plan.table(&stage.id))));
    }
    match plan.goal {
        Goal::Train => plan.training(problems),
        Goal::PrepareCorpus => plan.preparation(problems),
    }
}

struct Check<'a> {
    stages: &'a [PlannedStage],
    resolved: &'a Resolved,
    goal: Goal,
}

impl Check<'_> {
    fn table(&self, id: &str) -> &Table {
        static NONE: Table = Table { origin: Origin::Code, entries: Vec::new() };
        self.resolved.stages.iter().find(|(other, _)| other == id).map_or(&NONE, |(_, table)| table)
    }

    /// The file that determines the place of stage `id` among all stages: the one that gives its type.
    fn file(&self, id: &str) -> Option<&str> {
        let table = self.table(id);
        table.get("type").map_or(&table.origin, |entry| &entry.origin).file_name()
    }

    /// A problem with stage `at`, located at its `inputs` if it has any.
    fn problem(&self, at: usize, message: String) -> Diagnostic {
        let table = self.table(&self.stages[at].id);
        let origin = table.get("inputs").map_or(&table.origin, |entry| &entry.origin);
        Diagnostic::new(message, origin.clone())
    }

    /// The edges into stage `to` that carry `kind`.
    fn edges(&self, to: usize, kind: Kind) -> impl Iterator<Item = &Edge> {
        let ports = self.stages[to].settings.takes().into_iter().zip(&self.stages[to].inputs);
        ports.filter(move |(port, _)| port.kind == kind).flat_map(|(_, edges)| edges)
    }

    /// The stages that take `kind` from stage `from`.
    fn takers(&self, from: usize, kind: Kind) -> impl Iterator<Item = usize> {
        (0..self.stages.len()).filter(move |to| self.edges(*to, kind).any(|edge| edge.from == from))
    }

    fn unused(&self, problems: &mut Problems) {
        // Packets of the other kinds may be unused: metrics, and state that no checkpoint saves. Records are the result of a
        // preparation.
        const MUST_BE_CONSUMED: [Kind; 8] = [
            Kind::Rows,
            Kind::Tokens,
            Kind::Batch,
            Kind::Parameters,
            Kind::Activations,
            Kind::LossGradient,
            Kind::Gradient,
            Kind::Records,
        ];
        // A stage that has no place in a training graph is not to be moved within it.
        let misplaced = |stage: &PlannedStage| self.goal == Goal::Train && stage.settings.needs_whole_corpus();
        for (at, stage) in self.stages.iter().enumerate().filter(|(_, stage)| !misplaced(stage)) {
            let is_result = |kind: &Kind| self.goal == Goal::PrepareCorpus && *kind == Kind::Records;
            let unconsumed =
                stage.settings.gives().into_iter().filter(|kind| MUST_BE_CONSUMED.contains(kind) && !is_result(kind));
            for kind in unconsumed.filter(|kind| self.takers(at, *kind).next().is_none()) {
                let (id, name) = (&stage.id, kind.name());
                let problem = self.problem(at, format!("no stage uses the {name} of `{id}`"));
                let mixture = self.stages.iter().find(|stage| stage.settings.mixes().is_some());
                if let Some(mixture) = mixture.filter(|_| stage.settings.takes().is_empty()) {
                    let next = match self.goal {
                        Goal::Train => format!("give it a share in {}.weights, or remove it", mixture.id),
                        Goal::PrepareCorpus => format!("move it above `{}`, or name it in {0}.inputs", mixture.id),
                    };
                    problems.push(problem.next(next));
                    continue;
                }
                let other = (0..self.stages.len()).find(|to| *to != at && self.edges(*to, kind).next().is_some());
                problems.push(match other.map(|to| &self.stages[to].id) {
                    Some(to) => {
                        let inputs = format!("write {to}.inputs = [\"{id}\"]");
                        // A stage that is added to a file stands below all stages of the file that it extends.
                        match self.file(id).is_some_and(|file| self.file(to) == Some(file)) {
                            true => problem.next(format!("move it above `{to}`, or {inputs}")),
                            false => problem.next(inputs),
                        }
                    }
                    None => problem.next("add a stage that uses them, or remove this one"),
                });
            }
        }
    }

    /// For each stage, the sources whose rows or tokens reach it; a stage that mixes counts as one itself.
    fn sources(&self) -> Vec<BTreeSet<usize>> {
        let mut sources = vec![BTreeSet::new(); self.stages.len()];
        for at in order_of(self.stages) {
            let stage = &self.stages[at];
            let from = [Kind::Rows, Kind::Tokens].into_iter().flat_map(|kind| self.edges(at, kind));
            sources[at] = match stage.settings.takes().is_empty() || stage.settings.mixes().is_some() {
                true => BTreeSet::from([at]),
                false => from.flat_map(|edge| sources[edge.from].clone()).collect(),
            };
        }
        sources
    }

    fn several_sources(&self, problems: &mut Problems) {
        let sources = self.sources();
        for at in order_of(self.stages).into_iter().filter(|at| self.stages[*at].settings.mixes().is_none()) {
            let edges = [Kind::Rows, Kind::Tokens].map(|kind| self.edges(at, kind).map(|edge| edge.from).collect());
            let twice: Option<&Vec<usize>> = edges.iter().find(|from: &&Vec<usize>| from.len() > 1);
            let met: Vec<usize> = match twice {
                Some(from) => from.clone(),
                None if sources[at].len() > 1 => sources[at].iter().copied().collect(),
                None => continue,
            };
            let names: Vec<String> = met.iter().map(|from| format!("`{}`", self.stages[*from].id)).collect();
            let (id, names) = (&self.stages[at].id, names.join(" and "));
            let message = format!("`{id}` gets input from {names}, but cannot mix sources");
            let next = "mix them above it with a stage of type `mixture`, or leave one of them in `inputs`";
            return problems.push(self.problem(at, message).next(next));
        }
    }

    /// There is one mixture: which source a sequence comes from is decided once.
    fn several_mixtures(&self, problems: &mut Problems) {
        let mixtures: Vec<usize> =
            (0..self.stages.len()).filter(|at| self.stages[*at].settings.mixes().is_some()).collect();
        if let [first, second, ..] = mixtures[..] {
            let (first, second) = (&self.stages[first].id, &self.stages[second].id);
            let message = format!("`{first}` and `{second}` both mix sources");
            problems.push(self.problem(mixtures[1], message).next("name all sources in one mixture"));
        }
    }

    fn training(&self, problems: &mut Problems) {
        for (at, stage) in self.stages.iter().enumerate().filter(|(_, stage)| stage.settings.needs_whole_corpus()) {
            let message =
                format!("`{}` compares all documents of a corpus, which is not possible in a training graph", stage.id);
            let next = "put it into a preparation, a graph that ends in a stage of type `parquet`, and train on what that writes";
            problems.push(self.problem(at, message).next(next));
        }
    }

    fn preparation(&self, problems: &mut Problems) {
        let flows = |kinds: &[Kind]| kinds.iter().all(|kind| [Kind::Rows, Kind::Tokens].contains(kind));
        let whole: Vec<usize> =
            order_of(self.stages).into_iter().filter(|at| self.stages[*at].settings.needs_whole_corpus()).collect();
        for (at, stage) in self.stages.iter().enumerate() {
            let (takes, gives) = (stage.settings.takes(), stage.settings.gives());
            let takes: Vec<Kind> = takes.into_iter().map(|port| port.kind).collect();
            let (id, type_name) = (&stage.id, stage.type_name);
            if !flows(&takes) || !(flows(&gives) || ends(stage)) {
                let message = format!("`{id}` (type `{type_name}`) cannot be used in a graph that does not train");
                problems.push(
                    self.problem(at, message)
                        .next("no stage consumes gradients: add the missing stages, or remove this one"),
                );
            }
            let mixes = stage.settings.mixes().is_some();
            if mixes && gives != [Kind::Rows] {
                let message = format!("`{id}` mixes tokens, and a preparation mixes rows, to compare their texts");
                problems.push(self.problem(at, message).next(format!("tokenize below `{id}`")));
            }
            if let Some(above) = whole.iter().find(|above| mixes && self.reaches(**above, at)) {
                let above = &self.stages[*above].id;
                let message =
                    format!("`{above}` stands above `{id}`, and would compare the documents of one source only");
                problems.push(self.problem(at, message).next(format!("move it below `{id}`")));
            }
            let row_by_row = takes == [Kind::Rows] && gives == [Kind::Rows] && !whole.contains(&at) && !mixes;
            if let Some(above) = whole.iter().find(|above| row_by_row && self.reaches(**above, at)) {
                let above = &self.stages[*above].id;
                let message = format!("`{id}` stands below `{above}`, which compares what the stages above it leave");
                problems.push(self.problem(at, message).next(format!("move it above `{above}`")));
            }
        }
        let id = |at: usize| &self.stages[at].id;
        if let [first, second, ..] = whole[..] {
            let message =
                format!("`{}` is the second stage after `{}` that compares all documents", id(second), id(first));
            problems.push(self.problem(second, message).next("one is enough: remove this one"));
        }
        let ends: Vec<usize> = (0..self.stages.len()).filter(|at| ends(&self.stages[*at])).collect();
        if let [first, second, ..] = ends[..] {
            let message = format!("`{}` and `{}` both write the result of the preparation", id(first), id(second));
            problems.push(self.problem(second, message).next("it writes one corpus: remove one of them"));
        }
    }

    /// Whether rows of stage `from` reach stage `to`.
    fn reaches(&self, from: usize, to: usize) -> bool {
        self.edges(to, Kind::Rows).any(|edge| edge.from == from || self.reaches(from, edge.from))
    }
}

//! From a configuration file to a checked plan: parse, then check, and nothing is opened but configuration.
//!
//! - `files`: TOML with line numbers and `extends`
//! - `overrides`: what the command line changes
//! - `initial`: what the model that the run starts from determines
//! - `resolve`: every key known, every value of its type, defaults filled in
//! - [`RunSettings`]: the `[run]` table; [`PlannedStage`]: a stage of the graph
//! - `wire`: which stage feeds which; `goal`: what the graph is for, and whether each stage has a place in it
//! - `whole`: checks of files, sizes and memory, which `check`, `run`, `explain` and `--dry-run` share
//! - `tables`: a configuration as it is, for commands that need no plan
//! - `render`: the resolved configuration as TOML, each value with its origin
//! - [`check_registry`]: what every registered stage type owes its users
//!
//! Paths in a configuration are kept as written: relative ones are relative to the current directory, but for
//! `extends`, which is relative to the file that says it.
mod aliases;
pub(crate) mod files;
mod goal;
mod initial;
mod overrides;
mod registry;
mod render;
mod resolve;
mod run;
mod stage;
mod syntax;
mod tables;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod toys;
mod values;
mod whole;
mod wire;

pub use overrides::{Change, Changed, Overrides};
pub use registry::{check_registry, find_type};
pub use run::RunSettings;
pub use stage::{PlannedStage, Wired};
pub use values::{Entry, Table};
pub use whole::Scope;
pub use wire::Edge;

pub(crate) use overrides::sets;
pub(crate) use registry::types_giving;
pub(crate) use resolve::{defaults, is_retired};
pub(crate) use tables::{configuration, outline, unknown_key, value_of};
pub(crate) use values::{json_of_item, shorten_floats, toml_key, toml_of};
pub(crate) use wire::order;

use crate::problem::{Diagnostic, Origin, Problems};
use contract::{Effect, Facts, Goal, Mixture, ModelFacts, Settings, StageKeys, StageType, Updates};
use resolve::{COMMON, Schema};
use serde_json::{Map, Value};
use std::path::Path;
use std::sync::Arc;

/// A graph of stages, ready to be built.
#[derive(Debug)]
pub struct Plan {
    /// The `[run]` table.
    pub run: RunSettings,
    /// The stages, as written.
    pub stages: Vec<PlannedStage>,
    /// Every value with its origin; empty for a plan made in code.
    pub resolved: Resolved,
    /// What the graph is for.
    pub goal: Goal,
}

/// A complete configuration. Two are equal if their values are, whatever the origins of the values.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resolved {
    /// The `[run]` table.
    pub run: Table,
    /// The stages' tables, with `type` and, if given, `inputs`.
    pub stages: Vec<(String, Table)>,
}

/// A plan as far as it can be read.
struct Draft {
    plan: Plan,
    /// What is wrong with it.
    problems: Problems,
    /// Stages with wrong values, in place of which their settings have the defaults.
    unsound: Vec<String>,
}

impl Plan {
    /// Reads the configuration `path` with what the command line changes. All problems are reported at once. Looks at no
    /// other file: see [`checked`](Self::checked).
    pub fn load(path: &Path, overrides: &Overrides, registry: &[StageType]) -> Result<Plan, Problems> {
        let Draft { plan, mut problems, .. } = Self::read(path, overrides, registry)?;
        problems.sort();
        problems.or(plan)
    }

    /// The plan as far as it can be read.
    ///
    /// # Errors
    /// The problems, if no plan can be made of the rest.
    fn read(path: &Path, overrides: &Overrides, registry: &[StageType]) -> Result<Draft, Problems> {
        let mut problems = Problems::default();
        let mut raw = files::load(path, &mut problems);
        if raw.incomplete {
            // What is missing would be reported as well.
            return Err(problems);
        }
        if raw.stages.is_empty() {
            if problems.is_empty() {
                let message = "there is no stage in the configuration";
                problems.push(
                    Diagnostic::new(message, Origin::file(path.display().to_string()))
                        .next("add [stage.NAME] tables; `pipeline stages` lists the types"),
                );
            }
            return Err(problems);
        }
        if raw.stages.len() > 1 && raw.stages.iter().all(|(_, table)| table.get("type").is_none()) {
            let ids: Vec<String> = raw.stages.iter().map(|(id, _)| format!("`{id}`")).collect();
            let message = format!("no stage has a `type`: {}", ids.join(", "));
            problems.push(
                Diagnostic::new(message, raw.stages[0].1.origin.clone()).next(
                    "begin the file with extends = \"builtin:base\", or another configuration that has the types",
                ),
            );
            return Err(problems);
        }
        overrides.apply(&mut raw, registry, &mut problems);
        initial::fill(&mut raw, registry);
        let everywhere = everywhere(&raw, registry);
        let (run_table, run) = run_settings(path, &raw.run, &everywhere, &mut problems);
        let (mut stages, mut unsound) = (Vec::new(), Vec::new());
        let mut nodes = Vec::new();
        let mut resolved = Resolved { run: run_table, stages: Vec::new() };
        for (id, table) in &raw.stages {
            check_id(id, table, &mut problems);
            let inputs = inputs_of(id, table, &mut problems);
            let before = problems.0.len();
            let known = type_of(id, table, &raw, registry, &mut problems);
            let (filled, settings) = match known {
                Some(stage_type) => resolve::stage(id, table, stage_type, &everywhere, &mut problems),
                None => (Table::default(), None),
            };
            let mixes = settings.as_ref().and_then(|settings| settings.mixes());
            let origin_of_sources = table.get("weights").map_or(&table.origin, |entry| &entry.origin).clone();
            nodes.push(wire::Node {
                id: id.clone(),
                mixes: mixes.map(|mixture| (mixture.sources, origin_of_sources)),
                takes: settings.as_ref().map(|s| s.takes()).unwrap_or_default(),
                gives: settings.as_ref().map(|s| s.gives()).unwrap_or_default(),
                known: settings.is_some(),
                origin: table.origin.clone(),
                inputs,
            });
            resolved.stages.push((id.clone(), with_common(table, filled)));
            if let (Some(stage_type), Some(settings)) = (known, settings) {
                let (type_name, inputs) = (stage_type.name, Vec::new());
                let keys = (!stage_type.observes).then(|| stage_type.keys());
                stages.push(PlannedStage { id: id.clone(), type_name, keys, settings, inputs });
                if problems.0.len() > before {
                    unsound.push(id.clone());
                }
            }
        }
        let wires = wire::wire(&mut nodes, &|kind| registry::types_giving(registry, kind), &mut problems);
        for (stage, inputs) in stages.iter_mut().zip(wires) {
            stage.inputs = inputs;
        }
        wire::settle_mixtures(&mut stages, &nodes);
        if problems.is_empty() {
            goal::check(&stages, &resolved, &mut problems);
        }
        let goal = goal::goal(&stages);
        Ok(Draft { plan: Plan { run, stages, resolved, goal }, problems, unsound })
    }

    /// A plan made in code: only the wiring is worked out and checked.
    pub fn of(stages: Vec<(String, Arc<dyn Settings>)>) -> Result<Plan, Problems> {
        Self::of_wired(stages.into_iter().map(|(id, settings)| Wired { id, settings, inputs: None }).collect())
    }

    /// The same of stages that may name what feeds them.
    pub fn of_wired(stages: Vec<Wired>) -> Result<Plan, Problems> {
        let mut problems = Problems::default();
        let mut nodes: Vec<wire::Node> = Vec::new();
        for Wired { id, settings, inputs } in &stages {
            if nodes.iter().any(|node| node.id == *id) {
                problems.push(Diagnostic::new(format!("two stages are called `{id}`"), Origin::Code));
            }
            nodes.push(wire::Node {
                id: id.clone(),
                mixes: settings.mixes().map(|mixture| (mixture.sources, Origin::Code)),
                takes: settings.takes(),
                gives: settings.gives(),
                known: true,
                origin: Origin::Code,
                inputs: inputs.clone().map(|inputs| (inputs, Origin::Code)),
            });
        }
        let wires = wire::wire(&mut nodes, &|_| Vec::new(), &mut problems);
        let planned = |(Wired { id, settings, .. }, inputs): (Wired, _)| PlannedStage {
            id,
            type_name: "",
            keys: Some(Vec::new()),
            settings,
            inputs,
        };
        let stages: Vec<PlannedStage> = stages.into_iter().zip(wires).map(planned).collect();
        let goal = goal::goal(&stages);
        problems.or(Plan { run: RunSettings::default(), stages, resolved: Resolved::default(), goal })
    }

    /// Indices of [`stages`](Plan::stages) in an order in which every stage follows those that feed it, except through
    /// feedback. This is the order of the configuration if that is such an order.
    pub fn order(&self) -> Vec<usize> {
        order_of(&self.stages)
    }

    /// The keys of stage `id` that affect one of `effects`, with their values; none of a stage that only observes.
    pub fn values<'a>(&'a self, id: &str, effects: &[Effect]) -> impl Iterator<Item = (&'a str, &'a Value)> + use<'a> {
        let (keys, effects) = (self.stage(id).and_then(|stage| stage.keys.as_ref()), effects.to_vec());
        let effect = move |name: &str| {
            let key = keys?.iter().find(|key| key.name == name);
            Some(key.map_or(Effect::Results, |key| key.effect))
        };
        let table = self.resolved.stages.iter().find(|(other, _)| other == id).map(|(_, table)| table);
        let entries =
            table.into_iter().flat_map(|table| &table.entries).map(|(key, entry)| (key.as_str(), &entry.value));
        entries.filter(move |(key, _)| effect(key).is_some_and(|effect| effects.contains(&effect)))
    }

    /// The facts of the model that a stage computes; `None` if no stage has one.
    pub fn model(&self, facts: &Facts) -> Option<ModelFacts> {
        self.stages.iter().find_map(|stage| stage.settings.model(facts))
    }

    /// How the parameters of `model` are updated, if a stage says so.
    pub fn updates(&self, model: &ModelFacts) -> Option<Updates> {
        self.stages.iter().find_map(|stage| stage.settings.updates(model))
    }

    /// How sources are mixed, if a stage does that.
    pub fn mixture(&self) -> Option<Mixture> {
        self.stages.iter().find_map(|stage| stage.settings.mixes())
    }

    /// The stage called `id`.
    pub fn stage(&self, id: &str) -> Option<&PlannedStage> {
        self.stages.iter().find(|stage| stage.id == id)
    }
}

/// The stages from which packets reach stage `at` within a step, sources first.
pub(crate) fn upstream(stages: &[PlannedStage], at: usize) -> Vec<usize> {
    let mut found = vec![false; stages.len()];
    let mut next = vec![at];
    while let Some(stage) = next.pop() {
        for edge in stages[stage].inputs.iter().flatten().filter(|edge| !edge.feedback) {
            if !std::mem::replace(&mut found[edge.from], true) {
                next.push(edge.from);
            }
        }
    }
    order_of(stages).into_iter().filter(|stage| found[*stage]).collect()
}

/// See [`Plan::order`].
fn order_of(stages: &[PlannedStage]) -> Vec<usize> {
    let wires = stages.iter().map(|stage| stage.inputs.clone()).collect();
    wire::order(stages.len(), &|at| wire::feeds(&wires, at)).unwrap_or_default()
}

/// Every key of every table of the configuration: the table, as a file writes it, and the key.
fn everywhere(raw: &files::Raw, registry: &[StageType]) -> Vec<(String, &'static str)> {
    let mut all: Vec<(String, &'static str)> =
        RunSettings::keys().iter().map(|key| ("[run]".to_owned(), key.name)).collect();
    for (id, table) in &raw.stages {
        let name = table.get("type").and_then(|entry| entry.value.as_str());
        let known = registry.iter().find(|known| Some(known.name) == name);
        let keys = known.map(StageType::keys).unwrap_or_default();
        all.extend(keys.iter().map(|key| (format!("[stage.{id}]"), key.name)));
    }
    all
}

fn run_settings(
    path: &Path,
    given: &Table,
    everywhere: &[(String, &'static str)],
    problems: &mut Problems,
) -> (Table, RunSettings) {
    let before = problems.0.len();
    let mut defaults = match serde_json::to_value(RunSettings::default()) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(),
    };
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    defaults.insert("name".into(), stem.into());
    let parses = |value| serde_json::from_value::<RunSettings>(value).map(drop).map_err(|error| error.to_string());
    let keys: Vec<&str> = RunSettings::keys().iter().map(|key| key.name).collect();
    let listed = format!("keys: {}", keys.join(", "));
    let schema = Schema { name: "run", defaults, keys: RunSettings::keys(), everywhere, listed, parses: &parses };
    let filled = resolve::fill(&schema, given, problems);
    let run: RunSettings = serde_json::from_value(resolve::object(&filled)).unwrap_or_default();
    if problems.0.len() == before {
        run.check(&filled, problems);
    }
    (filled, run)
}

fn type_of<'a>(
    id: &str,
    table: &Table,
    raw: &files::Raw,
    registry: &'a [StageType],
    problems: &mut Problems,
) -> Option<&'a StageType> {
    let entry = table.get("type");
    let Some(name) = entry.and_then(|entry| entry.value.as_str()) else {
        let message = match entry {
            Some(_) => format!("`{id}.type` must be the name of a stage type, in quotes"),
            None => format!("stage `{id}` has no `type`"),
        };
        let problem = Diagnostic::new(message, table.origin_of("type"));
        // The name is more often wrong than the type forgotten: the tables of stages that `extends` provides have types.
        let typed = raw.stages.iter().filter(|(_, other)| other.get("type").is_some()).map(|(id, _)| id.as_str());
        let stages = problem.clone().similar_to(id, typed);
        problems.push(match stages.similar.first() {
            Some(stage) if entry.is_none() => {
                let next = format!("for the stage `{stage}` write [stage.{stage}]; a new stage needs a type");
                stages.next(next)
            }
            _ => problem.similar_to(id, registry.iter().map(|t| t.name)).next("`pipeline stages` lists all"),
        });
        return None;
    };
    match find_type(registry, name, table.origin_of("type")) {
        Ok(found) => Some(found),
        Err(wrong) => {
            problems.0.extend(wrong.0);
            None
        }
    }
}

/// Names of stages stand in `--set`, in file names and in messages.
fn check_id(id: &str, table: &Table, problems: &mut Problems) {
    let plain = !id.is_empty() && id.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    if !plain || id == "run" {
        let message = format!("a stage cannot be called `{}`", id.escape_debug());
        let next = if plain { "that is the run's own table" } else { "use letters, digits, _ and -" };
        problems.push(Diagnostic::new(message, table.origin.clone()).next(next));
    }
}

fn inputs_of(id: &str, table: &Table, problems: &mut Problems) -> Option<(Vec<String>, Origin)> {
    let entry = table.get("inputs")?;
    match serde_json::from_value::<Vec<String>>(entry.value.clone()) {
        Ok(names) => Some((names, entry.origin.clone())),
        Err(_) => {
            let message = format!("`{id}.inputs` must be a list of stages");
            problems.push(Diagnostic::new(message, entry.origin.clone()).next("for example inputs = [\"read\"]"));
            None
        }
    }
}

/// `type` and `inputs` before the stage's own keys.
fn with_common(given: &Table, filled: Table) -> Table {
    let common = COMMON.iter().filter(|key| filled.get(key).is_none());
    let mut entries: Vec<_> = common.filter_map(|key| Some(((*key).to_owned(), given.get(key)?.clone()))).collect();
    entries.extend(filled.entries);
    Table { origin: given.origin.clone(), entries }
}

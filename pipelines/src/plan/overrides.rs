//! What changes a configuration: the arm of an experiment, then options of the command line: `--stage`, `--set`,
//! `--sample`, `--epochs` and `--workers`, applied in this order.
use super::files::{Raw, load_table, load_table_of, remove_alternative};
use super::values::{Entry, Table, json_of_value};
use crate::problem::{Diagnostic, Origin, Problems};
use contract::{StageKeys, StageType};
use serde_json::Value;
use std::path::PathBuf;

/// A change of a configuration by the file of an experiment.
#[derive(Clone, Debug)]
pub struct Change {
    /// Where the file says it.
    pub origin: Origin,
    /// What it says.
    pub what: Changed,
}

/// See [`Change`].
#[derive(Clone, Debug)]
pub enum Changed {
    /// The file that replaces the table of a stage, as with `--stage`.
    Stage(String, PathBuf),
    /// The value of a key, which is written as with `--set`.
    Key(String, Value),
    /// The keys of a stage's table, as in a file that extends the configuration.
    Table(String, Table),
}

/// Changes of a configuration by the command line.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// What the file of an experiment changes.
    pub changes: Vec<Change>,
    /// `--set`: `STAGE.KEY=VALUE` or `run.KEY=VALUE`. The value is TOML, or else a string.
    pub set: Vec<String>,
    /// `--stage`: a stage, and the file that replaces its table. If the file has no `inputs`, those of the stage are
    /// kept.
    pub stage: Vec<(String, PathBuf)>,
    /// `--sample`: the same as `--set read.sample=N`.
    pub sample: Option<u64>,
    /// `--epochs`: `run.max_epochs`, instead of `run.max_steps`.
    pub epochs: Option<f64>,
    /// `--workers`: `run.workers`.
    pub workers: Option<usize>,
}

impl Overrides {
    pub(crate) fn apply(&self, raw: &mut Raw, registry: &[StageType], problems: &mut Problems) {
        for Change { origin, what } in &self.changes {
            match what {
                Changed::Stage(id, file) => {
                    let load = |problems: &mut Problems| load_table_of(id, file, origin.clone(), problems);
                    let next = "write stage.NAME = \"FILE\"";
                    replace_stage(raw, id, origin.clone(), next, load, problems);
                }
                Changed::Key(path, value) => {
                    let next = "write \"STAGE.KEY\" = VALUE, for example \"optimize.learning_rate\" = 3e-4";
                    let wrong = |message| Diagnostic::new(message, origin.clone()).next(next);
                    set_value(raw, path, value.clone(), origin.clone(), registry, &wrong, problems);
                }
                Changed::Table(id, table) => {
                    raw.overlay(Raw { stages: vec![(id.clone(), table.clone())], ..Raw::default() });
                }
            }
        }
        for (id, file) in &self.stage {
            let origin = Origin::Option(format!("--stage {id}={}", file.display()));
            let load = |problems: &mut Problems| load_table(id, file, problems);
            replace_stage(raw, id, origin, "write --stage STAGE=FILE", load, problems);
        }
        for text in &self.set {
            set(raw, text, Origin::Option(format!("--set {text}")), registry, problems);
        }
        if let (Some(epochs), Some(text)) = (self.epochs, self.set.iter().find(|text| sets(text, "max_steps"))) {
            let message = format!("`--epochs {epochs}` and `--set {text}` are both given: the run has one length");
            problems.push(Diagnostic::new(message, Origin::Option(format!("--epochs {epochs}"))).next("leave out one"));
        }
        if let (Some(n), None) = (self.sample, raw.stage("read")) {
            let message = "`--sample` needs a stage called `read`";
            problems
                .push(Diagnostic::new(message, Origin::Option(format!("--sample {n}"))).next("it sets read.sample"));
        }
        let sample = self.sample.filter(|_| raw.stage("read").is_some());
        let options = [
            ("--sample", "read.sample", sample.map(Value::from)),
            ("--epochs", "run.max_epochs", self.epochs.map(Value::from)),
            ("--workers", "run.workers", self.workers.map(Value::from)),
        ];
        for (option, key, value) in options {
            if let Some(value) = value {
                set(raw, &format!("{key}={value}"), Origin::Option(format!("{option} {value}")), registry, problems);
            }
        }
    }
}

/// Whether `--set` with `text` sets `key` of the `[run]` table.
pub(crate) fn sets(text: &str, key: &str) -> bool {
    let path = text.split_once('=').map_or(text, |(path, _)| path);
    path.trim().strip_prefix("run.").is_some_and(|rest| rest.trim() == key)
}

fn replace_stage(
    raw: &mut Raw,
    id: &str,
    origin: Origin,
    next: &str,
    load: impl FnOnce(&mut Problems) -> Option<Table>,
    problems: &mut Problems,
) {
    let ids: Vec<String> = raw.stages.iter().map(|(id, _)| id.clone()).collect();
    let Some(old) = raw.stage_mut(id) else {
        let message = format!("there is no stage `{id}` to replace");
        let ids = ids.iter().map(String::as_str);
        problems.push(Diagnostic::new(message, origin).similar_to(id, ids).next(next));
        return;
    };
    let Some(mut table) = load(problems) else { return };
    if let (None, Some(inputs)) = (table.get("inputs"), old.get("inputs")) {
        table.set("inputs", inputs.clone());
    }
    *old = table;
}

fn set(raw: &mut Raw, text: &str, origin: Origin, registry: &[StageType], problems: &mut Problems) {
    let wrong = |message: String| {
        Diagnostic::new(message, origin.clone()).next("write STAGE.KEY=VALUE, for example optimize.learning_rate=3e-4")
    };
    let Some((path, value)) = text.split_once('=') else {
        return problems.push(wrong(format!("`{text}` has no `=`")));
    };
    let value = match value.trim().parse::<toml_edit::Value>().map(|value| json_of_value(&value)) {
        Ok(Ok(value)) => value,
        Ok(Err(message)) => return problems.push(wrong(message)),
        Err(_) => Value::from(value),
    };
    set_value(raw, path, value, origin.clone(), registry, &wrong, problems);
}

/// Sets the key that `path` writes; `wrong` makes a problem of a message.
fn set_value(
    raw: &mut Raw,
    path: &str,
    value: Value,
    origin: Origin,
    registry: &[StageType],
    wrong: &dyn Fn(String) -> Diagnostic,
    problems: &mut Problems,
) {
    let keys: Vec<String> = match toml_edit::Key::parse(path.trim()) {
        Ok(keys) => keys.iter().map(|key| key.get().to_owned()).collect(),
        Err(_) => return problems.push(wrong(format!("`{path}` is not a key"))),
    };
    let mut keys: &[String] = &keys;
    if keys.len() > 2 && keys[0] == "stage" && raw.stage("stage").is_none() {
        keys = &keys[1..];
    }
    let entry = Entry { value, origin };
    let (table, defaults) = match keys {
        [table, _, ..] if table == "run" => (Some(&mut raw.run), Value::Null),
        [table, _, ..] => {
            let defaults = raw.stage(table).map(|table| defaults_of(table, registry)).unwrap_or_default();
            (raw.stage_mut(table), defaults)
        }
        _ => (None, Value::Null),
    };
    let Some(table) = table else {
        let names = full_names(raw, registry);
        return problems
            .push(wrong(format!("there is no key `{path}`")).similar_to(path, names.iter().map(String::as_str)));
    };
    remove_alternative(table, &keys[1]);
    if let Err(message) = assign(table, &keys[1..], entry, &defaults) {
        problems.push(wrong(format!("`{path}`: {message}")));
    }
}

/// Sets `keys[0]` of `table`, or with more keys a part of its value, of which the rest is as before or the default.
fn assign(table: &mut Table, keys: &[String], entry: Entry, defaults: &Value) -> Result<(), String> {
    let Some((key, inner)) = keys.split_first() else { return Ok(()) };
    if inner.is_empty() {
        table.set(key, entry);
        return Ok(());
    }
    let mut whole = table.get(key).map(|old| old.value.clone()).or_else(|| defaults.get(key).cloned());
    let mut place = whole.get_or_insert(Value::Null);
    for step in inner {
        if place.is_null() {
            *place = Value::Object(Default::default());
        }
        let Value::Object(map) = place else { return Err(format!("there is no `{step}` in a value like {place}")) };
        place = map.entry(step.clone()).or_insert(Value::Null);
    }
    *place = entry.value;
    table.set(key, Entry { value: whole.unwrap_or_default(), origin: entry.origin });
    Ok(())
}

fn defaults_of(table: &Table, registry: &[StageType]) -> Value {
    let name = table.get("type").and_then(|entry| entry.value.as_str()).unwrap_or_default();
    registry.iter().find(|t| t.name == name).map(|t| t.defaults()).unwrap_or_default()
}

/// All keys that `--set` can set.
fn full_names(raw: &Raw, registry: &[StageType]) -> Vec<String> {
    let mut names: Vec<String> = super::RunSettings::keys().iter().map(|key| format!("run.{}", key.name)).collect();
    for (id, table) in &raw.stages {
        if let Value::Object(map) = defaults_of(table, registry) {
            names.extend(map.keys().map(|key| format!("{id}.{key}")));
        }
    }
    names
}

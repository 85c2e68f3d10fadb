//! The file of an experiment: what is compared, in TOML.
use crate::plan::files::{document, line_of, read, table};
use crate::plan::{Change, Changed, json_of_item, toml_key};
use crate::problem::{Diagnostic, Origin, Problems, repeated};
use serde_json::Value;
use std::path::{Path, PathBuf};
use toml_edit::{Item, TableLike};

#[cfg(test)]
mod tests;

/// The top-level keys of the file.
const TOP: [&str; 4] = ["extends", "experiment", "arm", "grid"];
/// The keys of `[experiment]`.
const KEYS: [&str; 4] = ["seeds", "target_loss", "detect", "halving"];
/// The difference that is asked for by default, in nats per token.
pub const DETECT: f64 = 0.003;
/// Keys that belong to each run.
const OF_THE_RUN: [(&str, &str); 2] = [
    ("run.seed", "`experiment.seeds` sets the seed of each run"),
    ("run.name", "runs are named after what they change"),
];

/// The file of an experiment.
#[derive(Clone, Debug)]
pub struct File {
    /// The configuration that all runs extend.
    pub base: PathBuf,
    /// Where the file says so.
    pub origin: Origin,
    /// The seeds with which each variant is run.
    pub seeds: Vec<u64>,
    /// Time is measured until validation reaches this loss; `None`: the loss that all runs reach.
    pub target_loss: Option<f64>,
    /// The difference, in nats per token, for which the number of runs is said.
    pub detect: f64,
    /// The numbers of steps after which only the better half of the variants goes on.
    pub halving: Vec<u64>,
    /// Where the file says so.
    pub halving_origin: Origin,
    /// The arms; at least one.
    pub arms: Vec<Arm>,
    /// Keys, each with its values.
    pub grid: Vec<Axis>,
}

/// An arm: a way to change the configuration.
#[derive(Clone, Debug)]
pub struct Arm {
    /// Its name; `None` of the only arm of a file that has none.
    pub name: Option<String>,
    /// Where it begins.
    pub origin: Origin,
    /// What it changes.
    pub changes: Vec<Change>,
}

/// A key of the grid.
#[derive(Clone, Debug)]
pub struct Axis {
    /// The key, as `--set` writes it.
    pub key: String,
    /// Where the file names it.
    pub origin: Origin,
    /// Its values.
    pub values: Vec<Value>,
}

/// Reads the file of an experiment.
///
/// # Errors
/// All problems at once.
pub fn load(path: &Path) -> Result<File, Problems> {
    let mut problems = Problems::default();
    let origin = Origin::file(path.display().to_string());
    let Some(text) = read(path, origin.clone(), &mut problems) else { return Err(problems) };
    let Some(document) = document(&text, &origin, &mut problems) else { return Err(problems) };
    let mut reader = Reader { text: &text, origin, folder: path.parent().unwrap_or(Path::new("")), problems };
    let file = reader.file(document.as_table());
    reader.problems.sort();
    reader.problems.or(file)
}

struct Reader<'a> {
    text: &'a str,
    origin: Origin,
    /// The folder of the file, from which its paths start.
    folder: &'a Path,
    problems: Problems,
}

impl Reader<'_> {
    fn file(&mut self, top: &dyn TableLike) -> File {
        let mut file = File {
            base: PathBuf::new(),
            origin: self.origin.clone(),
            seeds: Vec::new(),
            target_loss: None,
            detect: DETECT,
            halving: Vec::new(),
            halving_origin: self.origin.clone(),
            arms: Vec::new(),
            grid: Vec::new(),
        };
        for (key, item) in top.iter() {
            let at = self.at(top, key);
            match (key, item.as_table_like()) {
                ("extends", _) => match item.as_str() {
                    Some(base) => (file.base, file.origin) = (self.path(base), at),
                    None => self.wrong("`extends` must be the name of a file, in quotes", at, ""),
                },
                ("experiment", Some(body)) => self.settings(body, &mut file),
                ("arm", Some(body)) => self.arms(body, &mut file.arms),
                ("grid", Some(body)) => self.axes(body, &[], &mut file.grid),
                ("run" | "stage", Some(_)) => {
                    let next = "write it in an arm, or in the configuration that `extends` names";
                    self.wrong(format!("`[{key}]` is not a table of an experiment"), at, next);
                }
                ("experiment" | "arm" | "grid", None) => {
                    self.wrong(format!("`{key}` must be a table"), at, "write `[experiment]`, `[arm.NAME]`, `[grid]`");
                }
                _ => {
                    let problem = Diagnostic::new(format!("unknown key `{key}`"), at).similar_to(key, TOP);
                    let next = "an experiment has `extends`, `[experiment]`, `[arm.NAME]` and `[grid]`";
                    self.problems.push(problem.next(next));
                }
            }
        }
        if file.base.as_os_str().is_empty() && self.problems.is_empty() {
            let next = "write extends = \"FILE\", the configuration that all runs share";
            self.wrong("the experiment has no `extends`", self.origin.clone(), next);
        }
        if file.seeds.is_empty() && self.problems.is_empty() {
            let next = "write seeds = [1, 2, 3] in [experiment]; each variant is run with each of them";
            self.wrong("the experiment has no `seeds`", self.origin.clone(), next);
        }
        self.check_keys_once(&file);
        if file.arms.is_empty() {
            file.arms.push(Arm { name: None, origin: self.origin.clone(), changes: Vec::new() });
        }
        file
    }

    fn settings(&mut self, body: &dyn TableLike, file: &mut File) {
        for (key, item) in body.iter() {
            let at = self.at(body, key);
            let positive =
                item.as_float().or(item.as_integer().map(|n| n as f64)).filter(|n| *n > 0.0 && n.is_finite());
            match (key, positive) {
                ("seeds", _) => file.seeds = self.seeds(item, at),
                ("halving", _) => (file.halving, file.halving_origin) = (self.halving(item, at.clone()), at),
                ("target_loss", Some(loss)) => file.target_loss = Some(loss),
                ("detect", Some(difference)) => file.detect = difference,
                ("target_loss" | "detect", None) => {
                    self.wrong(format!("`experiment.{key}` must be a number of nats per token, above 0"), at, "");
                }
                _ => {
                    let problem = Diagnostic::new(format!("unknown key `experiment.{key}`"), at).similar_to(key, KEYS);
                    self.problems.push(problem.next(format!("keys: {}", KEYS.join(", "))));
                }
            }
        }
    }

    fn seeds(&mut self, item: &Item, at: Origin) -> Vec<u64> {
        let values = item.as_array().map(|all| all.iter().map(|v| v.as_integer().and_then(|n| u64::try_from(n).ok())));
        let Some(seeds) = values.and_then(|values| values.collect::<Option<Vec<u64>>>()).filter(|s| !s.is_empty())
        else {
            self.wrong("`experiment.seeds` must be a list of whole numbers, at least one", at, "seeds = [1, 2, 3]");
            return Vec::new();
        };
        if let Some(twice) = repeated(&seeds) {
            self.wrong(format!("`experiment.seeds` has {twice} twice"), at, "the two runs would be the same");
        }
        seeds
    }

    fn arms(&mut self, body: &dyn TableLike, arms: &mut Vec<Arm>) {
        for (name, item) in body.iter() {
            let origin = self.at(body, name);
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            if !name.chars().all(plain) || name.starts_with('.') || name.is_empty() {
                let next = "names of arms are part of names of folders: letters, digits, `-`, `_` and `.`";
                self.wrong(format!("an arm cannot be called `{name}`"), origin.clone(), next);
            }
            let Some(keys) = item.as_table_like() else {
                self.wrong(format!("arm `{name}` must be a table"), origin, &format!("write `[arm.{name}]`"));
                continue;
            };
            let mut changes = Vec::new();
            for (key, item) in keys.iter() {
                match (key, item.as_table_like()) {
                    ("stage", Some(stages)) => self.stages(stages, &mut changes),
                    _ => self.keys(keys, key, item, &[], &mut changes),
                }
            }
            // A file that replaces a stage's table comes before the keys that change it, wherever it stands.
            changes.sort_by_key(|change| match change.what {
                Changed::Stage(..) => 0,
                Changed::Table(..) => 1,
                Changed::Key(..) => 2,
            });
            arms.push(Arm { name: Some(name.to_owned()), origin, changes });
        }
    }

    fn halving(&mut self, item: &Item, at: Origin) -> Vec<u64> {
        let steps = item.as_array().map(|steps| steps.iter().map(|step| step.as_integer()));
        let steps = steps.and_then(|steps| steps.map(|step| u64::try_from(step?).ok()).collect::<Option<Vec<u64>>>());
        match steps.filter(|steps| steps.first().is_some_and(|first| *first > 0) && steps.is_sorted_by(|a, b| a < b)) {
            Some(steps) => steps,
            None => {
                let next = "for example halving = [100, 300]";
                self.wrong("`experiment.halving` must be a list of numbers of steps, ascending from 1", at, next);
                Vec::new()
            }
        }
    }

    /// `stage.NAME = "FILE"`, or the keys of a stage.
    fn stages(&mut self, stages: &dyn TableLike, changes: &mut Vec<Change>) {
        for (id, item) in stages.iter() {
            let origin = self.at(stages, id);
            let what = match (item.as_str(), item.as_table_like()) {
                (Some(file), _) => Changed::Stage(id.to_owned(), self.path(file)),
                (_, Some(keys)) => {
                    Changed::Table(id.to_owned(), table(id, keys, self.text, origin.clone(), &mut self.problems))
                }
                _ => {
                    let next = format!("write stage.{id} = \"FILE\", or its keys");
                    self.wrong(format!("`stage.{id}` must be the name of a file, or a table"), origin, &next);
                    continue;
                }
            };
            changes.push(Change { origin, what });
        }
    }

    /// A key and its value, or a table of them, below `above`.
    fn keys(&mut self, body: &dyn TableLike, key: &str, item: &Item, above: &[&str], changes: &mut Vec<Change>) {
        let origin = self.at(body, key);
        let path = joined(above, key);
        if let Some(inner) = item.as_table_like().filter(|inner| !inner.is_empty() && !path.contains('.')) {
            let above: Vec<&str> = above.iter().copied().chain([key]).collect();
            inner.iter().for_each(|(key, item)| self.keys(inner, key, item, &above, changes));
            return;
        }
        self.check_key(&path, origin.clone());
        match json_of_item(item) {
            Ok(value) => changes.push(Change { origin, what: Changed::Key(path, value) }),
            Err(message) => self.wrong(format!("`{path}`: {message}"), origin, ""),
        }
    }

    fn axes(&mut self, body: &dyn TableLike, above: &[&str], grid: &mut Vec<Axis>) {
        for (key, item) in body.iter() {
            let origin = self.at(body, key);
            if let Some(inner) = item.as_table_like() {
                let above: Vec<&str> = above.iter().copied().chain([key]).collect();
                self.axes(inner, &above, grid);
                continue;
            }
            let path = joined(above, key);
            self.check_key(&path, origin.clone());
            match json_of_item(item) {
                Ok(Value::Array(values)) if !values.is_empty() => {
                    if let Some(twice) = repeated(&values) {
                        self.wrong(format!("`{path}` has the value {twice} twice"), origin.clone(), "leave out one");
                    }
                    grid.push(Axis { key: path, origin, values });
                }
                _ => {
                    let next = format!("write {} = [VALUE, VALUE]", toml_key(&path));
                    self.wrong(format!("`grid.{path}` must be a list of values, at least one"), origin, &next);
                }
            }
        }
    }

    /// The grid would replace what an arm gives.
    fn check_keys_once(&mut self, file: &File) {
        for axis in &file.grid {
            let sets = |change: &&Change| match &change.what {
                Changed::Key(key, _) => *key == axis.key,
                Changed::Table(id, table) => table.entries.iter().any(|(key, _)| format!("{id}.{key}") == axis.key),
                Changed::Stage(..) => false,
            };
            for change in file.arms.iter().flat_map(|arm| &arm.changes).filter(sets) {
                let message = format!("`{}` is given by an arm and by the grid", axis.key);
                self.wrong(message, change.origin.clone(), "leave it out in one of them");
            }
        }
    }

    fn check_key(&mut self, path: &str, origin: Origin) {
        if let Some((_, why)) = OF_THE_RUN.iter().find(|(key, _)| *key == path) {
            self.wrong(format!("`{path}` cannot be changed by an experiment"), origin, why);
        } else if !path.contains('.') {
            let next = "write \"STAGE.KEY\", for example \"optimize.learning_rate\"";
            self.wrong(format!("`{path}` names no key of a stage"), origin, next);
        }
    }

    /// A path of the file, which starts in its folder.
    fn path(&self, path: &str) -> PathBuf {
        if path.starts_with("builtin:") { path.into() } else { self.folder.join(path) }
    }

    fn at(&self, body: &dyn TableLike, key: &str) -> Origin {
        self.origin.on_line(line_of(body, key, self.text))
    }

    fn wrong(&mut self, message: impl Into<String>, origin: Origin, next: &str) {
        let problem = Diagnostic::new(message, origin);
        self.problems.push(if next.is_empty() { problem } else { problem.next(next) });
    }
}

/// A path as `--set` writes it. A key may hold several names already: "optimize.learning_rate".
fn joined(above: &[&str], key: &str) -> String {
    above.iter().copied().chain([key]).collect::<Vec<_>>().join(".")
}

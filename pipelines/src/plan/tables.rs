//! The tables of a configuration as they are, for commands that need no plan.
use super::files;
use super::values::Table;
use crate::problem::{Problems, similar};
use serde_json::Value;
use std::path::Path;

/// The stages of a configuration, as far as it can be read: their ids and types.
pub(crate) fn outline(path: &Path) -> Vec<(String, String)> {
    let raw = files::load(path, &mut Problems::default());
    let type_of =
        |table: &Table| table.get("type").and_then(|entry| entry.value.as_str()).unwrap_or_default().to_owned();
    raw.stages.iter().map(|(id, table)| (id.clone(), type_of(table))).collect()
}

/// The tables of the resolved configuration `path` of a run, `run` first; none if it cannot be read.
pub(crate) fn configuration(path: &Path) -> Vec<(String, Table)> {
    let raw = files::load(path, &mut Problems::default());
    std::iter::once(("run".to_owned(), raw.run)).chain(raw.stages).collect()
}

/// The value of `STAGE.KEY` in what [`configuration`] returns.
pub(crate) fn value_of(configuration: &[(String, Table)], key: &str) -> Option<Value> {
    let (stage, key) = key.split_once('.')?;
    let (_, table) = configuration.iter().find(|(id, _)| id == stage)?;
    Some(table.get(key)?.value.clone())
}

/// The message about a key that none of the runs with these `tables` has.
pub(crate) fn unknown_key<'a>(key: &str, tables: impl Iterator<Item = &'a (String, Table)>) -> String {
    let known: Vec<String> =
        tables.flat_map(|(id, table)| table.entries.iter().map(move |(key, _)| format!("{id}.{key}"))).collect();
    let near = similar(key, known.iter().map(String::as_str));
    let near = if near.is_empty() { String::new() } else { format!("; similar: {}", near.join(", ")) };
    format!("no run has the key `{key}`{near} (write STAGE.KEY, for example optimize.learning_rate)")
}

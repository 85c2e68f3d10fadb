//! `pipeline runs --group KEY`: runs by the values of their configurations.
use super::runs::Sort;
use crate::experiment::statistics::{mean, variance};
use crate::plan::{Table, configuration, unknown_key, value_of};
use crate::problem::{Usage, repeated};
use crate::run_files::Ran;
use crate::show::human::{count, decimal};
use crate::show::{Align, table};
use crate::train_run::CONFIG_FILE;
use crate::train_run::status::State;
use anyhow::Result;
use serde::Serialize;
use serde_json::{Map, Value};
use std::path::Path;

/// Runs with the same values.
#[derive(Clone, Debug, Serialize)]
pub struct Group {
    /// The values, by key.
    pub values: Map<String, Value>,
    /// Number of runs.
    pub runs: usize,
    /// How many of them are done. What follows is of these.
    pub done: usize,
    /// Mean and standard deviation of the validation loss.
    pub validation_loss: Option<Spread>,
    /// Mean and standard deviation of bits per byte.
    pub bits_per_byte: Option<Spread>,
    /// Mean and standard deviation of tokens per second.
    pub tok_per_sec: Option<Spread>,
}

/// A mean, and the standard deviation if there is more than one value.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// The mean.
    pub mean: f64,
    /// The standard deviation.
    pub spread: Option<f64>,
}

impl Spread {
    fn of(values: &[f64]) -> Option<Self> {
        let spread = (values.len() > 1).then(|| variance(values).sqrt());
        (!values.is_empty()).then(|| Self { mean: mean(values), spread })
    }
}

/// The groups of `runs` by the values of `keys`, sorted by `sort`, or by their values.
///
/// # Errors
/// [`Usage`] if a key is in no configuration.
pub fn groups(runs: &[Ran], keys: &[String], sort: Option<Sort>) -> Result<Vec<Group>> {
    let configurations: Vec<Vec<(String, Table)>> =
        runs.iter().map(|run| configuration(&Path::new(&run.run).join(CONFIG_FILE))).collect();
    if let Some(twice) = repeated(keys) {
        return Err(Usage(format!("--group {twice} is given twice")).into());
    }
    for key in keys {
        if !runs.is_empty() && configurations.iter().all(|configuration| value_of(configuration, key).is_none()) {
            return Err(Usage(unknown_key(key, configurations.iter().flatten())).into());
        }
    }
    let mut found: Vec<(Map<String, Value>, Vec<&Ran>)> = Vec::new();
    for (run, configuration) in runs.iter().zip(&configurations) {
        let of_key = |key: &String| (key.clone(), value_of(configuration, key).unwrap_or_default());
        let values: Map<String, Value> = keys.iter().map(of_key).collect();
        match found.iter_mut().find(|(other, _)| *other == values) {
            Some((_, group)) => group.push(run),
            None => found.push((values, vec![run])),
        }
    }
    let mut groups: Vec<Group> = found.into_iter().map(|(values, runs)| group(values, &runs)).collect();
    groups.sort_by_cached_key(|group| text_of(&group.values));
    if let Some(sort) = sort {
        groups.sort_by(|a, b| sort.order(sort.of_group(a), sort.of_group(b)));
    }
    Ok(groups)
}

fn group(values: Map<String, Value>, runs: &[&Ran]) -> Group {
    let done: Vec<&&Ran> = runs.iter().filter(|run| run.state == State::Done).collect();
    let of = |value: fn(&Ran) -> Option<f64>| Spread::of(&done.iter().filter_map(|run| value(run)).collect::<Vec<_>>());
    Group {
        values,
        runs: runs.len(),
        done: done.len(),
        validation_loss: of(|run| run.validation_loss),
        bits_per_byte: of(|run| run.bits_per_byte),
        tok_per_sec: of(|run| run.tok_per_sec),
    }
}

fn text_of(values: &Map<String, Value>) -> String {
    let each = values.iter().map(|(key, value)| match value {
        Value::Number(number) => format!("{key} {:024.12}", number.as_f64().unwrap_or_default()),
        other => format!("{key} {other}"),
    });
    each.collect::<Vec<_>>().join(" ")
}

/// The groups as a table of at most `columns` columns.
pub fn listed(groups: &[Group], keys: &[String], columns: usize) -> String {
    if groups.is_empty() {
        return "no runs here".into();
    }
    let short = |key: &String| key.rsplit('.').next().unwrap_or_default().to_owned();
    let keys_shown: Vec<String> = keys.iter().map(short).collect();
    let mut heads: Vec<(&str, Align)> = keys_shown.iter().map(|key| (key.as_str(), Align::Left)).collect();
    heads.extend(["runs", "loss", "±", "bits/byte", "±", "tok/s"].map(|head| (head, Align::Right)));
    let cells = |spread: Option<Spread>| {
        let spread_of = spread.and_then(|s| s.spread);
        [spread.map(|s| s.mean), spread_of].map(|value| decimal(value, 4))
    };
    let row = |group: &Group| {
        let shown = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let mut row: Vec<String> = group.values.values().map(shown).collect();
        let all = if group.done == group.runs { String::new() } else { format!("/{}", group.runs) };
        row.push(format!("{}{all}", group.done));
        row.extend(cells(group.validation_loss));
        row.extend(cells(group.bits_per_byte));
        row.push(group.tok_per_sec.map_or("-".into(), |rate| count(rate.mean.round() as u64)));
        row
    };
    table(&heads, &groups.iter().map(row).collect::<Vec<_>>(), columns)
}

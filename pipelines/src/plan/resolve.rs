//! From tables of values to settings: every key is known and every value has the right type; all problems are
//! collected.
use super::aliases;
use super::syntax::written_out;
use super::values::{Entry, Table, shorten_floats};
use crate::problem::{Diagnostic, Origin, Problems, similar};
use contract::{Key, Settings, StageType};
use serde_json::{Map, Value};
use std::sync::Arc;

/// Keys that every stage table has besides the stage's own.
pub(crate) const COMMON: [&str; 2] = ["type", "inputs"];

/// The schema of a table.
pub(crate) struct Schema<'a> {
    /// The table's name in messages, for example `optimize`.
    pub name: &'a str,
    /// The default of every key.
    pub defaults: Map<String, Value>,
    /// Its keys.
    pub keys: Vec<Key>,
    /// The keys of all tables of the configuration, with the table of each.
    pub everywhere: &'a [(String, &'static str)],
    /// Where all keys are documented.
    pub listed: String,
    /// Whether an object of all keys parses.
    pub parses: &'a dyn Fn(Value) -> Result<(), String>,
}

/// Applies `given` to the defaults. Values that do not parse become problems and keep their default.
pub(crate) fn fill(schema: &Schema, given: &Table, problems: &mut Problems) -> Table {
    let mut filled = Table { origin: given.origin.clone(), entries: Vec::new() };
    for (key, value) in &schema.defaults {
        filled.set(key, Entry { value: value.clone(), origin: Origin::Default });
    }
    for (key, entry) in &given.entries {
        if COMMON.contains(&key.as_str()) && !schema.defaults.contains_key(key) {
            continue;
        }
        let full = format!("{}.{key}", schema.name);
        if !schema.defaults.contains_key(key) {
            if is_retired(key, &entry.value.to_string()) {
                continue;
            }
            problems.push(unknown(schema, key, Diagnostic::new(format!("unknown key `{full}`"), entry.origin.clone())));
            continue;
        }
        let mut object = schema.defaults.clone();
        object.insert(key.clone(), entry.value.clone());
        match (schema.parses)(Value::Object(object)) {
            Ok(()) => filled.set(key, entry.clone()),
            Err(error) => {
                let known = schema.keys.iter().find(|known| known.name == key);
                problems.push(explain_value(&full, &error, entry, known.and_then(|known| known.min)));
            }
        }
    }
    filled
}

/// Whether programs before the key `document_mask` of the stage that packs wrote `name` with this value into the configuration
/// of a run. It means what is the case without it.
pub(crate) fn is_retired(name: &str, value: &str) -> bool {
    ["mask_across_documents", "document_mask"].contains(&name) && value == "false"
}

/// Adds to a problem with the unknown `key` what is meant: another program's name of a key, a similar key, or a key of
/// another table.
fn unknown(schema: &Schema, key: &str, problem: Diagnostic) -> Diagnostic {
    let own = |name: &str| schema.defaults.contains_key(name);
    if let Some(ours) = aliases::keys(key).find(|ours| own(ours)) {
        return Diagnostic { similar: vec![ours.to_owned()], ..problem }.next(schema.listed.clone());
    }
    let elsewhere = |name: &str| schema.everywhere.iter().find(|(_, other)| *other == name);
    let other = elsewhere(key).or_else(|| aliases::keys(key).find_map(elsewhere));
    if let Some((table, name)) = other {
        return problem.next(format!("`{name}` is a key of `{table}`"));
    }
    problem.similar_to(key, schema.defaults.keys().map(String::as_str)).next(schema.listed.clone())
}

/// All keys of a table as an object.
pub(crate) fn object(table: &Table) -> Value {
    Value::Object(table.entries.iter().map(|(key, entry)| (key.clone(), entry.value.clone())).collect())
}

/// The default of every key of a stage type.
pub(crate) fn defaults(stage_type: &StageType) -> Map<String, Value> {
    match shorten_floats(stage_type.defaults()) {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// The settings of stage `id`, and its table with all keys. If there are problems, the settings without the invalid
/// values, if possible: sufficient to look for further problems, but not to run.
pub(crate) fn stage(
    id: &str,
    given: &Table,
    stage_type: &StageType,
    everywhere: &[(String, &'static str)],
    problems: &mut Problems,
) -> (Table, Option<Arc<dyn Settings>>) {
    let before = problems.0.len();
    let defaults = defaults(stage_type);
    let parses = |value: Value| stage_type.parse(value).map(drop);
    let listed = format!("`pipeline stages {}` lists all", stage_type.name);
    let keys = stage_type.keys();
    let schema = Schema { name: id, defaults: defaults.clone(), keys, everywhere, listed, parses: &parses };
    let filled = fill(&schema, given, problems);
    let table = object(&filled);
    match stage_type.parse(table.clone()) {
        Ok(settings) => {
            // Checks on defaults that replace invalid values would be misleading.
            let sound = problems.0.len() == before;
            let wrong = if sound { stage_type.check(&table, &*settings) } else { Vec::new() };
            for problem in wrong {
                problems.push(located(id, problem, &filled));
            }
            (filled, Some(settings))
        }
        Err(error) => {
            problems.push(explain(id, &error, given.origin.clone()));
            (filled, stage_type.parse(Value::Object(defaults)).ok())
        }
    }
}

/// A problem reported by a stage, with the line of its key.
pub(super) fn located(id: &str, problem: contract::Problem, table: &Table) -> Diagnostic {
    let Some(key) = problem.key else {
        return Diagnostic::new(format!("`{id}`: {}", problem.message), table.origin.clone());
    };
    // "is 0, but must be at least 1" continues the sentence that the key begins.
    let predicate = ["is ", "must "].iter().any(|verb| problem.message.starts_with(verb));
    let message = format!("`{id}.{key}`{} {}", if predicate { "" } else { ":" }, problem.message);
    let diagnostic = match table.get(key) {
        Some(entry) if entry.origin != Origin::Default => Diagnostic::new(message, entry.origin.clone()),
        _ => Diagnostic::new(message, table.origin.clone()).next("its default"),
    };
    Diagnostic { failed: problem.failed, ..diagnostic }
}

/// A problem with a value of the wrong type, with what to write instead where that is clear. `min`: the smallest number
/// allowed.
fn explain_value(name: &str, error: &str, entry: &Entry, min: Option<f64>) -> Diagnostic {
    let whole = ["usize", "u64", "u32", "i64"].iter().any(|kind| error.contains(&format!("expected {kind}")));
    let number = whole || ["f32", "f64"].iter().any(|kind| error.contains(&format!("expected {kind}")));
    let (value, origin) = (&entry.value, entry.origin.clone());
    if whole && value.as_i64().is_some_and(|value| value < 0) {
        let least = min.unwrap_or(0.0).max(0.0);
        return Diagnostic::new(format!("`{name}` is {value}, but must be at least {least}"), origin);
    }
    if whole && value.is_u64() {
        return Diagnostic::new(format!("`{name}` is {value}, which is too large"), origin);
    }
    let problem = explain(name, error, origin);
    match value {
        Value::Number(number) if whole && number.as_f64().is_some_and(|n| n.fract() == 0.0 && n.abs() < 1e15) => {
            problem.next(format!("write {}", number.as_f64().unwrap_or_default()))
        }
        Value::String(text) if number => match (text.trim().parse::<f64>(), written_out(text.trim())) {
            _ if text.len() > 18 && text.chars().all(|c| c.is_ascii_digit()) => {
                problem.next(format!("the largest whole number is {}", i64::MAX))
            }
            (Ok(value), _) if value.is_finite() => problem.next(format!("write it without quotes: {}", text.trim())),
            (_, Some(number)) => problem.next(format!("write {number}")),
            _ => problem,
        },
        Value::String(text) if error.starts_with("unknown variant") => match aliases::value(text) {
            Some((ours, why)) if error.contains(&format!("`{ours}`")) => {
                Diagnostic { similar: vec![ours.to_owned()], ..problem }.next(why)
            }
            _ => problem,
        },
        _ => problem,
    }
}

/// serde's error in the user's terms, with the closest match if it lists what was expected.
fn explain(name: &str, error: &str, origin: Origin) -> Diagnostic {
    const WORDS: [(&str, &str); 13] = [
        ("unknown variant ", "there is no "),
        ("invalid type: ", "is "),
        ("invalid value: ", "is "),
        ("expected a sequence", "expected a list"),
        ("expected a boolean", "expected true or false"),
        ("expected f32", "expected a number"),
        ("expected f64", "expected a number"),
        ("expected usize", "expected a whole number"),
        ("expected u64", "expected a whole number"),
        ("expected u32", "expected a whole number"),
        ("expected i64", "expected a whole number"),
        ("floating point `", "the number `"),
        ("integer `", "the number `"),
    ];
    let mut message = format!("`{name}` ");
    let named = error.starts_with("invalid");
    if !named {
        message = format!("`{name}`: ");
    }
    let mut text = error.to_owned();
    for (from, to) in WORDS {
        text = text.replace(from, to);
    }
    message += &text;
    let mut near = Vec::new();
    if error.starts_with("unknown") {
        let mut quoted = error.split('`').skip(1).step_by(2);
        let wrong = quoted.next().unwrap_or_default();
        near = similar(wrong, quoted);
    }
    Diagnostic { similar: near, ..Diagnostic::new(message, origin) }
}

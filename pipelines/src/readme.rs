//! Tests that the generated parts of README.md are current: the tables of stages and keys, which are made from the
//! registry, and the loss, which is a file of `tests/outside_stage`. `MILLRACE_BLESS=1 cargo test -p millrace-pipelines
//! readme` writes them.
use crate::STAGES;
use crate::plan::{RunSettings, defaults, toml_of};
use contract::{Key, StageKeys};
use serde_json::{Map, Value};
use std::fmt::Write;

const TABLES: &str = "<!-- Generated from the doc comments of the settings: begin -->\n";
const LOSS: &str = "<!-- tests/outside_stage/src/z_loss.rs: begin -->\n";
const END: &str = "<!-- Generated: end -->\n";

/// The text of a cell of a table, with `|` escaped.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

fn table_of_keys(keys: &[Key], defaults: &Map<String, Value>) -> String {
    let mut out = String::from("| key | default | what |\n|---|---|---|\n");
    for key in keys {
        let default =
            defaults.get(key.name).and_then(toml_of).map_or(String::new(), |value| format!("`{}`", cell(&value)));
        let _ = writeln!(out, "| `{}` | {default} | {} |", key.name, cell(&key.described()));
    }
    out
}

fn tables() -> String {
    let mut out = String::from("\n| `type` | what |\n|---|---|\n");
    for stage_type in STAGES {
        let _ = writeln!(out, "| `{}` | {} |", stage_type.name, cell(stage_type.summary));
    }
    let run = serde_json::to_value(RunSettings::default()).unwrap();
    let mut detail = |title: &str, keys: &[Key], defaults: &Map<String, Value>| {
        let table = table_of_keys(keys, defaults);
        let _ = write!(out, "\n<details><summary>Keys of <code>{title}</code></summary>\n\n{table}\n</details>\n");
    };
    detail("[run]", &RunSettings::keys(), run.as_object().unwrap());
    for stage_type in STAGES.iter().filter(|stage_type| !stage_type.keys().is_empty()) {
        detail(stage_type.name, &stage_type.keys(), &defaults(stage_type));
    }
    out + "\n"
}

/// The loss of `tests/outside_stage`, without its tests.
fn loss() -> String {
    let file = include_str!("../../tests/outside_stage/src/z_loss.rs");
    let code = file.split("#[cfg(test)]").next().unwrap().trim_end();
    format!("```rust,no_run\n{code}\n```\n")
}

#[test]
fn generated_parts_of_the_readme_are_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md");
    let written = std::fs::read_to_string(path).unwrap();
    let mut current = written.clone();
    for (begin, content) in [(LOSS, loss()), (TABLES, tables())] {
        let (before, rest) = current.split_once(begin).unwrap();
        let (_, after) = rest.split_once(END).unwrap();
        current = format!("{before}{begin}{content}{END}{after}");
    }
    if std::env::var_os("MILLRACE_BLESS").is_some() {
        return std::fs::write(path, current).unwrap();
    }
    assert!(written == current, "README.md is not current: MILLRACE_BLESS=1 cargo test -p millrace-pipelines readme");
}

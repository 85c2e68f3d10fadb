//! The tables of stages and keys in README.md are those of the registry. `MILLRACE_BLESS=1 cargo test -p
//! millrace-pipelines readme` writes them.
use crate::STAGES;
use crate::plan::{RunSettings, defaults, toml_of};
use contract::{Key, StageKeys};
use serde_json::{Map, Value};
use std::fmt::Write;

const BEGIN: &str = "<!-- Generated from the doc comments of the settings: begin -->\n";
const END: &str = "<!-- Generated: end -->\n";

/// A cell of a table: one that holds `|` would be two.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

fn table_of_keys(keys: &[Key], defaults: &Map<String, Value>) -> String {
    let mut out = String::from("| key | default | what |\n|---|---|---|\n");
    for Key { name, documentation, .. } in keys {
        let default =
            defaults.get(*name).and_then(toml_of).map_or(String::new(), |value| format!("`{}`", cell(&value)));
        let _ = writeln!(out, "| `{name}` | {default} | {} |", cell(documentation));
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
    detail("[run]", RunSettings::KEYS, run.as_object().unwrap());
    for stage_type in STAGES.iter().filter(|stage_type| !stage_type.keys.is_empty()) {
        detail(stage_type.name, stage_type.keys, &defaults(stage_type));
    }
    out + "\n"
}

#[test]
fn the_tables_of_stages_and_keys_are_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md");
    let readme = std::fs::read_to_string(path).unwrap();
    let (before, rest) = readme.split_once(BEGIN).unwrap();
    let (written, after) = rest.split_once(END).unwrap();
    let current = tables();
    if std::env::var_os("MILLRACE_BLESS").is_some() {
        return std::fs::write(path, format!("{before}{BEGIN}{current}{END}{after}")).unwrap();
    }
    assert!(written == current, "README.md is not current: MILLRACE_BLESS=1 cargo test -p millrace-pipelines readme");
}

//! The resolved configuration as TOML, each value with its origin: `config.toml` of the run directory.
use super::Resolved;
use super::values::{Table, toml_key, toml_of};
use std::fmt::Write;

/// Column at which origins start, unless the value is too long.
const COLUMN: usize = 48;

impl Resolved {
    /// The configuration as TOML. Loading it gives an equal plan.
    pub fn to_toml(&self) -> String {
        let mut out = String::from(
            "# The resolved configuration: every value, and where it comes from.\n\
             # Relative paths are relative to the directory in which the run was started.\n",
        );
        section(&mut out, "run", &self.run);
        for (id, stage) in &self.stages {
            section(&mut out, &format!("stage.{}", toml_key(id)), stage);
        }
        out
    }
}

fn section(out: &mut String, name: &str, table: &Table) {
    let _ = writeln!(out, "\n[{name}]");
    for (key, entry) in &table.entries {
        let key = toml_key(key);
        let line = match toml_of(&entry.value) {
            Some(value) => format!("{key} = {value}"),
            None => format!("# {key} is not set"),
        };
        let origin = entry.origin.to_string().replace(|c: char| c.is_control(), " ");
        let _ = writeln!(out, "{line:<COLUMN$} # {origin}");
    }
}

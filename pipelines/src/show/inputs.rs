//! The files that a plan reads.
use super::human;
use crate::plan::Plan;
use anyhow::Result;
use std::fs::metadata;
use std::path::PathBuf;

/// A line for each file that `plan` reads, with its size, of at most `columns`.
///
/// # Errors
/// If a folder cannot be listed, or a path leads nowhere.
pub fn inputs(plan: &Plan, columns: usize) -> Result<String> {
    let line = |path: &PathBuf| {
        let size = format!(" ({})", human::bytes(metadata(path).map_or(0, |about| about.len())));
        let path = human::end_of(&path.display().to_string(), columns - 9 - size.len());
        format!("Reads    {path}{size}\n")
    };
    let mut lines = String::new();
    for stage in &plan.stages {
        lines.extend(stage.settings.reads(plan.run.seed)?.iter().map(line));
    }
    Ok(lines)
}

//! `metrics.jsonl`: one JSON object per step.
use super::{Sink, StepLine};
use anyhow::{Context, Result};
use contract::Step;
use contract::files::{read_if_there, write_whole};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// The file of a run directory with one JSON object per step.
pub const METRICS_FILE: &str = "metrics.jsonl";

/// Opens the file of a run that starts at step `first`; lines of later steps are removed. It is created with its first
/// line.
///
/// # Errors
/// If the file cannot be rewritten.
pub(super) fn open(run_dir: &Path, first: Step) -> Result<Box<dyn Sink>> {
    let path = run_dir.join(METRICS_FILE);
    keep_before(&path, first)?;
    Ok(Box::new(JsonLines { path, file: None }))
}

struct JsonLines {
    path: PathBuf,
    file: Option<File>,
}

impl Sink for JsonLines {
    fn write(&mut self, line: &StepLine) -> Result<()> {
        let open = self.file.take();
        let write = || -> Result<File> {
            let mut file = match open {
                Some(file) => file,
                None => OpenOptions::new().create(true).append(true).open(&self.path)?,
            };
            file.write_all(format!("{}\n", serde_json::to_string(line)?).as_bytes())?;
            Ok(file)
        };
        self.file = Some(write().with_context(|| format!("cannot write {}", self.path.display()))?);
        Ok(())
    }
}

/// The lines of a run's [`METRICS_FILE`]; empty if there is no such file. Invalid lines (from a killed process) are
/// skipped.
///
/// # Errors
/// If the file exists but cannot be read.
pub fn read_metrics(path: &Path) -> Result<Vec<StepLine>> {
    let bytes = read_if_there(path)?.unwrap_or_default();
    Ok(bytes.split(|b| *b == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect())
}

/// Keeps only the lines of steps before `step`: a run that resumes there writes the later ones again.
fn keep_before(path: &Path, step: Step) -> Result<()> {
    let Some(bytes) = read_if_there(path)? else { return Ok(()) };
    let text = String::from_utf8_lossy(&bytes);
    let before = |line: &&str| serde_json::from_str::<StepLine>(line).is_ok_and(|line| line.step < step);
    let kept: String = text.lines().filter(before).flat_map(|line| [line, "\n"]).collect();
    write_whole(path, |out| Ok(out.write_all(kept.as_bytes())?))
}

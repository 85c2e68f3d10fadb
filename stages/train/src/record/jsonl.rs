//! `metrics.jsonl`: one JSON object per step.
use super::{Follower, Sink, StepLine};
use anyhow::{Context, Result};
use contract::Step;
use contract::files::{read_if_there, write_whole};
use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
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
    let end = keep_up_to(&path, first)?;
    Ok(Box::new(JsonLines { path, file: None, end }))
}

struct JsonLines {
    path: PathBuf,
    file: Option<File>,
    /// The end of the last line that is complete. The line that may follow is that of a step that is yet to be
    /// validated.
    end: u64,
}

impl JsonLines {
    /// Writes a line after the complete ones; returns its end.
    fn put(&mut self, line: &StepLine) -> Result<u64> {
        let mut put = || -> Result<u64> {
            let file = match &mut self.file {
                Some(file) => file,
                none => none.insert(OpenOptions::new().create(true).truncate(false).write(true).open(&self.path)?),
            };
            let line = format!("{}\n", serde_json::to_string(line)?);
            let end = self.end + line.len() as u64;
            file.seek(SeekFrom::Start(self.end))?;
            file.write_all(line.as_bytes())?;
            file.set_len(end)?;
            Ok(end)
        };
        put().with_context(|| format!("cannot write {}", self.path.display()))
    }
}

impl Sink for JsonLines {
    fn expect(&mut self, line: &StepLine) -> Result<()> {
        self.put(line).map(drop)
    }

    fn write(&mut self, line: &StepLine) -> Result<()> {
        self.end = self.put(line)?;
        Ok(())
    }
}

/// The lines of a run's [`METRICS_FILE`]; empty if there is no such file. Invalid lines (from a killed process) are
/// skipped.
///
/// # Errors
/// If the file exists but cannot be read.
pub fn read_metrics(path: &Path) -> Result<Vec<StepLine>> {
    Ok(Follower::new(path).read()?.lines)
}

/// Removes the lines of steps after `step`, at which a run resumes: it writes them again. Returns where that of `step`
/// begins, which is written again, too, when it is complete.
fn keep_up_to(path: &Path, step: Step) -> Result<u64> {
    let Some(bytes) = read_if_there(path)? else { return Ok(0) };
    let text = String::from_utf8_lossy(&bytes);
    let (mut before, mut last) = (String::new(), String::new());
    for line in text.lines() {
        match serde_json::from_str::<StepLine>(line) {
            Ok(of) if of.step < step => before.extend([line, "\n"]),
            Ok(of) if of.step == step => last = format!("{line}\n"),
            _ => {}
        }
    }
    write_whole(path, |out| Ok(out.write_all((before.clone() + &last).as_bytes())?))?;
    Ok(before.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(step: Step) -> StepLine {
        StepLine { step, loss: step as f64 / 4.0, time: 1e9 + step as f64, ..StepLine::default() }
    }

    fn steps(path: &Path) -> Vec<(Step, Option<f64>)> {
        read_metrics(path).unwrap().iter().map(|line| (line.step, line.validation_loss)).collect()
    }

    #[test]
    fn a_line_is_there_before_it_is_validated() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(METRICS_FILE);
        let mut sink = open(folder.path(), 0).unwrap();
        for step in 1..=3 {
            sink.expect(&line(step)).unwrap();
            assert_eq!(steps(&path).last(), Some(&(step, None)));
            sink.write(&StepLine { validation_loss: Some(0.5), ..line(step) }).unwrap();
        }
        sink.expect(&line(4)).unwrap();
        assert_eq!(steps(&path), [(1, Some(0.5)), (2, Some(0.5)), (3, Some(0.5)), (4, None)]);
        drop(sink);
        // A run that resumes at step 3 completes its line once more, here with a shorter one.
        let mut sink = open(folder.path(), 3).unwrap();
        assert_eq!(steps(&path), [(1, Some(0.5)), (2, Some(0.5)), (3, Some(0.5))]);
        sink.write(&line(3)).unwrap();
        sink.expect(&line(4)).unwrap();
        assert_eq!(steps(&path), [(1, Some(0.5)), (2, Some(0.5)), (3, None), (4, None)]);
        let lines = std::fs::read_to_string(&path).unwrap();
        assert!(lines.lines().all(|line| serde_json::from_str::<StepLine>(line).is_ok()), "{lines}");
    }
}

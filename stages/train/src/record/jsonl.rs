//! `metrics.jsonl`, with one JSON object per step, and `samples.jsonl`, with one per sample.
use super::{Follower, Opening, SampleLine, Sink, StepLine};
use anyhow::{Context, Result};
use contract::files::{read_if_there, write_whole};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::cmp::Ordering;
use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// The file of a run directory with one JSON object per step.
pub const METRICS_FILE: &str = "metrics.jsonl";
/// The file of a run directory with one JSON object per sample.
pub const SAMPLES_FILE: &str = "samples.jsonl";

/// Opens the files of a run; lines of later steps are removed. A file is created with its first line.
///
/// # Errors
/// If a file cannot be rewritten.
pub(super) fn open(opening: &Opening) -> Result<Box<dyn Sink>> {
    let (run_dir, first) = (opening.run_dir, opening.first);
    // The line of `first` stays until it is written again, when it is complete.
    let metrics = LineFile::open(run_dir.join(METRICS_FILE), |line: &StepLine| line.step.cmp(&first))?;
    let samples = LineFile::open(run_dir.join(SAMPLES_FILE), |line: &SampleLine| match line.step < first {
        true => Ordering::Less,
        false => Ordering::Greater,
    })?;
    Ok(Box::new(JsonLines { metrics, samples }))
}

struct JsonLines {
    metrics: LineFile,
    samples: LineFile,
}

impl Sink for JsonLines {
    fn expect(&mut self, line: &StepLine) -> Result<()> {
        self.metrics.put(std::slice::from_ref(line)).map(drop)
    }

    fn write(&mut self, line: &StepLine) -> Result<()> {
        self.metrics.end = self.metrics.put(std::slice::from_ref(line))?;
        Ok(())
    }

    fn samples(&mut self, _line: &StepLine, samples: &[SampleLine]) -> Result<()> {
        self.samples.end = self.samples.put(samples)?;
        Ok(())
    }
}

/// A file of lines of JSON.
struct LineFile {
    path: PathBuf,
    file: Option<File>,
    /// The end of the last line that is complete. The line that may follow is that of a step that is yet to be
    /// validated.
    end: u64,
}

impl LineFile {
    /// Opens a file of which the lines that are `Greater` are removed, and all that are invalid. Those that are `Less`
    /// stay, and the last one that is `Equal` stays until something is written.
    fn open<T: DeserializeOwned>(path: PathBuf, place: impl Fn(&T) -> Ordering) -> Result<Self> {
        let Some(bytes) = read_if_there(&path)? else { return Ok(Self { path, file: None, end: 0 }) };
        let text = String::from_utf8_lossy(&bytes);
        let (mut before, mut last) = (String::new(), String::new());
        for line in text.lines() {
            match serde_json::from_str(line).map(|of| place(&of)) {
                Ok(Ordering::Less) => before.extend([line, "\n"]),
                Ok(Ordering::Equal) => last = format!("{line}\n"),
                _ => {}
            }
        }
        write_whole(&path, |out| Ok(out.write_all((before.clone() + &last).as_bytes())?))?;
        Ok(Self { path, file: None, end: before.len() as u64 })
    }

    /// Writes lines after the complete ones; returns their end.
    fn put<T: Serialize>(&mut self, lines: &[T]) -> Result<u64> {
        let mut put = || -> Result<u64> {
            let file = match &mut self.file {
                Some(file) => file,
                none => none.insert(OpenOptions::new().create(true).truncate(false).write(true).open(&self.path)?),
            };
            let mut text = String::new();
            for line in lines {
                text += &format!("{}\n", serde_json::to_string(line)?);
            }
            let end = self.end + text.len() as u64;
            file.seek(SeekFrom::Start(self.end))?;
            file.write_all(text.as_bytes())?;
            file.set_len(end)?;
            Ok(end)
        };
        put().with_context(|| format!("cannot write {}", self.path.display()))
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

/// The lines of a run's [`SAMPLES_FILE`], as [`read_metrics`] reads those of the other file.
///
/// # Errors
/// If the file exists but cannot be read.
pub fn read_samples(path: &Path) -> Result<Vec<SampleLine>> {
    read(path)
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    let bytes = read_if_there(path)?.unwrap_or_default();
    Ok(bytes.split(|b| *b == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::Step;
    use std::collections::BTreeMap;

    fn line(step: Step) -> StepLine {
        StepLine { step, loss: step as f64 / 4.0, time: 1e9 + step as f64, ..StepLine::default() }
    }

    fn sink(run_dir: &Path, first: Step) -> Box<dyn Sink> {
        open(&Opening { run_dir, first, lines: &[], samples: &[], configuration: &BTreeMap::new() }).unwrap()
    }

    fn steps(path: &Path) -> Vec<(Step, Option<f64>)> {
        read_metrics(path).unwrap().iter().map(|line| (line.step, line.validation_loss)).collect()
    }

    #[test]
    fn a_line_is_there_before_it_is_validated() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(METRICS_FILE);
        let mut sink = sink(folder.path(), 0);
        for step in 1..=3 {
            sink.expect(&line(step)).unwrap();
            assert_eq!(steps(&path).last(), Some(&(step, None)));
            sink.write(&StepLine { validation_loss: Some(0.5), ..line(step) }).unwrap();
        }
        sink.expect(&line(4)).unwrap();
        assert_eq!(steps(&path), [(1, Some(0.5)), (2, Some(0.5)), (3, Some(0.5)), (4, None)]);
        drop(sink);
        // A run that resumes at step 3 completes its line once more, here with a shorter one.
        let mut sink = self::sink(folder.path(), 3);
        assert_eq!(steps(&path), [(1, Some(0.5)), (2, Some(0.5)), (3, Some(0.5))]);
        sink.write(&line(3)).unwrap();
        sink.expect(&line(4)).unwrap();
        assert_eq!(steps(&path), [(1, Some(0.5)), (2, Some(0.5)), (3, None), (4, None)]);
        let lines = std::fs::read_to_string(&path).unwrap();
        assert!(lines.lines().all(|line| serde_json::from_str::<StepLine>(line).is_ok()), "{lines}");
    }

    #[test]
    fn samples_from_the_step_that_a_run_resumes_at_are_written_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(SAMPLES_FILE);
        let samples = |step| {
            ["", "A \"b\"\n"]
                .map(|prompt| SampleLine { step, prompt: prompt.into(), text: format!("{step}\n\u{1f}é") })
        };
        let mut first = sink(folder.path(), 0);
        assert!(!path.exists(), "a run without samples has no such file");
        (1..=3).for_each(|step| first.samples(&line(step), &samples(step)).unwrap());
        let whole = std::fs::read_to_string(&path).unwrap();
        assert!(whole.starts_with("{\"step\":1,\"prompt\":\"\",\"text\":\"1\\n"), "{whole}");
        assert_eq!(read_samples(&path).unwrap(), [samples(1), samples(2), samples(3)].concat());
        // As if the process had been killed while it wrote.
        std::fs::write(&path, &whole[..whole.len() - 5]).unwrap();
        let mut resumed = sink(folder.path(), 2);
        assert_eq!(read_samples(&path).unwrap(), samples(1));
        (2..=3).for_each(|step| resumed.samples(&line(step), &samples(step)).unwrap());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), whole);
    }
}

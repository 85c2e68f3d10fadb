//! Reads `metrics.jsonl`: from where the last look ended, or from its end.
use super::StepLine;
use anyhow::{Context, Result};
use serde::de::DeserializeOwned;
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

/// Bytes that are read at a time.
const BLOCK: usize = 1 << 16;

/// Reads a file that may be written meanwhile, by a run in progress or one that resumes at an earlier step.
///
/// ```
/// use millrace_train::record::{Follower, StepLine};
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("metrics.jsonl");
/// let line = |step| serde_json::to_string(&StepLine { step, ..StepLine::default() }).map(|line| line + "\n");
/// let mut follower = Follower::new(&path);
/// std::fs::write(&path, line(1)? + &line(2)?)?;
/// assert_eq!(follower.read()?.lines.len(), 2);
/// std::fs::write(&path, line(1)? + &line(2)? + &line(3)?)?;
/// // The last line of the last look is read again: a run writes it once more when the step has been validated.
/// let change = follower.read()?;
/// assert_eq!((change.keep, change.lines[0].step, change.lines.len()), (1, 2, 2));
/// # anyhow::Ok(())
/// ```
pub struct Follower {
    path: PathBuf,
    /// The beginning of the last line that was read.
    position: u64,
    /// Number of valid lines before it.
    lines: usize,
    /// The line before it. If the file has another one there, it was written anew.
    before: Vec<u8>,
}

/// What a look has found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Change {
    /// So many of the lines that were read before are still valid.
    pub keep: usize,
    /// The lines after them.
    pub lines: Vec<StepLine>,
}

impl Follower {
    /// Follows the file `path`, which need not exist yet.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), position: 0, lines: 0, before: Vec::new() }
    }

    /// The lines since the last look, and the last one before it. Invalid lines (from a killed process) are skipped; a
    /// last line without an end is read when it has one. If the file was shortened or replaced, it is read from its
    /// beginning.
    ///
    /// # Errors
    /// If the file exists but cannot be read.
    pub fn read(&mut self) -> Result<Change> {
        let Some(mut file) = open(&self.path)? else {
            *self = Self::new(&self.path);
            return Ok(Change::default());
        };
        let read = self.is_the_same(&mut file).and_then(|same| {
            if !same {
                *self = Self::new(&self.path);
            }
            self.lines_from(file)
        });
        read.with_context(|| format!("cannot read {}", self.path.display()))
    }

    fn is_the_same(&self, file: &mut File) -> std::io::Result<bool> {
        let from = self.position - self.before.len() as u64;
        let mut there = Vec::new();
        file.seek(SeekFrom::Start(from))?;
        file.take(self.before.len() as u64).read_to_end(&mut there)?;
        // Shortened to exactly here, it has lost the line that was the last one, which is as if it were written anew.
        Ok(there == self.before)
    }

    fn lines_from(&mut self, mut file: File) -> std::io::Result<Change> {
        file.seek(SeekFrom::Start(self.position))?;
        let mut reader = BufReader::with_capacity(BLOCK, file);
        let mut change = Change { keep: self.lines, lines: Vec::new() };
        let (mut last, mut last_is_valid, mut line) = (Vec::new(), false, Vec::new());
        while reader.read_until(b'\n', &mut line)? > 0 && line.ends_with(b"\n") {
            if !last.is_empty() {
                self.position += last.len() as u64;
                self.lines += usize::from(last_is_valid);
                std::mem::swap(&mut self.before, &mut last);
            }
            let parsed = serde_json::from_slice(&line).ok();
            last_is_valid = parsed.is_some();
            change.lines.extend(parsed);
            std::mem::swap(&mut last, &mut line);
            line.clear();
        }
        Ok(change)
    }
}

fn open(path: &Path) -> Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// The valid lines of a file of JSON lines, the last one first. Only as much of the file is read as lines are asked for.
pub struct FromEnd<T> {
    /// `None` if there is no file, or after an error.
    file: Option<File>,
    /// Where the part of the file that was not read yet ends.
    end: u64,
    /// What was read and is before the lines that were returned.
    rest: Vec<u8>,
    line: PhantomData<T>,
}

impl<T> FromEnd<T> {
    /// The lines of the file `path`; none if it does not exist.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn open(path: &Path) -> Result<Self> {
        let file = open(path)?;
        let size = file.as_ref().map_or(Ok(0), |file| file.metadata().map(|metadata| metadata.len()));
        let end = size.with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Self { file, end, rest: Vec::new(), line: PhantomData })
    }

    /// Reads the block before what was read; an error ends the lines.
    fn read_more(&mut self) -> Option<()> {
        let file = self.file.as_mut()?;
        let from = self.end.saturating_sub(BLOCK as u64);
        let mut block = Vec::with_capacity((self.end - from) as usize + self.rest.len());
        file.seek(SeekFrom::Start(from)).ok()?;
        file.take(self.end - from).read_to_end(&mut block).ok()?;
        block.append(&mut self.rest);
        (self.rest, self.end) = (block, from);
        Some(())
    }
}

impl<T: DeserializeOwned> Iterator for FromEnd<T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        loop {
            // The line's own end is not the end of the one before.
            let line = self.rest.strip_suffix(b"\n").unwrap_or(&self.rest);
            let before = line.iter().rposition(|byte| *byte == b'\n');
            match (before, self.end) {
                (None, 0) if line.is_empty() => return None,
                (None, 1..) => self.read_more()?,
                (before, _) => {
                    let from = before.map_or(0, |newline| newline + 1);
                    let parsed = serde_json::from_slice(&line[from..]).ok();
                    self.rest.truncate(from);
                    if parsed.is_some() {
                        return parsed;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::read_metrics;
    use proptest::prelude::*;
    use std::fs;

    fn text(steps: impl IntoIterator<Item = u64>) -> String {
        let line = |step| serde_json::to_string(&StepLine { step, ..StepLine::default() }).unwrap() + "\n";
        steps.into_iter().map(line).collect()
    }

    /// The lines that somebody has who applies each change.
    fn applied(known: &mut Vec<StepLine>, follower: &mut Follower) -> Vec<u64> {
        let change = follower.read().unwrap();
        known.truncate(change.keep);
        known.extend(change.lines);
        known.iter().map(|line| line.step).collect()
    }

    #[test]
    fn a_file_that_grows_is_shortened_and_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let (mut follower, mut known) = (Follower::new(&path), Vec::new());
        assert_eq!(applied(&mut known, &mut follower), [0; 0], "no file");
        let mut check = |content: String, steps: &[u64]| {
            fs::write(&path, content).unwrap();
            assert_eq!(applied(&mut known, &mut follower), steps);
        };
        check(text(1..=3), &[1, 2, 3]);
        check(text(1..=3) + "{\"step\":4", &[1, 2, 3]);
        check(text(1..=5), &[1, 2, 3, 4, 5]);
        check(text(1..=5) + "garbage\n" + &text(6..=6), &[1, 2, 3, 4, 5, 6]);
        check(text(1..=5) + "garbage\n" + &text(6..=8), &[1, 2, 3, 4, 5, 6, 7, 8]);
        check(text(1..=2), &[1, 2]);
        // A run resumed at an earlier step, and is already beyond.
        check(text([1, 2, 30, 40, 50]), &[1, 2, 30, 40, 50]);
        check(String::new(), &[]);
        check(text(7..=7), &[7]);
        check(text(7..=9), &[7, 8, 9]);
        fs::remove_file(&path).unwrap();
        assert_eq!(applied(&mut known, &mut follower), [0; 0]);
    }

    #[test]
    fn the_last_line_may_be_completed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let (mut follower, mut known) = (Follower::new(&path), Vec::new());
        fs::write(&path, text(1..=3)).unwrap();
        applied(&mut known, &mut follower);
        let validated = StepLine { step: 3, validation_loss: Some(2.5), ..StepLine::default() };
        fs::write(&path, text(1..=2) + &serde_json::to_string(&validated).unwrap() + "\n").unwrap();
        assert_eq!(applied(&mut known, &mut follower), [1, 2, 3]);
        assert_eq!(known[2].validation_loss, Some(2.5));
    }

    #[test]
    fn a_long_file_from_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        assert!(FromEnd::<StepLine>::open(&path).unwrap().next().is_none());
        fs::write(&path, text(1..=2000) + "garbage\n\n" + &text(2001..=2001) + "{\"step\":").unwrap();
        let steps: Vec<u64> = FromEnd::<StepLine>::open(&path).unwrap().map(|line| line.step).collect();
        assert_eq!(steps, (1..=2001).rev().collect::<Vec<_>>());
        let mut lines = FromEnd::<StepLine>::open(&path).unwrap();
        lines.next().unwrap();
        assert!(lines.end > 100_000, "it reads only what is needed: {}", lines.end);
    }

    proptest! {
        /// Whatever is written in between, who follows has what the file has in the end.
        #[test]
        fn following_equals_reading(versions in proptest::collection::vec((0..20u64, 0..20u64, 0..60usize), 1..8)) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("metrics.jsonl");
            let (mut follower, mut known) = (Follower::new(&path), Vec::new());
            for (from, more, cut) in versions {
                let content = text(from..from + more);
                fs::write(&path, &content[..content.len().saturating_sub(cut)]).unwrap();
                let steps = applied(&mut known, &mut follower);
                let end = fs::read_to_string(&path).unwrap();
                let complete = end.rfind('\n').map_or("", |end_of_line| &end[..=end_of_line]);
                fs::write(&path, complete).unwrap();
                let read: Vec<u64> = read_metrics(&path).unwrap().iter().map(|line| line.step).collect();
                prop_assert_eq!(steps, read);
            }
        }
    }
}

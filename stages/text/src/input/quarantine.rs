//! Unreadable data: its positions, reasons and counts, and the limit on them.
//!
//! An [`Unreadable`] entry stands for one document, for the rows that a lost row group declares, or for the estimated
//! number of documents lost after a damaged position of a compressed stream. Entries are stored in the cache next to
//! what was made without them, with the number of the file, so that a later run reports the same; a run's own
//! `quarantine.parquet` contains paths.
pub use crate::input::quarantine_file::{read, write};

use crate::input::quarantine_file::write_named;
use crate::support::problem::TextProblem;
use anyhow::Result;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The name of the file in a run directory.
pub const FILE: &str = "quarantine.parquet";

/// What to do with data that cannot be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnBadData {
    /// Skip it, record it, and continue.
    #[default]
    Quarantine,
    /// Stop at the first unreadable piece of data.
    Stop,
}

macro_rules! reasons {
    ($($name:ident = $text:literal, $what:literal;)*) => {
        /// Why data was quarantined.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Reason { $(#[doc = $what] $name,)* }

        impl Reason {
            /// All reasons.
            pub const ALL: &'static [Reason] = &[$(Reason::$name,)*];

            /// The reason as it appears in files and messages.
            pub fn as_str(self) -> &'static str {
                match self { $(Reason::$name => $text,)* }
            }
        }
    };
}

reasons! {
    RowGroup = "row group cannot be decoded", "A Parquet row group that cannot be decoded, or is not what it announces.";
    NotUtf8 = "not UTF-8", "Text in another encoding, or damaged.";
    NotJson = "not JSON", "A line that is not one JSON object.";
    NoColumn = "no such column", "A JSON object without the column, or with something else than a string in it.";
    Cut = "cut short", "A packed stream or a dump that ends before its end.";
    Damaged = "damaged", "A compressed stream whose checksums do not match, or that cannot be decompressed.";
    Page = "not a page", "A page of a dump that is not sound XML, or lacks what a page has.";
    Markup = "markup", "A page whose wikitext the converter gave up on.";
    TooLong = "too long", "A document of more than 256 MiB.";
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A piece of input that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// Index of the file among those that were read together.
    pub file: u64,
    /// The Parquet row group.
    pub row_group: Option<u64>,
    /// The row in it; `None` if it is the row group as a whole.
    pub row: Option<u64>,
    /// The line number, from 1.
    pub line: Option<u64>,
    /// The offset in bytes of its start in the decompressed file.
    pub byte: Option<u64>,
    /// Number of documents that it counts as.
    pub documents: u64,
    /// The reason.
    pub reason: Reason,
    /// Details.
    pub detail: String,
}

impl Unreadable {
    /// An entry for one document at byte `byte`, when a single file is read.
    pub fn at(byte: u64, reason: Reason, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        Self { file: 0, row_group: None, row: None, line: None, byte: Some(byte), documents: 1, reason, detail }
    }

    /// The error for it if `on_bad_data = "stop"`.
    pub fn error(&self, path: &Path) -> TextProblem {
        let place = [("row", self.row), ("line", self.line), ("byte", self.byte)];
        let place: Vec<String> = place.iter().filter_map(|(what, n)| n.map(|n| format!("{what} {n}"))).collect();
        let mut why = if place.is_empty() { String::new() } else { format!("{}: ", place.join(", ")) };
        why += self.reason.as_str();
        if !self.detail.is_empty() {
            why += &format!(" ({})", self.detail);
        }
        TextProblem::Stopped { file: path.to_path_buf(), row_group: self.row_group, why }
    }
}

/// The row groups among `bad`, which cannot be decoded: index of the file and of the row group.
pub fn lost_row_groups(bad: &[Unreadable]) -> impl Iterator<Item = (u64, u64)> {
    let lost = bad.iter().filter(|bad| bad.reason == Reason::RowGroup);
    lost.filter_map(|bad| Some((bad.file, bad.row_group?)))
}

/// Entries and documents by reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts(BTreeMap<Reason, u64>);

impl Counts {
    /// Counts one entry.
    pub fn add(&mut self, bad: &Unreadable) {
        *self.0.entry(bad.reason).or_default() += bad.documents;
    }

    /// The counts by reason.
    pub fn iter(&self) -> impl Iterator<Item = (Reason, u64)> {
        self.0.iter().map(|(reason, documents)| (*reason, *documents))
    }

    /// Documents with any reason.
    pub fn documents(&self) -> u64 {
        self.0.values().sum()
    }
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let all: Vec<String> = self.0.iter().map(|(reason, n)| format!("{n} {reason}")).collect();
        f.write_str(&all.join(", "))
    }
}

/// All unreadable data of a corpus.
#[derive(Clone, Debug, Default)]
pub struct Quarantine {
    parts: Vec<(Part, Vec<PathBuf>)>,
    counts: Counts,
    documents: u64,
}

#[derive(Clone, Debug)]
enum Part {
    /// The entries about these files are in a file written by [`write()`].
    InFile(PathBuf, Range<u64>),
    InMemory(Arc<Vec<Unreadable>>),
}

impl Part {
    fn each(&self, f: &mut dyn FnMut(Unreadable) -> Result<()>) -> Result<()> {
        match self {
            Part::InFile(path, files) => read(path, &mut |bad| if files.contains(&bad.file) { f(bad) } else { Ok(()) }),
            Part::InMemory(bad) => bad.iter().cloned().try_for_each(f),
        }
    }
}

impl Quarantine {
    /// Adds the entries in a file written by [`write()`]; they refer to the files `paths`.
    pub fn add(&mut self, kept: PathBuf, paths: Vec<PathBuf>) -> Result<()> {
        let files = 0..paths.len() as u64;
        self.add_files(kept, paths, files)
    }

    /// Adds those of such entries that are about `files`, indices of `paths`.
    pub fn add_files(&mut self, kept: PathBuf, paths: Vec<PathBuf>, files: Range<u64>) -> Result<()> {
        let part = Part::InFile(kept, files);
        part.each(&mut |bad| {
            self.counts.add(&bad);
            Ok(())
        })?;
        self.parts.push((part, paths));
        Ok(())
    }

    /// Adds entries that refer to the files `paths`.
    pub fn hold(&mut self, bad: Vec<Unreadable>, paths: Vec<PathBuf>) {
        bad.iter().for_each(|bad| self.counts.add(bad));
        self.parts.push((Part::InMemory(Arc::new(bad)), paths));
    }

    /// Adds everything in `other`, which is about other files.
    pub fn merge(&mut self, other: &Quarantine) {
        self.parts.extend(other.parts.iter().cloned());
        other.counts.0.iter().for_each(|(reason, documents)| *self.counts.0.entry(*reason).or_default() += documents);
        self.documents += other.documents;
    }

    /// Sets the total number of documents, readable or not.
    pub fn among(self, documents: u64) -> Self {
        Self { documents, ..self }
    }

    /// A summary on one line: `2 of 120 documents cannot be read: 1 not JSON, 1 not UTF-8`.
    pub fn summary(&self) -> String {
        let (bad, all) = (self.counts.documents(), self.documents);
        format!("{bad} of {all} documents cannot be read: {}", self.counts)
    }

    /// Counts by reason.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.counts.documents() == 0
    }

    /// Calls `f` with each entry and the path of its file.
    pub fn each(&self, f: &mut dyn FnMut(&Path, Unreadable) -> Result<()>) -> Result<()> {
        for (part, paths) in &self.parts {
            part.each(&mut |bad| f(paths.get(bad.file as usize).map_or(Path::new(""), PathBuf::as_path), bad))?;
        }
        Ok(())
    }

    /// An error if the unreadable fraction exceeds this limit.
    pub fn check(&self, limit: f64) -> Result<()> {
        let (bad, documents) = (self.counts.documents(), self.documents);
        if bad as f64 > limit * documents as f64 {
            let mut first = None;
            self.each(&mut |path, bad| {
                first.get_or_insert_with(|| bad.error(path).place_and_cause());
                Ok(())
            })?;
            let (summary, first) = (self.summary(), first.unwrap_or_default());
            return Err(TextProblem::TooMuchUnreadable { summary, limit, first }.into());
        }
        Ok(())
    }

    /// Writes all entries into `directory`, atomically; writes nothing if there are none.
    pub fn write(&self, directory: &Path) -> Result<()> {
        if self.is_empty() { Ok(()) } else { write_named(&directory.join(FILE), |push| self.each(push)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::AsArray;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    #[test]
    fn what_is_written_is_read_and_counted() {
        let folder = tempfile::tempdir().unwrap();
        let kept = folder.path().join("kept.parquet");
        let group =
            Unreadable { file: 1, row_group: Some(3), documents: 20, ..Unreadable::at(0, Reason::RowGroup, "no") };
        let bad = [
            Unreadable { line: Some(7), ..Unreadable::at(99, Reason::NotJson, "eof") },
            Unreadable { byte: None, ..group },
        ];
        write(&kept, |push| bad.iter().cloned().try_for_each(push)).unwrap();
        let mut quarantine = Quarantine::default();
        assert!(quarantine.is_empty() && quarantine.check(0.0).is_ok());
        quarantine.add(kept, vec!["a.jsonl".into(), "b.parquet".into()]).unwrap();
        let mut found = Vec::new();
        let mut keep = |path: &Path, bad| {
            found.push((path.display().to_string(), bad));
            Ok(())
        };
        quarantine.each(&mut keep).unwrap();
        assert_eq!(found, [("a.jsonl".to_string(), bad[0].clone()), ("b.parquet".to_string(), bad[1].clone())]);
        assert_eq!(quarantine.counts().to_string(), "20 row group cannot be decoded, 1 not JSON");
        assert!(quarantine.clone().among(210).check(0.1).is_ok());
        let said = quarantine.clone().among(209).check(0.1).unwrap_err().to_string();
        assert!(said.contains("21 of 209 documents") && said.contains("a.jsonl: line 7, byte 99: not JSON"), "{said}");
        quarantine.write(folder.path()).unwrap();
        let file = std::fs::File::open(folder.path().join(FILE)).unwrap();
        let rows: Vec<_> = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap().collect();
        let rows = rows[0].as_ref().unwrap();
        assert_eq!(rows.column_by_name("path").unwrap().as_string::<i32>().value(1), "b.parquet");
    }
}

//! Documents that are withdrawn: training and preparation treat them as if they were not in the files. What is known about
//! the others (texts, hashes, tokens) stays in the cache, so withdrawing a document reads and counts nothing again.
use crate::input::ingest::DocumentFile;
use crate::parquet::about::each_id;
use crate::prepare::origins::id_of;
use crate::support::cache::key;
use crate::support::problem::{TextProblem, likeness};
use anyhow::{Context, Result};
use contract::{Problem, StageKeys};
use rustc_hash::FxHashSet;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The name in a run's fingerprint of what decides which documents of a source are withdrawn.
pub const WITHDRAWN: &str = "withdrawn documents";

/// The key that withdraws documents.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, StageKeys)]
#[serde(default)]
pub struct Withdrawal {
    /// File with the ids of documents that are treated as if they were not there, one a line, as `pipeline why` shows them.
    #[key(location)]
    pub withdraw: Option<String>,
}

impl Withdrawal {
    /// Reads the file.
    ///
    /// # Errors
    /// If it cannot be read, is not text, or has no ids.
    pub fn read(&self) -> Result<Option<Arc<Withdrawn>>> {
        self.withdraw.as_ref().map(|path| Withdrawn::read(path.as_ref()).map(Arc::new)).transpose()
    }

    /// The problem with the file, if there is one.
    pub fn check_files(&self) -> Option<Problem> {
        self.read().err().map(|error| Problem::with_file("withdraw", &error))
    }
}

/// The ids of documents that are withdrawn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Withdrawn {
    path: PathBuf,
    ids: FxHashSet<String>,
}

/// The rows of a source that are withdrawn, ascending, as a resource of the source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WithdrawnRows(pub Vec<u64>);

impl Withdrawn {
    /// Reads a file with an id on each line. Empty lines do not count.
    ///
    /// # Errors
    /// If it cannot be read, is not text, or has no ids.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the list of withdrawn documents {}", path.display()))?;
        let ids: FxHashSet<String> = text.lines().filter(|id| !id.is_empty()).map(str::to_owned).collect();
        if ids.is_empty() {
            let why = "names no document: write an id on each line, or remove the key".to_owned();
            return Err(TextProblem::List { path: path.into(), why }.into());
        }
        Ok(Self { path: path.into(), ids })
    }

    /// The ids, in order.
    pub fn ids(&self) -> Vec<&str> {
        let mut ids: Vec<&str> = self.ids.iter().map(String::as_str).collect();
        ids.sort_unstable();
        ids
    }

    /// Whether the document with this id is withdrawn.
    pub fn contains(&self, id: &str) -> bool {
        self.ids.contains(id)
    }

    /// What decides results: how many there are, and the hash of all ids.
    pub fn fingerprint(&self) -> String {
        format!("{} ({})", self.ids.len(), key(&self.ids()))
    }

    /// The rows of `files`, counted over all of them, with these ids, ascending.
    ///
    /// # Errors
    /// If no row has one of the ids; if a file cannot be read.
    pub fn rows(&self, files: &[DocumentFile]) -> Result<Vec<u64>> {
        self.rows_of(None, files)
    }

    /// The same for a source that is mixed with others in a preparation, under the name `stage`: ids may be those of its
    /// files, or those of the corpus.
    ///
    /// # Errors
    /// See [`rows`](Self::rows).
    pub fn rows_of(&self, stage: Option<&str>, files: &[DocumentFile]) -> Result<Vec<u64>> {
        let (mut rows, mut found) = (Vec::new(), FxHashSet::default());
        each_id(files, &mut |row, id| {
            let in_corpus = stage.and_then(|stage| self.ids.get(&id_of(stage, id)));
            let listed = [self.ids.get(id), in_corpus];
            rows.extend(listed.iter().any(Option::is_some).then_some(row));
            found.extend(listed.into_iter().flatten().map(String::as_str));
        })?;
        let missing: Vec<&str> = self.ids().into_iter().filter(|id| !found.contains(id)).collect();
        let Some(id) = missing.first() else { return Ok(rows) };
        let others = match missing.len() {
            1 => String::new(),
            n => format!(", and so are {} others", n - 1),
        };
        let mut nearest = (0.0, String::new());
        each_id(files, &mut |_, other| {
            let likeness = likeness(id, other);
            if likeness > nearest.0 {
                nearest = (likeness, other.to_owned());
            }
        })?;
        let nearest = nearest.1;
        let why = format!("`{id}` is not the id of a document here{others}; similar: {nearest}");
        Err(TextProblem::List { path: self.path.clone(), why }.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::document_file;

    #[test]
    fn ids_are_found_in_all_files_or_named_with_the_nearest() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| {
            let texts = (0..300).map(|row| format!("text {row}")).collect();
            document_file(&folder.path().join(name), &[texts])
        };
        let files = [file("a.parquet"), file("b.parquet")];
        let list = folder.path().join("list.txt");
        let withdrawn = |ids: &str| {
            std::fs::write(&list, ids).unwrap();
            Withdrawn::read(&list)
        };
        let read = withdrawn("b.parquet/7\r\n\na.parquet/299\n").unwrap();
        assert_eq!(read.rows(&files).unwrap(), [299, 307]);
        assert_eq!(read.fingerprint(), withdrawn("a.parquet/299\nb.parquet/7").unwrap().fingerprint());
        assert_ne!(read.fingerprint(), withdrawn("a.parquet/298\nb.parquet/7").unwrap().fingerprint());
        let unknown = withdrawn("b.parquet/299\nb.parquet/300\nx").unwrap().rows(&files).unwrap_err().to_string();
        assert!(unknown.contains("`b.parquet/300` is not the id") && unknown.contains("so are 1 others"), "{unknown}");
        assert!(unknown.contains("similar: b.parquet/30"), "{unknown}");
        assert!(withdrawn("\n").unwrap_err().to_string().contains("names no document"));
        std::fs::remove_file(&list).unwrap();
        assert!(format!("{:#}", Withdrawn::read(&list).unwrap_err()).contains("cannot read the list"));
    }
}

//! Texts by row number, over Parquet files that are read in place.
use crate::input::ingest::DocumentFile;
use crate::input::quarantine::{OnBadData, Quarantine, Unreadable, lost_row_groups};
use crate::parquet::about::{self, About};
use crate::parquet::pieces::TextColumn;
use crate::parquet::row_groups::{DEFAULT_BUDGET, OpenFile, Piece, RowGroups, RowPosition};
use crate::support::cache::{Cache, key};
use crate::support::permutation::choose;
use crate::support::problem::TextProblem;
use anyhow::{Context, Error, Result};
use arrow::array::{Array, ArrayRef, AsArray, LargeStringArray, LargeStringBuilder};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::record_batch::RecordBatch;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The documents of a corpus, addressed by row number. Reading is thread-safe.
///
/// Numbers count every row of the files, null or not, or the rows of the sample, if there is one. [`get`](Self::get)
/// distinguishes nulls from empty texts; for [`take`](Self::take) a null is an empty text.
///
/// Only [`each_seen`](Self::each_seen) reports what cannot be read. For all other methods a text that is not UTF-8 is a
/// null, and a row group that cannot be decoded is an error until [`lose`](Self::lose) has been called for it; then its
/// rows are nulls.
pub struct DocumentStore {
    groups: RowGroups,
    sample: Option<Vec<u64>>,
    lost: BTreeSet<usize>,
    hash: String,
    files: Vec<DocumentFile>,
    on_bad_data: OnBadData,
    quarantine: Quarantine,
}

/// Bytes of text after which a batch of rows ends: those that stages process at once take a multiple of it in memory.
pub const BATCH_BYTES: usize = 4 << 20;

/// The hint in errors about a file that millrace made itself.
pub const CACHE_IS_DAMAGED: &str =
    "a file of the cache is damaged; `pipeline cache --clear documents` removes it, and it is made again";

/// Whether the file is at fault, rather than the system.
fn is_damage(error: &Error) -> bool {
    matches!(error.downcast_ref(), Some(TextProblem::Corrupt { .. }))
}

/// The content of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen<'a> {
    /// A text.
    Text(&'a str),
    /// A null.
    Null,
    /// Bytes that are not UTF-8 from this offset on.
    NotUtf8(usize),
    /// Unknown: its row group has been given up.
    Lost,
}

impl DocumentStore {
    /// Opens document files, each with its own column of type string, large_string, string_view, binary (if it is
    /// UTF-8) or a dictionary of one of them. Reads the files completely once to compute their content hash.
    pub fn open(files: &[DocumentFile], cache: &Cache) -> Result<Self> {
        let mut open = Vec::new();
        let mut hashes = vec!["documents 1".to_string()];
        for file in files {
            open.push(self::open(&file.path, &file.column).map_err(|error| match file.hash {
                Some(_) if is_damage(&error) => error.context(CACHE_IS_DAMAGED),
                _ => error,
            })?);
            hashes.push(file.column.clone());
            hashes.push(match &file.hash {
                Some(hash) => hash.clone(),
                None => cache.hash_file(&file.path)?,
            });
        }
        let hashes: Vec<&str> = hashes.iter().map(String::as_str).collect();
        let groups = RowGroups::new(open, DEFAULT_BUDGET, Box::new(TextColumn));
        Ok(Self {
            groups,
            sample: None,
            lost: BTreeSet::new(),
            hash: key(&hashes),
            files: files.to_vec(),
            on_bad_data: OnBadData::default(),
            quarantine: Quarantine::default(),
        })
    }

    /// Sets the quarantine from the conversion of its files, and what to do with unreadable data.
    pub fn with_quarantine(self, quarantine: Quarantine, on_bad_data: OnBadData) -> Self {
        Self { quarantine, on_bad_data, ..self }
    }

    /// What to do with unreadable data.
    pub fn on_bad_data(&self) -> OnBadData {
        self.on_bad_data
    }

    /// The quarantine: from the conversion of its files, and `bad`, the rows that a survey has found to be unreadable.
    pub fn quarantine(&self, bad: &[Unreadable]) -> Quarantine {
        let mut quarantine = self.quarantine.clone();
        let converted = quarantine.counts().documents();
        quarantine.hold(bad.to_vec(), self.files.iter().map(|file| file.path.clone()).collect());
        // What was lost during conversion was lost from the whole file, not from a sample.
        let rows = if converted > 0 { self.groups.rows() } else { self.rows() };
        quarantine.among(rows + converted)
    }

    /// The quarantine, with `bad` from a survey; the row groups in it are given up.
    ///
    /// # Errors
    /// If the unreadable fraction of all documents exceeds this limit.
    pub fn set_aside(&mut self, bad: &[Unreadable], max_bad_fraction: f64) -> Result<Quarantine> {
        let quarantine = self.quarantine(bad);
        quarantine.check(max_bad_fraction)?;
        self.lose(lost_row_groups(bad));
        Ok(quarantine)
    }

    /// The files.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|file| file.path.as_path())
    }

    /// The file with this index.
    pub fn path(&self, file: u64) -> &Path {
        self.files.get(file as usize).map_or(Path::new(""), |file| &file.path)
    }

    /// Whether the file was made by millrace and is in the cache.
    pub fn is_converted(&self, file: u64) -> bool {
        self.files.get(file as usize).is_some_and(|file| file.hash.is_some())
    }

    /// What the files say about `rows`, in that order.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn about(&self, rows: &[u64]) -> Result<Vec<About>> {
        about::of_rows(&self.files, &rows.iter().map(|row| self.file_row(*row)).collect::<Vec<_>>())
    }

    /// The documents whose id is `name`, or, if there are none, whose URL or title it is. Without a row: those that are
    /// not in the sample.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn called(&self, name: &str) -> Result<Vec<(Option<u64>, About)>> {
        let called = about::called(&self.files, name)?.into_iter();
        Ok(called.map(|(row, about)| (self.row_of_file(row), about)).collect())
    }

    /// The files.
    pub fn files(&self) -> &[DocumentFile] {
        &self.files
    }

    /// The row with this index among all rows of the files, if it is in the sample.
    pub fn row_of_file(&self, row: u64) -> Option<u64> {
        match &self.sample {
            None => Some(row),
            Some(sample) => sample.binary_search(&row).ok().map(|row| row as u64),
        }
    }

    /// Gives up row groups, by file and row group: their rows become nulls.
    pub fn lose(&mut self, groups: impl IntoIterator<Item = (u64, u64)>) {
        let all = (0..self.groups.row_groups()).map(|group| (self.groups.number(group), group));
        let number: BTreeMap<_, _> = all.map(|((file, index), group)| ((file as u64, index as u64), group)).collect();
        self.lost.extend(groups.into_iter().filter_map(|place| number.get(&place)));
    }

    /// Keeps only `wanted` rows, selected by `seed`, in their order.
    pub fn sample(self, wanted: u64, seed: u64) -> Self {
        if wanted >= self.rows() {
            return self;
        }
        let hash = key(&[&self.hash, &wanted.to_string(), &seed.to_string()]);
        let chosen = choose(self.groups.rows(), wanted, seed);
        Self { sample: Some(chosen), hash, ..self }
    }

    /// Maximum memory in bytes when `threads` threads read.
    pub fn memory(&self, threads: usize) -> u64 {
        self.groups.memory(DEFAULT_BUDGET, threads)
    }

    /// Whether all texts fit into the cache of decoded pieces, so that each is decoded once. `bytes`: their size, as
    /// far as it is known; the footers may know more.
    pub fn fit_in_cache(&self, bytes: u64) -> bool {
        self.groups.bytes().max(bytes) <= DEFAULT_BUDGET as u64
    }

    /// Number of rows.
    pub fn rows(&self) -> u64 {
        self.sample.as_ref().map_or(self.groups.rows(), |s| s.len() as u64)
    }

    /// Identifies the content: files, columns and sample.
    pub fn content_hash(&self) -> &str {
        &self.hash
    }

    /// The row's index among all rows of the files.
    pub fn file_row(&self, row: u64) -> u64 {
        self.sample.as_ref().map_or(row, |s| s[row as usize])
    }

    /// The position of `row`, for messages.
    pub fn position(&self, row: u64) -> Option<RowPosition> {
        self.groups.position(self.file_row(row))
    }

    /// One text; `None` if it is null.
    pub fn get(&self, row: u64) -> Result<Option<String>> {
        let mut text = None;
        self.each([row], |t| text = t.map(str::to_string))?;
        Ok(text)
    }

    /// The texts of `rows`, in that order, nulls as empty texts.
    pub fn take(&self, rows: impl IntoIterator<Item = u64>) -> Result<LargeStringArray> {
        let mut texts = LargeStringBuilder::new();
        self.each(rows, |text| texts.append_value(text.unwrap_or_default()))?;
        Ok(texts.finish())
    }

    /// Calls `f` with the texts of `rows`, in that order, nulls as empty texts, in batches that end when they have `bytes`
    /// bytes.
    pub fn batches(
        &self,
        rows: impl IntoIterator<Item = u64>,
        bytes: usize,
        mut f: impl FnMut(LargeStringArray) -> Result<()>,
    ) -> Result<()> {
        let mut texts = LargeStringBuilder::new();
        self.each_seen(rows, |_, seen| {
            texts.append_value(if let Seen::Text(text) = seen { text } else { "" });
            if texts.values_slice().len() >= bytes { f(texts.finish()) } else { Ok(()) }
        })?;
        let rest = texts.finish();
        if rest.is_empty() { Ok(()) } else { f(rest) }
    }

    /// Calls `f` with each text of `rows`, `None` for a null.
    pub fn each(&self, rows: impl IntoIterator<Item = u64>, mut f: impl FnMut(Option<&str>)) -> Result<()> {
        self.each_seen(rows, |_, seen| {
            f(if let Seen::Text(text) = seen { Some(text) } else { None });
            Ok(())
        })
    }

    /// Calls `f` with each of `rows` and its content.
    pub fn each_seen(
        &self,
        rows: impl IntoIterator<Item = u64>,
        mut f: impl FnMut(u64, Seen) -> Result<()>,
    ) -> Result<()> {
        // Consecutive rows are often in the same piece: the store is asked only when leaving it.
        let mut current: Option<(Range<u64>, Option<ArrayRef>)> = None;
        for row in rows {
            let known = self.sample.as_ref().is_none_or(|s| row < s.len() as u64);
            anyhow::ensure!(known && row < self.rows(), "row {row} of {} was asked for", self.rows());
            let at = self.file_row(row);
            if !current.as_ref().is_some_and(|(range, _)| range.contains(&at)) {
                let (group, range) = self.groups.announced(at).context("there are no rows")?;
                current = Some(match self.lost.contains(&group) {
                    true => (range, None),
                    false => {
                        let Piece { array, rows } = self.groups.find(at)?;
                        (rows, Some(array))
                    }
                });
            }
            let (range, array) = current.as_ref().context("a piece was just found")?;
            let Some(array) = array else {
                f(row, Seen::Lost)?;
                continue;
            };
            let (texts, index) = (array.as_binary::<i64>(), (at - range.start) as usize);
            let seen = match texts.is_valid(index).then(|| std::str::from_utf8(texts.value(index))) {
                None => Seen::Null,
                Some(Ok(text)) => Seen::Text(text),
                Some(Err(e)) => Seen::NotUtf8(e.valid_up_to()),
            };
            f(row, seen)?;
        }
        Ok(())
    }

    /// The row group of `row`: its index, its file and index in the file, its rows, and their range among the rows of
    /// the store.
    pub fn row_group(&self, row: u64) -> Option<RowGroup> {
        let (group, range) = self.groups.announced(self.file_row(row))?;
        let (file, index) = self.groups.number(group);
        let rows = match &self.sample {
            None => range.clone(),
            Some(sample) => {
                let at = |bound: u64| sample.partition_point(|row| *row < bound) as u64;
                at(range.start)..at(range.end)
            }
        };
        Some(RowGroup { file: file as u64, row_group: index as u64, first: range.start, rows })
    }
}

/// A row group of a [`DocumentStore`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowGroup {
    /// Index of the file.
    pub file: u64,
    /// Index in the file.
    pub row_group: u64,
    /// Index of its first row among those of all files.
    pub first: u64,
    /// Its rows in the store (those in the sample, if there is one).
    pub rows: Range<u64>,
}

/// Maximum memory in bytes when `threads` threads read documents from `files` in place, according to their footers; 0
/// if a footer cannot be read.
pub fn memory(files: &[PathBuf], column: &str, threads: usize) -> u64 {
    let open: Result<Vec<_>> = files.iter().map(|path| open(path, column)).collect();
    open.map_or(0, |files| OpenFile::memory(&files, DEFAULT_BUDGET, threads))
}

/// Opens a file for the texts in its column of this name: reads its footer.
///
/// # Errors
/// If it cannot be read, is not sound, or has no such column of texts.
pub(crate) fn open(path: &Path, column: &str) -> Result<OpenFile> {
    OpenFile::new(path, column, "string", is_text)
}

/// Texts in the type that [`Rows`](contract::Rows) contain.
pub fn records(texts: LargeStringArray) -> Result<RecordBatch> {
    let schema = Schema::new(vec![Field::new("text", DataType::LargeUtf8, false)]);
    Ok(RecordBatch::try_new(Arc::new(schema), vec![Arc::new(texts)])?)
}

pub(crate) fn is_text(field: &Field) -> bool {
    use DataType::*;
    let plain = |t: &DataType| matches!(t, Utf8 | LargeUtf8 | Utf8View | Binary | LargeBinary | BinaryView);
    match field.data_type() {
        Dictionary(_, values) => plain(values),
        other => plain(other),
    }
}

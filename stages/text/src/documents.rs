//! Texts by row number, over Parquet files that are read in place.
use crate::cache::{Cache, key};
use crate::permutation::choose;
use crate::row_groups::{DEFAULT_BUDGET, OpenFile, Place, RowGroups};
use crate::spool::DocumentFile;
use anyhow::{Context, Result};
use arrow::array::{Array, ArrayRef, AsArray, LargeStringArray, LargeStringBuilder};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::record_batch::RecordBatch;
use std::ops::Range;
use std::sync::Arc;

/// The documents of a corpus, addressed by number. Reading is thread-safe.
///
/// Numbers count every row of the files, null or not, or, where a sample was taken, the rows of the sample; a
/// null is told apart from an empty text by [`get`](Self::get) and is an empty text to [`take`](Self::take).
pub struct DocumentStore {
    groups: RowGroups,
    sample: Option<Vec<u64>>,
    hash: String,
}

impl DocumentStore {
    /// Opens document files: each its own column, of string, large_string, string_view, binary (if it is UTF-8)
    /// or a dictionary of one of them. Reads the files whole once to know their content hash.
    pub fn open(files: &[DocumentFile], cache: &Cache) -> Result<Self> {
        let mut open = Vec::new();
        let mut hashes = vec!["documents 1".to_string()];
        for file in files {
            open.push(OpenFile::new(&file.path, &file.column, "string", is_text)?);
            hashes.push(file.column.clone());
            hashes.push(match &file.hash {
                Some(hash) => hash.clone(),
                None => cache.hash_file(&file.path)?,
            });
        }
        let hashes: Vec<&str> = hashes.iter().map(String::as_str).collect();
        let groups = RowGroups::new(open, DEFAULT_BUDGET, Box::new(to_large_utf8), None);
        Ok(Self { groups, sample: None, hash: key(&hashes) })
    }

    /// Keeps `wanted` rows, chosen by `seed`, in their order.
    pub fn sample(self, wanted: u64, seed: u64) -> Self {
        if wanted >= self.rows() {
            return self;
        }
        let hash = key(&[&self.hash, &wanted.to_string(), &seed.to_string()]);
        let chosen = choose(self.groups.rows(), wanted, seed);
        Self { sample: Some(chosen), hash, ..self }
    }

    /// Rows there are.
    pub fn rows(&self) -> u64 {
        self.sample.as_ref().map_or(self.groups.rows(), |s| s.len() as u64)
    }

    /// Names the content: the files', the columns', the sample's.
    pub fn content_hash(&self) -> &str {
        &self.hash
    }

    /// Its number among all rows of the files.
    pub fn file_row(&self, row: u64) -> u64 {
        self.sample.as_ref().map_or(row, |s| s[row as usize])
    }

    /// Where `row` is, for messages.
    pub fn place(&self, row: u64) -> Option<Place> {
        self.groups.place(self.file_row(row))
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

    /// Calls `f` with each text of `rows`, `None` for a null.
    pub fn each(&self, rows: impl IntoIterator<Item = u64>, mut f: impl FnMut(Option<&str>)) -> Result<()> {
        // Neighbours are often in one row group: ask the store only when one leaves it.
        let mut current: Option<(Range<u64>, ArrayRef)> = None;
        for row in rows {
            let known = self.sample.as_ref().is_none_or(|s| row < s.len() as u64);
            anyhow::ensure!(known && row < self.rows(), "row {row} of {} was asked for", self.rows());
            let row = self.file_row(row);
            if !current.as_ref().is_some_and(|(range, _)| range.contains(&row)) {
                let (array, index) = self.groups.find(row)?;
                let first = row - index as u64;
                current = Some((first..first + array.len() as u64, array));
            }
            let (range, array) = current.as_ref().context("a row group was just found")?;
            let texts = array.as_string::<i64>();
            let index = (row - range.start) as usize;
            f(texts.is_valid(index).then(|| texts.value(index)));
        }
        Ok(())
    }
}

/// Texts as [`Rows`](contract::Rows) carry them.
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

fn to_large_utf8(column: &ArrayRef) -> Result<ArrayRef> {
    let strict = CastOptions { safe: false, ..CastOptions::default() };
    let plain = match column.data_type() {
        DataType::Dictionary(_, values) => &cast_with_options(column, values, &strict)?,
        _ => column,
    };
    Ok(cast_with_options(plain, &DataType::LargeUtf8, &strict)?)
}

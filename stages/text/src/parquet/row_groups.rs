//! Random access to the rows of a list of Parquet files: one column, decoded one row group at a time, with a cache of
//! recently used row groups.
use crate::parquet::decode::{Damaged, Input, decode};
use crate::support::problem::TextProblem;
use anyhow::{Context, Error, Result};
use arrow::array::{Array, ArrayRef};
use arrow::datatypes::{Field, Schema};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::file::metadata::ParquetMetaData;
use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

/// Default memory limit of decoded row groups.
pub const DEFAULT_BUDGET: usize = 256 << 20;
/// Rows decoded at a time, small enough for 32-bit offsets not to overflow.
const ROWS_AT_ONCE: usize = 1024;

/// Converts the column to the type that the owner needs, or says what is wrong with it.
pub type Convert = Box<dyn Fn(&ArrayRef) -> Result<ArrayRef> + Send + Sync>;
/// A second way to decode the row group `(file, row group, index of the column)`, used if the first one fails; an error
/// if it fails as well.
pub type Rescue = fn(Input, usize, usize) -> Result<ArrayRef>;
/// Checks a whole decoded row group of `(file, row group)`.
pub type Inspect = Box<dyn Fn(&Path, usize, &ArrayRef) -> Result<()> + Send + Sync>;

/// One column of several Parquet files.
pub struct RowGroups {
    files: Vec<OpenFile>,
    groups: Vec<Group>,
    rows: u64,
    convert: Convert,
    inspect: Option<Inspect>,
    rescue: Option<Rescue>,
    kept: Mutex<Kept>,
}

/// A Parquet file whose footer has been read.
pub struct OpenFile {
    /// Its path.
    pub path: PathBuf,
    /// Its footer.
    pub metadata: ArrowReaderMetadata,
    column: usize,
}

struct Group {
    file: usize,
    index: usize,
    first: u64,
}

/// The position of a row, for messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub file: PathBuf,
    /// The row group in it.
    pub row_group: usize,
    /// The row in that row group.
    pub row: usize,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}, row group {}, row {}", self.file.display(), self.row_group, self.row)
    }
}

impl OpenFile {
    /// Reads the footer of `path` and finds `column` in it; `accept` checks its type.
    pub fn new(path: &Path, column: &str, expected: &'static str, accept: fn(&Field) -> bool) -> Result<Self> {
        let corrupt = |why: String| TextProblem::Corrupt { file: path.to_path_buf(), row_group: None, why };
        let metadata = decode(path, |input| Ok(ArrowReaderMetadata::load(&input, ArrowReaderOptions::new())?))?
            .map_err(|Damaged(why)| corrupt(format!("not a sound Parquet file: {why}")))?;
        let fields = metadata.schema().fields();
        let Some((index, field)) = fields.find(column) else {
            let columns = fields.iter().map(|f| f.name().clone()).collect();
            return Err(TextProblem::Column { file: path.to_path_buf(), column: column.into(), columns }.into());
        };
        if !accept(field) {
            let (file, found) = (path.to_path_buf(), field.data_type().to_string());
            return Err(TextProblem::Type { file, column: column.into(), found, expected }.into());
        }
        check_rows(metadata.metadata(), index).map_err(corrupt)?;
        Ok(Self { path: path.to_path_buf(), column: index, metadata })
    }

    /// Maximum memory in bytes for reading, according to the column's sizes in the footer: cached row groups up to
    /// `budget`, plus one in each of `threads` that is being decoded, converted and concatenated.
    pub fn memory(files: &[Self], budget: usize, threads: usize) -> u64 {
        let (mut kept, mut largest) = (0, 0);
        for file in files {
            let metadata = file.metadata.metadata();
            let schema = metadata.file_metadata().schema_descr();
            let leaves = (0..schema.num_columns()).filter(|leaf| schema.get_column_root_idx(*leaf) == file.column);
            let leaves: Vec<usize> = leaves.collect();
            for group in metadata.row_groups() {
                let bytes = leaves.iter().map(|leaf| group.column(*leaf).uncompressed_size().unsigned_abs()).sum();
                (kept, largest) = (kept + bytes, largest.max(bytes));
            }
        }
        kept.min(budget as u64) + 3 * threads as u64 * largest
    }

    /// The value of `key` in the footer's metadata.
    pub fn note(&self, key: &str) -> Option<&str> {
        let notes = self.metadata.metadata().file_metadata().key_value_metadata()?;
        notes.iter().find(|n| n.key == key)?.value.as_deref()
    }
}

/// Row counts must be correct even in a damaged file, because memory is allocated by them.
fn check_rows(metadata: &ParquetMetaData, column: usize) -> Result<(), String> {
    let schema = metadata.file_metadata().schema_descr();
    let leaf = (0..schema.num_columns()).find(|leaf| schema.get_column_root_idx(*leaf) == column);
    let mut sum = 0i64;
    for (number, group) in metadata.row_groups().iter().enumerate() {
        let rows = group.num_rows();
        if rows < 0 {
            return Err(format!("row group {number} announces {rows} rows"));
        }
        if let Some(leaf) = leaf
            && schema.column(leaf).max_rep_level() == 0
            && group.column(leaf).num_values() != rows
        {
            let values = group.column(leaf).num_values();
            return Err(format!("row group {number} announces {rows} rows and {values} values of the column"));
        }
        sum = sum.saturating_add(rows);
    }
    let all = metadata.file_metadata().num_rows();
    if sum != all { Err(format!("{all} rows are announced, but its row groups have {sum}")) } else { Ok(()) }
}

impl RowGroups {
    /// The rows of `files`, concatenated. Decoded row groups are cached up to `budget` bytes.
    pub fn new(files: Vec<OpenFile>, budget: usize, convert: Convert, inspect: Option<Inspect>) -> Self {
        let (mut groups, mut rows) = (Vec::new(), 0);
        for (file, open) in files.iter().enumerate() {
            for (index, group) in open.metadata.metadata().row_groups().iter().enumerate() {
                let count = group.num_rows().unsigned_abs();
                if count > 0 {
                    groups.push(Group { file, index, first: rows });
                    rows += count;
                }
            }
        }
        Self { files, groups, rows, convert, inspect, rescue: None, kept: Mutex::new(Kept::new(budget)) }
    }

    /// With a second way to decode row groups for which the first one fails.
    pub fn with_rescue(self, rescue: Rescue) -> Self {
        Self { rescue: Some(rescue), ..self }
    }

    /// Whether the file `path` has the columns of `wanted`, with the same types.
    pub fn has_columns(&self, path: &Path, wanted: &Schema) -> bool {
        let file = self.files.iter().find(|file| file.path == path);
        file.is_some_and(|file| {
            let found = |field: &Field| file.metadata.schema().field_with_name(field.name()).ok();
            wanted.fields().iter().all(|field| found(field).is_some_and(|f| f.data_type() == field.data_type()))
        })
    }

    /// See [`OpenFile::memory`].
    pub fn memory(&self, budget: usize, threads: usize) -> u64 {
        OpenFile::memory(&self.files, budget, threads)
    }

    /// Number of rows in all files.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Number of row groups that have rows, in all files.
    pub fn row_groups(&self) -> usize {
        self.groups.len()
    }

    /// The position of `row`. If it is past the end: the end of the last row group.
    pub fn place(&self, row: u64) -> Option<Place> {
        let (group, row) = self.locate(row)?;
        let group = &self.groups[group];
        Some(Place { file: self.files[group.file].path.clone(), row_group: group.index, row })
    }

    /// The decoded row group that contains `row`, and the row's index in it.
    pub fn find(&self, row: u64) -> Result<(ArrayRef, usize)> {
        anyhow::ensure!(row < self.rows, "row {row} of {} was asked for", self.rows);
        let (group, row) = self.locate(row).context("there are no rows")?;
        Ok((self.decoded(group)?, row))
    }

    /// The index, among the row groups of all files, of the one that contains `row`, and the rows it declares.
    pub fn announced(&self, row: u64) -> Option<(usize, Range<u64>)> {
        let (group, _) = self.locate(row)?;
        let end = self.groups.get(group + 1).map_or(self.rows, |next| next.first);
        Some((group, self.groups[group].first..end))
    }

    /// File and row group of the row group with this index.
    pub fn number(&self, group: usize) -> (usize, usize) {
        (self.groups[group].file, self.groups[group].index)
    }

    /// `range` as slices of row groups, in order.
    pub fn slices(&self, range: Range<u64>) -> Result<Vec<ArrayRef>> {
        let (mut slices, mut row) = (Vec::new(), range.start);
        while row < range.end {
            let (array, start) = self.find(row)?;
            let count = (array.len() - start).min((range.end - row) as usize);
            slices.push(array.slice(start, count));
            row += count as u64;
        }
        Ok(slices)
    }

    fn locate(&self, row: u64) -> Option<(usize, usize)> {
        let group = self.groups.partition_point(|g| g.first <= row).checked_sub(1)?;
        Some((group, (row - self.groups[group].first) as usize))
    }

    fn decoded(&self, group: usize) -> Result<ArrayRef> {
        if let Some(array) = self.kept().get(group) {
            return Ok(array);
        }
        // Not under the lock, so that others can read meanwhile; two threads that need the same group both decode it.
        let array = self.decode(group)?;
        self.kept().put(group, array.clone());
        Ok(array)
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn decode(&self, group: usize) -> Result<ArrayRef> {
        let Group { file, index, .. } = self.groups[group];
        let OpenFile { path, metadata, column } = &self.files[file];
        let corrupt = |why: String| {
            let why = format!("cannot be decoded: {why}");
            Error::new(TextProblem::Corrupt { file: path.clone(), row_group: Some(index), why })
        };
        let array = match (decode(path, |input| self.usual(input, group))?, self.rescue) {
            (Err(Damaged(why)), Some(rescue)) => {
                let rescued = decode(path, |input| (self.convert)(&rescue(input, index, *column)?))?;
                rescued.map_err(|_| corrupt(why))?
            }
            (decoded, _) => decoded.map_err(|Damaged(why)| corrupt(why))?,
        };
        let announced = metadata.metadata().row_group(index).num_rows();
        if array.len() as i64 != announced {
            return Err(corrupt(format!("{} rows, but {announced} are announced", array.len())));
        }
        if let Some(inspect) = &self.inspect {
            inspect(path, index, &array)?;
        }
        Ok(array)
    }

    /// A row group, decoded by Arrow's reader.
    fn usual(&self, input: Input, group: usize) -> Result<ArrayRef> {
        let Group { file, index, .. } = self.groups[group];
        let OpenFile { metadata, column, .. } = &self.files[file];
        let mask = ProjectionMask::roots(metadata.parquet_schema(), [*column]);
        let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(input, metadata.clone())
            .with_projection(mask)
            .with_row_groups(vec![index])
            .with_batch_size(ROWS_AT_ONCE)
            .build()?;
        let mut pieces = Vec::new();
        for batch in reader {
            pieces.push((self.convert)(batch?.column(0))?);
        }
        let announced = metadata.metadata().row_group(index).num_rows();
        anyhow::ensure!(!pieces.is_empty(), "no rows, but {announced} are announced");
        let pieces: Vec<&dyn Array> = pieces.iter().map(|p| p.as_ref()).collect();
        Ok(arrow::compute::concat(&pieces)?)
    }
}

/// A cache of recently used row groups, with a limit in bytes.
struct Kept {
    groups: HashMap<usize, (ArrayRef, u64)>,
    bytes: usize,
    budget: usize,
    clock: u64,
}

impl Kept {
    fn new(budget: usize) -> Self {
        Self { groups: HashMap::new(), bytes: 0, budget, clock: 0 }
    }

    fn get(&mut self, group: usize) -> Option<ArrayRef> {
        self.clock += 1;
        let (array, used) = self.groups.get_mut(&group)?;
        *used = self.clock;
        Some(array.clone())
    }

    fn put(&mut self, group: usize, array: ArrayRef) {
        self.clock += 1;
        self.bytes += array.get_array_memory_size();
        if let Some((old, _)) = self.groups.insert(group, (array, self.clock)) {
            self.bytes -= old.get_array_memory_size();
        }
        while self.bytes > self.budget && self.groups.len() > 1 {
            let Some(oldest) = self.groups.iter().min_by_key(|(_, (_, used))| *used).map(|(group, _)| *group) else {
                break;
            };
            if let Some((array, _)) = self.groups.remove(&oldest) {
                self.bytes -= array.get_array_memory_size();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::UInt8Array;
    use std::sync::Arc;

    #[test]
    fn the_least_recently_used_goes_first() {
        let array = || Arc::new(UInt8Array::from(vec![0u8; 1 << 12])) as ArrayRef;
        let mut kept = Kept::new(2 * array().get_array_memory_size());
        for group in 0..2 {
            kept.put(group, array());
        }
        assert!(kept.get(0).is_some());
        kept.put(2, array());
        assert!(kept.get(0).is_some() && kept.get(1).is_none() && kept.get(2).is_some());
    }
}

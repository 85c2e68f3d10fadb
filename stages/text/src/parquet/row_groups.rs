//! Random access to the rows of a list of Parquet files, decoded a piece of a row group at a time, with a cache of
//! recently used pieces.
use crate::parquet::decode::{Damaged, decode};
use crate::parquet::pieces::{Decoder, Pieces};
use crate::support::problem::TextProblem;
use anyhow::{Context, Error, Result, ensure};
use arrow::array::{Array, ArrayRef};
use arrow::datatypes::{Field, Schema};
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::file::metadata::ParquetMetaData;
use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// Default memory limit of decoded pieces.
pub const DEFAULT_BUDGET: usize = 256 << 20;
/// Default size of a piece in bytes.
pub const PIECE_BYTES: usize = 8 << 20;
/// Number of locks that keep threads from decoding the same rows at the same time.
const LOCKS: usize = 64;

/// Rows of several Parquet files.
pub struct RowGroups {
    files: Vec<OpenFile>,
    groups: Vec<Group>,
    rows: u64,
    decoder: Box<dyn Decoder>,
    piece_bytes: usize,
    cache: Mutex<PieceCache>,
    locks: Vec<Mutex<()>>,
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
    /// The first row of each piece, in the group, or why it cannot be decoded; set when it has been decoded as a whole.
    pieces: OnceLock<Result<Arc<[u64]>, String>>,
}

/// Some decoded rows of a row group.
#[derive(Clone)]
pub struct Piece {
    /// The rows.
    pub array: ArrayRef,
    /// Their numbers, among the rows of all files.
    pub rows: Range<u64>,
}

/// The position of a row, for messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowPosition {
    /// The file.
    pub file: PathBuf,
    /// The row group in it.
    pub row_group: usize,
    /// The row in that row group.
    pub row: usize,
}

impl std::fmt::Display for RowPosition {
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

    /// The column's index among those with values, if it is not nested.
    pub(crate) fn leaf(&self) -> Option<usize> {
        let schema = self.metadata.metadata().file_metadata().schema_descr();
        (0..schema.num_columns()).find(|leaf| schema.get_column_root_idx(*leaf) == self.column)
    }

    /// The column's index in the schema.
    pub(crate) fn column(&self) -> usize {
        self.column
    }

    /// Maximum memory in bytes for reading, according to the column's sizes in the footer: cached pieces up to `budget`,
    /// plus one in each of `threads` that is being decoded and concatenated.
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
        kept.min(budget as u64) + 3 * threads as u64 * largest.min(PIECE_BYTES as u64)
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
    /// The rows of `files`, concatenated. Decoded pieces are cached up to `budget` bytes.
    pub fn new(files: Vec<OpenFile>, budget: usize, decoder: Box<dyn Decoder>) -> Self {
        let (mut groups, mut rows) = (Vec::new(), 0);
        for (file, open) in files.iter().enumerate() {
            for (index, group) in open.metadata.metadata().row_groups().iter().enumerate() {
                let count = group.num_rows().unsigned_abs();
                if count > 0 {
                    groups.push(Group { file, index, first: rows, pieces: OnceLock::new() });
                    rows += count;
                }
            }
        }
        let locks = (0..LOCKS).map(|_| Mutex::new(())).collect();
        Self {
            files,
            groups,
            rows,
            decoder,
            piece_bytes: PIECE_BYTES,
            cache: Mutex::new(PieceCache::new(budget)),
            locks,
        }
    }

    /// With pieces of up to `bytes` bytes.
    #[cfg(test)]
    pub fn with_piece_bytes(self, bytes: usize) -> Self {
        Self { piece_bytes: bytes, ..self }
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

    /// The size in bytes of all rows, according to the footers: less than they take if values are repeated.
    pub fn bytes(&self) -> u64 {
        OpenFile::memory(&self.files, usize::MAX, 0)
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
    pub fn position(&self, row: u64) -> Option<RowPosition> {
        let (group, row) = self.locate(row)?;
        let group = &self.groups[group];
        Some(RowPosition { file: self.files[group.file].path.clone(), row_group: group.index, row })
    }

    /// The piece that contains `row`.
    ///
    /// # Errors
    /// [`TextProblem::Corrupt`] if any row of its row group cannot be decoded; or if the file cannot be read.
    pub fn find(&self, row: u64) -> Result<Piece> {
        ensure!(row < self.rows, "row {row} of {} was asked for", self.rows);
        let (group, row) = self.locate(row).context("there are no rows")?;
        self.decoded(group, row as u64)
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

    /// `range` as slices of pieces, in order.
    pub fn slices(&self, range: Range<u64>) -> Result<Vec<ArrayRef>> {
        let (mut slices, mut row) = (Vec::new(), range.start);
        while row < range.end {
            let Piece { array, rows } = self.find(row)?;
            let end = rows.end.min(range.end);
            slices.push(array.slice((row - rows.start) as usize, (end - row) as usize));
            row = end;
        }
        Ok(slices)
    }

    fn locate(&self, row: u64) -> Option<(usize, usize)> {
        let group = self.groups.partition_point(|g| g.first <= row).checked_sub(1)?;
        Some((group, (row - self.groups[group].first) as usize))
    }

    /// The piece with row `row` of a group.
    fn decoded(&self, number: usize, row: u64) -> Result<Piece> {
        let group = &self.groups[number];
        // Two threads that need the same rows do not both decode them.
        let busy = self.locks[number % LOCKS].lock().unwrap_or_else(PoisonError::into_inner);
        let pieces = match group.pieces.get() {
            Some(Ok(pieces)) => Arc::clone(pieces),
            Some(Err(why)) => return Err(self.corrupt(group, why)),
            None => return self.decode_group(number, row),
        };
        let at = pieces.partition_point(|start| *start <= row).saturating_sub(1);
        let rows = pieces[at]..pieces.get(at + 1).copied().unwrap_or_else(|| self.announced_rows(group));
        if let Some(array) = self.cache().get((number, rows.start)) {
            return Ok(self.piece(group, array, rows));
        }
        drop(busy);
        let _busy = self.locks[(number + at) % LOCKS].lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(array) = self.cache().get((number, rows.start)) {
            return Ok(self.piece(group, array, rows));
        }
        let decoded = decode(&self.files[group.file].path, |input| {
            self.pieces(input, group, rows.start)?.next().context("there are no rows")?
        })?;
        let array = decoded.map_err(|Damaged(why)| self.corrupt(group, &why))?;
        if array.len() as u64 != rows.end - rows.start {
            return Err(self.corrupt(group, "it has changed"));
        }
        self.cache().put((number, rows.start), array.clone());
        Ok(self.piece(group, array, rows))
    }

    /// Decodes a group as a whole, a piece at a time, which says whether all of it can be decoded, and where its pieces
    /// begin. Returns the one with row `row`.
    fn decode_group(&self, number: usize, row: u64) -> Result<Piece> {
        let group = &self.groups[number];
        let file = &self.files[group.file];
        let (mut starts, mut next, mut found, mut refused) = (Vec::new(), 0, None, None);
        let decoded = decode(&file.path, |input| {
            for array in self.pieces(input, group, 0)? {
                let array = array?;
                if let Err(error) = self.decoder.check(file, group.index, next, &array) {
                    refused = Some(error);
                    return Ok(());
                }
                let rows = next..next + array.len() as u64;
                self.cache().put((number, next), array.clone());
                starts.push(next);
                next = rows.end;
                if rows.contains(&row) {
                    found = Some(self.piece(group, array, rows));
                }
            }
            let announced = self.announced_rows(group);
            ensure!(next == announced, "{next} rows, but {announced} are announced");
            Ok(())
        })?;
        if let Some(error) = refused {
            return Err(error);
        }
        let _ = group.pieces.set(decoded.map(|()| starts.into()).map_err(|Damaged(why)| why));
        match (group.pieces.get(), found) {
            (Some(Err(why)), _) => Err(self.corrupt(group, why)),
            (_, found) => found.with_context(|| format!("row {row} was asked for")),
        }
    }

    fn pieces(&self, input: crate::parquet::decode::Input, group: &Group, skip: u64) -> Result<Pieces<'_>> {
        let batches = self.decoder.batches(input, group.file, &self.files[group.file], group.index, skip)?;
        Ok(Pieces::new(&*self.decoder, batches, self.piece_bytes))
    }

    fn piece(&self, group: &Group, array: ArrayRef, rows: Range<u64>) -> Piece {
        Piece { array, rows: group.first + rows.start..group.first + rows.end }
    }

    fn announced_rows(&self, group: &Group) -> u64 {
        self.files[group.file].metadata.metadata().row_group(group.index).num_rows().unsigned_abs()
    }

    fn corrupt(&self, group: &Group, why: &str) -> Error {
        let (file, why) = (self.files[group.file].path.clone(), format!("cannot be decoded: {why}"));
        Error::new(TextProblem::Corrupt { file, row_group: Some(group.index), why })
    }

    fn cache(&self) -> MutexGuard<'_, PieceCache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A cache of recently used pieces, by row group and first row, with a limit in bytes.
struct PieceCache {
    groups: HashMap<(usize, u64), (ArrayRef, u64)>,
    bytes: usize,
    budget: usize,
    clock: u64,
}

impl PieceCache {
    fn new(budget: usize) -> Self {
        Self { groups: HashMap::new(), bytes: 0, budget, clock: 0 }
    }

    fn get(&mut self, group: (usize, u64)) -> Option<ArrayRef> {
        self.clock += 1;
        let (array, used) = self.groups.get_mut(&group)?;
        *used = self.clock;
        Some(array.clone())
    }

    fn put(&mut self, group: (usize, u64), array: ArrayRef) {
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
mod tests;

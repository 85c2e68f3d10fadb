//! Source `scan_rows`: every row once, with all its columns, in chunks, for preparation. A row that the previous
//! version of the corpus contains is not emitted: its catalog row goes directly into the graph's results, and so does
//! what cannot be read.
mod hashes;

use crate::corpus::withdrawal::Withdrawn;
use crate::filter::with_column;
use crate::input::ingest::DocumentFile;
use crate::input::quarantine::{OnBadData, Reason, Unreadable};
use crate::input::quarantine_file;
use crate::parquet::columns::{self, ID_IN_FILE, INPUT_HASH, INPUT_ROW, Origin, WHERE, field};
use crate::parquet::decode::Input;
use crate::parquet::documents::{CACHE_IS_DAMAGED, is_text};
use crate::parquet::pieces::{Batches, Decoder, ROWS_AT_ONCE, TextColumn};
use crate::parquet::row_groups::{OpenFile, RowGroups};
use crate::prepare::catalog::{Catalog, Hash};
use crate::prepare::scan_rows::hashes::hashes;
use crate::support::problem::TextProblem;
use anyhow::{Context, Result, ensure};
use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, LargeStringArray, LargeStringBuilder, RecordBatch, StructArray,
    UInt32Array, UInt64Array, UInt64Builder,
};
use arrow::compute::{and, filter, filter_record_batch, is_not_null, is_null};
use arrow::datatypes::{DataType, UInt64Type};
use contract::{Built, Emit, Env, Kind, Lane, Packet, Port, Purpose, Records, Rows, Settings, Source, Step, Turn};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReaderBuilder, RowSelector};
use parquet::file::metadata::RowGroupMetaData;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Maximum number of rows of a chunk: few, so that workers finish at about the same time.
const CHUNK: u64 = 64;
/// Bytes of a chunk, for rows of average size.
const CHUNK_BYTES: u64 = 4 << 20;
/// Memory limit of decoded pieces of row groups.
const BUDGET: usize = 128 << 20;

/// The rows of document files with all their columns, in chunks.
pub struct RowStore {
    groups: RowGroups,
    files: Vec<DocumentFile>,
    row_groups: Vec<Group>,
    on_bad_data: OnBadData,
    /// The rows that are withdrawn, ascending.
    withdrawn: Vec<u64>,
    /// How many of them have been passed over.
    passed_over: AtomicU64,
}

/// Some rows of a chunk, as they are read.
struct RowsRead {
    /// Index of the first one among all rows.
    first: u64,
    rows: RecordBatch,
    /// Which of them can be read and are not withdrawn.
    readable: BooleanArray,
}

/// A row group with rows, and how it is cut into chunks.
struct Group {
    /// Its rows, among those of all files.
    rows: Range<u64>,
    /// Number of its first chunk.
    first_chunk: u64,
    /// Rows of each chunk, except for the last.
    rows_per_chunk: u64,
    /// Index of the file.
    file: usize,
    /// Index of the row group in the file.
    index: usize,
    /// Index of the first row of the file among those of all files.
    file_start: u64,
}

impl Group {
    fn chunks(&self) -> u64 {
        (self.rows.end - self.rows.start).div_ceil(self.rows_per_chunk)
    }
}

impl RowStore {
    /// Reads the footers of `files`.
    pub fn open(files: &[DocumentFile], on_bad_data: OnBadData) -> Result<Self> {
        let (mut open, mut row_groups, mut next, mut first_chunk) = (Vec::new(), Vec::new(), 0, 0);
        for (file, document) in files.iter().enumerate() {
            let opened = OpenFile::new(&document.path, &document.column, "string", is_text)?;
            let file_start = next;
            for (index, about) in opened.metadata.metadata().row_groups().iter().enumerate() {
                let rows = next..next + about.num_rows().unsigned_abs();
                next = rows.end;
                if !rows.is_empty() {
                    let rows_per_chunk = rows_per_chunk(about);
                    let group = Group { rows, first_chunk, rows_per_chunk, file, index, file_start };
                    first_chunk += group.chunks();
                    row_groups.push(group);
                }
            }
            open.push(opened);
        }
        let decoder = DocumentRows(files.to_vec());
        let groups = RowGroups::new(open, BUDGET, Box::new(decoder));
        Ok(Self {
            groups,
            files: files.to_vec(),
            row_groups,
            on_bad_data,
            withdrawn: Vec::new(),
            passed_over: AtomicU64::new(0),
        })
    }

    /// Treats the rows with these ids as if they were not there.
    ///
    /// # Errors
    /// If no row has one of the ids; if a file cannot be read.
    pub fn without(self, withdrawn: &Withdrawn) -> Result<Self> {
        Ok(Self { withdrawn: withdrawn.rows(&self.files)?, ..self })
    }

    /// Number of rows.
    pub fn rows(&self) -> u64 {
        self.groups.rows()
    }

    /// Number of rows that have been passed over because they are withdrawn.
    pub fn passed_over(&self) -> u64 {
        self.passed_over.load(Ordering::Relaxed)
    }

    /// Which of some rows are not withdrawn.
    fn present(&self, rows: Range<u64>) -> BooleanArray {
        let [from, to] = [rows.start, rows.end].map(|bound| self.withdrawn.partition_point(|row| *row < bound));
        let here = &self.withdrawn[from..to];
        self.passed_over.fetch_add(here.len() as u64, Ordering::Relaxed);
        rows.map(|row| Some(here.binary_search(&row).is_err())).collect()
    }

    /// The file of a row, as it is called among the input, and the row's number in that file.
    pub fn place(&self, row: u64) -> Option<(&str, u64)> {
        let group = self.row_groups[..self.row_groups.partition_point(|group| group.rows.start <= row)].last()?;
        Some((&self.files[group.file].name, row - group.file_start))
    }

    /// Number of chunks.
    pub fn chunks(&self) -> u64 {
        self.row_groups.last().map_or(0, |group| group.first_chunk + group.chunks())
    }

    /// The row group of chunk `number`, and the rows of the chunk.
    fn find(&self, number: u64) -> Option<(&Group, Range<u64>)> {
        let after = self.row_groups.partition_point(|group| group.first_chunk <= number);
        let group = self.row_groups[..after].last()?;
        let start = group.rows.start + (number - group.first_chunk) * group.rows_per_chunk;
        Some((group, start..group.rows.end.min(start + group.rows_per_chunk)))
    }

    /// The rows of chunk `number`, and what cannot be read in it. A text that is not UTF-8 affects only its own row;
    /// anything else makes the row group unreadable, which is reported with its first chunk.
    fn chunk(&self, number: u64) -> Result<(Vec<RowsRead>, Vec<Unreadable>)> {
        let (Group { rows: group_rows, file, index: group, .. }, rows) =
            self.find(number).context("there are no chunks")?;
        let entry = |row, documents, reason, detail: String| Unreadable {
            file: *file as u64,
            row_group: Some(*group as u64),
            row,
            byte: None,
            documents,
            ..Unreadable::at(0, reason, detail)
        };
        let (mut read, mut bad, mut first) = (Vec::new(), Vec::new(), rows.start);
        match self.groups.slices(rows.clone()) {
            Ok(slices) => {
                for slice in slices {
                    let (rows, invalid) = parts(&slice)?;
                    let next = first + rows.num_rows() as u64;
                    let present = self.present(first..next);
                    for row in (0..rows.num_rows()).filter(|row| invalid.is_valid(*row) && present.value(*row)) {
                        let (row, byte) = (Some(first + row as u64 - group_rows.start), invalid.value(row));
                        bad.push(entry(row, 1, Reason::NotUtf8, format!("at its byte {byte}")));
                    }
                    let readable = and(&is_null(&invalid)?, &present)?;
                    read.push(RowsRead { first, rows, readable });
                    first = next;
                }
            }
            Err(error) => {
                let Some(TextProblem::Corrupt { why, .. }) = error.downcast_ref() else { return Err(error) };
                if self.files[*file].hash.is_some() {
                    return Err(error.context(CACHE_IS_DAMAGED));
                }
                if rows.start == group_rows.start {
                    let why = why.trim_start_matches("cannot be decoded: ").to_owned();
                    bad.push(entry(None, group_rows.end - group_rows.start, Reason::RowGroup, why));
                }
            }
        }
        match (self.on_bad_data, bad.first()) {
            (OnBadData::Stop, Some(first)) => Err(first.error(&self.files[*file].path).into()),
            _ => Ok((read, bad)),
        }
    }
}

/// The number of rows of a chunk of a row group: fewer if they are large on average.
fn rows_per_chunk(group: &RowGroupMetaData) -> u64 {
    let bytes = group.total_byte_size().unsigned_abs() / group.num_rows().unsigned_abs().max(1);
    (CHUNK_BYTES / bytes.max(1)).clamp(1, CHUNK)
}

/// The column with the offset of the first byte of a text that is not UTF-8 (uint64); null: it is UTF-8.
const INVALID: &str = "invalid";

/// Rows and their column [`INVALID`].
fn parts(rows: &ArrayRef) -> Result<(RecordBatch, UInt64Array)> {
    let mut rows = RecordBatch::from(rows.as_struct());
    let at = rows.schema_ref().index_of(INVALID)?;
    let invalid = rows.remove_column(at);
    Ok((rows, invalid.as_primitive::<UInt64Type>().clone()))
}

/// Decodes all columns of documents in these files, with [`INVALID`].
struct DocumentRows(Vec<DocumentFile>);

impl Decoder for DocumentRows {
    fn batches(&self, input: Input, number: usize, file: &OpenFile, group: usize, skip: u64) -> Result<Batches> {
        let DocumentFile { name, column, .. } = self.0[number].clone();
        let (schema, wanted) = (file.metadata.schema(), columns::documents());
        let roots = (0..schema.fields().len()).filter(|root| {
            let found = schema.field(*root).name();
            *found != column && found != "text" && (found == ID_IN_FILE || wanted.column_with_name(found).is_some())
        });
        let (metadata, path) = (file.metadata.metadata(), file.path.clone());
        let in_group = |group: usize| metadata.row_group(group).num_rows().unsigned_abs();
        let mut first = (0..group).map(in_group).sum::<u64>() + skip;
        let left = in_group(group).saturating_sub(skip) as usize;
        let rest = ParquetRecordBatchReaderBuilder::new_with_metadata(input.clone(), file.metadata.clone())
            .with_projection(ProjectionMask::roots(file.metadata.parquet_schema(), roots))
            .with_row_groups(vec![group])
            .with_row_selection(vec![RowSelector::skip(skip as usize), RowSelector::select(left)].into())
            .with_batch_size(ROWS_AT_ONCE)
            .build()?;
        let mut texts = TextColumn.batches(input, number, file, group, skip)?;
        let (mut rest, mut others) = (rest.fuse(), None);
        let mut batch = move || {
            let Some(texts) = texts.next().transpose()? else { return Ok(None) };
            let left = match others.take() {
                Some(left) => left,
                None => rest.next().context("a column has fewer rows than the text")??,
            };
            let rows = texts.len();
            ensure!(rows <= left.num_rows(), "{rows} texts of {} rows", left.num_rows());
            others = (rows < left.num_rows()).then(|| left.slice(rows, left.num_rows() - rows));
            let (rest, (texts, invalid)) = (left.slice(0, rows), strings(&texts));
            let rows = with_column(&rest, field(&column, DataType::LargeUtf8, false), Arc::new(texts))?;
            let origin = Origin { file: &path, name: &name, column: &column, row_group: group as u64, first };
            first += rows.num_rows() as u64;
            let rows = columns::of_any(&rows, &origin)?;
            let rows = with_column(&rows, field(INVALID, DataType::UInt64, true), Arc::new(invalid))?;
            Ok(Some(Arc::new(StructArray::from(rows)) as ArrayRef))
        };
        Ok(Box::new(std::iter::from_fn(move || batch().transpose())))
    }

    fn size(&self, rows: &ArrayRef, row: usize) -> usize {
        let size = |column: &ArrayRef| match column.data_type() {
            DataType::LargeUtf8 => column.as_string::<i64>().value_length(row) as usize + size_of::<i64>(),
            DataType::Utf8 => column.as_string::<i32>().value_length(row) as usize + size_of::<i32>(),
            _ => size_of::<u64>(),
        };
        rows.as_struct().columns().iter().map(size).sum()
    }
}

/// Texts, and the offset of the first byte that is not UTF-8 of those that are not. They and nulls become empty.
fn strings(texts: &ArrayRef) -> (LargeStringArray, UInt64Array) {
    let texts = texts.as_binary::<i64>();
    let bytes = texts.value_offsets().last().zip(texts.value_offsets().first()).map_or(0, |(end, start)| end - start);
    let mut strings = LargeStringBuilder::with_capacity(texts.len(), bytes as usize);
    let mut invalid = UInt64Builder::with_capacity(texts.len());
    for text in texts {
        let text = std::str::from_utf8(text.unwrap_or_default());
        strings.append_value(text.unwrap_or_default());
        invalid.append_option(text.err().map(|error| error.valid_up_to() as u64));
    }
    (strings.finish(), invalid.finish())
}

/// The rows of the previous version of the corpus, by their hash in the input.
#[derive(Default)]
pub struct Known(Option<(Catalog, HashMap<Hash, u32>)>);

impl Known {
    /// The rows of `catalog` with the indices `rows`.
    pub fn new(catalog: Catalog, rows: HashMap<Hash, u32>) -> Self {
        Self(Some((catalog, rows)))
    }

    /// The row with this hash.
    fn row(&self, hash: &[u8]) -> Option<u32> {
        self.0.as_ref()?.1.get(hash).copied()
    }

    /// Rows of the new catalog for those of `rows` that are in the previous version; `known` gives their rows there.
    fn lines(&self, rows: &RecordBatch, known: &UInt32Array, met: &BooleanArray) -> Result<RecordBatch> {
        let (catalog, _) = self.0.as_ref().context("a row is known without a last version")?;
        let known = filter(known, met)?;
        catalog.again(known.as_primitive(), &filter_record_batch(rows, met)?)
    }
}

/// Settings of source `scan_rows`, which occurs only in graphs built in code.
pub struct ScanRows;

impl ScanRows {
    /// Number of steps that `lanes` lanes need for `store`.
    pub fn steps(store: &RowStore, lanes: u32) -> u64 {
        store.chunks().div_ceil(u64::from(lanes.max(1)))
    }
}

impl Settings for ScanRows {
    fn takes(&self) -> Vec<Port> {
        Vec::new()
    }

    fn gives(&self) -> Vec<Kind> {
        vec![Kind::Rows, Kind::Records]
    }

    fn build(&self, env: &Env) -> Result<Built> {
        let store = env.resource("the rows (RowStore)")?;
        let known = env.resource("what is known (Known)")?;
        Ok(Built::Source(Box::new(Scanner { store, known, lanes: u64::from(env.shape.lanes) })))
    }
}

struct Scanner {
    store: Arc<RowStore>,
    known: Arc<Known>,
    lanes: u64,
}

impl Source for Scanner {
    fn next(&mut self, lane: Lane, step: Step, out: &mut dyn Emit) -> Result<Turn> {
        let number = step * self.lanes + u64::from(lane);
        if number >= self.store.chunks() {
            return Ok(Turn::Done);
        }
        let (read, bad) = self.store.chunk(number)?;
        if !bad.is_empty() {
            out.give(Packet::Records(Records { lane, records: quarantine_file::records(&bad)? }));
        }
        read.into_iter().try_for_each(|read| self.give(lane, read, out))?;
        Ok(Turn::Done)
    }
}

impl Scanner {
    /// Emits rows, and the lines of the catalog of those that are known.
    fn give(&self, lane: Lane, RowsRead { first, rows, readable }: RowsRead, out: &mut dyn Emit) -> Result<()> {
        let hashes = hashes(&rows)?;
        let known: UInt32Array = hashes.iter().map(|hash| self.known.row(hash.unwrap_or_default())).collect();
        let met = and(&is_not_null(&known)?, &readable)?;
        let fresh = and(&is_null(&known)?, &readable)?;
        let numbers = UInt64Array::from_iter_values(first..first + rows.num_rows() as u64);
        let rows = with_column(&rows, field(INPUT_ROW, DataType::UInt64, false), Arc::new(numbers))?;
        if met.true_count() > 0 {
            let columns: Vec<&str> = [INPUT_ROW].into_iter().chain(WHERE).collect();
            let records = self.known.lines(&project(&rows, &columns)?, &known, &met)?;
            out.give(Packet::Records(Records { lane, records }));
        }
        if fresh.true_count() > 0 {
            let rows = with_column(&rows, field(INPUT_HASH, DataType::FixedSizeBinary(16), false), Arc::new(hashes))?;
            let records = if fresh.true_count() < fresh.len() { filter_record_batch(&rows, &fresh)? } else { rows };
            out.give(Packet::Rows(Rows { lane, source: 0, purpose: Purpose::Train, last: false, records }));
        }
        Ok(())
    }
}

/// The columns `names`.
fn project(rows: &RecordBatch, names: &[&str]) -> Result<RecordBatch> {
    let columns: Vec<usize> = names.iter().map(|name| rows.schema_ref().index_of(name)).collect::<Result<_, _>>()?;
    Ok(rows.project(&columns)?)
}

#[cfg(test)]
mod tests;

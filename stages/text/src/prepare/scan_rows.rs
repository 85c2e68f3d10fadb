//! Source `scan_rows`: every row once, with all its columns, in chunks, for preparation. A row that the previous
//! version of the corpus contains is not emitted: its catalog row goes directly into the graph's results, and so does
//! what cannot be read.
use crate::filter::with_column;
use crate::input::ingest::DocumentFile;
use crate::input::quarantine::{OnBadData, Reason, Unreadable};
use crate::input::quarantine_file;
use crate::parquet::columns::{self, ID_IN_FILE, INPUT_HASH, INPUT_ROW, Origin, UNHANDLED, WHERE, field};
use crate::parquet::decode::{Damaged, decode};
use crate::parquet::documents::{CACHE_IS_DAMAGED, is_text, raw_column};
use crate::parquet::row_groups::OpenFile;
use crate::prepare::catalog::{Catalog, Hash, short};
use anyhow::{Context, Result, anyhow};
use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, FixedSizeBinaryArray, FixedSizeBinaryBuilder, LargeStringBuilder,
    RecordBatch, UInt32Array, UInt64Array,
};
use arrow::compute::{and, filter, filter_record_batch, is_not_null, is_null};
use arrow::datatypes::{DataType, Field, UInt64Type};
use contract::{Built, Emit, Env, Kind, Lane, Packet, Port, Purpose, Records, Rows, Settings, Source, Step, Turn};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

/// Rows per chunk: few, so that workers finish at about the same time.
const CHUNK: u64 = 64;

/// The rows of document files with all their columns, in chunks.
pub struct RowStore {
    files: Vec<(OpenFile, DocumentFile)>,
    chunks: Vec<Chunk>,
    /// Decoded row groups, as long as some of their chunks have not been read.
    groups: Vec<Mutex<Option<(Decoded, u64)>>>,
    rows: u64,
    on_bad_data: OnBadData,
}

/// The rows of a row group; none if it is lost.
#[derive(Clone)]
struct Decoded {
    rows: RecordBatch,
    /// Rows whose text cannot be read.
    unreadable: BTreeSet<u64>,
}

/// A chunk, as it is read.
struct ChunkRead {
    /// Index of its first row among all rows.
    first: u64,
    rows: RecordBatch,
    /// Which of its rows can be read.
    readable: BooleanArray,
    /// What cannot be read in the row group; reported with the first of its chunks that is read.
    bad: Vec<Unreadable>,
}

struct Chunk {
    file: usize,
    /// Index in `groups`, and in the file.
    group: (usize, usize),
    /// First row of the group: in its file, and among all rows.
    first: (u64, u64),
    start: u64,
    rows: u64,
    chunks_in_group: u64,
}

impl RowStore {
    /// Reads the footers of `files`.
    pub fn open(files: &[DocumentFile], on_bad_data: OnBadData) -> Result<Self> {
        let mut store = Self { files: Vec::new(), chunks: Vec::new(), groups: Vec::new(), rows: 0, on_bad_data };
        for (file, document) in files.iter().enumerate() {
            let open = OpenFile::new(&document.path, &document.column, "string", is_text)?;
            let mut first = 0;
            for (index, group) in open.metadata.metadata().row_groups().iter().enumerate() {
                let count = group.num_rows().unsigned_abs();
                for start in (0..count).step_by(CHUNK as usize) {
                    store.chunks.push(Chunk {
                        file,
                        group: (store.groups.len(), index),
                        first: (first, store.rows),
                        start,
                        rows: CHUNK.min(count - start),
                        chunks_in_group: count.div_ceil(CHUNK),
                    });
                }
                store.groups.push(Mutex::new(None));
                (first, store.rows) = (first + count, store.rows + count);
            }
            store.files.push((open, document.clone()));
        }
        Ok(store)
    }

    /// Number of rows.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// The file of a row, as it is called among the input, and the row's number in that file.
    pub fn place(&self, row: u64) -> Option<(&str, u64)> {
        let chunk = self.chunks[..self.chunks.partition_point(|chunk| chunk.first.1 + chunk.start <= row)].last()?;
        Some((&self.files[chunk.file].1.name, chunk.first.0 + row - chunk.first.1))
    }

    /// Number of chunks.
    pub fn chunks(&self) -> u64 {
        self.chunks.len() as u64
    }

    /// The rows of chunk `number`. A decoded row group is kept until each of its chunks has been read once.
    fn chunk(&self, number: usize) -> Result<ChunkRead> {
        let chunk = &self.chunks[number];
        let mut group = self.groups[chunk.group.0].lock().unwrap_or_else(PoisonError::into_inner);
        let ((decoded, left), bad) = match group.take() {
            Some(kept) => (kept, Vec::new()),
            None => {
                let (decoded, bad) = self.decode(chunk)?;
                ((decoded, chunk.chunks_in_group), bad)
            }
        };
        let lost = decoded.rows.num_rows() == 0;
        let (start, rows) = if lost { (0, 0) } else { (chunk.start, chunk.rows) };
        let readable = (start..start + rows).map(|row| Some(!decoded.unreadable.contains(&row))).collect();
        let slice = decoded.rows.slice(start as usize, rows as usize);
        if left > 1 {
            *group = Some((decoded, left - 1));
        }
        Ok(ChunkRead { first: chunk.first.1 + chunk.start, rows: slice, readable, bad })
    }

    /// A row group, and what cannot be read in it. A text that is not UTF-8 affects only its own row; anything else
    /// makes the row group unreadable.
    fn decode(&self, chunk: &Chunk) -> Result<(Decoded, Vec<Unreadable>)> {
        let (OpenFile { path, metadata, .. }, document) = &self.files[chunk.file];
        let entry = |row, documents, reason, detail: String| Unreadable {
            file: chunk.file as u64,
            row_group: Some(chunk.group.1 as u64),
            row,
            byte: None,
            documents,
            ..Unreadable::at(0, reason, detail)
        };
        let (decoded, bad) = match self.columns(chunk, None)? {
            Ok(rows) => return Ok((Decoded { rows, unreadable: BTreeSet::new() }, Vec::new())),
            Err(Damaged(why)) if document.hash.is_some() => return Err(anyhow!(why).context(CACHE_IS_DAMAGED)),
            Err(Damaged(why)) => match self.readable(chunk)? {
                Some((rows, unreadable)) => {
                    let one = |(row, byte): (&u64, &usize)| {
                        entry(Some(*row), 1, Reason::NotUtf8, format!("at its byte {byte}"))
                    };
                    let bad = unreadable.iter().map(one).collect();
                    (Decoded { rows, unreadable: unreadable.into_keys().collect() }, bad)
                }
                None => {
                    let announced = metadata.metadata().row_group(chunk.group.1).num_rows().unsigned_abs();
                    let rows = RecordBatch::new_empty(columns::documents());
                    let lost = entry(None, announced, Reason::RowGroup, why);
                    (Decoded { rows, unreadable: BTreeSet::new() }, vec![lost])
                }
            },
        };
        if let (OnBadData::Stop, Some(first)) = (self.on_bad_data, bad.first()) {
            return Err(first.error(path).into());
        }
        Ok((decoded, bad))
    }

    /// A row group whose texts are read as bytes, with the rows that are not UTF-8 and the offset of the first invalid
    /// byte; `None` if that is not what is wrong with it.
    fn readable(&self, chunk: &Chunk) -> Result<Option<(RecordBatch, BTreeMap<u64, usize>)>> {
        let (OpenFile { path, metadata, .. }, document) = &self.files[chunk.file];
        let (column, _) = metadata.schema().fields().find(&document.column).context("no such column")?;
        let Ok(bytes) = decode(path, |input| raw_column(input, chunk.group.1, column))? else { return Ok(None) };
        let (mut texts, mut unreadable) = (LargeStringBuilder::new(), BTreeMap::new());
        for (row, bytes) in (0..).zip(bytes.as_binary::<i64>()) {
            match bytes.map(std::str::from_utf8) {
                None => texts.append_value(""),
                Some(Ok(text)) => texts.append_value(text),
                Some(Err(e)) => {
                    unreadable.insert(row, e.valid_up_to());
                    texts.append_value("");
                }
            }
        }
        if unreadable.is_empty() {
            return Ok(None);
        }
        let rows = self.columns(chunk, Some(Arc::new(texts.finish())))?;
        Ok(rows.ok().map(|rows| (rows, unreadable)))
    }

    /// The columns of documents in a row group; if `texts` are given, they replace the text column.
    fn columns(&self, chunk: &Chunk, texts: Option<ArrayRef>) -> Result<Result<RecordBatch, Damaged>> {
        let (OpenFile { path, metadata, .. }, DocumentFile { column, name, .. }) = &self.files[chunk.file];
        decode(path, |input| {
            let wanted = columns::documents();
            let schema = metadata.schema();
            let roots = (0..schema.fields().len()).filter(|i| {
                let found = schema.field(*i).name();
                match found == column {
                    true => texts.is_none(),
                    false => found == ID_IN_FILE || found != "text" && wanted.column_with_name(found).is_some(),
                }
            });
            let mask = ProjectionMask::roots(metadata.parquet_schema(), roots);
            let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(input, metadata.clone())
                .with_projection(mask)
                .with_row_groups(vec![chunk.group.1])
                .with_batch_size(1024)
                .build()?;
            let (mut pieces, mut first) = (Vec::new(), chunk.first.0);
            for batch in reader {
                let mut batch = batch?;
                if let Some(texts) = &texts {
                    let (start, rows) = ((first - chunk.first.0) as usize, batch.num_rows());
                    anyhow::ensure!(start + rows <= texts.len(), "only {} texts", texts.len());
                    let field = Field::new(column, DataType::LargeUtf8, true);
                    batch = with_column(&batch, field, texts.slice(start, rows))?;
                }
                let origin = Origin { file: path, name, column, row_group: chunk.group.1 as u64, first };
                first += batch.num_rows() as u64;
                pieces.push(columns::of_any(&batch, &origin)?);
            }
            let batch = arrow::compute::concat_batches(&wanted, &pieces)?;
            let announced = metadata.metadata().row_group(chunk.group.1).num_rows();
            anyhow::ensure!(batch.num_rows() as i64 == announced, "{} rows, not {announced}", batch.num_rows());
            Ok(batch)
        })
    }
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
        Ok(Built::Source(Box::new(Scanner { store, known, lanes: u64::from(env.shape.micro_batches) })))
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
        let ChunkRead { first, rows, readable, bad } = self.store.chunk(number as usize)?;
        if !bad.is_empty() {
            out.give(Packet::Records(Records { lane, records: quarantine_file::records(&bad)? }));
        }
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
            out.give(Packet::Rows(Rows { lane, purpose: Purpose::Train, last: false, records }));
        }
        Ok(Turn::Done)
    }
}

/// The columns `names`.
fn project(rows: &RecordBatch, names: &[&str]) -> Result<RecordBatch> {
    let columns: Vec<usize> = names.iter().map(|name| rows.schema_ref().index_of(name)).collect::<Result<_, _>>()?;
    Ok(rows.project(&columns)?)
}

/// Hashes of rows in the input, over everything except their position. A source that is only the name of the file
/// counts as position.
fn hashes(batch: &RecordBatch) -> Result<FixedSizeBinaryArray> {
    let string = |name: &str| batch[name].as_string::<i32>().clone();
    let strings = ["id", "url", "title", UNHANDLED].map(string);
    let [sources, files] = ["source", "source_file"].map(string);
    let (texts, revisions) = (batch["text"].as_string::<i64>(), batch["revision"].as_primitive::<UInt64Type>());
    let mut built = FixedSizeBinaryBuilder::with_capacity(batch.num_rows(), 16);
    for row in 0..batch.num_rows() {
        let mut hasher = blake3::Hasher::new();
        let mut part = |bytes: Option<&[u8]>| {
            hasher.update(&bytes.map_or(u64::MAX, |bytes| bytes.len() as u64).to_le_bytes());
            hasher.update(bytes.unwrap_or_default());
        };
        for column in &strings {
            part(column.is_valid(row).then(|| column.value(row).as_bytes()));
        }
        let source = Some(sources.value(row)).filter(|source| *source != columns::stem(files.value(row)));
        part(source.map(str::as_bytes));
        part(Some(texts.value(row).as_bytes()));
        part(revisions.is_valid(row).then(|| revisions.value(row).to_le_bytes()).as_ref().map(|b| b.as_slice()));
        built.append_value(short(hasher.finalize()))?;
    }
    Ok(built.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{document_file, with_failing_reads};

    #[test]
    fn a_read_that_fails_ends_the_scan() {
        let folder = tempfile::tempdir().unwrap();
        let group = |of: &str| (0..100).map(|row| format!("text {row} of {of}")).collect();
        let file = document_file(&folder.path().join("a.parquet"), &[group("a"), group("b")]);
        let scan = || {
            let store = RowStore::open(std::slice::from_ref(&file), OnBadData::Quarantine)?;
            let chunks: Vec<ChunkRead> =
                (0..store.chunks()).map(|chunk| store.chunk(chunk as usize)).collect::<Result<_>>()?;
            let bad = chunks.iter().map(|chunk| chunk.bad.len()).sum::<usize>();
            Ok((chunks.iter().map(|chunk| chunk.rows.num_rows()).sum::<usize>(), bad))
        };
        let (found, reads) = with_failing_reads(scan);
        assert_eq!(found, (200, 0));
        assert!(reads > 4, "{reads} reads");
    }
}

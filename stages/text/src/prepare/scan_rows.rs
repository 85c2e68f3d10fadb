//! Source `scan_rows`: every row with all its columns, once, in chunks, for preparation. Rows whose like an earlier run
//! has worked on already are noted, not given.
use crate::filter::with_column;
use crate::input::ingest::DocumentFile;
use crate::input::quarantine::{Bad, OnBadData, Reason};
use crate::parquet::columns::{self, INPUT_HASH, INPUT_ROW, Origin, UNHANDLED, field};
use crate::parquet::documents::{CACHE_IS_DAMAGED, is_text, raw_column};
use crate::parquet::row_groups::OpenFile;
use crate::support::problem::shielded;
use anyhow::{Context, Result};
use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, FixedSizeBinaryArray, FixedSizeBinaryBuilder, LargeStringBuilder,
    RecordBatch, UInt32Array, UInt64Array,
};
use arrow::compute::{and, filter_record_batch, is_not_null, is_null};
use arrow::datatypes::{DataType, Field, UInt64Type};
use contract::{
    Built, Emit, Env, Kind, Lane, Packet, Port, Purpose, Rows, Settings, Source, StageKeys, StageSettings, Step, Turn,
};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::sync::{Arc, Mutex, PoisonError};

/// Rows of a chunk: few, so that workers finish together.
const CHUNK: u64 = 64;

/// 128 bits of blake3.
pub type Hash = [u8; 16];

/// The rows of document files with all their columns, in chunks. What cannot be read is set aside.
pub struct RowStore {
    files: Vec<(OpenFile, DocumentFile)>,
    chunks: Vec<Chunk>,
    /// By row group: what it holds, while some of its chunks have not been read.
    groups: Vec<Mutex<Option<(Decoded, u64)>>>,
    rows: u64,
    on_bad_data: OnBadData,
    bad: Mutex<BTreeMap<usize, Vec<Bad>>>,
}

/// The rows of a row group; none if it is lost.
#[derive(Clone)]
struct Decoded {
    rows: RecordBatch,
    /// Those that hold no text, although they should.
    unreadable: BTreeSet<u64>,
}

struct Chunk {
    file: usize,
    /// Index into `groups`, and into the file's.
    group: (usize, usize),
    /// First row of the group: in its file, and among all.
    first: (u64, u64),
    start: u64,
    rows: u64,
    chunks_in_group: u64,
}

impl RowStore {
    /// Reads the footers of `files`.
    pub fn open(files: &[DocumentFile], on_bad_data: OnBadData) -> Result<Self> {
        let bad = Mutex::default();
        let mut store = Self { files: Vec::new(), chunks: Vec::new(), groups: Vec::new(), rows: 0, on_bad_data, bad };
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

    /// Rows there are.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Chunks there are.
    pub fn chunks(&self) -> u64 {
        self.chunks.len() as u64
    }

    /// What has been set aside of the rows that were read, in their order: files are numbered as they were given.
    pub fn bad(&self) -> Vec<Bad> {
        self.bad.lock().unwrap_or_else(PoisonError::into_inner).values().flatten().cloned().collect()
    }

    /// The rows of chunk `number`, which of them are unreadable, and the number of the first among all rows. A row group
    /// is kept until each of its chunks has been read once.
    fn chunk(&self, number: usize) -> Result<(u64, RecordBatch, BooleanArray)> {
        let chunk = &self.chunks[number];
        let mut group = self.groups[chunk.group.0].lock().unwrap_or_else(PoisonError::into_inner);
        let (decoded, left) = match group.take() {
            Some(kept) => kept,
            None => (self.decode(chunk)?, chunk.chunks_in_group),
        };
        let lost = decoded.rows.num_rows() == 0;
        let (start, rows) = if lost { (0, 0) } else { (chunk.start, chunk.rows) };
        let readable = (start..start + rows).map(|row| Some(!decoded.unreadable.contains(&row))).collect();
        let slice = decoded.rows.slice(start as usize, rows as usize);
        if left > 1 {
            *group = Some((decoded, left - 1));
        }
        Ok((chunk.first.1 + chunk.start, slice, readable))
    }

    /// A row group. One text that is not UTF-8 costs no other; anything else costs the row group.
    fn decode(&self, chunk: &Chunk) -> Result<Decoded> {
        let (OpenFile { path, metadata, .. }, document) = &self.files[chunk.file];
        let entry = |row, documents, reason, detail: String| Bad {
            file: chunk.file as u64,
            row_group: Some(chunk.group.1 as u64),
            row,
            byte: None,
            documents,
            ..Bad::at(0, reason, detail)
        };
        let (decoded, bad) = match self.columns(chunk, None) {
            Ok(rows) => return Ok(Decoded { rows, unreadable: BTreeSet::new() }),
            Err(e) if document.hash.is_some() => return Err(e.context(CACHE_IS_DAMAGED)),
            Err(e) => match self.readable(chunk) {
                Ok((rows, unreadable)) => {
                    let one = |(row, byte): (&u64, &usize)| {
                        entry(Some(*row), 1, Reason::NotUtf8, format!("at its byte {byte}"))
                    };
                    let bad = unreadable.iter().map(one).collect();
                    (Decoded { rows, unreadable: unreadable.into_keys().collect() }, bad)
                }
                Err(_) => {
                    File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
                    let announced = metadata.metadata().row_group(chunk.group.1).num_rows().unsigned_abs();
                    let rows = RecordBatch::new_empty(columns::documents());
                    let lost = entry(None, announced, Reason::RowGroup, format!("{e:#}"));
                    (Decoded { rows, unreadable: BTreeSet::new() }, vec![lost])
                }
            },
        };
        if let (OnBadData::Stop, Some(first)) = (self.on_bad_data, bad.first()) {
            return Err(first.error(path).into());
        }
        self.bad.lock().unwrap_or_else(PoisonError::into_inner).insert(chunk.group.0, bad);
        Ok(decoded)
    }

    /// A row group with texts that are read as bytes, and from which byte on which of them are not UTF-8.
    fn readable(&self, chunk: &Chunk) -> Result<(RecordBatch, BTreeMap<u64, usize>)> {
        let (OpenFile { path, metadata, .. }, document) = &self.files[chunk.file];
        let (column, _) = metadata.schema().fields().find(&document.column).context("no such column")?;
        let bytes = shielded(|| raw_column(path, chunk.group.1, column))?;
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
        anyhow::ensure!(!unreadable.is_empty(), "nothing is wrong with its texts");
        Ok((self.columns(chunk, Some(Arc::new(texts.finish())))?, unreadable))
    }

    /// The columns of documents in a row group, with `texts` in place of the one with the text, if they are given.
    fn columns(&self, chunk: &Chunk, texts: Option<ArrayRef>) -> Result<RecordBatch> {
        let (OpenFile { path, metadata, .. }, DocumentFile { column, .. }) = &self.files[chunk.file];
        let input = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        shielded(|| {
            let wanted = columns::documents();
            let schema = metadata.schema();
            let roots = (0..schema.fields().len()).filter(|i| {
                let name = schema.field(*i).name();
                match name == column {
                    true => texts.is_none(),
                    false => name != "text" && wanted.column_with_name(name).is_some(),
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
                let origin = Origin { file: path, column, row_group: chunk.group.1 as u64, first };
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

/// Rows of earlier runs by their hash, and which of them are met again.
#[derive(Default)]
pub struct Known {
    rows: HashMap<Hash, u32>,
    met: Mutex<BTreeMap<u64, RecordBatch>>,
}

impl Known {
    /// What an earlier run has worked on.
    pub fn new(rows: HashMap<Hash, u32>) -> Self {
        Self { rows, met: Mutex::default() }
    }

    /// Rows that are known, as they were met in order: [`INPUT_ROW`], `known` (uint32), and where they are now.
    pub fn met(&self) -> Vec<RecordBatch> {
        std::mem::take(&mut *self.met.lock().unwrap_or_else(PoisonError::into_inner)).into_values().collect()
    }
}

/// Settings of source `scan_rows`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, StageKeys)]
#[serde(default, deny_unknown_fields)]
pub struct ScanRows {}

impl ScanRows {
    /// Steps that it takes `lanes` lanes to pass over `store`.
    pub fn steps(store: &RowStore, lanes: u32) -> u64 {
        store.chunks().div_ceil(u64::from(lanes.max(1)))
    }
}

impl StageSettings for ScanRows {
    const SUMMARY: &'static str = "passes over every row with all its columns once";
    const EXAMPLE: &'static str = "";
}

impl Settings for ScanRows {
    fn takes(&self) -> Vec<Port> {
        Vec::new()
    }

    fn gives(&self) -> Vec<Kind> {
        vec![Kind::Rows]
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
        let (first, batch, readable) = self.store.chunk(number as usize)?;
        let hashes = hashes(&batch)?;
        let rows = UInt64Array::from_iter_values(first..first + batch.num_rows() as u64);
        let known: UInt32Array =
            hashes.iter().map(|hash| self.known.rows.get(hash.unwrap_or_default()).copied()).collect();
        let met = and(&is_not_null(&known)?, &readable)?;
        let fresh = and(&is_null(&known)?, &readable)?;
        if met.true_count() > 0 {
            let columns: Vec<(&str, ArrayRef)> =
                [(INPUT_ROW, Arc::new(rows.clone()) as ArrayRef), ("known", Arc::new(known.clone()))]
                    .into_iter()
                    .chain(WHERE.iter().map(|name| (*name, batch[*name].clone())))
                    .collect();
            let met = filter_record_batch(
                &RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, true)))?,
                &met,
            )?;
            self.known.met.lock().unwrap_or_else(PoisonError::into_inner).insert(number, met);
        }
        if fresh.true_count() > 0 {
            let mut fields: Vec<_> = batch.schema().fields().iter().map(|f| f.as_ref().clone()).collect();
            fields.push(field(INPUT_ROW, DataType::UInt64, false));
            fields.push(field(INPUT_HASH, DataType::FixedSizeBinary(16), false));
            let mut columns = batch.columns().to_vec();
            columns.push(Arc::new(rows));
            columns.push(Arc::new(hashes));
            let batch = RecordBatch::try_new(Arc::new(arrow::datatypes::Schema::new(fields)), columns)?;
            let records = if fresh.true_count() < fresh.len() { filter_record_batch(&batch, &fresh)? } else { batch };
            out.give(Packet::Rows(Rows { lane, purpose: Purpose::Train, last: false, records }));
        }
        Ok(Turn::Done)
    }
}

/// The columns that say where a row was read: they are no part of its hash.
pub const WHERE: [&str; 4] = ["source", "source_file", "source_offset", "row_group"];

/// Hashes of rows as they are read, by everything but where. A source that is but the name of the file is a where.
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

/// The first 128 bits.
pub fn short(hash: blake3::Hash) -> Hash {
    std::array::from_fn(|i| hash.as_bytes()[i])
}

//! Source `scan_rows`: every row with all its columns, once, in chunks, for preparation. Rows whose like an earlier run
//! has worked on already are noted, not given.
use crate::columns::{self, INPUT_HASH, INPUT_ROW, Origin, field};
use crate::documents::is_text;
use crate::problem::{TextProblem, shielded};
use crate::row_groups::OpenFile;
use crate::scan::CHUNK;
use crate::spool::DocumentFile;
use anyhow::{Context, Result};
use arrow::array::{
    Array, ArrayRef, AsArray, FixedSizeBinaryArray, FixedSizeBinaryBuilder, RecordBatch, UInt32Array, UInt64Array,
};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, UInt64Type};
use contract::{
    Built, Emit, Env, Kind, Lane, Packet, Port, Purpose, Rows, Settings, Source, StageSettings, Step, Turn,
};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde::{Deserialize, Serialize};
use std::any::Any;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::sync::{Arc, Mutex, PoisonError};

/// 128 bits of blake3.
pub type Hash = [u8; 16];

/// The rows of document files with all their columns, in chunks.
pub struct RowStore {
    files: Vec<(OpenFile, String)>,
    chunks: Vec<Chunk>,
    /// By chunk: the decoded row group, while some of its chunks have not been read.
    groups: Vec<Mutex<Option<(RecordBatch, u64)>>>,
    rows: u64,
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
    pub fn open(files: &[DocumentFile]) -> Result<Self> {
        let mut store = Self { files: Vec::new(), chunks: Vec::new(), groups: Vec::new(), rows: 0 };
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
            store.files.push((open, document.column.clone()));
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

    /// The rows of chunk `number`, and the number of the first among all rows. A row group is kept until each of its
    /// chunks has been read once.
    fn chunk(&self, number: usize) -> Result<(u64, RecordBatch)> {
        let chunk = &self.chunks[number];
        let mut group = self.groups[chunk.group.0].lock().unwrap_or_else(PoisonError::into_inner);
        let (batch, left) = match group.take() {
            Some(kept) => kept,
            None => (self.decode(chunk)?, chunk.chunks_in_group),
        };
        let rows = batch.slice(chunk.start as usize, chunk.rows as usize);
        if left > 1 {
            *group = Some((batch, left - 1));
        }
        Ok((chunk.first.1 + chunk.start, rows))
    }

    fn decode(&self, chunk: &Chunk) -> Result<RecordBatch> {
        let (OpenFile { path, metadata, .. }, column) = &self.files[chunk.file];
        let input = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        let corrupt = |e: anyhow::Error| {
            let (why, row_group) = (format!("cannot be decoded: {e:#}"), Some(chunk.group.1));
            anyhow::Error::new(TextProblem::Corrupt { file: path.clone(), row_group, why })
        };
        let decoded = shielded(|| {
            let wanted = columns::documents();
            let schema = metadata.schema();
            let roots = (0..schema.fields().len()).filter(|i| {
                let name = schema.field(*i).name();
                name == column || (name != "text" && wanted.column_with_name(name).is_some())
            });
            let mask = ProjectionMask::roots(metadata.parquet_schema(), roots);
            let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(input, metadata.clone())
                .with_projection(mask)
                .with_row_groups(vec![chunk.group.1])
                .with_batch_size(1024)
                .build()?;
            let (mut pieces, mut first) = (Vec::new(), chunk.first.0);
            for batch in reader {
                let batch = batch?;
                let origin = Origin { file: path, column, row_group: chunk.group.1 as u64, first };
                first += batch.num_rows() as u64;
                pieces.push(columns::of_any(&batch, &origin)?);
            }
            let batch = arrow::compute::concat_batches(&wanted, &pieces)?;
            let announced = metadata.metadata().row_group(chunk.group.1).num_rows();
            anyhow::ensure!(batch.num_rows() as i64 == announced, "{} rows, not {announced}", batch.num_rows());
            Ok(batch)
        });
        decoded.map_err(corrupt)
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
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
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
    const KEYS: &'static [(&'static str, &'static str)] = &[];
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

    fn as_any(&self) -> &dyn Any {
        self
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
        let (first, batch) = self.store.chunk(number as usize)?;
        let hashes = hashes(&batch)?;
        let rows = UInt64Array::from_iter_values(first..first + batch.num_rows() as u64);
        let known: UInt32Array =
            hashes.iter().map(|hash| self.known.rows.get(hash.unwrap_or_default()).copied()).collect();
        if known.null_count() < known.len() {
            let columns: Vec<(&str, ArrayRef)> =
                [(INPUT_ROW, Arc::new(rows.clone()) as ArrayRef), ("known", Arc::new(known.clone()))]
                    .into_iter()
                    .chain(WHERE.iter().map(|name| (*name, batch[*name].clone())))
                    .collect();
            let met = filter_record_batch(
                &RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, true)))?,
                &arrow::compute::is_not_null(&known)?,
            )?;
            self.known.met.lock().unwrap_or_else(PoisonError::into_inner).insert(number, met);
        }
        if known.null_count() > 0 {
            let mut fields: Vec<_> = batch.schema().fields().iter().map(|f| f.as_ref().clone()).collect();
            fields.push(field(INPUT_ROW, DataType::UInt64, false));
            fields.push(field(INPUT_HASH, DataType::FixedSizeBinary(16), false));
            let mut columns = batch.columns().to_vec();
            columns.push(Arc::new(rows));
            columns.push(Arc::new(hashes));
            let batch = RecordBatch::try_new(Arc::new(arrow::datatypes::Schema::new(fields)), columns)?;
            let records = if known.null_count() < known.len() {
                filter_record_batch(&batch, &arrow::compute::is_null(&known)?)?
            } else {
                batch
            };
            out.give(Packet::Rows(Rows { lane, purpose: Purpose::Train, last: false, records }));
        }
        Ok(Turn::Done)
    }
}

/// The columns that say where a row was read: they are no part of its hash.
pub const WHERE: [&str; 3] = ["source_file", "source_offset", "row_group"];

/// Hashes of rows as they are read, by everything but where.
fn hashes(batch: &RecordBatch) -> Result<FixedSizeBinaryArray> {
    let string = |name: &str| batch[name].as_string::<i32>().clone();
    let strings = ["id", "url", "title", "source"].map(string);
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

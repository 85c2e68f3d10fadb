//! Stage `signatures`: the end of preparation's first graph. Of every row it keeps a line of the [catalog](crate::prepare::catalog),
//! in memory, and puts the text aside in files by shard, where the second graph finds it.
use crate::clean::RESIDUE;
use crate::parquet::columns::{DROPPED, INPUT_HASH, INPUT_ROW, UNHANDLED, about};
use crate::prepare::catalog::schema;
use crate::prepare::deduplicate::{Deduplicate, MinHasher};
use crate::prepare::scan_rows::short;
use anyhow::{Context, Result, bail};
use arrow::array::{
    Array, ArrayRef, AsArray, FixedSizeBinaryBuilder, LargeStringBuilder, ListBuilder, RecordBatch, StringArray,
    UInt64Builder, new_null_array,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use contract::{At, Built, Emit, Env, Kind, Packet, Port, Settings, Stage, StageKeys, StageSettings, Turn};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Rows of a row group of texts put aside: one text is read by decoding its row group.
const ROW_GROUP: usize = 64;
/// Bytes of text after which a row group is closed earlier.
const ROW_GROUP_BYTES: usize = 256 << 10;

/// What the stage needs, and where what it finds out goes.
pub struct SignatureResults {
    folder: PathBuf,
    shards: u32,
    keep_dropped: bool,
    deduplicate: Option<Deduplicate>,
    found: Mutex<Found>,
    watch: Mutex<Box<dyn FnMut(u64) + Send>>,
}

/// What was found out.
#[derive(Default)]
pub struct Found {
    /// Lines of the catalog by step and lane.
    pieces: BTreeMap<(u64, u32), RecordBatch>,
    /// By input row: where its text is put aside, as file and row.
    pub texts: BTreeMap<u64, (usize, u64)>,
    /// The files.
    pub files: Vec<PathBuf>,
    rows: u64,
}

impl Found {
    /// Lines of the catalog.
    pub fn pieces(&mut self) -> Vec<RecordBatch> {
        std::mem::take(&mut self.pieces).into_values().collect()
    }
}

impl SignatureResults {
    /// Texts go to `shards` files a worker in `folder`, those of dropped rows only if `keep_dropped`; bands are made if
    /// `deduplicate` is given; `watch` is told how many rows are done.
    pub fn new(
        folder: &Path,
        shards: u32,
        keep_dropped: bool,
        deduplicate: Option<Deduplicate>,
        watch: impl FnMut(u64) + Send + 'static,
    ) -> Self {
        let (folder, watch) = (folder.to_path_buf(), Mutex::new(Box::new(watch) as Box<_>));
        Self { folder, shards, keep_dropped, deduplicate, found: Mutex::default(), watch }
    }

    /// What was found out, once.
    pub fn take(&self) -> Found {
        std::mem::take(&mut self.found.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The shard that the document `id` belongs to: the first 64 bits of the id's blake3, little-endian, modulo `shards`.
pub fn shard_of(id: &str, shards: u32) -> u32 {
    let hash = blake3::hash(id.as_bytes());
    let start = u64::from_le_bytes(std::array::from_fn(|i| hash.as_bytes()[i]));
    (start % u64::from(shards.max(1))) as u32
}

/// Settings of stage `signatures`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, StageKeys)]
#[serde(default, deny_unknown_fields)]
pub struct Signatures {}

impl StageSettings for Signatures {
    const SUMMARY: &'static str = "hashes rows, makes their MinHash bands and puts their texts aside";
    const EXAMPLE: &'static str = "";
}

impl Settings for Signatures {
    fn takes(&self) -> Vec<Port> {
        vec![Port::stream(Kind::Rows)]
    }

    fn gives(&self) -> Vec<Kind> {
        Vec::new()
    }

    fn build(&self, env: &Env) -> Result<Built> {
        let signatures: Arc<SignatureResults> = env.resource("a place for signatures (SignatureResults)")?;
        let hasher = signatures.deduplicate.as_ref().map(Deduplicate::hasher);
        Ok(Built::Stage(Box::new(SignatureStage { signatures, hasher, keys: Vec::new(), aside: BTreeMap::new() })))
    }
}

struct SignatureStage {
    signatures: Arc<SignatureResults>,
    hasher: Option<MinHasher>,
    keys: Vec<u64>,
    /// By shard.
    aside: BTreeMap<u32, Aside>,
}

impl Stage for SignatureStage {
    fn packet(&mut self, at: At, packet: Packet, _: &mut dyn Emit) -> Result<Turn> {
        let Packet::Rows(rows) = packet else { bail!("signatures takes rows, not {}", packet.kind().name()) };
        let batch = &rows.records;
        let column = |name: &str| {
            batch
                .column_by_name(name)
                .with_context(|| format!("a stage above has lost the column `{name}` of its rows"))
        };
        let texts = column("text")?.as_string_opt::<i64>().context("the column `text` of rows is not large_string")?;
        let ids = column("id")?.as_string_opt::<i32>().context("the column `id` of rows is not string")?;
        let numbers = column(INPUT_ROW)?.as_primitive::<arrow::datatypes::UInt64Type>();
        let given = batch.column_by_name(DROPPED).map(|reasons| reasons.as_string::<i32>());
        let mut contents = FixedSizeBinaryBuilder::with_capacity(batch.num_rows(), 16);
        let (mut bytes, mut reasons) = (UInt64Builder::new(), Vec::new());
        let mut bands =
            ListBuilder::new(UInt64Builder::new()).with_field(Arc::new(Field::new_list_field(DataType::UInt64, false)));
        for row in 0..batch.num_rows() {
            let text = texts.value(row);
            let reason = given.filter(|given| given.is_valid(row)).map(|given| given.value(row));
            let reason = reason.or_else(|| text.is_empty().then_some("empty"));
            contents.append_value(short(blake3::hash(text.as_bytes())))?;
            bytes.append_value(text.len() as u64);
            if let (Some(hasher), None) = (&mut self.hasher, reason) {
                hasher.bands(text, &mut self.keys);
                bands.values().append_slice(&self.keys);
            }
            bands.append(true);
            if reason.is_none() || self.signatures.keep_dropped {
                let shard = shard_of(ids.value(row), self.signatures.shards);
                let (folder, at) = (&self.signatures.folder, self.aside.len());
                let aside = self.aside.entry(shard);
                let aside = match aside {
                    std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
                    std::collections::btree_map::Entry::Vacant(entry) => entry.insert(Aside::new(folder, at)?),
                };
                aside.push(numbers.value(row), text)?;
            }
            reasons.push(reason);
        }
        let mut found: Vec<ArrayRef> = vec![column(INPUT_ROW)?.clone()];
        for field in about() {
            found.push(column(field.name())?.clone());
        }
        found.extend([
            column(INPUT_HASH)?.clone(),
            Arc::new(contents.finish()),
            Arc::new(bytes.finish()),
            Arc::new(StringArray::from(reasons)),
            column(UNHANDLED)?.clone(),
            match batch.column_by_name(RESIDUE) {
                Some(residue) => residue.clone(),
                None => new_null_array(&DataType::Utf8, batch.num_rows()),
            },
            Arc::new(bands.finish()),
        ]);
        let found = RecordBatch::try_new(schema(), found)?;
        let done = {
            let mut all = self.signatures.found.lock().unwrap_or_else(PoisonError::into_inner);
            all.rows += found.num_rows() as u64;
            all.pieces.insert((at.step, rows.lane), found);
            all.rows
        };
        self.signatures.watch.lock().unwrap_or_else(PoisonError::into_inner)(done);
        Ok(Turn::Done)
    }

    fn finish(&mut self) -> Result<()> {
        for aside in std::mem::take(&mut self.aside).into_values() {
            let (path, rows) = aside.close()?;
            let mut found = self.signatures.found.lock().unwrap_or_else(PoisonError::into_inner);
            let file = found.files.len();
            found.texts.extend((0..).zip(rows).map(|(row, number)| (number, (file, row))));
            found.files.push(path);
        }
        Ok(())
    }
}

/// Texts of one shard, put aside by one worker.
struct Aside {
    path: PathBuf,
    parquet: ArrowWriter<File>,
    schema: SchemaRef,
    texts: LargeStringBuilder,
    bytes: usize,
    waiting: usize,
    /// Their numbers among all input rows.
    rows: Vec<u64>,
}

impl Aside {
    fn new(folder: &Path, number: usize) -> Result<Self> {
        use std::sync::atomic::{AtomicU64, Ordering};
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let unique = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = folder.join(format!("texts-{number}-{unique}.parquet"));
        let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        let schema = Arc::new(Schema::new(vec![Field::new("text", DataType::LargeUtf8, false)]));
        let properties = WriterProperties::builder()
            .set_compression(Compression::LZ4_RAW)
            .set_dictionary_enabled(false)
            .set_statistics_enabled(EnabledStatistics::None)
            .build();
        let parquet = ArrowWriter::try_new(file, schema.clone(), Some(properties))?;
        Ok(Self { path, parquet, schema, texts: LargeStringBuilder::new(), bytes: 0, waiting: 0, rows: Vec::new() })
    }

    fn push(&mut self, number: u64, text: &str) -> Result<()> {
        self.texts.append_value(text);
        self.rows.push(number);
        (self.waiting, self.bytes) = (self.waiting + 1, self.bytes + text.len());
        if self.waiting >= ROW_GROUP || self.bytes >= ROW_GROUP_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        let batch = RecordBatch::try_new(self.schema.clone(), vec![Arc::new(self.texts.finish())])?;
        let written = self.parquet.write(&batch).and_then(|()| self.parquet.flush());
        (self.waiting, self.bytes) = (0, 0);
        written.with_context(|| format!("cannot write {}", self.path.display()))
    }

    fn close(mut self) -> Result<(PathBuf, Vec<u64>)> {
        if self.waiting > 0 {
            self.flush()?;
        }
        self.parquet.close().with_context(|| format!("cannot write {}", self.path.display()))?;
        Ok((self.path, self.rows))
    }
}

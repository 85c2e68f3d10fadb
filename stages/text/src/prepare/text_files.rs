//! Texts that the first graph of a preparation stores for the second: one Parquet file per worker and shard, in a
//! temporary folder.
use crate::prepare::append::Appender;
use anyhow::{Context, Result};
use arrow::array::{LargeStringBuilder, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// Rows per row group: reading a text decodes its row group.
const ROW_GROUP: usize = 64;
/// Bytes of text after which a row group is closed early.
const ROW_GROUP_BYTES: usize = 256 << 10;

/// Which texts are stored, and where.
#[derive(Clone, Debug)]
pub struct TextFiles {
    /// The folder.
    pub folder: PathBuf,
    /// The number of shards of the corpus.
    pub shards: u32,
    /// Whether to store the texts of dropped rows, too.
    pub keep_dropped: bool,
}

impl TextFiles {
    /// The path of the file with this number.
    pub fn path(&self, number: u32) -> PathBuf {
        self.folder.join(format!("texts-{number:06}.parquet"))
    }
}

/// The shard that the document `id` belongs to: the first 64 bits of the id's blake3, little-endian, modulo `shards`.
pub fn shard_of(id: &str, shards: u32) -> u32 {
    let hash = blake3::hash(id.as_bytes());
    let start = u64::from_le_bytes(std::array::from_fn(|i| hash.as_bytes()[i]));
    (start % u64::from(shards.max(1))) as u32
}

/// Writes the files of one worker.
pub(super) struct TextWriter {
    files: Arc<TextFiles>,
    worker: u32,
    /// The files by number.
    open: BTreeMap<u32, ShardTexts>,
}

impl TextWriter {
    pub(super) fn new(files: Arc<TextFiles>, worker: usize) -> Self {
        Self { files, worker: worker as u32, open: BTreeMap::new() }
    }

    /// Stores the text of the document `id`: returns the number of the file, and the row in it.
    pub(super) fn put(&mut self, id: &str, text: &str) -> Result<(u32, u64)> {
        let number = self.worker * self.files.shards + shard_of(id, self.files.shards);
        if !self.open.contains_key(&number) {
            self.open.insert(number, ShardTexts::create(self.files.path(number))?);
        }
        let file = self.open.get_mut(&number).context("a file that was just created")?;
        Ok((number, file.push(text)?))
    }

    /// Completes all files.
    pub(super) fn close(&mut self) -> Result<()> {
        std::mem::take(&mut self.open).into_values().try_for_each(ShardTexts::close)
    }
}

/// The texts of one shard.
struct ShardTexts {
    path: PathBuf,
    parquet: ArrowWriter<Appender>,
    schema: SchemaRef,
    texts: LargeStringBuilder,
    /// Number of all rows, of rows in the current row group, and the latter's size in bytes.
    rows: u64,
    waiting: usize,
    bytes: usize,
}

impl ShardTexts {
    fn create(path: PathBuf) -> Result<Self> {
        let schema = Arc::new(Schema::new(vec![Field::new("text", DataType::LargeUtf8, false)]));
        let properties = WriterProperties::builder()
            .set_compression(Compression::LZ4_RAW)
            .set_dictionary_enabled(false)
            .set_statistics_enabled(EnabledStatistics::None)
            .build();
        let parquet = ArrowWriter::try_new(Appender::new(path.clone()), schema.clone(), Some(properties))?;
        Ok(Self { path, parquet, schema, texts: LargeStringBuilder::new(), rows: 0, waiting: 0, bytes: 0 })
    }

    /// Adds a text and returns its row.
    fn push(&mut self, text: &str) -> Result<u64> {
        self.texts.append_value(text);
        let row = self.rows;
        (self.rows, self.waiting, self.bytes) = (row + 1, self.waiting + 1, self.bytes + text.len());
        if self.waiting >= ROW_GROUP || self.bytes >= ROW_GROUP_BYTES {
            self.flush()?;
        }
        Ok(row)
    }

    fn flush(&mut self) -> Result<()> {
        let batch = RecordBatch::try_new(self.schema.clone(), vec![Arc::new(self.texts.finish())])?;
        let written = self.parquet.write(&batch).and_then(|()| self.parquet.flush());
        (self.waiting, self.bytes) = (0, 0);
        written.with_context(|| format!("cannot write {}", self.path.display()))
    }

    fn close(mut self) -> Result<()> {
        if self.waiting > 0 {
            self.flush()?;
        }
        self.parquet.close().with_context(|| format!("cannot write {}", self.path.display()))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::ingest::DocumentFile;
    use crate::parquet::documents::DocumentStore;
    use crate::support::cache::Cache;

    #[test]
    fn texts_are_found_where_they_were_put() {
        let folder = tempfile::tempdir().unwrap();
        let files = Arc::new(TextFiles { folder: folder.path().to_path_buf(), shards: 7, keep_dropped: false });
        let texts: Vec<(String, String)> =
            (0..1000).map(|row| (format!("id-{row}"), format!("text {row} ").repeat(row % 90))).collect();
        let mut writers = [0, 3].map(|worker| TextWriter::new(Arc::clone(&files), worker));
        let places: Vec<(u32, u64)> =
            texts.iter().enumerate().map(|(row, (id, text))| writers[row % 2].put(id, text).unwrap()).collect();
        writers.iter_mut().for_each(|writer| writer.close().unwrap());
        for (at, (id, text)) in places.iter().zip(&texts) {
            assert_eq!(at.0 % 7, shard_of(id, 7));
            let file = DocumentFile { hash: Some(String::new()), ..DocumentFile::new(files.path(at.0), "text") };
            let store = DocumentStore::open(&[file], &Cache::new(folder.path().to_str())).unwrap();
            assert_eq!(store.get(at.1).unwrap().as_ref(), Some(text), "{id}");
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 14);
    }
}

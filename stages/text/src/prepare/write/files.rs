//! Parquet shards: row groups of bounded size, zstd, with the configuration and vocabulary in the footer.
use crate::parquet::columns::{about, field};
use crate::parquet::encoding::{TokenLists, encodings, token_type, vocabulary_notes};
use crate::prepare::catalog::Catalog;
use crate::support::cache::hash_of;
use crate::tokenizer::vocabulary::Vocabulary;
use anyhow::{Context, Result};
use arrow::array::{ArrayRef, LargeStringBuilder, ListBuilder, RecordBatch, StringBuilder, UInt32Builder};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Rows per row group: small, because reading a document decodes its row group.
const ROW_GROUP: usize = 256;
/// Bytes of text, or of tokens, after which a row group is closed early.
const ROW_GROUP_BYTES: usize = 4 << 20;
/// Version of the file format.
pub const FORMAT: u32 = 1;
/// Must change whenever the same rows would become different bytes: earlier files are then written again.
pub const WRITER: u32 = 2;

/// A file that has been written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileNote {
    /// Its name in the folder.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// The hash of its content, in hexadecimal.
    pub blake3: String,
}

impl FileNote {
    /// The file `name` of `folder`.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn of(folder: &Path, name: &str) -> Result<Self> {
        let path = folder.join(name);
        let content = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Self { name: name.into(), bytes: content.len() as u64, blake3: hash_of(&content) })
    }
}

/// The metadata in the footers of a version's files.
#[derive(Clone, Debug, Default)]
pub struct Footer {
    /// The vocabulary of the tokens, if there are tokens.
    pub vocabulary: Option<Vocabulary>,
    /// Hash of everything in the configuration that rows depend on.
    pub configuration: String,
}

impl Footer {
    fn notes(&self, layout: &str) -> Vec<KeyValue> {
        let note = |key: &str, value: String| KeyValue::new(format!("millrace.{key}"), value);
        let mut notes = vec![
            note("layout", layout.into()),
            note("format", FORMAT.to_string()),
            note("configuration", self.configuration.clone()),
        ];
        if let Some(vocabulary) = &self.vocabulary {
            notes.extend(vocabulary_notes(vocabulary));
        }
        notes
    }
}

/// A Parquet file being written: encoded row groups are kept in memory until the file is written atomically.
struct Shard {
    name: String,
    folder: PathBuf,
    schema: SchemaRef,
    parquet: ArrowWriter<Vec<u8>>,
}

impl Shard {
    fn create(folder: &Path, kind: &str, number: u32, fields: Vec<Field>, notes: Vec<KeyValue>) -> Result<Self> {
        let schema = Arc::new(Schema::new(fields));
        let properties = encodings(WriterProperties::builder())?
            .set_max_row_group_row_count(Some(usize::MAX >> 1))
            .set_key_value_metadata(Some(notes))
            .build();
        let parquet = ArrowWriter::try_new(Vec::new(), schema.clone(), Some(properties))?;
        let name = format!("{kind}-{number:05}.parquet");
        Ok(Self { folder: folder.to_path_buf(), name, schema, parquet })
    }

    fn row_group(&mut self, columns: Vec<ArrayRef>) -> Result<()> {
        self.parquet.write(&RecordBatch::try_new(self.schema.clone(), columns)?)?;
        Ok(self.parquet.flush()?)
    }

    fn close(self) -> Result<FileNote> {
        write_file(&self.folder, &self.name, &self.parquet.into_inner()?)
    }
}

/// A file of documents, kept or dropped.
pub struct Documents {
    shard: Shard,
    rows: Vec<u32>,
    texts: LargeStringBuilder,
    labels: StringBuilder,
    tokens: Option<TokenLists>,
    counts: UInt32Builder,
    bytes: usize,
}

/// Columns that come from the catalog, before and after the text.
const BEFORE: [&str; 3] = ["id", "url", "title"];
const AFTER: [&str; 7] = ["source", "revision", "source_file", "source_offset", "row_group", "content_hash", "bytes"];

impl Documents {
    /// A file `<kind>-<number>.parquet` in `folder`. The label of a row is its part, or why it was dropped.
    pub fn create(folder: &Path, kind: &str, number: u32, footer: &Footer, dropped: bool) -> Result<Self> {
        let mut fields = about();
        fields.insert(3, field("text", DataType::LargeUtf8, false));
        fields.push(field("content_hash", DataType::FixedSizeBinary(16), false));
        fields.push(field("bytes", DataType::UInt64, false));
        fields.push(field(if dropped { "dropped" } else { "part" }, DataType::Utf8, false));
        if let Some(vocabulary) = &footer.vocabulary {
            fields.push(field("tokens", DataType::new_list(token_type(vocabulary), true), false));
            fields.push(field("n_tokens", DataType::UInt32, false));
        }
        Ok(Self {
            shard: Shard::create(folder, kind, number, fields, footer.notes(kind))?,
            rows: Vec::new(),
            texts: LargeStringBuilder::new(),
            labels: StringBuilder::new(),
            tokens: footer.vocabulary.as_ref().map(TokenLists::new),
            counts: UInt32Builder::new(),
            bytes: 0,
        })
    }

    /// Adds the document in row `row` of the catalog.
    pub fn push(
        &mut self,
        catalog: &Catalog,
        row: u32,
        text: &str,
        tokens: Option<&Vec<u32>>,
        label: &str,
    ) -> Result<()> {
        self.rows.push(row);
        self.texts.append_value(text);
        self.labels.append_value(label);
        self.bytes += text.len();
        if let (Some(lists), Some(ids)) = (&mut self.tokens, tokens) {
            lists.push(ids)?;
            self.counts.append_value(ids.len() as u32);
        }
        if self.rows.len() >= ROW_GROUP || self.bytes >= ROW_GROUP_BYTES { self.flush(catalog) } else { Ok(()) }
    }

    fn flush(&mut self, catalog: &Catalog) -> Result<()> {
        let mut columns = catalog.take(&BEFORE, &self.rows)?;
        columns.push(Arc::new(self.texts.finish()));
        columns.extend(catalog.take(&AFTER, &self.rows)?);
        columns.push(Arc::new(self.labels.finish()));
        if let Some(lists) = &mut self.tokens {
            columns.push(lists.finish());
            columns.push(Arc::new(self.counts.finish()));
        }
        self.rows.clear();
        self.bytes = 0;
        self.shard.row_group(columns)
    }

    /// Writes the file.
    pub fn close(mut self, catalog: &Catalog) -> Result<FileNote> {
        if !self.rows.is_empty() {
            self.flush(catalog)?;
        }
        self.shard.close()
    }
}

/// A file of packed sequences.
pub struct Sequences {
    shard: Shard,
    tokens: TokenLists,
    starts: ListBuilder<UInt32Builder>,
    parts: StringBuilder,
    rows: usize,
    length: usize,
}

impl Sequences {
    /// A file `sequences-<number>.parquet` in `folder`, for sequences of `length` tokens.
    pub fn create(folder: &Path, number: u32, length: u32, footer: &Footer) -> Result<Self> {
        let vocabulary = footer.vocabulary.as_ref().context("sequences without a vocabulary")?;
        let fields = vec![
            field("tokens", DataType::new_list(token_type(vocabulary), true), false),
            field("document_starts", DataType::new_list(DataType::UInt32, true), false),
            field("part", DataType::Utf8, false),
        ];
        let mut notes = footer.notes("sequences");
        notes.push(KeyValue::new("millrace.sequence_length".into(), length.to_string()));
        Ok(Self {
            shard: Shard::create(folder, "sequences", number, fields, notes)?,
            tokens: TokenLists::new(vocabulary),
            starts: ListBuilder::new(UInt32Builder::new()),
            parts: StringBuilder::new(),
            rows: 0,
            length: length as usize,
        })
    }

    /// Adds a sequence of `part`.
    pub fn push(&mut self, tokens: &[u32], starts: &[u32], part: &str) -> Result<()> {
        self.tokens.push(tokens)?;
        self.starts.values().append_slice(starts);
        self.starts.append(true);
        self.parts.append_value(part);
        self.rows += 1;
        let full = self.rows >= ROW_GROUP || self.rows * self.length * 8 >= ROW_GROUP_BYTES;
        if full { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        self.rows = 0;
        let (tokens, starts) = (self.tokens.finish(), Arc::new(self.starts.finish()));
        self.shard.row_group(vec![tokens, starts, Arc::new(self.parts.finish())])
    }

    /// Writes the file.
    pub fn close(mut self) -> Result<FileNote> {
        if self.rows > 0 {
            self.flush()?;
        }
        self.shard.close()
    }
}

/// Writes a table as the file `name` of `folder`, zstd.
pub fn write_table(folder: &Path, name: &str, table: &RecordBatch) -> Result<FileNote> {
    let properties = encodings(WriterProperties::builder())?.build();
    let mut parquet = ArrowWriter::try_new(Vec::new(), table.schema(), Some(properties))?;
    parquet.write(table)?;
    write_file(folder, name, &parquet.into_inner()?)
}

/// Writes a file. It becomes durable, under its name, when the folder is synced.
pub fn write_file(folder: &Path, name: &str, bytes: &[u8]) -> Result<FileNote> {
    let path = folder.join(name);
    std::fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(FileNote { name: name.into(), bytes: bytes.len() as u64, blake3: hash_of(bytes) })
}

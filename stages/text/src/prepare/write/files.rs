//! Parquet shards: row groups of bounded size, zstd, with the configuration and vocabulary in the footer.
use crate::corpus::split::Part;
use crate::parquet::columns::{about, field};
use crate::parquet::encoding::{TokenLists, encodings, token_type, vocabulary_notes};
use crate::prepare::append::{Appender, Hashed};
use crate::prepare::catalog::{Catalog, SOURCE_STAGE};
use crate::support::cache::{hash_of, hash_of_file};
use crate::tokenizer::vocabulary::Vocabulary;
use anyhow::{Context, Result};
use arrow::array::{ArrayRef, LargeStringBuilder, ListBuilder, RecordBatch, StringBuilder, UInt32Builder};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{DEFAULT_MAX_ROW_GROUP_ROW_COUNT, WriterProperties};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Rows per row group: small, because reading a document decodes its row group.
const ROW_GROUP: usize = 256;
/// Bytes of text, or of tokens, after which a row group is closed early.
const ROW_GROUP_BYTES: usize = 4 << 20;
/// Version of the file format.
pub const FORMAT: u32 = 2;
/// Must change whenever the same rows would become different bytes: earlier files are then written again.
pub const WRITER: u32 = 3;

/// The kinds of files in which documents and packed sequences are, each with a file for each part of a shard.
pub const OF_PARTS: [&str; 2] = ["documents", "sequences"];

/// What the names of files of `kind`, one of [`OF_PARTS`], begin with that have `part`.
pub fn kind_of_part(kind: &str, part: Part) -> String {
    format!("{kind}-{}", part.name())
}

/// The name of a file of a shard.
pub fn shard_file_name(kind: &str, shard: u32) -> String {
    format!("{kind}-{shard:05}.parquet")
}

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
        let (bytes, blake3) = hash_of_file(&folder.join(name))?;
        Ok(Self { name: name.into(), bytes, blake3 })
    }
}

/// The metadata in the footers of a version's files.
#[derive(Clone, Debug, Default)]
pub struct Footer {
    /// The vocabulary of the tokens, if there are tokens.
    pub vocabulary: Option<Vocabulary>,
    /// Hash of everything in the configuration that rows depend on.
    pub configuration: String,
    /// Whether documents are of several sources, and say of which.
    pub are_mixed: bool,
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

/// Rows of a row group of [`TableFile::create`]. A large table is written that many rows at a time: where the pages of a
/// file end depends on where writes begin.
pub const ROW_GROUP_ROWS: usize = DEFAULT_MAX_ROW_GROUP_ROW_COUNT;

/// A Parquet file being written. It becomes durable when the folder is synced.
pub struct TableFile {
    name: String,
    path: PathBuf,
    schema: SchemaRef,
    parquet: ArrowWriter<Hashed<Appender>>,
}

impl TableFile {
    /// The file `name` of `folder`, zstd, with columns of `schema`. It does not exist yet.
    pub fn create(folder: &Path, name: &str, schema: SchemaRef) -> Result<Self> {
        Self::with(folder, name, schema, encodings(WriterProperties::builder())?.build())
    }

    fn with(folder: &Path, name: &str, schema: SchemaRef, properties: WriterProperties) -> Result<Self> {
        let path = folder.join(name);
        let out = Hashed::new(Appender::new(path.clone()));
        let parquet = ArrowWriter::try_new(out, schema.clone(), Some(properties));
        let parquet = parquet.with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { name: name.into(), path, schema, parquet })
    }

    /// Adds rows.
    pub fn write(&mut self, rows: &RecordBatch) -> Result<()> {
        self.parquet.write(rows).with_context(|| format!("cannot write {}", self.path.display()))
    }

    /// Adds rows that become a row group.
    fn row_group(&mut self, columns: Vec<ArrayRef>) -> Result<()> {
        self.write(&RecordBatch::try_new(self.schema.clone(), columns)?)?;
        self.parquet.flush().with_context(|| format!("cannot write {}", self.path.display()))
    }

    /// Completes the file.
    pub fn close(self) -> Result<FileNote> {
        let Self { name, path, parquet, .. } = self;
        let out = parquet.into_inner().with_context(|| format!("cannot write {}", path.display()))?;
        let (bytes, blake3) = out.finish();
        Ok(FileNote { name, bytes, blake3 })
    }
}

/// A file of a shard, with row groups of bounded size.
fn shard_file(folder: &Path, kind: &str, number: u32, fields: Vec<Field>, notes: Vec<KeyValue>) -> Result<TableFile> {
    let properties = encodings(WriterProperties::builder())?
        .set_max_row_group_row_count(Some(usize::MAX >> 1))
        .set_key_value_metadata(Some(notes))
        .build();
    TableFile::with(folder, &shard_file_name(kind, number), Arc::new(Schema::new(fields)), properties)
}

/// A file of documents, kept or dropped.
pub struct Documents {
    file: TableFile,
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
    /// A file `<kind>-<number>.parquet` in `folder`. The label of a row is its part, or why it was dropped. Documents that
    /// are kept have a file for each part, so that libraries that take a file for a split find them.
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
        fields.extend(footer.are_mixed.then(|| field(SOURCE_STAGE, DataType::Utf8, false)));
        Ok(Self {
            file: shard_file(
                folder,
                kind,
                number,
                fields,
                footer.notes(if dropped { "dropped" } else { "documents" }),
            )?,
            rows: Vec::new(),
            texts: LargeStringBuilder::new(),
            labels: StringBuilder::new(),
            tokens: footer.vocabulary.as_ref().map(TokenLists::new),
            counts: UInt32Builder::new(),
            bytes: 0,
        })
    }

    /// Adds the document in row `row` of the catalog.
    pub fn push(&mut self, catalog: &Catalog, row: u32, text: &str, tokens: Option<&[u32]>, label: &str) -> Result<()> {
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
        columns.extend(catalog.stages(&self.rows));
        self.rows.clear();
        self.bytes = 0;
        self.file.row_group(columns)
    }

    /// Writes the file.
    pub fn close(mut self, catalog: &Catalog) -> Result<FileNote> {
        if !self.rows.is_empty() {
            self.flush(catalog)?;
        }
        self.file.close()
    }
}

/// A file of packed sequences.
pub struct Sequences {
    file: TableFile,
    tokens: TokenLists,
    starts: ListBuilder<UInt32Builder>,
    parts: StringBuilder,
    rows: usize,
    length: usize,
}

impl Sequences {
    /// A file `<kind>-<number>.parquet` in `folder`, for sequences of `length` tokens.
    pub fn create(folder: &Path, kind: &str, number: u32, length: u32, footer: &Footer) -> Result<Self> {
        let vocabulary = footer.vocabulary.as_ref().context("sequences without a vocabulary")?;
        let fields = vec![
            field("tokens", DataType::new_list(token_type(vocabulary), true), false),
            field("document_starts", DataType::new_list(DataType::UInt32, true), false),
            field("part", DataType::Utf8, false),
        ];
        let mut notes = footer.notes("sequences");
        notes.push(KeyValue::new("millrace.sequence_length".into(), length.to_string()));
        Ok(Self {
            file: shard_file(folder, kind, number, fields, notes)?,
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
        self.file.row_group(vec![tokens, starts, Arc::new(self.parts.finish())])
    }

    /// Writes the file.
    pub fn close(mut self) -> Result<FileNote> {
        if self.rows > 0 {
            self.flush()?;
        }
        self.file.close()
    }
}

/// Writes a table as the file `name` of `folder`, zstd.
pub fn write_table(folder: &Path, name: &str, table: &RecordBatch) -> Result<FileNote> {
    let mut file = TableFile::create(folder, name, table.schema())?;
    file.write(table)?;
    file.close()
}

/// Writes a file. It becomes durable, under its name, when the folder is synced.
pub fn write_file(folder: &Path, name: &str, bytes: &[u8]) -> Result<FileNote> {
    let path = folder.join(name);
    std::fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(FileNote { name: name.into(), bytes: bytes.len() as u64, blake3: hash_of(bytes) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{StringArray, UInt64Array, UInt64Builder};

    #[test]
    fn a_table_is_the_same_file_if_it_is_written_a_row_group_at_a_time() {
        let rows = ROW_GROUP_ROWS as u64 + 3000;
        let ids: ArrayRef =
            Arc::new((0..rows).map(|row| (row % 5 > 0).then(|| format!("id {row}"))).collect::<StringArray>());
        let numbers: ArrayRef = Arc::new(UInt64Array::from_iter_values((0..rows).map(|row| row * row)));
        let mut lists = ListBuilder::new(UInt64Builder::new());
        for row in 0..rows {
            (0..row % 4).for_each(|item| lists.values().append_value(row ^ item));
            lists.append(true);
        }
        let lists: ArrayRef = Arc::new(lists.finish());
        let table = RecordBatch::try_from_iter([("id", ids), ("number", numbers), ("bands", lists)]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let whole = write_table(folder.path(), "whole", &table).unwrap();
        let mut file = TableFile::create(folder.path(), "parts", table.schema()).unwrap();
        file.write(&table.slice(0, ROW_GROUP_ROWS)).unwrap();
        file.write(&table.slice(ROW_GROUP_ROWS, 3000)).unwrap();
        let parts = file.close().unwrap();
        assert_eq!((parts.bytes, &parts.blake3), (whole.bytes, &whole.blake3));
        assert_eq!(FileNote::of(folder.path(), "parts").unwrap(), parts);
    }
}

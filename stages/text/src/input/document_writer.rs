//! Writes documents to Parquet, with the columns of `data/SCHEMA.md`.
use crate::input::document::Document;
use crate::parquet::columns::{self, ID_IN_FILE, UNHANDLED};
use crate::support::cache_entries::SOURCE_KEY;
use anyhow::Result;
use arrow::array::{ArrayRef, LargeStringBuilder, RecordBatch, StringBuilder, UInt64Builder};
use arrow::datatypes::{DataType, Field, Schema};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

/// Part of the cache key of converted files. Must change when the same documents would result in a different file.
pub const VERSION: &str = "document parquet 4";
/// Rows per row group: small, because reading a document decodes its row group.
const ROW_GROUP: usize = 256;
/// Bytes of text after which a row group is closed early.
const ROW_GROUP_BYTES: usize = 4 << 20;

/// Writes documents in the schema of `data/SCHEMA.md`.
pub struct DocumentWriter<W: Write + Send> {
    parquet: ArrowWriter<W>,
    schema: Arc<Schema>,
    source_file: String,
    stem: String,
    id: StringBuilder,
    id_in_file: StringBuilder,
    url: StringBuilder,
    title: StringBuilder,
    text: LargeStringBuilder,
    source: StringBuilder,
    revision: UInt64Builder,
    file: StringBuilder,
    offset: UInt64Builder,
    unhandled: StringBuilder,
    rows: usize,
    bytes: usize,
}

impl<W: Write + Send> DocumentWriter<W> {
    /// A writer for the documents of `source`.
    pub fn new(out: W, source: &Path) -> Result<Self> {
        let field = |name, kind, null| Field::new(name, kind, null);
        let schema = Arc::new(Schema::new(vec![
            field("id", DataType::Utf8, true),
            field(ID_IN_FILE, DataType::Utf8, true),
            field("url", DataType::Utf8, true),
            field("title", DataType::Utf8, false),
            field("text", DataType::LargeUtf8, false),
            field("source", DataType::Utf8, false),
            field("revision", DataType::UInt64, true),
            field("source_file", DataType::Utf8, false),
            field("source_offset", DataType::UInt64, false),
            field(UNHANDLED, DataType::Utf8, true),
        ]));
        let from = std::path::absolute(source).unwrap_or_else(|_| source.to_path_buf());
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::try_new(3)?))
            .set_key_value_metadata(Some(vec![KeyValue::new(SOURCE_KEY.into(), from.display().to_string())]))
            .build();
        let source_file = source.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let stem = columns::stem(&source_file).to_owned();
        Ok(Self {
            parquet: ArrowWriter::try_new(out, schema.clone(), Some(properties))?,
            schema,
            source_file,
            stem,
            id: StringBuilder::new(),
            id_in_file: StringBuilder::new(),
            url: StringBuilder::new(),
            title: StringBuilder::new(),
            text: LargeStringBuilder::new(),
            source: StringBuilder::new(),
            revision: UInt64Builder::new(),
            file: StringBuilder::new(),
            offset: UInt64Builder::new(),
            unhandled: StringBuilder::new(),
            rows: 0,
            bytes: 0,
        })
    }

    /// Adds a document. If it has no id, it is given one when it is read ([`columns::of_any`]), which depends on where the
    /// file is among the input.
    pub fn push(&mut self, document: &Document) -> Result<()> {
        let source = document.source.as_deref().unwrap_or(&self.stem);
        self.id.append_option(document.id.as_deref());
        self.id_in_file.append_option(document.id_in_file.as_deref());
        self.url.append_option(document.url.as_deref());
        self.title.append_value(&document.title);
        self.text.append_value(document.text);
        self.source.append_value(source);
        self.revision.append_option(document.revision);
        self.file.append_value(&self.source_file);
        self.offset.append_value(document.offset);
        self.unhandled.append_option(document.unhandled.as_deref());
        self.bytes += document.text.len();
        self.rows += 1;
        if self.rows >= ROW_GROUP || self.bytes >= ROW_GROUP_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(self.id.finish()),
            Arc::new(self.id_in_file.finish()),
            Arc::new(self.url.finish()),
            Arc::new(self.title.finish()),
            Arc::new(self.text.finish()),
            Arc::new(self.source.finish()),
            Arc::new(self.revision.finish()),
            Arc::new(self.file.finish()),
            Arc::new(self.offset.finish()),
            Arc::new(self.unhandled.finish()),
        ];
        if self.rows > 0 {
            self.parquet.write(&RecordBatch::try_new(self.schema.clone(), columns)?)?;
            self.parquet.flush()?;
        }
        (self.rows, self.bytes) = (0, 0);
        Ok(())
    }

    /// Writes the footer.
    pub fn close(mut self) -> Result<()> {
        self.flush()?;
        self.parquet.close()?;
        Ok(())
    }
}

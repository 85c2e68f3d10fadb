//! Inputs without row addressing become document Parquet, once, in the cache.
use crate::Progress;
use crate::cache::{Cache, key, write_whole};
use crate::inputs::{Format, InputFile, Inputs};
use crate::{plain_text, wiki_dump};
use anyhow::Result;
use arrow::array::{ArrayRef, LargeStringBuilder, RecordBatch, StringBuilder, UInt64Builder};
use arrow::datatypes::{DataType, Field, Schema};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Rows of a row group: a document is read by decoding its row group, so it is small.
const ROW_GROUP: usize = 256;
/// Bytes of text after which a row group is closed earlier.
const ROW_GROUP_BYTES: usize = 4 << 20;

/// A Parquet file with documents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DocumentFile {
    /// Where it is.
    pub path: PathBuf,
    /// The column with the text.
    pub column: String,
    /// Its content hash, where that is known without reading it.
    pub hash: Option<String>,
}

/// Document Parquet for every file of `inputs`: Parquet as it is, with its column `column`, everything else
/// converted. `separator` is for plain text. Progress is in bytes of the files that have to be converted.
pub fn spool(
    inputs: &Inputs,
    column: &str,
    separator: Option<&str>,
    cache: &Cache,
    progress: Progress,
) -> Result<Vec<DocumentFile>> {
    let size = |file: &InputFile| std::fs::metadata(&file.path).map_or(0, |m| m.len());
    let total = inputs.files.iter().filter(|f| f.format != Format::Parquet).map(size).sum();
    let (mut done, mut files) = (0, Vec::new());
    for file in &inputs.files {
        if file.format == Format::Parquet {
            files.push(DocumentFile { path: file.path.clone(), column: column.to_string(), hash: None });
            continue;
        }
        let settings = match file.format {
            Format::PlainText => format!("plain text 1 {separator:?}"),
            _ => wiki_dump::CONVERTER.to_string(),
        };
        // The name counts: rows say which file they come from.
        let name = file.path.file_name().unwrap_or_default().to_string_lossy();
        let key = key(&["document parquet 1", &settings, &name, &cache.hash_file(&file.path)?]);
        let path = cache.file("documents", &key, "parquet");
        if !path.exists() {
            write_whole(&path, |out| convert(file, separator, out, &mut |bytes| progress(done + bytes, total)))?;
        }
        done += size(file);
        progress(done, total);
        files.push(DocumentFile { path, column: "text".into(), hash: Some(key) });
    }
    Ok(files)
}

fn convert(file: &InputFile, separator: Option<&str>, out: impl Write + Send, read: &mut dyn FnMut(u64)) -> Result<()> {
    let stem = file.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let stem = stem.split('.').next().unwrap_or_default().to_string();
    let mut writer = Writer::new(out, &file.path)?;
    if file.format == Format::PlainText {
        let mut number = 0;
        plain_text::read(&file.path, separator, &mut |offset, text| {
            writer.push(&format!("{stem}-{number}"), None, "", text, &stem, None, offset)?;
            number += 1;
            read(offset);
            Ok(())
        })?;
    } else {
        wiki_dump::read(&file.path, file.format == Format::MediaWikiXmlBz2, &mut |article, bytes| {
            let source = article.wiki.as_deref().unwrap_or(&stem);
            let id = article.id.map_or(format!("{source}-at-{}", article.offset), |id| format!("{source}-{id}"));
            let url = article.url.as_deref();
            writer.push(&id, url, &article.title, &article.text, source, article.revision, article.offset)?;
            read(bytes);
            Ok(())
        })?;
    }
    writer.close()
}

/// Writes documents in the schema of `data/SCHEMA.md`.
struct Writer<W: Write + Send> {
    parquet: ArrowWriter<W>,
    schema: Arc<Schema>,
    source_file: String,
    id: StringBuilder,
    url: StringBuilder,
    title: StringBuilder,
    text: LargeStringBuilder,
    source: StringBuilder,
    revision: UInt64Builder,
    file: StringBuilder,
    offset: UInt64Builder,
    rows: usize,
    bytes: usize,
}

impl<W: Write + Send> Writer<W> {
    fn new(out: W, source_file: &Path) -> Result<Self> {
        let field = |name, kind, null| Field::new(name, kind, null);
        let schema = Arc::new(Schema::new(vec![
            field("id", DataType::Utf8, false),
            field("url", DataType::Utf8, true),
            field("title", DataType::Utf8, false),
            field("text", DataType::LargeUtf8, false),
            field("source", DataType::Utf8, false),
            field("revision", DataType::UInt64, true),
            field("source_file", DataType::Utf8, false),
            field("source_offset", DataType::UInt64, false),
        ]));
        let properties = WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::try_new(3)?)).build();
        let source_file = source_file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self {
            parquet: ArrowWriter::try_new(out, schema.clone(), Some(properties))?,
            schema,
            source_file,
            id: StringBuilder::new(),
            url: StringBuilder::new(),
            title: StringBuilder::new(),
            text: LargeStringBuilder::new(),
            source: StringBuilder::new(),
            revision: UInt64Builder::new(),
            file: StringBuilder::new(),
            offset: UInt64Builder::new(),
            rows: 0,
            bytes: 0,
        })
    }

    #[allow(clippy::too_many_arguments)] // one a column
    fn push(
        &mut self,
        id: &str,
        url: Option<&str>,
        title: &str,
        text: &str,
        source: &str,
        revision: Option<u64>,
        offset: u64,
    ) -> Result<()> {
        self.id.append_value(id);
        self.url.append_option(url);
        self.title.append_value(title);
        self.text.append_value(text);
        self.source.append_value(source);
        self.revision.append_option(revision);
        self.file.append_value(&self.source_file);
        self.offset.append_value(offset);
        self.rows += 1;
        self.bytes += text.len();
        if self.rows >= ROW_GROUP || self.bytes >= ROW_GROUP_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(self.id.finish()),
            Arc::new(self.url.finish()),
            Arc::new(self.title.finish()),
            Arc::new(self.text.finish()),
            Arc::new(self.source.finish()),
            Arc::new(self.revision.finish()),
            Arc::new(self.file.finish()),
            Arc::new(self.offset.finish()),
        ];
        if self.rows > 0 {
            self.parquet.write(&RecordBatch::try_new(self.schema.clone(), columns)?)?;
            self.parquet.flush()?;
        }
        (self.rows, self.bytes) = (0, 0);
        Ok(())
    }

    fn close(mut self) -> Result<()> {
        self.flush()?;
        self.parquet.close()?;
        Ok(())
    }
}

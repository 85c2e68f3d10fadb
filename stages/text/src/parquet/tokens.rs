//! Token Parquet: one list of ids per document, with the tokenizer's identity in the footer.
//!
//! Column `tokens` is `list<uint16>` or `list<uint32>`, without end-of-text tokens. The footer's keys are those of
//! [`Vocabulary`] under `millrace.`, plus `millrace.layout = documents` and `millrace.token_type`.
use crate::input::ingest::DocumentFile;
use crate::parquet::about::{self, About};
use crate::parquet::decode::Input;
use crate::parquet::encoding::{TokenLists, encodings, token_type, vocabulary_notes};
use crate::parquet::pieces::{Batches, Decoder};
use crate::parquet::row_groups::{DEFAULT_BUDGET, OpenFile, Piece, RowGroups, RowPosition};
use crate::parquet::table::read_parquet;
use crate::support::cache::{Cache, key, write_whole};
use crate::support::problem::TextProblem;
use crate::tokenizer::vocabulary::Vocabulary;
use anyhow::{Context, Result};
use arrow::array::{Array, ArrayRef, AsArray, ListArray, ListBuilder, RecordBatch, UInt32Builder};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, Schema, UInt32Type, UInt64Type};
use parquet::arrow::arrow_reader::{ParquetRecordBatchReaderBuilder, RowSelector};
use parquet::arrow::{ArrowWriter, ProjectionMask};
use parquet::file::metadata::{KeyValue, RowGroupMetaData};
use parquet::file::properties::WriterProperties;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Number of ids that are decoded at once, on average.
const TOKENS_AT_ONCE: u64 = 1 << 20;
/// Rows per row group of [`write_tokens`].
const ROW_GROUP: usize = 256;

/// The token lists of a corpus, addressed by row number.
pub struct TokenStore {
    groups: RowGroups,
    paths: Vec<PathBuf>,
    vocabulary: Vocabulary,
    hash: String,
}

/// Token files whose footers have been read.
pub struct TokenFiles {
    files: Vec<OpenFile>,
    /// The vocabulary of the tokenizer that all of them were made with.
    pub vocabulary: Vocabulary,
}

impl TokenFiles {
    /// Reads the footers of token files. They must have been made with the same tokenizer, and with `tokenizer` if one is
    /// given.
    ///
    /// # Errors
    /// If a file cannot be read, is no token file, or was made with another tokenizer.
    pub fn open(paths: &[PathBuf], tokenizer: Option<&Vocabulary>) -> Result<Self> {
        let mut expected = tokenizer.cloned();
        let mut files = Vec::new();
        for path in paths {
            let file = OpenFile::new(path, "tokens", "list<uint16> or list<uint32>", is_token_list)?;
            let found = stated(&file)?;
            let expected = expected.get_or_insert_with(|| found.clone());
            let disagrees = |what: &'static str, found: String, expected: String| {
                Err(TextProblem::Mismatch { file: path.clone(), what, found, expected }.into())
            };
            if found.hash != expected.hash {
                return disagrees("tokenizer (blake3)", found.hash, expected.hash.clone());
            }
            if found.size != expected.size {
                return disagrees("vocabulary size", found.size.to_string(), expected.size.to_string());
            }
            if found.end_of_text != expected.end_of_text {
                return disagrees("end-of-text id", found.end_of_text.to_string(), expected.end_of_text.to_string());
            }
            files.push(file);
        }
        let vocabulary = expected.ok_or_else(|| TextProblem::Empty { why: "no token file is given".into() })?;
        Ok(Self { files, vocabulary })
    }

    /// The most tokens that the documents have, with one that ends each: the number of ids, and that of rows. An empty
    /// list counts as an id.
    pub fn most_tokens(&self) -> u64 {
        let of_file = |file: &OpenFile| {
            let groups = file.metadata.metadata().row_groups().iter();
            let ids = |group: &RowGroupMetaData| file.leaf().map_or(0, |leaf| group.column(leaf).num_values());
            groups.map(|group| (ids(group) + group.num_rows()).unsigned_abs()).sum::<u64>()
        };
        self.files.iter().map(of_file).sum()
    }
}

impl TokenStore {
    /// Opens token files. They must have been made with the same tokenizer, and with `tokenizer` if one is given. Reads
    /// the files completely once to compute their content hash.
    pub fn open(paths: &[PathBuf], tokenizer: Option<&Vocabulary>, cache: &Cache) -> Result<Self> {
        let TokenFiles { files, vocabulary } = TokenFiles::open(paths, tokenizer)?;
        let mut hashes = vec!["tokens 1".to_string()];
        for path in paths {
            hashes.push(cache.hash_file(path)?);
        }
        let groups = RowGroups::new(files, DEFAULT_BUDGET, Box::new(TokenColumn { size: vocabulary.size }));
        let hashes: Vec<&str> = hashes.iter().map(String::as_str).collect();
        Ok(Self { groups, paths: paths.to_vec(), vocabulary, hash: key(&hashes) })
    }

    /// For each row, the first 64 bits of its text's hash and the text's size in bytes, if the files contain these
    /// (those written by [`write`](mod@crate::prepare::write) do).
    pub fn texts(&self) -> Result<Option<Vec<(u64, u64)>>> {
        let schema = Schema::new(vec![
            Field::new("content_hash", DataType::FixedSizeBinary(16), false),
            Field::new("bytes", DataType::UInt64, false),
        ]);
        let mut texts = Vec::new();
        for path in &self.paths {
            if !self.groups.has_columns(path, &schema) {
                return Ok(None);
            }
            let table = read_parquet(path, &schema)?;
            let (hashes, bytes) =
                (table.column(0).as_fixed_size_binary(), table.column(1).as_primitive::<UInt64Type>());
            let start = |hash: &[u8]| u64::from_le_bytes(std::array::from_fn(|i| hash[i]));
            texts.extend((0..table.num_rows()).map(|row| (start(hashes.value(row)), bytes.value(row))));
        }
        Ok(Some(texts))
    }

    /// The files, with their texts in the column `text`, if they have it.
    pub fn files(&self) -> Vec<DocumentFile> {
        self.paths.iter().map(|path| DocumentFile::new(path, "text")).collect()
    }

    /// What the files say about `rows`, in that order.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn about(&self, rows: &[u64]) -> Result<Vec<About>> {
        about::of_rows(&self.files(), rows)
    }

    /// The documents whose id is `name`, or, if there are none, whose URL or title it is.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn called(&self, name: &str) -> Result<Vec<(Option<u64>, About)>> {
        Ok(about::called(&self.files(), name)?.into_iter().map(|(row, about)| (Some(row), about)).collect())
    }

    /// The files.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.paths.iter().map(PathBuf::as_path)
    }

    /// Number of rows.
    pub fn rows(&self) -> u64 {
        self.groups.rows()
    }

    /// The vocabulary of the tokenizer that the files were made with.
    pub fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// Identifies the content.
    pub fn content_hash(&self) -> &str {
        &self.hash
    }

    /// The position of `row`, for messages.
    pub fn position(&self, row: u64) -> Option<RowPosition> {
        self.groups.position(row)
    }

    /// Calls `f` with the ids of each of `rows`; a null list counts as an empty one.
    pub fn each(&self, rows: impl IntoIterator<Item = u64>, mut f: impl FnMut(&[u32])) -> Result<()> {
        let mut current: Option<Piece> = None;
        for row in rows {
            if !current.as_ref().is_some_and(|piece| piece.rows.contains(&row)) {
                current = Some(self.groups.find(row)?);
            }
            let piece = current.as_ref().context("a piece was just found")?;
            let (lists, index) = (piece.array.as_list::<i32>(), (row - piece.rows.start) as usize);
            if lists.is_null(index) {
                f(&[]);
            } else {
                f(lists.value(index).as_primitive::<UInt32Type>().values());
            }
        }
        Ok(())
    }

    /// The token lists of `rows`, in that order.
    pub fn take(&self, rows: impl IntoIterator<Item = u64>) -> Result<ListArray> {
        let mut lists = ListBuilder::new(UInt32Builder::new());
        self.each(rows, |ids| {
            lists.values().append_slice(ids);
            lists.append(true);
        })?;
        Ok(lists.finish())
    }
}

fn is_token_list(field: &Field) -> bool {
    use DataType::*;
    let unsigned = |item: &Field| matches!(item.data_type(), UInt16 | UInt32);
    matches!(field.data_type(), List(item) | LargeList(item) if unsigned(item))
}

/// Decodes lists of token ids (list of uint32).
struct TokenColumn {
    /// The size of the vocabulary.
    size: u32,
}

impl Decoder for TokenColumn {
    fn batches(&self, input: Input, _: usize, file: &OpenFile, group: usize, skip: u64) -> Result<Batches> {
        let about = file.metadata.metadata().row_group(group);
        // The footer states the number of ids, so it is known how many rows can be decoded at once.
        let ids = file.leaf().map_or(0, |leaf| about.column(leaf).num_values().unsigned_abs());
        let rows = about.num_rows().unsigned_abs();
        let at_once = (TOKENS_AT_ONCE * rows / ids.max(1)).clamp(1, 1024) as usize;
        let selection = [RowSelector::skip(skip as usize), RowSelector::select(rows.saturating_sub(skip) as usize)];
        let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(input, file.metadata.clone())
            .with_projection(ProjectionMask::roots(file.metadata.parquet_schema(), [file.column()]))
            .with_row_groups(vec![group])
            .with_row_selection(selection.to_vec().into())
            .with_batch_size(at_once)
            .build()?;
        Ok(Box::new(reader.map(|batch| to_lists(batch?.column(0)))))
    }

    fn size(&self, rows: &ArrayRef, row: usize) -> usize {
        (rows.as_list::<i32>().value_length(row) as usize + 1) * size_of::<u32>()
    }

    fn check(&self, file: &OpenFile, row_group: usize, first: u64, lists: &ArrayRef) -> Result<()> {
        let lists = lists.as_list::<i32>();
        let ids = lists.values().as_primitive::<UInt32Type>().values();
        let (start, end) = (lists.value_offsets()[0] as usize, lists.value_offsets()[lists.len()] as usize);
        let Some(at) = ids[start..end].iter().position(|id| *id >= self.size) else { return Ok(()) };
        let at = start + at;
        let row = lists.value_offsets().partition_point(|start| *start as usize <= at).saturating_sub(1);
        let (file, id, row) = (file.path.clone(), ids[at], first as usize + row);
        Err(TextProblem::Id { file, row_group, row, id, vocabulary: self.size }.into())
    }
}

fn to_lists(column: &ArrayRef) -> Result<ArrayRef> {
    let strict = CastOptions { safe: false, ..CastOptions::default() };
    let lists = cast_with_options(column, &DataType::new_list(DataType::UInt32, true), &strict)?;
    anyhow::ensure!(lists.as_list::<i32>().values().null_count() == 0, "a null among the token ids");
    Ok(lists)
}

/// The metadata in the footer of a token file.
fn stated(file: &OpenFile) -> Result<Vocabulary> {
    let note = |key: &'static str| {
        file.note(key).ok_or_else(|| TextProblem::Mismatch {
            file: file.path.clone(),
            what: key,
            found: "not stated".into(),
            expected: "the footer of a token file (made by `write`)".to_string(),
        })
    };
    let number = |key: &'static str| -> Result<u32> {
        let value = note(key)?;
        value.parse().with_context(|| format!("{}: {key} is {value}, not a number", file.path.display()))
    };
    let layout = note("millrace.layout")?;
    if layout != "documents" {
        let (found, expected) = (layout.to_string(), "documents".to_string());
        return Err(TextProblem::Mismatch { file: file.path.clone(), what: "layout", found, expected }.into());
    }
    let schema = file.metadata.schema();
    let found = match schema.field_with_name("tokens").map(|f| f.data_type()) {
        Ok(DataType::List(item) | DataType::LargeList(item)) => item.data_type().to_string().to_lowercase(),
        _ => "no list".to_string(),
    };
    let expected = note("millrace.token_type")?.to_string();
    if found != expected {
        return Err(TextProblem::Mismatch { file: file.path.clone(), what: "token type", found, expected }.into());
    }
    Ok(Vocabulary {
        hash: note("millrace.tokenizer")?.to_string(),
        size: number("millrace.vocabulary_size")?,
        end_of_text: number("millrace.end_of_text")?,
    })
}

/// Writes a token file atomically: `uint16` ids if the vocabulary is small enough, row groups of 256 rows, zstd.
pub fn write_tokens<D: AsRef<[u32]>>(
    path: &Path,
    vocabulary: &Vocabulary,
    documents: impl IntoIterator<Item = D>,
) -> Result<()> {
    try_write_tokens(path, vocabulary, documents.into_iter().map(Ok))
}

/// The same for documents that may be errors.
///
/// # Errors
/// The first error among `documents`; or if the file cannot be written.
pub fn try_write_tokens<D: AsRef<[u32]>>(
    path: &Path,
    vocabulary: &Vocabulary,
    documents: impl IntoIterator<Item = Result<D>>,
) -> Result<()> {
    let item = token_type(vocabulary);
    let schema = Arc::new(Schema::new(vec![Field::new("tokens", DataType::new_list(item.clone(), true), false)]));
    let mut notes = vec![KeyValue::new("millrace.layout".into(), "documents".to_string())];
    notes.extend(vocabulary_notes(vocabulary));
    let properties = encodings(WriterProperties::builder())?
        .set_max_row_group_row_count(Some(ROW_GROUP))
        .set_key_value_metadata(Some(notes))
        .build();
    write_whole(path, |out| {
        let mut writer = ArrowWriter::try_new(out, schema.clone(), Some(properties))?;
        let mut documents = documents.into_iter().peekable();
        while documents.peek().is_some() {
            let mut lists = TokenLists::new(vocabulary);
            documents.by_ref().take(ROW_GROUP).try_for_each(|document| lists.push(document?.as_ref()))?;
            writer.write(&RecordBatch::try_new(schema.clone(), vec![lists.finish()])?)?;
        }
        writer.close()?;
        Ok(())
    })
}

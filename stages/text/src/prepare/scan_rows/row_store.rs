//! The rows that a preparation reads: those of the files of all sources, one after the other, in chunks.
use crate::corpus::split::Split;
use crate::corpus::withdrawal::Withdrawn;
use crate::filter::with_column;
use crate::input::ingest::DocumentFile;
use crate::input::quarantine::{OnBadData, Reason, Unreadable};
use crate::parquet::columns::{self, ID_IN_FILE, Origin, field};
use crate::parquet::decode::Input;
use crate::parquet::documents::{CACHE_IS_DAMAGED, is_text};
use crate::parquet::pieces::{Batches, Decoder, ROWS_AT_ONCE, TextColumn};
use crate::parquet::row_groups::{OpenFile, RowGroups};
use crate::prepare::origins::{self, Origins};
use crate::support::problem::TextProblem;
use anyhow::{Context, Result, ensure};
use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, LargeStringArray, LargeStringBuilder, RecordBatch, StructArray,
    UInt64Array, UInt64Builder,
};
use arrow::compute::{and, is_null};
use arrow::datatypes::{DataType, UInt64Type};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReaderBuilder, RowSelector};
use parquet::file::metadata::RowGroupMetaData;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Maximum number of rows of a chunk: few, so that workers finish at about the same time.
const CHUNK: u64 = 64;
/// Bytes of a chunk, for rows of average size.
const CHUNK_BYTES: u64 = 4 << 20;
/// Memory limit of decoded pieces of row groups.
const BUDGET: usize = 128 << 20;

/// A source whose rows are read.
#[derive(Clone)]
pub struct RowSource {
    /// Document Parquet.
    pub files: Vec<DocumentFile>,
    /// What to do with rows that cannot be read.
    pub on_bad_data: OnBadData,
    /// The documents to treat as if they were not there.
    pub withdrawn: Option<Arc<Withdrawn>>,
    /// The rule for holding out documents.
    pub split: Split,
    /// If a stage mixes sources: what distinguishes its rows from those of the others.
    pub mixed: Option<MixedSource>,
}

/// A source of several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MixedSource {
    /// The id of its stage.
    pub stage: String,
    /// A key of the stage and of what is done to its rows before sources are mixed. Part of their hashes, so that rows are
    /// only known again if they are from the same source and the same was done to them.
    pub key: String,
}

/// The rows of document files with all their columns, in chunks.
pub struct RowStore {
    pub(super) groups: RowGroups,
    sources: Vec<RowSource>,
    origins: Origins,
    files: Vec<DocumentFile>,
    /// By file: the index of its source.
    source_of_file: Vec<usize>,
    row_groups: Vec<Group>,
    /// The rows that are withdrawn, ascending.
    withdrawn: Vec<u64>,
    /// How many of them have been passed over.
    passed_over: AtomicU64,
}

/// Some rows of a chunk, as they are read.
pub(super) struct RowsRead {
    /// Index of the first one among all rows.
    pub first: u64,
    pub rows: RecordBatch,
    /// Which of them can be read and are not withdrawn.
    pub readable: BooleanArray,
}

/// A row group with rows, and how it is cut into chunks.
struct Group {
    /// Its rows, among those of all files.
    rows: Range<u64>,
    /// Number of its first chunk.
    first_chunk: u64,
    /// Rows of each chunk, except for the last.
    rows_per_chunk: u64,
    /// Index of the file.
    file: usize,
    /// Index of the row group in the file.
    index: usize,
    /// Index of the first row of the file among those of all files.
    file_start: u64,
}

impl Group {
    fn chunks(&self) -> u64 {
        (self.rows.end - self.rows.start).div_ceil(self.rows_per_chunk)
    }
}

impl RowStore {
    /// Reads the footers of the files of `sources`, of which there are several only if they are mixed.
    ///
    /// # Errors
    /// If a file cannot be read, or none has the id of a document that is withdrawn.
    pub fn open(sources: Vec<RowSource>) -> Result<Self> {
        let (mut open, mut row_groups, mut next, mut first_chunk) = (Vec::new(), Vec::new(), 0, 0);
        let (mut files, mut source_of_file, mut rows_of_sources) = (Vec::new(), Vec::new(), Vec::new());
        let mut withdrawn = Vec::new();
        for (index, source) in sources.iter().enumerate() {
            let source_start = next;
            for document in &source.files {
                let opened = OpenFile::new(&document.path, &document.column, "string", is_text)?;
                let (file, file_start) = (files.len(), next);
                for (index, about) in opened.metadata.metadata().row_groups().iter().enumerate() {
                    let rows = next..next + about.num_rows().unsigned_abs();
                    next = rows.end;
                    if !rows.is_empty() {
                        let rows_per_chunk = rows_per_chunk(about);
                        let group = Group { rows, first_chunk, rows_per_chunk, file, index, file_start };
                        first_chunk += group.chunks();
                        row_groups.push(group);
                    }
                }
                open.push(opened);
                files.push(document.clone());
                source_of_file.push(index);
            }
            rows_of_sources.push(next - source_start);
            let stage = source.mixed.as_ref().map(|mixed| mixed.stage.as_str());
            let there = source.withdrawn.as_ref().map(|list| list.rows_of(stage, &source.files)).transpose();
            let there = match stage {
                Some(stage) => there.with_context(|| format!("stage `{stage}`"))?,
                None => there?,
            };
            withdrawn.extend(there.into_iter().flatten().map(|row| source_start + row));
        }
        let decoder = DocumentRows(files.clone());
        let groups = RowGroups::new(open, BUDGET, Box::new(decoder));
        let origins = origins(&sources, &rows_of_sources);
        let passed_over = AtomicU64::new(0);
        Ok(Self { groups, sources, origins, files, source_of_file, row_groups, withdrawn, passed_over })
    }

    /// Where rows come from.
    pub fn origins(&self) -> &Origins {
        &self.origins
    }

    /// The index of the source that chunk `number` is of.
    pub fn source_of_chunk(&self, number: u64) -> Option<usize> {
        self.find(number).map(|(group, _)| self.source_of_file[group.file])
    }

    /// What distinguishes the source with this index, if sources are mixed.
    pub fn mixed(&self, source: usize) -> Option<&MixedSource> {
        self.sources.get(source)?.mixed.as_ref()
    }

    /// Number of rows.
    pub fn rows(&self) -> u64 {
        self.groups.rows()
    }

    /// Number of rows that have been passed over because they are withdrawn.
    pub fn passed_over(&self) -> u64 {
        self.passed_over.load(Ordering::Relaxed)
    }

    /// Which of some rows are not withdrawn.
    fn present(&self, rows: Range<u64>) -> BooleanArray {
        let [from, to] = [rows.start, rows.end].map(|bound| self.withdrawn.partition_point(|row| *row < bound));
        let here = &self.withdrawn[from..to];
        self.passed_over.fetch_add(here.len() as u64, Ordering::Relaxed);
        rows.map(|row| Some(here.binary_search(&row).is_err())).collect()
    }

    /// The file of a row, as it is called among the input, and the row's number in that file.
    pub fn position(&self, row: u64) -> Option<(&str, u64)> {
        let group = self.row_groups[..self.row_groups.partition_point(|group| group.rows.start <= row)].last()?;
        Some((&self.files[group.file].name, row - group.file_start))
    }

    /// Number of chunks.
    pub fn chunks(&self) -> u64 {
        self.row_groups.last().map_or(0, |group| group.first_chunk + group.chunks())
    }

    /// The row group of chunk `number`, and the rows of the chunk.
    fn find(&self, number: u64) -> Option<(&Group, Range<u64>)> {
        let after = self.row_groups.partition_point(|group| group.first_chunk <= number);
        let group = self.row_groups[..after].last()?;
        let start = group.rows.start + (number - group.first_chunk) * group.rows_per_chunk;
        Some((group, start..group.rows.end.min(start + group.rows_per_chunk)))
    }

    /// The rows of chunk `number`, and what cannot be read in it. A text that is not UTF-8 affects only its own row;
    /// anything else makes the row group unreadable, which is reported with its first chunk.
    pub(super) fn chunk(&self, number: u64) -> Result<(Vec<RowsRead>, Vec<Unreadable>)> {
        let (Group { rows: group_rows, file, index: group, .. }, rows) =
            self.find(number).context("there are no chunks")?;
        let entry = |row, documents, reason, detail: String| Unreadable {
            file: *file as u64,
            row_group: Some(*group as u64),
            row,
            byte: None,
            documents,
            ..Unreadable::at(0, reason, detail)
        };
        let (mut read, mut bad, mut first) = (Vec::new(), Vec::new(), rows.start);
        match self.groups.slices(rows.clone()) {
            Ok(slices) => {
                for slice in slices {
                    let (rows, invalid) = parts(&slice)?;
                    let next = first + rows.num_rows() as u64;
                    let present = self.present(first..next);
                    for row in (0..rows.num_rows()).filter(|row| invalid.is_valid(*row) && present.value(*row)) {
                        let (row, byte) = (Some(first + row as u64 - group_rows.start), invalid.value(row));
                        bad.push(entry(row, 1, Reason::NotUtf8, format!("at its byte {byte}")));
                    }
                    let readable = and(&is_null(&invalid)?, &present)?;
                    read.push(RowsRead { first, rows, readable });
                    first = next;
                }
            }
            Err(error) => {
                let Some(TextProblem::Corrupt { why, .. }) = error.downcast_ref() else { return Err(error) };
                if self.files[*file].hash.is_some() {
                    return Err(error.context(CACHE_IS_DAMAGED));
                }
                if rows.start == group_rows.start {
                    let why = why.trim_start_matches("cannot be decoded: ").to_owned();
                    bad.push(entry(None, group_rows.end - group_rows.start, Reason::RowGroup, why));
                }
            }
        }
        match (self.sources[self.source_of_file[*file]].on_bad_data, bad.first()) {
            (OnBadData::Stop, Some(first)) => Err(first.error(&self.files[*file].path).into()),
            _ => Ok((read, bad)),
        }
    }
}

/// Where the rows of `sources` come from, which have so many.
fn origins(sources: &[RowSource], rows: &[u64]) -> Origins {
    let mixed = |(source, rows): (&RowSource, &u64)| {
        let stage = source.mixed.as_ref()?.stage.clone();
        Some(origins::Origin { stage, rows: *rows, split: source.split })
    };
    match sources {
        [only] if only.mixed.is_none() => Origins::One(only.split),
        _ => Origins::Mixed(sources.iter().zip(rows).filter_map(mixed).collect()),
    }
}

/// The number of rows of a chunk of a row group: fewer if they are large on average.
fn rows_per_chunk(group: &RowGroupMetaData) -> u64 {
    let bytes = group.total_byte_size().unsigned_abs() / group.num_rows().unsigned_abs().max(1);
    (CHUNK_BYTES / bytes.max(1)).clamp(1, CHUNK)
}

/// The column with the offset of the first byte of a text that is not UTF-8 (uint64); null: it is UTF-8.
const INVALID: &str = "invalid";

/// Rows and their column [`INVALID`].
fn parts(rows: &ArrayRef) -> Result<(RecordBatch, UInt64Array)> {
    let mut rows = RecordBatch::from(rows.as_struct());
    let at = rows.schema_ref().index_of(INVALID)?;
    let invalid = rows.remove_column(at);
    Ok((rows, invalid.as_primitive::<UInt64Type>().clone()))
}

/// Decodes all columns of documents in these files, with [`INVALID`].
struct DocumentRows(Vec<DocumentFile>);

impl Decoder for DocumentRows {
    fn batches(&self, input: Input, number: usize, file: &OpenFile, group: usize, skip: u64) -> Result<Batches> {
        let DocumentFile { name, column, .. } = self.0[number].clone();
        let (schema, wanted) = (file.metadata.schema(), columns::documents());
        let roots = (0..schema.fields().len()).filter(|root| {
            let found = schema.field(*root).name();
            *found != column && found != "text" && (found == ID_IN_FILE || wanted.column_with_name(found).is_some())
        });
        let (metadata, path) = (file.metadata.metadata(), file.path.clone());
        let in_group = |group: usize| metadata.row_group(group).num_rows().unsigned_abs();
        let mut first = (0..group).map(in_group).sum::<u64>() + skip;
        let left = in_group(group).saturating_sub(skip) as usize;
        let rest = ParquetRecordBatchReaderBuilder::new_with_metadata(input.clone(), file.metadata.clone())
            .with_projection(ProjectionMask::roots(file.metadata.parquet_schema(), roots))
            .with_row_groups(vec![group])
            .with_row_selection(vec![RowSelector::skip(skip as usize), RowSelector::select(left)].into())
            .with_batch_size(ROWS_AT_ONCE)
            .build()?;
        let mut texts = TextColumn.batches(input, number, file, group, skip)?;
        let (mut rest, mut others) = (rest.fuse(), None);
        let mut batch = move || {
            let Some(texts) = texts.next().transpose()? else { return Ok(None) };
            let left = match others.take() {
                Some(left) => left,
                None => rest.next().context("a column has fewer rows than the text")??,
            };
            let rows = texts.len();
            ensure!(rows <= left.num_rows(), "{rows} texts of {} rows", left.num_rows());
            others = (rows < left.num_rows()).then(|| left.slice(rows, left.num_rows() - rows));
            let (rest, (texts, invalid)) = (left.slice(0, rows), strings(&texts));
            let rows = with_column(&rest, field(&column, DataType::LargeUtf8, false), Arc::new(texts))?;
            let origin = Origin { file: &path, name: &name, column: &column, row_group: group as u64, first };
            first += rows.num_rows() as u64;
            let rows = columns::of_any(&rows, &origin)?;
            let rows = with_column(&rows, field(INVALID, DataType::UInt64, true), Arc::new(invalid))?;
            Ok(Some(Arc::new(StructArray::from(rows)) as ArrayRef))
        };
        Ok(Box::new(std::iter::from_fn(move || batch().transpose())))
    }

    fn size(&self, rows: &ArrayRef, row: usize) -> usize {
        let size = |column: &ArrayRef| match column.data_type() {
            DataType::LargeUtf8 => column.as_string::<i64>().value_length(row) as usize + size_of::<i64>(),
            DataType::Utf8 => column.as_string::<i32>().value_length(row) as usize + size_of::<i32>(),
            _ => size_of::<u64>(),
        };
        rows.as_struct().columns().iter().map(size).sum()
    }
}

/// Texts, and the offset of the first byte that is not UTF-8 of those that are not. They and nulls become empty.
fn strings(texts: &ArrayRef) -> (LargeStringArray, UInt64Array) {
    let texts = texts.as_binary::<i64>();
    let bytes = texts.value_offsets().last().zip(texts.value_offsets().first()).map_or(0, |(end, start)| end - start);
    let mut strings = LargeStringBuilder::with_capacity(texts.len(), bytes as usize);
    let mut invalid = UInt64Builder::with_capacity(texts.len());
    for text in texts {
        let text = std::str::from_utf8(text.unwrap_or_default());
        strings.append_value(text.unwrap_or_default());
        invalid.append_option(text.err().map(|error| error.valid_up_to() as u64));
    }
    (strings.finish(), invalid.finish())
}

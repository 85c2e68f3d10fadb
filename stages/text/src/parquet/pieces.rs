//! Decodes row groups in pieces of bounded size: a footer does not say how large rows are when they are decoded, since
//! nulls and repeated values take almost no space in a file.
use crate::parquet::decode::Input;
use crate::parquet::row_groups::OpenFile;
use anyhow::{Context, Result, bail, ensure};
use arrow::array::{Array, ArrayRef, AsArray, LargeBinaryBuilder};
use arrow::compute::concat;
use parquet::column::reader::{ColumnReader, get_column_reader};
use parquet::data_type::ByteArrayType;
use parquet::file::serialized_reader::SerializedPageReader;
use std::sync::Arc;

/// Bytes of text that are decoded at once, if texts are as large as those before them.
const TEXT_AT_ONCE: usize = 1 << 20;
/// Maximum number of rows that are decoded at once: few, since each may be large.
pub(crate) const ROWS_AT_ONCE: usize = 32;

/// Decodes rows of a row group.
pub trait Decoder: Send + Sync {
    /// The rows of row group `group` of `file`, which has the index `number`, from row `skip` on, in batches of any size.
    ///
    /// # Errors
    /// If they cannot be decoded.
    fn batches(&self, input: Input, number: usize, file: &OpenFile, group: usize, skip: u64) -> Result<Batches>;

    /// The size in bytes of a decoded row.
    fn size(&self, rows: &ArrayRef, row: usize) -> usize;

    /// Checks the decoded rows of row group `group` of `file`, of which `first` is the first.
    ///
    /// # Errors
    /// If they cannot be used.
    fn check(&self, file: &OpenFile, group: usize, first: u64, rows: &ArrayRef) -> Result<()> {
        let _ = (file, group, first, rows);
        Ok(())
    }
}

/// Decoded rows.
pub type Batches = Box<dyn Iterator<Item = Result<ArrayRef>>>;

/// Concatenates and cuts batches into pieces of as many rows as fit in `limit` bytes. A larger row is a piece of its own.
/// Where pieces end depends only on the rows since the first one, so decoding can begin again at any piece.
pub(crate) struct Pieces<'a> {
    decoder: &'a dyn Decoder,
    batches: Batches,
    limit: usize,
    /// A batch, and how many of its rows have been used.
    rest: Option<(ArrayRef, usize)>,
}

impl<'a> Pieces<'a> {
    pub(crate) fn new(decoder: &'a dyn Decoder, batches: Batches, limit: usize) -> Self {
        Self { decoder, batches, limit, rest: None }
    }

    fn piece(&mut self) -> Result<Option<ArrayRef>> {
        let (mut slices, mut bytes, mut is_full): (Vec<ArrayRef>, usize, bool) = (Vec::new(), 0, false);
        while !is_full {
            let Some((batch, start)) = self.rest.take().map_or_else(|| self.batch(), |rest| Ok(Some(rest)))? else {
                break;
            };
            let mut end = start;
            while end < batch.len() {
                let size = self.decoder.size(&batch, end);
                is_full = bytes + size > self.limit && (end > start || !slices.is_empty());
                if is_full {
                    break;
                }
                (bytes, end) = (bytes + size, end + 1);
            }
            slices.extend((end > start).then(|| batch.slice(start, end - start)));
            self.rest = (end < batch.len()).then_some((batch, end));
        }
        let Some(first) = slices.first() else { return Ok(None) };
        // A single array would not be copied, and a piece must not keep the memory of a larger batch.
        slices.push(first.slice(0, 0));
        let slices: Vec<&dyn Array> = slices.iter().map(|slice| slice.as_ref()).collect();
        Ok(Some(concat(&slices)?))
    }

    fn batch(&mut self) -> Result<Option<(ArrayRef, usize)>> {
        Ok(self.batches.next().transpose()?.map(|batch| (batch, 0)))
    }
}

impl Iterator for Pieces<'_> {
    type Item = Result<ArrayRef>;

    fn next(&mut self) -> Option<Self::Item> {
        self.piece().transpose()
    }
}

/// Decodes a column of strings as bytes (large_binary). Arrow's reader fails on a whole page if one of its rows is not
/// UTF-8, and on 2 GiB of text.
pub struct TextColumn;

impl Decoder for TextColumn {
    fn batches(&self, input: Input, _: usize, file: &OpenFile, group: usize, skip: u64) -> Result<Batches> {
        let metadata = file.metadata.metadata();
        let (schema, group) = (metadata.file_metadata().schema_descr(), metadata.row_group(group));
        let leaf = file.leaf().context("no such column")?;
        let column = schema.column(leaf);
        ensure!(column.max_rep_level() == 0, "a column of lists");
        let rows = usize::try_from(group.num_rows())?;
        let pages = SerializedPageReader::new(Arc::new(input), group.column(leaf), rows, None)?;
        let nullable = column.max_def_level();
        let ColumnReader::ByteArrayColumnReader(mut reader) = get_column_reader(column, Box::new(pages)) else {
            bail!("not a column of bytes");
        };
        let skipped = reader.skip_records(skip as usize)?;
        ensure!(skipped as u64 == skip, "only {skipped} rows");
        let mut next = NextBatch::default();
        Ok(Box::new(std::iter::from_fn(move || text_batch(&mut reader, nullable, &mut next).transpose())))
    }

    fn size(&self, rows: &ArrayRef, row: usize) -> usize {
        rows.as_binary::<i64>().value_length(row) as usize + size_of::<i64>()
    }
}

type TextReader = parquet::column::reader::ColumnReaderImpl<ByteArrayType>;

/// How many texts are read at once: one at first, as nothing is known about their size, then up to twice as many as last
/// time, up to [`ROWS_AT_ONCE`], but fewer after large ones. No batch crosses a multiple of [`ROWS_AT_ONCE`], so that it
/// can be combined with other columns, which are decoded that many rows at once.
#[derive(Default)]
struct NextBatch {
    /// Rows so far.
    row: usize,
    /// Number of rows of the last batch that was not cut at a multiple of [`ROWS_AT_ONCE`].
    last: usize,
    /// Size of the largest text of the last batch.
    largest: usize,
}

impl NextBatch {
    /// The number of rows to read next.
    fn rows(&mut self) -> usize {
        self.last = (TEXT_AT_ONCE / self.largest.max(1)).min(2 * self.last).clamp(1, ROWS_AT_ONCE);
        self.last.min(ROWS_AT_ONCE - self.row % ROWS_AT_ONCE)
    }
}

/// The next rows of a column; a value is null if its definition level is below `nullable`.
fn text_batch(reader: &mut TextReader, nullable: i16, next: &mut NextBatch) -> Result<Option<ArrayRef>> {
    let (mut levels, mut values) = (Vec::new(), Vec::new());
    let (rows, ..) = reader.read_records(next.rows(), Some(&mut levels), None, &mut values)?;
    next.row += rows;
    next.largest = values.iter().map(|value| value.len()).max().unwrap_or_default();
    if rows == 0 {
        return Ok(None);
    }
    // Not the builder's default capacity: many small batches wait until they are concatenated.
    let bytes = values.iter().map(|value| value.len()).sum();
    let (mut texts, mut values) = (LargeBinaryBuilder::with_capacity(rows, bytes), values.iter());
    for row in 0..rows {
        let is_null = levels.get(row).is_some_and(|level| *level < nullable);
        texts.append_option(if is_null { None } else { Some(values.next().context("a value is missing")?.data()) });
    }
    Ok(Some(Arc::new(texts.finish())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parquet::decode::decode;
    use crate::testing::document_file;
    use arrow::datatypes::DataType;

    #[test]
    fn few_large_texts_are_decoded_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let batches = |sizes: &[usize]| -> Vec<usize> {
            let texts = sizes.iter().map(|size| "x".repeat(*size)).collect();
            let file = document_file(&folder.path().join("a.parquet"), &[texts]);
            let open = OpenFile::new(&file.path, "text", "string", |field| *field.data_type() == DataType::LargeUtf8);
            let open = open.unwrap();
            let rows = |input| TextColumn.batches(input, 0, &open, 0, 0)?.map(|batch| Ok(batch?.len())).collect();
            decode(&file.path, rows).unwrap().unwrap()
        };
        assert_eq!(batches(&[10; 70]), [1, 2, 4, 8, 16, 1, 32, 6]);
        assert_eq!(batches(&[TEXT_AT_ONCE; 3]), [1, 1, 1]);
        assert_eq!(batches(&[TEXT_AT_ONCE / 4; 9]), [1, 2, 4, 2]);
        // Two small ones, a large one beside a small one, then large ones only.
        let large = 2 * TEXT_AT_ONCE;
        assert_eq!(batches(&[1, 1, large, large, large]), [1, 2, 1, 1]);
    }
}

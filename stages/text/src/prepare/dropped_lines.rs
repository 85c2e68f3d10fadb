//! Lines of the catalog that only its file needs: those of dropped rows whose texts are not stored. They are in a temporary
//! file during a preparation, because a Parquet file of a few kilobytes may have millions of rows that are null.
use crate::parquet::columns::{DROPPED, INPUT_ROW};
use crate::parquet::decode::RecordBatches;
use crate::parquet::encoding::encodings;
use crate::prepare::append::Appender;
use crate::prepare::catalog::schema;
use crate::prepare::origins::Origins;
use anyhow::{Context, Result, ensure};
use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::compute::{concat_batches, filter_record_batch, is_not_null, not, sort_to_indices, take_record_batch};
use arrow::datatypes::UInt64Type;
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Lines per row group of the file.
const ROW_GROUP: usize = 1 << 16;
/// Lines that are read at once.
const ROWS_AT_ONCE: usize = 8192;

/// Lines in a file, and their sums.
pub struct DroppedLines {
    path: PathBuf,
    /// Their sums by the index of their source, up to the last source that has any.
    pub sums: Vec<SumsByReason>,
}

/// Number of rows and bytes of their texts, by reason.
pub type SumsByReason = BTreeMap<String, (u64, u64)>;

impl DroppedLines {
    /// Their number.
    pub fn len(&self) -> u64 {
        self.sums.iter().flat_map(BTreeMap::values).map(|(rows, _)| rows).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.sums.is_empty()
    }

    /// The lines, with the columns of [`schema`], in the order of their input rows.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn read(&self) -> Result<impl Iterator<Item = Result<RecordBatch>>> {
        let batches = (!self.is_empty()).then(|| RecordBatches::open(&self.path, &schema(), ROWS_AT_ONCE));
        Ok(batches.transpose()?.into_iter().flatten())
    }
}

/// Separates such lines from the others.
pub struct DroppedLinesWriter {
    path: PathBuf,
    parquet: ArrowWriter<Appender>,
    /// The texts of dropped rows are stored: all their lines remain in memory.
    keep_dropped: bool,
    /// The input row of the last line.
    last: Option<u64>,
    waiting: usize,
    origins: Arc<Origins>,
    sums: Vec<SumsByReason>,
}

impl DroppedLinesWriter {
    /// Writes to the file at `path` lines of rows from `origins`.
    pub fn create(path: &Path, keep_dropped: bool, origins: Arc<Origins>) -> Result<Self> {
        let properties =
            encodings(WriterProperties::builder())?.set_max_row_group_row_count(Some(usize::MAX >> 1)).build();
        let parquet = ArrowWriter::try_new(Appender::new(path.to_path_buf()), schema(), Some(properties))?;
        let (path, sums) = (path.to_path_buf(), Vec::new());
        Ok(Self { path, parquet, keep_dropped, last: None, waiting: 0, origins, sums })
    }

    /// Takes the dropped rows out of `lines` (of [`lines`](crate::prepare::catalog::lines)), which follow those of the last
    /// call in the input, in any order. Returns the others in the order of their input rows.
    pub fn separate(&mut self, lines: &[RecordBatch]) -> Result<RecordBatch> {
        let all = concat_batches(&crate::prepare::catalog::lines(), lines)?;
        let all = take_record_batch(&all, &sort_to_indices(&all[INPUT_ROW], None, None)?)?;
        if self.keep_dropped {
            return Ok(all);
        }
        let is_dropped = is_not_null(&all[DROPPED])?;
        self.write(&all, &is_dropped)?;
        Ok(filter_record_batch(&all, &not(&is_dropped)?)?)
    }

    fn write(&mut self, all: &RecordBatch, is_dropped: &BooleanArray) -> Result<()> {
        let columns: Vec<usize> = (0..schema().fields().len()).collect();
        let dropped = filter_record_batch(&all.project(&columns)?, is_dropped)?;
        let rows = dropped[INPUT_ROW].as_primitive::<UInt64Type>().values();
        let Some((first, last)) = rows.first().zip(rows.last()) else { return Ok(()) };
        ensure!(self.last.is_none_or(|last| last < *first), "rows come in another order than that of the input");
        self.last = Some(*last);
        let (reasons, bytes) = (dropped[DROPPED].as_string::<i32>(), dropped["bytes"].as_primitive::<UInt64Type>());
        for ((row, reason), bytes) in rows.iter().zip(reasons.iter().flatten()).zip(bytes.values()) {
            let source = self.origins.index(*row);
            if self.sums.len() <= source {
                self.sums.resize_with(source + 1, SumsByReason::new);
            }
            // A known reason is not copied: there are millions of rows and few reasons.
            let sums = &mut self.sums[source];
            match sums.get_mut(reason) {
                Some(sum) => *sum = (sum.0 + 1, sum.1 + bytes),
                None => drop(sums.insert(reason.to_owned(), (1, *bytes))),
            }
        }
        let written = self.parquet.write(&dropped).and_then(|()| {
            self.waiting += dropped.num_rows();
            if self.waiting < ROW_GROUP {
                return Ok(());
            }
            self.waiting = 0;
            self.parquet.flush()
        });
        written.with_context(|| format!("cannot write {}", self.path.display()))
    }

    /// Completes the file.
    pub fn finish(self) -> Result<DroppedLines> {
        let Self { path, parquet, sums, .. } = self;
        parquet.close().with_context(|| format!("cannot write {}", path.display()))?;
        Ok(DroppedLines { path, sums })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corpus::split::Split;
    use crate::prepare::catalog::lines;
    use crate::prepare::origins::Origin;
    use crate::prepare::signatures::no_bands;
    use arrow::array::{ArrayRef, FixedSizeBinaryArray, StringArray, UInt64Array, new_null_array};
    use arrow::datatypes::DataType;

    /// Lines of these input rows, with the size of their texts and the reason for which they are dropped.
    fn batch(rows: &[(u64, u64, Option<&str>)]) -> RecordBatch {
        let number = |of: fn(&(u64, u64, Option<&str>)) -> u64| UInt64Array::from_iter_values(rows.iter().map(of));
        let schema = lines();
        let columns = schema.fields().iter().map(|field| -> ArrayRef {
            match (field.name().as_str(), field.data_type()) {
                (INPUT_ROW, _) => Arc::new(number(|row| row.0)),
                ("bytes", _) => Arc::new(number(|row| row.1)),
                (DROPPED, _) => Arc::new(rows.iter().map(|row| row.2).collect::<StringArray>()),
                (_, kind) if field.is_nullable() => new_null_array(kind, rows.len()),
                (_, DataType::Utf8) => Arc::new(StringArray::from(vec!["x"; rows.len()])),
                (_, DataType::FixedSizeBinary(_)) => {
                    Arc::new(FixedSizeBinaryArray::try_from_iter(rows.iter().map(|_| [7; 16])).unwrap())
                }
                _ => no_bands(rows.len()),
            }
        });
        RecordBatch::try_new(lines(), columns.collect()).unwrap()
    }

    fn input_rows(batch: &RecordBatch) -> Vec<u64> {
        batch[INPUT_ROW].as_primitive::<UInt64Type>().values().to_vec()
    }

    #[test]
    fn no_line_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lines.parquet");
        // Of each six rows, the fifth and the sixth are dropped; the last rows of a step come first.
        let row = |row: u64| {
            (row, row % 10, [None, None, None, None, Some("empty"), Some("length: short")][row as usize % 6])
        };
        let step =
            |step: u64| [50..100, 0..50].map(|part| batch(&part.map(|at| row(100 * step + at)).collect::<Vec<_>>()));
        let source = |stage: &str, rows| Origin { stage: stage.into(), rows, split: Split::Fraction(0.0) };
        let origins = Arc::new(Origins::Mixed(vec![source("a", 60_000), source("b", 30_000)]));
        let mut writer = DroppedLinesWriter::create(&path, false, Arc::clone(&origins)).unwrap();
        let kept: Vec<u64> = (0..900).flat_map(|at| input_rows(&writer.separate(&step(at)).unwrap())).collect();
        assert!(kept.iter().copied().eq((0..90_000).filter(|row| row % 6 < 4)));
        let dropped = writer.finish().unwrap();
        let read = dropped.read().unwrap().map(|batch| input_rows(&batch.unwrap()));
        assert!(read.flatten().eq((0..90_000).filter(|row| row % 6 > 3)));
        // The rows 4, 10, … end in 4, 0, 6, 2, 8, and 5, 11, … in 5, 1, 7, 3, 9: 4 and 5 on average.
        let of = |reason: &str, rows, bytes| (reason.to_owned(), (rows, bytes * rows));
        let sums = [10_000, 5_000].map(|rows| SumsByReason::from([of("empty", rows, 4), of("length: short", rows, 5)]));
        assert_eq!((dropped.sums.clone(), dropped.len()), (sums.to_vec(), 30_000));
        let mut all = DroppedLinesWriter::create(&folder.path().join("none.parquet"), true, origins).unwrap();
        assert_eq!(all.separate(&step(0)).unwrap().num_rows(), 100, "the texts of dropped rows are stored");
        let none = all.finish().unwrap();
        assert!(none.is_empty() && none.read().unwrap().next().is_none());
    }

    #[test]
    fn rows_out_of_order_are_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let one = Arc::new(Origins::One(Split::Fraction(0.0)));
        let mut writer = DroppedLinesWriter::create(&folder.path().join("lines.parquet"), false, one).unwrap();
        writer.separate(&[batch(&[(7, 0, Some("empty"))])]).unwrap();
        assert!(writer.separate(&[batch(&[(7, 0, Some("empty"))])]).unwrap_err().to_string().contains("order"));
    }
}

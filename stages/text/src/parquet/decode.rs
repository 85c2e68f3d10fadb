//! Reads Parquet files, and distinguishes damaged files from errors of the operating system, after which a file may be
//! fine.
//!
//! The `parquet` crate converts read errors to text on their way through Arrow, so they are recorded where they occur.
use crate::support::problem::shielded;
use anyhow::{Context, Error, Result};
use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use bytes::Bytes;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::reader::{ChunkReader, Length};
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Why a file could not be decoded although it could be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damaged(pub String);

/// Opens the file at `path` and decodes it with `f`. If `f` fails or panics although every read succeeded, the file is
/// damaged.
///
/// # Errors
/// If the file cannot be opened or read.
pub fn decode<T>(path: &Path, f: impl FnOnce(Input) -> Result<T>) -> Result<Result<T, Damaged>> {
    let input = Input::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let failure = Arc::clone(&input.failure);
    let decoded = shielded(|| f(input));
    match failure.lock().unwrap_or_else(PoisonError::into_inner).take() {
        Some(error) => Err(Error::new(error).context(format!("cannot read {}", path.display()))),
        None => Ok(decoded.map_err(|error| Damaged(format!("{error:#}")))),
    }
}

/// The record batches of a file, decoded one at a time.
pub struct RecordBatches {
    path: PathBuf,
    failure: Failure,
    reader: ParquetRecordBatchReader,
}

impl RecordBatches {
    /// Opens the file at `path`, and reads the columns `wanted`, which become those of the batches, of up to `rows` rows.
    ///
    /// # Errors
    /// If it cannot be opened or is damaged, or a column is missing.
    pub fn open(path: &Path, wanted: &Schema, rows: usize) -> Result<Self> {
        let input = Input::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        let failure = Arc::clone(&input.failure);
        let begun = shielded(|| {
            let builder = ParquetRecordBatchReaderBuilder::try_new(input)?;
            let there = builder.schema().fields().iter().map(|field| field.name().as_str());
            let index = |name: &str| there.clone().position(|there| there == name);
            let roots = wanted.fields().iter().map(|field| field.name());
            let roots: Vec<usize> =
                roots.map(|name| index(name).with_context(|| format!("no column {name}"))).collect::<Result<_>>()?;
            let mask = ProjectionMask::roots(builder.parquet_schema(), roots);
            Ok(builder.with_projection(mask).with_batch_size(rows).build()?)
        });
        let path = path.to_path_buf();
        let reader = settled(&path, &failure, begun)?;
        Ok(Self { path, failure, reader })
    }
}

impl Iterator for RecordBatches {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        let batch = shielded(|| Ok(self.reader.next().transpose()?));
        settled(&self.path, &self.failure, batch).transpose()
    }
}

/// What was decoded, unless the system has failed. Otherwise `decoded` says what is wrong with the file.
fn settled<T>(path: &Path, failure: &Failure, decoded: Result<T>) -> Result<T> {
    let failed = failure.lock().unwrap_or_else(PoisonError::into_inner).take();
    let decoded = failed.map_or(decoded, |error| Err(Error::new(error)));
    decoded.with_context(|| format!("cannot read {}", path.display()))
}

/// The first read error.
type Failure = Arc<Mutex<Option<io::Error>>>;

/// An open file for readers of the `parquet` crate. All of them share one file handle.
#[derive(Clone)]
pub struct Input {
    file: Arc<Mutex<File>>,
    len: u64,
    failure: Failure,
}

impl Input {
    fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let len = file.metadata()?.len();
        Ok(Self { file: Arc::new(Mutex::new(file)), len, failure: Arc::default() })
    }

    fn read_at(&self, at: u64, buffer: &mut [u8]) -> io::Result<usize> {
        #[cfg(test)]
        failing::next().inspect_err(|error| self.note(error))?;
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let read = file.seek(SeekFrom::Start(at)).and_then(|_| file.read(buffer));
        read.inspect_err(|error| self.note(error))
    }

    fn note(&self, error: &io::Error) {
        if error.kind() != io::ErrorKind::Interrupted {
            let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
            let again = |code| io::Error::from_raw_os_error(code);
            failure.get_or_insert_with(|| {
                error.raw_os_error().map_or_else(|| io::Error::new(error.kind(), error.to_string()), again)
            });
        }
    }
}

impl Length for Input {
    fn len(&self) -> u64 {
        self.len
    }
}

impl ChunkReader for Input {
    type T = BufReader<InputFrom>;

    fn get_read(&self, start: u64) -> ParquetResult<Self::T> {
        Ok(BufReader::new(InputFrom { input: self.clone(), at: start }))
    }

    fn get_bytes(&self, start: u64, length: usize) -> ParquetResult<Bytes> {
        let mut bytes = Vec::new();
        let read = InputFrom { input: self.clone(), at: start }.take(length as u64).read_to_end(&mut bytes)?;
        if read < length {
            return Err(ParquetError::EOF(format!("{length} bytes expected at byte {start}, {read} found")));
        }
        Ok(bytes.into())
    }
}

/// A file from an offset on.
pub struct InputFrom {
    input: Input,
    at: u64,
}

impl Read for InputFrom {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read_at(self.at, buffer)?;
        self.at += read as u64;
        Ok(read)
    }
}

/// Reads that fail on request, for tests.
#[cfg(test)]
pub(crate) mod failing {
    use std::cell::Cell;
    use std::io;

    thread_local! {
        static LEFT: Cell<Option<u64>> = const { Cell::new(None) };
    }

    /// The error of such a read: EIO.
    pub const ERROR: i32 = 5;

    /// Runs `f`. On its thread, one read fails after `sound` successful ones. Also returns whether that read was
    /// reached.
    pub fn after<T>(sound: u64, f: impl FnOnce() -> T) -> (T, bool) {
        LEFT.set(Some(sound));
        let result = f();
        (result, LEFT.take().is_none())
    }

    pub(super) fn next() -> io::Result<()> {
        match LEFT.get() {
            None => Ok(()),
            Some(0) => {
                LEFT.set(None);
                Err(io::Error::from_raw_os_error(ERROR))
            }
            Some(left) => {
                LEFT.set(Some(left - 1));
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parquet::documents::records;
    use crate::testing::with_failing_reads;
    use arrow::array::LargeStringArray;
    use parquet::arrow::ArrowWriter;

    fn rows(input: Input) -> Result<usize> {
        let mut rows = 0;
        for batch in ParquetRecordBatchReaderBuilder::try_new(input)?.build()? {
            rows += batch?.num_rows();
        }
        Ok(rows)
    }

    #[test]
    fn a_file_that_cannot_be_read_is_not_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.parquet");
        let texts = LargeStringArray::from_iter_values((0..500).map(|row| format!("text {row}")));
        let batch = records(texts).unwrap();
        let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        let whole = writer.into_inner().unwrap();
        std::fs::write(&path, &whole).unwrap();
        let in_batches = || -> Result<usize> {
            let batches = RecordBatches::open(&path, &batch.schema(), 100)?;
            batches.map(|batch| Ok(batch?.num_rows())).sum()
        };
        let (all, reads) = with_failing_reads(in_batches);
        assert!(all == 500 && reads > 3, "{all} rows, {reads} reads");
        let mut tried = 0;
        loop {
            let (read, failed) = failing::after(tried, || decode(&path, rows));
            if !failed {
                assert_eq!(read.unwrap(), Ok(500));
                break;
            }
            let error = read.unwrap_err();
            assert_eq!(error.downcast_ref::<io::Error>().unwrap().raw_os_error(), Some(failing::ERROR));
            assert!(error.to_string().contains("cannot read") && error.to_string().contains("a.parquet"), "{error}");
            tried += 1;
        }
        assert!(tried > 3, "{tried} reads");
        let missing = decode(&folder.path().join("b.parquet"), rows).unwrap_err();
        assert!(missing.to_string().contains("cannot open"), "{missing}");
        for damaged in [&whole[..whole.len() / 2], &whole[1..], b"", b"no Parquet"] {
            std::fs::write(&path, damaged).unwrap();
            assert!(decode(&path, rows).unwrap().is_err());
            assert!(format!("{:#}", in_batches().unwrap_err()).contains("cannot read"));
        }
    }
}

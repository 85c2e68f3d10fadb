//! The Parquet file of a survey or an index: one row per row of the corpus.
use crate::corpus::split::Part;
use crate::corpus::survey::Survey;
use crate::parquet::decode::{Damaged, Input, decode};
use crate::support::cache::{used, write_whole};
use anyhow::{Result, anyhow};
use arrow::array::{ArrayRef, AsArray, RecordBatch, UInt8Array, UInt32Array, UInt64Array};
use arrow::datatypes::{UInt8Type, UInt32Type, UInt64Type};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::path::Path;
use std::sync::Arc;

/// The metadata key for the numbers of dropped rows.
const DROPPED_ROWS: &str = "dropped";

/// Writes `survey` atomically, with the number of tokens of each row if they are known. Unreadable data is stored in a
/// file of its own ([`quarantine`](crate::input::quarantine)).
pub fn write(path: &Path, survey: &Survey, tokens: Option<&[u32]>) -> Result<()> {
    let Survey { parts, bytes, dropped, .. } = survey;
    let tokens = tokens.map_or_else(|| vec![0; parts.len()], <[u32]>::to_vec);
    let columns: [(&str, ArrayRef); 3] = [
        ("part", Arc::new(UInt8Array::from_iter_values(parts.iter().map(|part| *part as u8)))),
        ("bytes", Arc::new(UInt64Array::from(bytes.clone()))),
        ("tokens", Arc::new(UInt32Array::from(tokens))),
    ];
    let batch = RecordBatch::try_from_iter(columns)?;
    let mut schema = batch.schema().as_ref().clone();
    if !dropped.is_empty() {
        schema.metadata.insert(DROPPED_ROWS.to_owned(), serde_json::to_string(dropped)?);
    }
    let batch = batch.with_schema(Arc::new(schema))?;
    write_whole(path, |out| {
        let mut writer = ArrowWriter::try_new(out, batch.schema(), None)?;
        writer.write(&batch)?;
        writer.close()?;
        Ok(())
    })
}

/// Reads the file that [`write()`] wrote: a survey and the number of tokens of each row, 0 if they were not known.
/// `None` if there is no such file.
///
/// # Errors
/// If the file cannot be read, or is damaged.
pub fn read(path: &Path) -> Result<Option<(Survey, Vec<u32>)>> {
    if !path.exists() {
        return Ok(None);
    }
    used(&[path]);
    let read = |input: Input| {
        let (mut survey, mut tokens) = (Survey::default(), Vec::new());
        let file = ParquetRecordBatchReaderBuilder::try_new(input)?;
        if let Some(dropped) = file.schema().metadata.get(DROPPED_ROWS) {
            survey.dropped = serde_json::from_str(dropped)?;
        }
        for batch in file.build()? {
            let batch = batch?;
            let part = |code: &u8| Part::ALL[usize::from(*code).min(3)];
            survey.parts.extend(batch.column(0).as_primitive::<UInt8Type>().values().iter().map(part));
            survey.bytes.extend(batch.column(1).as_primitive::<UInt64Type>().values());
            tokens.extend(batch.column(2).as_primitive::<UInt32Type>().values());
        }
        Ok((survey, tokens))
    };
    let damaged = |Damaged(why)| anyhow!("{} is damaged; remove it: {why}", path.display());
    decode(path, read)?.map(Some).map_err(damaged)
}

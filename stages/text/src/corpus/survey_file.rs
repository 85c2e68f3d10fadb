//! The Parquet file of a survey or an index: one row per document of the corpus.
use crate::corpus::split::Part;
use crate::corpus::survey::Survey;
use crate::parquet::decode::{Damaged, Input, decode};
use crate::support::cache::{used, write_whole};
use anyhow::{Context, Result, anyhow};
use arrow::array::{ArrayRef, AsArray, RecordBatch, UInt8Array, UInt32Array, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema, UInt8Type, UInt32Type, UInt64Type};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::Encoding;
use parquet::file::properties::WriterProperties;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

/// The metadata key for the number of all rows.
const ALL_ROWS: &str = "rows";
/// The metadata key for the numbers of dropped rows.
const DROPPED_ROWS: &str = "dropped";
/// Documents per write.
const CHUNK: usize = 1 << 16;

/// Writes `survey` atomically, with the number of tokens of each document if they are known. Unreadable data is stored
/// in a file of its own ([`quarantine`](crate::input::quarantine)).
pub fn write(path: &Path, survey: &Survey, tokens: Option<&[u32]>) -> Result<()> {
    let mut metadata = HashMap::from([(ALL_ROWS.to_owned(), survey.all_rows.to_string())]);
    if !survey.dropped.is_empty() {
        metadata.insert(DROPPED_ROWS.to_owned(), serde_json::to_string(&survey.dropped)?);
    }
    let column = |name: &str, of: DataType| Field::new(name, of, false);
    let columns = [
        column("row", DataType::UInt64),
        column("part", DataType::UInt8),
        column("bytes", DataType::UInt64),
        column("hash", DataType::UInt64),
        column("tokens", DataType::UInt32),
    ];
    let schema = Arc::new(Schema::new_with_metadata(columns.to_vec(), metadata));
    // Rows ascend, so their differences take little space. Hardly any two hashes are equal.
    let properties = WriterProperties::builder()
        .set_column_dictionary_enabled("hash".into(), false)
        .set_column_dictionary_enabled("row".into(), false)
        .set_column_encoding("row".into(), Encoding::DELTA_BINARY_PACKED)
        .build();
    write_whole(path, |out| {
        let mut writer = ArrowWriter::try_new(out, schema.clone(), Some(properties))?;
        for start in (0..survey.rows.len()).step_by(CHUNK) {
            let range = start..survey.rows.len().min(start + CHUNK);
            let counts = tokens.map_or_else(|| vec![0; range.len()], |tokens| tokens[range.clone()].to_vec());
            let parts = survey.parts[range.clone()].iter().map(|part| *part as u8);
            let columns: [ArrayRef; 5] = [
                Arc::new(UInt64Array::from(survey.rows[range.clone()].to_vec())),
                Arc::new(UInt8Array::from_iter_values(parts)),
                Arc::new(UInt64Array::from(survey.bytes[range.clone()].to_vec())),
                Arc::new(UInt64Array::from(survey.hashes[range].to_vec())),
                Arc::new(UInt32Array::from(counts)),
            ];
            writer.write(&RecordBatch::try_new(schema.clone(), columns.to_vec())?)?;
        }
        writer.close()?;
        Ok(())
    })
}

/// Reads the file that [`write()`] wrote: a survey and the number of tokens of each document, 0 if they were not known.
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
        let metadata = &file.schema().metadata;
        survey.all_rows = metadata.get(ALL_ROWS).context("the number of rows is missing")?.parse()?;
        if let Some(dropped) = metadata.get(DROPPED_ROWS) {
            survey.dropped = serde_json::from_str(dropped)?;
        }
        for batch in file.build()? {
            let batch = batch?;
            let part = |code: &u8| if *code == Part::Validation as u8 { Part::Validation } else { Part::Train };
            survey.rows.extend(batch.column(0).as_primitive::<UInt64Type>().values());
            survey.parts.extend(batch.column(1).as_primitive::<UInt8Type>().values().iter().map(part));
            survey.bytes.extend(batch.column(2).as_primitive::<UInt64Type>().values());
            survey.hashes.extend(batch.column(3).as_primitive::<UInt64Type>().values());
            tokens.extend(batch.column(4).as_primitive::<UInt32Type>().values());
        }
        Ok((survey, tokens))
    };
    let damaged = |Damaged(why)| anyhow!("{} is damaged; remove it: {why}", path.display());
    decode(path, read)?.map(Some).map_err(damaged)
}

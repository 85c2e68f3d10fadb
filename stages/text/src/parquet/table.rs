//! Small Parquet files, read completely.
use crate::parquet::decode::RecordBatches;
use anyhow::Result;
use arrow::array::RecordBatch;
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{Field, Schema};
use std::path::Path;
use std::sync::Arc;

/// Rows that are decoded at once.
const ROWS_AT_ONCE: usize = 8192;

/// All rows of a Parquet file, with the columns `wanted`.
///
/// # Errors
/// If it cannot be read, or is damaged, or a column is missing.
pub fn read_parquet(path: &Path, wanted: &Schema) -> Result<RecordBatch> {
    read_parquet_rows(path, wanted, Ok)
}

/// The same for the rows of a larger file that `select` takes from each batch.
///
/// # Errors
/// If the file cannot be read, or is damaged, or a column is missing; if `select` fails.
pub fn read_parquet_rows(
    path: &Path,
    wanted: &Schema,
    select: impl Fn(RecordBatch) -> Result<RecordBatch>,
) -> Result<RecordBatch> {
    let schema = Arc::new(wanted.clone());
    let mut pieces = Vec::new();
    for batch in RecordBatches::open(path, wanted, ROWS_AT_ONCE)? {
        let batch = batch?;
        let column = |field: &Field| Ok(cast(&batch[field.name().as_str()], field.data_type())?);
        let columns = wanted.fields().iter().map(|field| column(field)).collect::<Result<_>>()?;
        let selected = select(RecordBatch::try_new(schema.clone(), columns)?)?;
        pieces.extend((selected.num_rows() > 0).then_some(selected));
    }
    Ok(concat_batches(&schema, &pieces)?)
}

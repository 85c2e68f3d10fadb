//! Small Parquet files, read completely.
use crate::parquet::decode::{Damaged, Input, decode};
use anyhow::{Context, Result, anyhow};
use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::Schema;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::path::Path;
use std::sync::Arc;

/// All rows of a Parquet file, with the columns `wanted`.
///
/// # Errors
/// If it cannot be read, or is damaged, or a column is missing.
pub fn read_parquet(path: &Path, wanted: &Schema) -> Result<RecordBatch> {
    let read = |input: Input| {
        let reader = ParquetRecordBatchReaderBuilder::try_new(input)?;
        let fields = reader.schema().fields().iter().enumerate();
        let roots: Vec<_> =
            fields.filter(|(_, f)| wanted.column_with_name(f.name()).is_some()).map(|(i, _)| i).collect();
        let mask = ProjectionMask::roots(reader.parquet_schema(), roots);
        let mut pieces = Vec::new();
        for batch in reader.with_projection(mask).with_batch_size(8192).build()? {
            let batch = batch?;
            let columns = wanted.fields().iter().map(|field| {
                let column = batch.column_by_name(field.name()).with_context(|| format!("no column {}", field.name()));
                Ok(arrow::compute::cast(column?, field.data_type())?)
            });
            pieces.push(RecordBatch::try_new(Arc::new(wanted.clone()), columns.collect::<Result<_>>()?)?);
        }
        Ok(concat_batches(&Arc::new(wanted.clone()), &pieces)?)
    };
    decode(path, read)?.map_err(|Damaged(why)| anyhow!("cannot read {}: {why}", path.display()))
}

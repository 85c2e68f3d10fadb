//! Small Parquet files, read whole.
use crate::support::problem::shielded;
use anyhow::{Context, Result};
use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::Schema;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::path::Path;
use std::sync::Arc;

/// All rows of a Parquet file, those of `wanted` columns.
pub fn read_parquet(path: &Path, wanted: &Schema) -> Result<RecordBatch> {
    let read = || {
        let file = std::fs::File::open(path)?;
        let reader = ParquetRecordBatchReaderBuilder::try_new(file)?;
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
    shielded(read).with_context(|| format!("cannot read {}", path.display()))
}

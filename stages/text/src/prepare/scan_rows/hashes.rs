//! The hash by which a row of the input is known again.
use crate::parquet::columns::{self, UNHANDLED};
use crate::prepare::catalog::short;
use anyhow::Result;
use arrow::array::{Array, AsArray, FixedSizeBinaryArray, FixedSizeBinaryBuilder, RecordBatch};
use arrow::datatypes::UInt64Type;

/// Hashes of rows in the input, over everything except their position. A source that is only the name of the file
/// counts as position. `key`: what else the row is known by, if it is of a source of several.
pub fn hashes(batch: &RecordBatch, key: Option<&str>) -> Result<FixedSizeBinaryArray> {
    let string = |name: &str| batch[name].as_string::<i32>().clone();
    let strings = ["id", "url", "title", UNHANDLED].map(string);
    let [sources, files] = ["source", "source_file"].map(string);
    let (texts, revisions) = (batch["text"].as_string::<i64>(), batch["revision"].as_primitive::<UInt64Type>());
    let mut built = FixedSizeBinaryBuilder::with_capacity(batch.num_rows(), 16);
    for row in 0..batch.num_rows() {
        let mut hasher = blake3::Hasher::new();
        let mut part = |bytes: Option<&[u8]>| {
            hasher.update(&bytes.map_or(u64::MAX, |bytes| bytes.len() as u64).to_le_bytes());
            hasher.update(bytes.unwrap_or_default());
        };
        for column in &strings {
            part(column.is_valid(row).then(|| column.value(row).as_bytes()));
        }
        let source = Some(sources.value(row)).filter(|source| *source != columns::stem(files.value(row)));
        part(source.map(str::as_bytes));
        part(Some(texts.value(row).as_bytes()));
        part(revisions.is_valid(row).then(|| revisions.value(row).to_le_bytes()).as_ref().map(|b| b.as_slice()));
        if key.is_some() {
            part(key.map(str::as_bytes));
        }
        built.append_value(short(hasher.finalize()))?;
    }
    Ok(built.finish())
}

//! The tables of a version next to its shards.
use super::layout::{Verdict, Verdicts};
use anyhow::Result;
use arrow::array::{ArrayRef, FixedSizeBinaryBuilder, Float64Array, RecordBatch, StringArray, UInt32Array};
use arrow::datatypes::{DataType, Field, Schema};
use std::collections::BTreeMap;
use std::sync::Arc;
use text::prepare::catalog::{Catalog, Hash};

/// What is known about every row.
pub const CATALOG: &str = "catalog.parquet";
/// The pairs that were compared.
pub const PAIRS: &str = "pairs.parquet";
/// Every duplicate with the document that is kept instead.
pub const DUPLICATES: &str = "duplicates.parquet";

/// The catalog with the verdict on each row; `counts` are the tokens of those that are kept.
pub fn catalog_table(catalog: &Catalog, verdicts: &Verdicts, counts: &BTreeMap<u32, u32>) -> Result<RecordBatch> {
    let mut fields: Vec<Field> = catalog.rows.schema().fields().iter().map(|field| field.as_ref().clone()).collect();
    fields.push(Field::new("verdict", DataType::Utf8, false));
    fields.push(Field::new("n_tokens", DataType::UInt32, true));
    let mut columns = catalog.rows.columns().to_vec();
    columns.push(Arc::new(StringArray::from_iter_values(verdicts.rows.iter().map(|verdict| verdict.name()))));
    let counts = (0..catalog.len() as u32).map(|row| counts.get(&row).copied());
    columns.push(Arc::new(UInt32Array::from_iter(counts)));
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
}

/// The columns of [`PAIRS`].
pub fn pairs_schema() -> Schema {
    let hash = |name| Field::new(name, DataType::FixedSizeBinary(16), false);
    Schema::new(vec![hash("content_hash"), hash("other_hash"), Field::new("similarity", DataType::Float64, false)])
}

/// Pairs of texts that were compared, with their similarity.
pub fn pairs_table(verdicts: &Verdicts) -> Result<RecordBatch> {
    let hashes = |of: fn(&(Hash, Hash, f64)) -> &Hash| -> Result<ArrayRef> {
        let mut built = FixedSizeBinaryBuilder::new(16);
        for pair in &verdicts.pairs {
            built.append_value(of(pair))?;
        }
        Ok(Arc::new(built.finish()))
    };
    let similarity = Float64Array::from_iter_values(verdicts.pairs.iter().map(|pair| pair.2));
    let columns = vec![hashes(|pair| &pair.0)?, hashes(|pair| &pair.1)?, Arc::new(similarity) as ArrayRef];
    Ok(RecordBatch::try_new(Arc::new(pairs_schema()), columns)?)
}

/// The columns of [`DUPLICATES`].
pub fn duplicates_schema() -> Schema {
    let string = |name| Field::new(name, DataType::Utf8, false);
    let similarity = Field::new("similarity", DataType::Float64, false);
    Schema::new(vec![string("id"), string("kept"), string("neighbour"), similarity, string("kind")])
}

/// Every duplicate, by id.
pub fn duplicates_table(catalog: &Catalog, verdicts: &Verdicts) -> Result<RecordBatch> {
    let mut lines = Vec::new();
    for (row, verdict) in verdicts.rows.iter().enumerate() {
        let (kept, neighbour, similarity) = match verdict {
            Verdict::Exact(kept, neighbour) => (*kept, *neighbour, 1.0),
            Verdict::Near(kept, neighbour, bits) => (*kept, *neighbour, f64::from_bits(*bits)),
            _ => continue,
        };
        let (kept, neighbour) = (catalog.id(kept as usize), catalog.id(neighbour as usize));
        lines.push((catalog.id(row), kept, neighbour, similarity, verdict.name()));
    }
    lines.sort_by_key(|line| line.0);
    let string = |of: fn(&(&'_ str, &'_ str, &'_ str, f64, &'static str)) -> String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(lines.iter().map(of)))
    };
    let columns = vec![
        string(|line| line.0.into()),
        string(|line| line.1.into()),
        string(|line| line.2.into()),
        Arc::new(Float64Array::from_iter_values(lines.iter().map(|line| line.3))),
        string(|line| line.4.into()),
    ];
    Ok(RecordBatch::try_new(Arc::new(duplicates_schema()), columns)?)
}

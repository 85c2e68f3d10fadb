//! The tables of a version next to its shards.
use super::layout::{Verdict, Verdicts};
use anyhow::Result;
use arrow::array::{
    ArrayRef, AsArray, FixedSizeBinaryBuilder, Float64Array, RecordBatch, StringArray, UInt32Array, UInt64Array,
};
use arrow::compute::kernels::cmp::eq;
use arrow::compute::{and, filter_record_batch, interleave_record_batch, not};
use arrow::datatypes::{DataType, Field, Schema, UInt64Type};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use text::parquet::columns::INPUT_ROW;
use text::parquet::table::read_parquet_rows;
use text::prepare::catalog::{self, Catalog, Hash, SOURCE_STAGE};
use text::prepare::dropped_lines::DroppedLines;
use text::prepare::origins::Origins;
use text::prepare::write::files::{FileNote, ROW_GROUP_ROWS, TableFile};

/// What is known about every row.
pub const CATALOG: &str = "catalog.parquet";
/// The pairs that were compared.
pub const PAIRS: &str = "pairs.parquet";
/// Every duplicate with the document that is kept instead.
pub const DUPLICATES: &str = "duplicates.parquet";

/// The columns of [`CATALOG`], of several sources or of one.
pub fn catalog_schema(are_mixed: bool) -> Schema {
    let mut fields: Vec<Field> = catalog::schema().fields().iter().map(|field| field.as_ref().clone()).collect();
    fields.push(Field::new("verdict", DataType::Utf8, false));
    fields.push(Field::new("n_tokens", DataType::UInt32, true));
    fields.extend(are_mixed.then(|| Field::new(SOURCE_STAGE, DataType::Utf8, false)));
    Schema::new(fields)
}

/// Rows of the catalog, with the columns of [`catalog_schema`].
fn with_verdicts<'a>(
    rows: &RecordBatch,
    origins: &Origins,
    verdicts: impl Iterator<Item = &'a str>,
    tokens: impl Iterator<Item = Option<u32>>,
) -> Result<RecordBatch> {
    let mut columns = rows.columns().to_vec();
    columns.push(Arc::new(StringArray::from_iter_values(verdicts)));
    columns.push(Arc::new(tokens.collect::<UInt32Array>()));
    if origins.are_mixed() {
        let input_rows = rows[INPUT_ROW].as_primitive::<UInt64Type>().values().iter();
        let stages = input_rows.map(|row| origins.of(*row).map_or("", |source| source.stage.as_str()));
        columns.push(Arc::new(StringArray::from_iter_values(stages)));
    }
    Ok(RecordBatch::try_new(Arc::new(catalog_schema(origins.are_mixed())), columns)?)
}

/// Writes the catalog with the verdict on each row, `dropped` among the others, in the order of the input; `counts` are
/// the tokens of rows that are kept.
pub fn write_catalog(
    folder: &Path,
    (catalog, dropped): (&Catalog, &DroppedLines),
    verdicts: &Verdicts,
    counts: &BTreeMap<u32, u32>,
) -> Result<FileNote> {
    let (names, origins) = (verdicts.rows.iter().map(|verdict| verdict.name()), &*catalog.origins);
    let kept =
        with_verdicts(&catalog.rows, origins, names, (0..catalog.len() as u32).map(|row| counts.get(&row).copied()))?;
    let dropped = dropped.read()?.map(|lines| {
        let lines = lines?;
        let rows = lines.num_rows();
        let names = std::iter::repeat_n(Verdict::Dropped.name(), rows);
        with_verdicts(&lines, origins, names, std::iter::repeat_n(None, rows))
    });
    let mut file = TableFile::create(folder, CATALOG, Arc::new(catalog_schema(origins.are_mixed())))?;
    merge(&kept, dropped, ROW_GROUP_ROWS, &mut |rows| file.write(rows))?;
    file.close()
}

/// Reads the catalog in `folder`; unless `all`, without rows that were dropped and have no text. Which sources rows are
/// from follows from their numbers.
pub fn read_catalog(folder: &Path, all: bool) -> Result<RecordBatch> {
    let dropped = StringArray::new_scalar(Verdict::Dropped.name());
    read_parquet_rows(&folder.join(CATALOG), &catalog_schema(false), |rows| {
        if all {
            return Ok(rows);
        }
        let is_empty = eq(&rows["bytes"], &UInt64Array::new_scalar(0))?;
        let is_left_out = and(&eq(&rows["verdict"], &dropped)?, &is_empty)?;
        Ok(filter_record_batch(&rows, &not(&is_left_out)?)?)
    })
}

/// Calls `write` with `rows` rows at a time of `kept` and `others`, each of which is in the order of input rows.
fn merge(
    kept: &RecordBatch,
    others: impl Iterator<Item = Result<RecordBatch>>,
    rows: usize,
    write: &mut dyn FnMut(&RecordBatch) -> Result<()>,
) -> Result<()> {
    let input_rows = |batch: &RecordBatch| batch[INPUT_ROW].as_primitive::<UInt64Type>().values().clone();
    let mut merged = Merged { batches: vec![kept.clone()], taken: Vec::new(), rows, write };
    let kept = input_rows(kept);
    let mut left = kept.iter().enumerate().peekable();
    for other in others {
        let other = other?;
        let input = input_rows(&other);
        merged.batches.push(other);
        for (row, input_row) in input.iter().enumerate() {
            while let Some((earlier, _)) = left.next_if(|(_, kept)| **kept < *input_row) {
                merged.take(0, earlier)?;
            }
            merged.take(merged.batches.len() - 1, row)?;
        }
    }
    left.try_for_each(|(row, _)| merged.take(0, row))?;
    merged.write()
}

/// Rows of batches, of which the first and the last are still needed after they have been written.
struct Merged<'a> {
    batches: Vec<RecordBatch>,
    /// Batch and row of each.
    taken: Vec<(usize, usize)>,
    rows: usize,
    write: &'a mut dyn FnMut(&RecordBatch) -> Result<()>,
}

impl Merged<'_> {
    fn take(&mut self, batch: usize, row: usize) -> Result<()> {
        self.taken.push((batch, row));
        if self.taken.len() < self.rows { Ok(()) } else { self.write() }
    }

    fn write(&mut self) -> Result<()> {
        if !self.taken.is_empty() {
            let batches: Vec<&RecordBatch> = self.batches.iter().collect();
            (self.write)(&interleave_record_batch(&batches, &self.taken)?)?;
            self.taken.clear();
            self.batches.drain(1..self.batches.len().max(2) - 1);
        }
        Ok(())
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(rows: &[u64]) -> RecordBatch {
        let rows: ArrayRef = Arc::new(UInt64Array::from(rows.to_vec()));
        RecordBatch::try_from_iter([(INPUT_ROW, rows)]).unwrap()
    }

    #[test]
    fn merged_rows_are_in_the_order_of_the_input() {
        let others: [&[u64]; 4] = [&[1, 2], &[], &[5, 6, 7], &[8]];
        for (kept, rows, expected) in [
            (&[0, 3, 4, 9][..], 4, vec![4, 4, 2]),
            (&[0, 3, 4, 9], 1, vec![1; 10]),
            (&[0, 3, 4, 9], 10, vec![10]),
            (&[0, 3, 4, 9, 10], 5, vec![5, 5, 1]),
            (&[], 4, vec![4, 2]),
        ] {
            let (mut sizes, mut found) = (Vec::new(), Vec::new());
            let mut write = |rows: &RecordBatch| {
                sizes.push(rows.num_rows());
                found.extend_from_slice(rows[INPUT_ROW].as_primitive::<UInt64Type>().values());
                Ok(())
            };
            merge(&batch(kept), others.iter().map(|rows| Ok(batch(rows))), rows, &mut write).unwrap();
            let mut all = [others.concat(), kept.to_vec()].concat();
            all.sort_unstable();
            assert_eq!((sizes, found), (expected, all));
        }
    }
}

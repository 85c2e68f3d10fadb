//! The catalog: what preparation knows of every input row, without its text. It lives in memory during a run, and as
//! `catalog.parquet` in every version, from which the next run takes what has not changed.
use crate::clean::RESIDUE;
use crate::parquet::columns::{self, DROPPED, INPUT_HASH, INPUT_ROW, UNHANDLED, field};
use crate::prepare::scan_rows::{Hash, WHERE};
use anyhow::Result;
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt64Array};
use arrow::compute::{concat_batches, interleave_record_batch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, UInt32Type, UInt64Type};
use std::sync::Arc;

/// Number of no row.
pub const NONE: u32 = u32::MAX;

/// The columns of the catalog: those of documents without the text, and what was found out.
pub fn schema() -> SchemaRef {
    let mut fields = vec![field(INPUT_ROW, DataType::UInt64, false)];
    fields.extend(columns::about());
    fields.extend([
        field(INPUT_HASH, DataType::FixedSizeBinary(16), false),
        field("content_hash", DataType::FixedSizeBinary(16), false),
        field("bytes", DataType::UInt64, false),
        field(DROPPED, DataType::Utf8, true),
        field(UNHANDLED, DataType::Utf8, true),
        field(RESIDUE, DataType::Utf8, true),
        field("bands", DataType::List(Arc::new(Field::new_list_field(DataType::UInt64, false))), false),
    ]);
    Arc::new(Schema::new(fields))
}

/// Rows of the catalog with their columns at hand.
#[derive(Clone, Debug)]
pub struct Catalog {
    /// In the order of the input.
    pub rows: RecordBatch,
}

impl Catalog {
    /// One of `pieces`, which have the columns of [`schema`], in the order of their input rows.
    pub fn of(pieces: &[RecordBatch]) -> Result<Self> {
        let all = concat_batches(&schema(), pieces)?;
        let order = arrow::compute::sort_to_indices(&all[INPUT_ROW], None, None)?;
        Ok(Self { rows: arrow::compute::take_record_batch(&all, &order)? })
    }

    /// Rows there are.
    pub fn len(&self) -> usize {
        self.rows.num_rows()
    }

    /// Is it empty?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A string column, `None` where it is null.
    pub fn string(&self, column: &str, row: usize) -> Option<&str> {
        let column = self.rows[column].as_string::<i32>();
        column.is_valid(row).then(|| column.value(row))
    }

    /// Its number among all rows of the input, of which those that cannot be read are not here.
    pub fn input_row(&self, row: usize) -> u64 {
        self.rows[INPUT_ROW].as_primitive::<UInt64Type>().value(row)
    }

    /// The document's id.
    pub fn id(&self, row: usize) -> &str {
        self.string("id", row).unwrap_or_default()
    }

    /// Its text's hash.
    pub fn content(&self, row: usize) -> Hash {
        hash(&self.rows["content_hash"], row)
    }

    /// Its hash as it was read.
    pub fn input(&self, row: usize) -> Hash {
        hash(&self.rows[INPUT_HASH], row)
    }

    /// Bytes of its text.
    pub fn bytes(&self, row: usize) -> u64 {
        self.rows["bytes"].as_primitive::<UInt64Type>().value(row)
    }

    /// Why a stage dropped it.
    pub fn dropped(&self, row: usize) -> Option<&str> {
        self.string(DROPPED, row)
    }

    /// The keys of its bands.
    pub fn bands(&self, row: usize) -> &[u64] {
        let lists = self.rows["bands"].as_list::<i32>();
        let (start, end) = (lists.value_offsets()[row] as usize, lists.value_offsets()[row + 1] as usize);
        &lists.values().as_primitive::<UInt64Type>().values()[start..end]
    }

    /// Rows of `old` that were met again at other places (see [`Known::met`](crate::prepare::scan_rows::Known::met)), as rows of
    /// the catalog to come.
    pub fn again(old: &Self, met: &RecordBatch) -> Result<RecordBatch> {
        let known = met["known"].as_primitive::<UInt32Type>();
        let places: Vec<_> = known.values().iter().map(|row| (0, *row as usize)).collect();
        let rows = interleave_record_batch(&[&old.rows], &places)?;
        let names = rows.schema();
        let columns = names.fields().iter().map(|field| match field.name().as_str() {
            name if name == INPUT_ROW || WHERE.contains(&name) => met[name].clone(),
            name => rows[name].clone(),
        });
        Ok(RecordBatch::try_new(schema(), columns.collect())?)
    }

    /// The columns `names` of `rows`, in that order.
    pub fn take(&self, names: &[&str], rows: &[u32]) -> Result<Vec<ArrayRef>> {
        let rows = UInt64Array::from_iter_values(rows.iter().map(|row| u64::from(*row)));
        names.iter().map(|name| Ok(arrow::compute::take(&self.rows[*name], &rows, None)?)).collect()
    }
}

fn hash(column: &ArrayRef, row: usize) -> Hash {
    let value = column.as_fixed_size_binary().value(row);
    std::array::from_fn(|i| value[i])
}

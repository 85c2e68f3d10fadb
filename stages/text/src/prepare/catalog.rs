//! The catalog: what preparation knows about every input row, except its text. It is in memory during a run, and stored
//! as `catalog.parquet` in every version; the next run reuses the rows that have not changed.
use crate::clean::RESIDUE;
use crate::corpus::split::Part;
use crate::parquet::columns::{self, BANDS, DROPPED, INPUT_HASH, INPUT_ROW, UNHANDLED, WHERE, bands_type, field};
use crate::prepare::origins::Origins;
use anyhow::Result;
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray, UInt32Array, UInt64Array, new_null_array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, UInt32Type, UInt64Type};
use std::collections::HashMap;
use std::sync::Arc;

/// The type of hashes: 128 bits of blake3.
pub type Hash = [u8; 16];

/// The first 128 bits of blake3.
pub fn short(hash: blake3::Hash) -> Hash {
    std::array::from_fn(|i| hash.as_bytes()[i])
}

/// The stage of the source that a row is from (string): a column of the files of a preparation that mixes sources.
pub const SOURCE_STAGE: &str = "source_stage";

/// Stands for "no row".
pub const NONE: u32 = u32::MAX;

/// The columns of the catalog: those of documents without the text, and what preparation has determined.
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
        field(BANDS, bands_type(), false),
    ]);
    Arc::new(Schema::new(fields))
}

/// Number of the file that stores a row's text (uint32); null: none.
const TEXT_FILE: &str = "text_file";
/// The row of that file (uint64).
const TEXT_ROW: &str = "text_row";

/// The columns of the records that the first graph of a preparation emits: those of the catalog, and where texts are
/// stored.
pub fn lines() -> SchemaRef {
    let mut fields: Vec<Field> = schema().fields().iter().map(|field| field.as_ref().clone()).collect();
    fields.extend([field(TEXT_FILE, DataType::UInt32, true), field(TEXT_ROW, DataType::UInt64, true)]);
    Arc::new(Schema::new(fields))
}

/// Whether these records are rows of the catalog ([`lines`]).
pub fn has_lines(records: &RecordBatch) -> bool {
    records.schema_ref().column_with_name(INPUT_ROW).is_some()
}

/// Location of the texts of `lines`, by index of the row in the input: number of the file, and row in it.
pub fn texts(lines: &[RecordBatch]) -> HashMap<u64, (u32, u64)> {
    let texts = lines.iter().flat_map(|lines| {
        let [rows, places] = [INPUT_ROW, TEXT_ROW].map(|name| lines[name].as_primitive::<UInt64Type>());
        let files = lines[TEXT_FILE].as_primitive::<UInt32Type>();
        let is_aside = |row: &usize| files.is_valid(*row);
        let text = |row: usize| (rows.value(row), (files.value(row), places.value(row)));
        (0..lines.num_rows()).filter(is_aside).map(text)
    });
    texts.collect()
}

/// Rows of the catalog, with typed access to their columns.
#[derive(Clone, Debug)]
pub struct Catalog {
    /// In input order.
    pub rows: RecordBatch,
    /// Where they come from.
    pub origins: Arc<Origins>,
}

impl Catalog {
    /// A catalog from records with the columns of [`lines`], in the order of their input rows.
    pub fn of(lines: &[RecordBatch], origins: Arc<Origins>) -> Result<Self> {
        let columns: Vec<usize> = (0..schema().fields().len()).collect();
        let lines: Vec<RecordBatch> = lines.iter().map(|lines| lines.project(&columns)).collect::<Result<_, _>>()?;
        let all = concat_batches(&schema(), &lines)?;
        let order = arrow::compute::sort_to_indices(&all[INPUT_ROW], None, None)?;
        Ok(Self { rows: take_record_batch(&all, &order)?, origins })
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows.num_rows()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A string column, `None` where it is null.
    pub fn string(&self, column: &str, row: usize) -> Option<&str> {
        let column = self.rows[column].as_string::<i32>();
        column.is_valid(row).then(|| column.value(row))
    }

    /// The row's index among all rows of the input, including those that cannot be read, which the catalog omits.
    pub fn input_row(&self, row: usize) -> u64 {
        self.rows[INPUT_ROW].as_primitive::<UInt64Type>().value(row)
    }

    /// The stage of the source that a row is from, if sources are mixed.
    pub fn stage(&self, row: usize) -> Option<&str> {
        self.origins.of(self.input_row(row)).map(|source| source.stage.as_str())
    }

    /// The document's id.
    pub fn id(&self, row: usize) -> &str {
        self.string("id", row).unwrap_or_default()
    }

    /// The part of the corpus that a row belongs to, if it is kept.
    pub fn part(&self, row: usize) -> Part {
        let content = self.content(row);
        let hash = u64::from_le_bytes(std::array::from_fn(|i| content[i]));
        if self.origins.split(self.input_row(row)).holds_out(0, hash) { Part::Validation } else { Part::Train }
    }

    /// Its text's hash.
    pub fn content(&self, row: usize) -> Hash {
        hash(&self.rows["content_hash"], row)
    }

    /// Its hash in the input.
    pub fn input(&self, row: usize) -> Hash {
        hash(&self.rows[INPUT_HASH], row)
    }

    /// Size of its text in bytes.
    pub fn bytes(&self, row: usize) -> u64 {
        self.rows["bytes"].as_primitive::<UInt64Type>().value(row)
    }

    /// Why a stage dropped it.
    pub fn dropped(&self, row: usize) -> Option<&str> {
        self.string(DROPPED, row)
    }

    /// The keys of its MinHash bands.
    pub fn bands(&self, row: usize) -> &[u64] {
        let lists = self.rows[BANDS].as_list::<i32>();
        let (start, end) = (lists.value_offsets()[row] as usize, lists.value_offsets()[row + 1] as usize);
        &lists.values().as_primitive::<UInt64Type>().values()[start..end]
    }

    /// Rows of this catalog that occur again in a later input, as [`lines`] of the new catalog. `known`: their rows in
    /// this catalog; `found`: their [`INPUT_ROW`] and new positions ([`WHERE`]), in the same order.
    pub fn again(&self, known: &UInt32Array, found: &RecordBatch) -> Result<RecordBatch> {
        let rows = take_record_batch(&self.rows, known)?;
        let fields = lines();
        let columns = fields.fields().iter().map(|field| match field.name().as_str() {
            name if name == INPUT_ROW || WHERE.contains(&name) => found[name].clone(),
            TEXT_FILE | TEXT_ROW => new_null_array(field.data_type(), rows.num_rows()),
            name => rows[name].clone(),
        });
        Ok(RecordBatch::try_new(lines(), columns.collect())?)
    }

    /// The column [`SOURCE_STAGE`] of `rows`, if sources are mixed.
    pub fn stages(&self, rows: &[u32]) -> Option<ArrayRef> {
        let stages = rows.iter().map(|row| self.stage(*row as usize).unwrap_or_default());
        self.origins.are_mixed().then(|| Arc::new(StringArray::from_iter_values(stages)) as ArrayRef)
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

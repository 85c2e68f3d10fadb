//! The columns of document rows, from `read` to the files that stage `parquet` writes (`data/SCHEMA.md`).
//!
//! A stage that takes and emits rows preserves columns that it does not know, and the number of rows. To drop a row it
//! writes a reason into the column [`DROPPED`]; later stages leave a row with a reason unchanged.
use anyhow::{Context, Result, ensure};
use arrow::array::{Array, ArrayRef, AsArray, LargeStringArray, RecordBatch, StringArray, StringBuilder, UInt64Array};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use std::path::Path;
use std::sync::Arc;

/// Why a row is dropped (string); null: it is not. If the column is missing, no row is dropped.
pub const DROPPED: &str = "dropped";
/// What identifies a document without an id within its file (string); null: its number does. Only in converted files.
pub const ID_IN_FILE: &str = "id_in_file";
/// Index of a row among all rows of the input (uint64), by which preparation identifies it.
pub const INPUT_ROW: &str = "input_row";
/// Markup of a wiki page that could not be converted to text, by kind: `unclosed link: 1` (string); null: none.
pub const UNHANDLED: &str = "unhandled";
/// Hash of the row in the input (fixed_size_binary of 16).
pub const INPUT_HASH: &str = "input_hash";
/// The columns that contain a row's position; they are not part of [`INPUT_HASH`].
pub const WHERE: [&str; 4] = ["source", "source_file", "source_offset", "row_group"];
/// Number of tokens of a row when the corpus was counted, including its end-of-text token (uint32). Sources of a
/// training run add it, and the tokenizing stage compares it with the tokens that it gets.
pub const COUNTED: &str = "counted";
/// Keys of a row's MinHash bands ([`bands_type`]); none if the row is dropped or empty.
pub const BANDS: &str = "bands";

/// The type of the column [`BANDS`].
pub fn bands_type() -> DataType {
    DataType::List(Arc::new(Field::new_list_field(DataType::UInt64, false)))
}

/// The column with the reasons for which rows are dropped, if a stage has added it.
pub fn dropped(records: &RecordBatch) -> Result<Option<&StringArray>> {
    let column = records.column_by_name(DROPPED);
    let string = |column: &'_ ArrayRef| column.as_string_opt::<i32>().is_some();
    ensure!(column.is_none_or(string), "the column `{DROPPED}` of rows is not a string");
    Ok(column.and_then(|column| column.as_string_opt::<i32>()))
}

/// A field.
pub(crate) fn field(name: &str, kind: DataType, nullable: bool) -> Field {
    Field::new(name, kind, nullable)
}

/// The columns of a document row other than its text.
pub fn about() -> Vec<Field> {
    vec![
        field("id", DataType::Utf8, false),
        field("url", DataType::Utf8, true),
        field("title", DataType::Utf8, false),
        field("source", DataType::Utf8, false),
        field("revision", DataType::UInt64, true),
        field("source_file", DataType::Utf8, false),
        field("source_offset", DataType::UInt64, true),
        field("row_group", DataType::UInt64, true),
    ]
}

/// The columns of a document row.
pub fn documents() -> SchemaRef {
    let mut fields = about();
    fields.insert(3, field("text", DataType::LargeUtf8, false));
    fields.push(field(UNHANDLED, DataType::Utf8, true));
    Arc::new(Schema::new(fields))
}

/// The position of a batch in the input.
pub struct Origin<'a> {
    /// The file from which the rows come.
    pub file: &'a Path,
    /// Its path relative to the root of the input.
    pub name: &'a str,
    /// Its column with the text.
    pub column: &'a str,
    /// The row group.
    pub row_group: u64,
    /// Index of the first row within the file.
    pub first: u64,
}

/// Rows of any Parquet file, with the columns of [`documents`]: values of missing columns follow from the position in
/// the input. A null text becomes an empty one. A row without an id gets `<path>/<row>`, as in datatrove: the path of its
/// file relative to the root of the input, and its number in the file.
pub fn of_any(batch: &RecordBatch, origin: &Origin) -> Result<RecordBatch> {
    with_columns(documents(), batch, origin)
}

/// The same with these columns of [`about`], whichever of them the file has.
pub fn about_any(wanted: Vec<Field>, batch: &RecordBatch, origin: &Origin) -> Result<RecordBatch> {
    with_columns(Arc::new(Schema::new(wanted)), batch, origin)
}

fn with_columns(schema: SchemaRef, batch: &RecordBatch, origin: &Origin) -> Result<RecordBatch> {
    let rows = batch.num_rows();
    let file = origin.file.file_name().unwrap_or_default().to_string_lossy();
    let stem = stem(&file);
    let in_file = batch.column_by_name(ID_IN_FILE).and_then(|ids| ids.as_string_opt::<i32>());
    let generated = |row: usize| match in_file.filter(|ids| ids.is_valid(row)) {
        Some(ids) => format!("{}/{}", origin.name, ids.value(row)),
        None => format!("{}/{}", origin.name, origin.first + row as u64),
    };
    let has_offset = batch.column_by_name("source_offset").is_some();
    let mut columns: Vec<ArrayRef> = Vec::new();
    for field in schema.fields() {
        let from = if field.name() == "text" { origin.column } else { field.name() };
        let found = batch.column_by_name(from).map(|column| cast(column, field)).transpose()?;
        columns.push(match (field.name().as_str(), found) {
            ("text", found) => filled_text(found.with_context(|| format!("no column {from}"))?),
            ("id", found) => Arc::new(filled(rows, found, generated)),
            ("source" | "source_file", Some(found)) if found.null_count() == 0 => found,
            ("source", found) => Arc::new(filled(rows, found, |_| stem.to_owned())),
            ("source_file", found) => Arc::new(filled(rows, found, |_| file.clone().into_owned())),
            ("title", found) => Arc::new(filled(rows, found, |_| String::new())),
            ("row_group", None) if !has_offset => Arc::new(UInt64Array::from(vec![origin.row_group; rows])),
            (_, Some(found)) => found,
            (_, None) => arrow::array::new_null_array(field.data_type(), rows),
        });
    }
    Ok(RecordBatch::try_new(schema, columns)?)
}

/// The name of a file without its suffixes: the source of rows that do not name one.
pub fn stem(file: &str) -> &str {
    file.split('.').next().unwrap_or_default()
}

fn cast(column: &ArrayRef, field: &Field) -> Result<ArrayRef> {
    let strict = CastOptions { safe: false, ..CastOptions::default() };
    let plain = match column.data_type() {
        DataType::Dictionary(_, values) => &cast_with_options(column, values, &strict)?,
        _ => column,
    };
    // The text must be a string; any other column with a wrong type is treated as missing.
    let cast = cast_with_options(plain, field.data_type(), &CastOptions { safe: field.name() != "text", ..strict });
    match cast {
        Err(_) if field.name() != "text" => Ok(arrow::array::new_null_array(field.data_type(), column.len())),
        cast => Ok(cast?),
    }
}

fn filled(rows: usize, found: Option<ArrayRef>, default: impl Fn(usize) -> String) -> StringArray {
    let found = found.as_ref().map(|found| found.as_string::<i32>());
    let mut built = StringBuilder::with_capacity(rows, 0);
    for row in 0..rows {
        match found.filter(|found| found.is_valid(row)) {
            Some(found) => built.append_value(found.value(row)),
            None => built.append_value(default(row)),
        }
    }
    built.finish()
}

fn filled_text(texts: ArrayRef) -> ArrayRef {
    if texts.null_count() == 0 {
        return texts;
    }
    Arc::new(LargeStringArray::from_iter_values(texts.as_string::<i64>().iter().map(Option::unwrap_or_default)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::Int64Array;

    #[test]
    fn what_a_file_does_not_say_follows_from_where_it_was_read() {
        let ids: ArrayRef = Arc::new(Int64Array::from(vec![Some(7), None]));
        let texts: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), None]));
        let batch = RecordBatch::try_from_iter([("id", ids), ("content", texts)]).unwrap();
        let origin = Origin {
            file: Path::new("x/some.parquet"),
            column: "content",
            row_group: 3,
            first: 40,
            name: "en/some.parquet",
        };
        let rows = of_any(&batch, &origin).unwrap();
        let string = |name: &str| rows.column_by_name(name).unwrap().as_string::<i32>().clone();
        assert_eq!(string("id").iter().flatten().collect::<Vec<_>>(), ["7", "en/some.parquet/41"]);
        assert_eq!((string("source").value(0), string("source_file").value(1)), ("some", "some.parquet"));
        assert_eq!(string("url").null_count(), 2);
        assert_eq!(rows.column_by_name("text").unwrap().as_string::<i64>().value(1), "");
        assert_eq!(rows.column_by_name("row_group").unwrap().as_ref(), &UInt64Array::from(vec![3, 3]));
    }
}

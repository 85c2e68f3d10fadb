//! What document files say about their rows, other than the text: id, title, URL, …
use crate::input::ingest::DocumentFile;
use crate::parquet::columns::{self, ID_IN_FILE, Origin};
use crate::parquet::decode::{Damaged, Input, decode};
use crate::support::problem::TextProblem;
use anyhow::{Context, Result};
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{Field, UInt64Type};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReaderBuilder, RowSelection};
use serde::Serialize;

/// Rows that are decoded at once.
const ROWS_AT_ONCE: usize = 8192;
/// The columns by which a document is called.
const NAMES: [&str; 3] = ["id", "url", "title"];

/// What is known about a document.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct About {
    /// Its id, or `<path>/<row>`.
    pub id: String,
    /// Its title, or empty.
    pub title: String,
    /// Its URL.
    pub url: Option<String>,
    /// The revision of a wiki page.
    pub revision: Option<u64>,
    /// The collection that it belongs to.
    pub collection: String,
    /// The name of the file that it comes from.
    pub file: String,
}

impl About {
    /// From a row with the columns of [`columns::about`].
    fn of(rows: &RecordBatch, row: usize) -> Self {
        let string = |name: &str| {
            let column = rows[name].as_string::<i32>();
            column.is_valid(row).then(|| column.value(row).to_owned())
        };
        let revisions = rows["revision"].as_primitive::<UInt64Type>();
        Self {
            id: string("id").unwrap_or_default(),
            title: string("title").unwrap_or_default(),
            url: string("url").filter(|url| !url.is_empty()),
            revision: revisions.is_valid(row).then(|| revisions.value(row)),
            collection: string("source").unwrap_or_default(),
            file: string("source_file").unwrap_or_default(),
        }
    }
}

/// What `files` say about `rows`, counted over all files, in that order.
///
/// # Errors
/// If a file cannot be read, or is damaged.
pub fn of_rows(files: &[DocumentFile], rows: &[u64]) -> Result<Vec<About>> {
    let mut ascending = rows.to_vec();
    ascending.sort_unstable();
    ascending.dedup();
    let found = of_ascending(files, &ascending)?;
    let at = |row: &u64| ascending.binary_search(row).ok().and_then(|at| found.get(at)).cloned();
    rows.iter().map(|row| at(row).with_context(|| format!("there is no row {row}"))).collect()
}

fn of_ascending(files: &[DocumentFile], rows: &[u64]) -> Result<Vec<About>> {
    let (mut found, mut first) = (Vec::with_capacity(rows.len()), 0);
    for file in files {
        let from = rows.partition_point(|row| *row < first);
        let read = reading(file, |input| {
            let builder = ParquetRecordBatchReaderBuilder::try_new(input)?;
            let count = builder.metadata().file_metadata().num_rows().unsigned_abs();
            let wanted: Vec<u64> = rows[from..].iter().map(|row| row - first).take_while(|row| *row < count).collect();
            if wanted.is_empty() {
                return Ok((count, Vec::new()));
            }
            let ranges = wanted.iter().map(|row| *row as usize..*row as usize + 1);
            let selection = RowSelection::from_consecutive_ranges(ranges, count as usize);
            let mask = projection(&builder, &columns::about());
            let reader = builder.with_projection(mask).with_row_selection(selection).build()?;
            let batches: Vec<RecordBatch> = reader.collect::<Result<_, _>>()?;
            let schema = batches.first().map(RecordBatch::schema).context("the rows are not there")?;
            let batch = concat_batches(&schema, &batches)?;
            let one = |(at, row): (usize, u64)| {
                let rows = columns::about_any(columns::about(), &batch.slice(at, 1), &origin(file, row))?;
                Ok(About::of(&rows, 0))
            };
            Ok((count, wanted.into_iter().enumerate().map(one).collect::<Result<Vec<_>>>()?))
        });
        let (count, of_file) = read?;
        found.extend(of_file);
        first += count;
    }
    Ok(found)
}

/// Calls `f` with each row of `files`, counted over all of them, and its id.
///
/// # Errors
/// If a file cannot be read, or is damaged.
pub fn each_id(files: &[DocumentFile], f: &mut dyn FnMut(u64, &str)) -> Result<()> {
    let id: Vec<Field> = columns::about().into_iter().filter(|field| field.name() == "id").collect();
    let mut first = 0;
    for file in files {
        first += reading(file, |input| {
            let builder = ParquetRecordBatchReaderBuilder::try_new(input)?;
            let (mut row, mask) = (0, projection(&builder, &id));
            for batch in builder.with_projection(mask).with_batch_size(ROWS_AT_ONCE).build()? {
                let named = columns::about_any(id.clone(), &batch?, &origin(file, row))?;
                let ids = named["id"].as_string::<i32>();
                (0..named.num_rows()).for_each(|at| f(first + row + at as u64, ids.value(at)));
                row += named.num_rows() as u64;
            }
            Ok(row)
        })?;
    }
    Ok(())
}

/// The rows of `files`, counted over all of them, whose id, URL or title is `name`: if any has it as its id, only those.
///
/// # Errors
/// If a file cannot be read, or is damaged.
pub fn called(files: &[DocumentFile], name: &str) -> Result<Vec<(u64, About)>> {
    let names: Vec<Field> =
        columns::about().into_iter().filter(|field| NAMES.contains(&field.name().as_str())).collect();
    let (mut rows, mut first) = (Vec::new(), 0);
    for file in files {
        first += reading(file, |input| {
            let builder = ParquetRecordBatchReaderBuilder::try_new(input)?;
            let (mut row, mask) = (0, projection(&builder, &names));
            for batch in builder.with_projection(mask).with_batch_size(ROWS_AT_ONCE).build()? {
                let named = columns::about_any(names.clone(), &batch?, &origin(file, row))?;
                let columns = NAMES.map(|column| named[column].as_string::<i32>());
                let is_called =
                    |at: &usize| columns.iter().any(|names| names.is_valid(*at) && names.value(*at) == name);
                rows.extend((0..named.num_rows()).filter(is_called).map(|at| first + row + at as u64));
                row += named.num_rows() as u64;
            }
            Ok(row)
        })?;
    }
    let mut found: Vec<(u64, About)> = rows.iter().copied().zip(of_ascending(files, &rows)?).collect();
    if found.iter().any(|(_, about)| about.id == name) {
        found.retain(|(_, about)| about.id == name);
    }
    Ok(found)
}

/// Those of the columns `wanted` that the file has, and what they follow from.
fn projection(builder: &ParquetRecordBatchReaderBuilder<Input>, wanted: &[Field]) -> ProjectionMask {
    let is_wanted = |name: &str| name == ID_IN_FILE || wanted.iter().any(|field| field.name() == name);
    let fields = builder.schema().fields().iter().enumerate();
    let roots = fields.filter(|(_, field)| is_wanted(field.name())).map(|(index, _)| index);
    ProjectionMask::roots(builder.parquet_schema(), roots)
}

/// Reads a file with `f`.
fn reading<T>(file: &DocumentFile, f: impl FnOnce(Input) -> Result<T>) -> Result<T> {
    decode(&file.path, f)?.map_err(|Damaged(why)| {
        TextProblem::Corrupt { file: file.path.clone(), row_group: None, why: format!("cannot be decoded: {why}") }
            .into()
    })
}

/// The position of a row of `file`.
fn origin(file: &DocumentFile, row: u64) -> Origin<'_> {
    Origin { file: &file.path, name: &file.name, column: &file.column, row_group: 0, first: row }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::document::Document;
    use crate::input::document_writer::DocumentWriter;
    use crate::testing::{document_file, with_failing_reads};
    use std::fs::File;
    use std::path::Path;

    fn files(folder: &Path) -> Vec<DocumentFile> {
        let path = folder.join("pages.parquet");
        let mut writer = DocumentWriter::new(File::create(&path).unwrap(), Path::new("in/pages.xml")).unwrap();
        for page in 0..600u64 {
            let (id, url) = (Some(format!("wiki:{page}")), Some(format!("https://example.org/{page}")));
            let title = format!("Page {}", page % 300);
            writer
                .push(&Document { id, url, title, text: "Text.", revision: Some(page), ..Document::default() })
                .unwrap();
        }
        writer.close().unwrap();
        let texts = |group: usize| (0..3).map(|row| format!("text {group} {row}")).collect();
        let plain = document_file(&folder.join("plain.parquet"), &[texts(0), texts(1)]);
        vec![plain, DocumentFile::new(path, "text")]
    }

    #[test]
    fn rows_are_described_by_columns_or_by_their_position() {
        let folder = tempfile::tempdir().unwrap();
        let files = files(folder.path());
        let (found, reads) = with_failing_reads(|| of_rows(&files, &[1, 4, 6, 6 + 257, 6 + 599]));
        assert!(reads > 2);
        let ids: Vec<&str> = found.iter().map(|about| about.id.as_str()).collect();
        assert_eq!(ids, ["plain.parquet/1", "plain.parquet/4", "wiki:0", "wiki:257", "wiki:599"]);
        assert_eq!((found[0].title.as_str(), &found[0].url, found[0].collection.as_str()), ("", &None, "plain"));
        let last = &found[4];
        assert_eq!((last.title.as_str(), last.revision, last.file.as_str()), ("Page 299", Some(599), "pages.xml"));
        assert_eq!(last.url.as_deref(), Some("https://example.org/599"));
        assert_eq!(of_rows(&files, &[605, 1, 605]).unwrap(), [last.clone(), found[0].clone(), last.clone()]);
        assert_eq!(of_rows(&files, &[606]).unwrap_err().to_string(), "there is no row 606");
    }

    #[test]
    fn a_document_is_found_by_id_url_or_title() {
        let folder = tempfile::tempdir().unwrap();
        let files = files(folder.path());
        let rows = |name: &str| called(&files, name).unwrap().into_iter().map(|(row, _)| row).collect::<Vec<_>>();
        assert_eq!(rows("wiki:300"), [306]);
        assert_eq!(rows("https://example.org/2"), [8]);
        assert_eq!(rows("Page 7"), [13, 313]);
        assert_eq!(rows("plain.parquet/5"), [5]);
        assert!(rows("wiki:600").is_empty());
    }
}

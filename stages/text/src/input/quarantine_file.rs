//! Unreadable data as a table: a file in the cache or in a run directory, or a packet.
use crate::input::quarantine::{Reason, Unreadable};
use crate::parquet::decode::RecordBatches;
use crate::support::cache::write_whole;
use anyhow::{Context, Error, Result};
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringBuilder, UInt64Builder};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, UInt64Type};
use contract::files::is_of_the_system;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

/// Entries per row group.
const ROW_GROUP: usize = 4096;

/// The column with the number of the file. In a run directory it is `path` instead.
pub const FILE_NUMBER: &str = "file";

/// Writes entries to a file of the cache.
pub fn write(path: &Path, entries: impl FnOnce(&mut dyn FnMut(Unreadable) -> Result<()>) -> Result<()>) -> Result<()> {
    write_whole(path, |out| {
        let mut writer = Writer::new(out, Entries::numbered())?;
        entries(&mut |bad| writer.push("", &bad))?;
        writer.close()
    })
}

/// Writes entries with the paths of the files they belong to.
pub fn write_named(
    path: &Path,
    entries: impl FnOnce(&mut dyn FnMut(&Path, Unreadable) -> Result<()>) -> Result<()>,
) -> Result<()> {
    write_whole(path, |out| {
        let mut writer = Writer::new(out, Entries::named())?;
        entries(&mut |path, bad| writer.push(&path.display().to_string(), &bad))?;
        writer.close()
    })
}

/// Reads the file that [`write()`] wrote, one row group at a time.
pub fn read(path: &Path, f: &mut dyn FnMut(Unreadable) -> Result<()>) -> Result<()> {
    let damaged = |error: Error| match is_of_the_system(&error) {
        true => error,
        false => error.context(format!("{} is damaged; remove it", path.display())),
    };
    for batch in RecordBatches::open(path, &Entries::numbered().schema, ROW_GROUP).map_err(damaged)? {
        of_records(&batch.map_err(damaged)?).map_err(damaged)?.into_iter().try_for_each(&mut *f)?;
    }
    Ok(())
}

/// Entries as a table.
pub fn records(bad: &[Unreadable]) -> Result<RecordBatch> {
    let mut entries = Entries::numbered();
    bad.iter().for_each(|bad| entries.push("", bad));
    entries.finish()
}

/// The entries of a table that [`records`] made.
///
/// # Errors
/// If a reason is unknown.
pub fn of_records(batch: &RecordBatch) -> Result<Vec<Unreadable>> {
    let number = |column: usize, row: usize| {
        let values = batch.column(column).as_primitive::<UInt64Type>();
        values.is_valid(row).then(|| values.value(row))
    };
    let text = |column: usize, row: usize| batch.column(column).as_string::<i32>().value(row).to_string();
    let entry = |row: usize| {
        let reason = Reason::ALL.iter().find(|reason| reason.as_str() == text(6, row));
        Ok(Unreadable {
            file: number(0, row).unwrap_or_default(),
            row_group: number(1, row),
            row: number(2, row),
            line: number(3, row),
            byte: number(4, row),
            documents: number(5, row).unwrap_or_default(),
            reason: *reason.with_context(|| format!("unknown reason {:?}", text(6, row)))?,
            detail: text(7, row),
        })
    };
    (0..batch.num_rows()).map(entry).collect()
}

/// Builds a table with the columns of `data/SCHEMA.md`; the first is a path, or the number of the file.
struct Entries {
    schema: SchemaRef,
    paths: Option<StringBuilder>,
    file: UInt64Builder,
    numbers: [UInt64Builder; 5],
    reason: StringBuilder,
    detail: StringBuilder,
    len: usize,
}

impl Entries {
    fn named() -> Self {
        Self { paths: Some(StringBuilder::new()), ..Self::new("path", DataType::Utf8) }
    }

    fn numbered() -> Self {
        Self::new(FILE_NUMBER, DataType::UInt64)
    }

    fn new(first: &str, kind: DataType) -> Self {
        let number = |name: &str, null| Field::new(name, DataType::UInt64, null);
        let schema = Arc::new(Schema::new(vec![
            Field::new(first, kind, false),
            number("row_group", true),
            number("row", true),
            number("line", true),
            number("byte", true),
            number("documents", false),
            Field::new("reason", DataType::Utf8, false),
            Field::new("detail", DataType::Utf8, false),
        ]));
        Self {
            schema,
            paths: None,
            file: UInt64Builder::new(),
            numbers: Default::default(),
            reason: StringBuilder::new(),
            detail: StringBuilder::new(),
            len: 0,
        }
    }

    fn push(&mut self, path: &str, bad: &Unreadable) {
        match &mut self.paths {
            Some(paths) => paths.append_value(path),
            None => self.file.append_value(bad.file),
        }
        let numbers = [bad.row_group, bad.row, bad.line, bad.byte, Some(bad.documents)];
        self.numbers.iter_mut().zip(numbers).for_each(|(column, number)| column.append_option(number));
        self.reason.append_value(bad.reason.as_str());
        self.detail.append_value(&bad.detail);
        self.len += 1;
    }

    /// The entries added since the last call.
    fn finish(&mut self) -> Result<RecordBatch> {
        let first: ArrayRef = match &mut self.paths {
            Some(paths) => Arc::new(paths.finish()),
            None => Arc::new(self.file.finish()),
        };
        let mut columns = vec![first];
        columns.extend(self.numbers.iter_mut().map(|column| Arc::new(column.finish()) as ArrayRef));
        columns.extend([Arc::new(self.reason.finish()) as ArrayRef, Arc::new(self.detail.finish()) as ArrayRef]);
        self.len = 0;
        Ok(RecordBatch::try_new(self.schema.clone(), columns)?)
    }
}

/// Writes a table to a file.
struct Writer<W: Write + Send> {
    parquet: ArrowWriter<W>,
    entries: Entries,
}

impl<W: Write + Send> Writer<W> {
    fn new(out: W, entries: Entries) -> Result<Self> {
        let properties = WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::try_new(3)?)).build();
        Ok(Self { parquet: ArrowWriter::try_new(out, entries.schema.clone(), Some(properties))?, entries })
    }

    fn push(&mut self, path: &str, bad: &Unreadable) -> Result<()> {
        self.entries.push(path, bad);
        if self.entries.len >= ROW_GROUP { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        if self.entries.len > 0 {
            self.parquet.write(&self.entries.finish()?)?;
            self.parquet.flush()?;
        }
        Ok(())
    }

    fn close(mut self) -> Result<()> {
        self.flush()?;
        self.parquet.close()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_become_records_and_entries_again() {
        let group = Unreadable {
            file: 1,
            row_group: Some(3),
            documents: 20,
            byte: None,
            ..Unreadable::at(0, Reason::RowGroup, "no")
        };
        let line = Unreadable { line: Some(7), ..Unreadable::at(99, Reason::NotJson, "") };
        let bad = vec![group, line];
        assert_eq!(of_records(&records(&bad).unwrap()).unwrap(), bad);
        assert_eq!(of_records(&records(&[]).unwrap()).unwrap(), []);
    }
}

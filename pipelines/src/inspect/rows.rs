//! Parquet: schema, metadata, row groups, and some rows.
use super::{cell, fact, size};
use crate::show::human::{bytes, count};
use crate::show::{Align, table};
use anyhow::{Context, Result};
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use text::support::problem::shielded;
use text::{Cache, TextProblem, Tokenizer};

/// What a Parquet file holds.
#[derive(Debug, Serialize)]
pub struct Table {
    file: String,
    bytes: u64,
    rows: i64,
    created_by: Option<String>,
    row_groups: Vec<RowGroup>,
    columns: Vec<Column>,
    metadata: BTreeMap<String, String>,
    /// The first rows; a list of tokens is followed by its text, as `<column>.text`.
    first_rows: Vec<Map<String, Value>>,
    note: Option<String>,
}

#[derive(Debug, Serialize)]
struct RowGroup {
    rows: i64,
    bytes: i64,
    compressed_bytes: i64,
}

#[derive(Debug, Serialize)]
struct Column {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    nullable: bool,
    compression: String,
    compressed_bytes: i64,
}

/// Reads `path`, of which the first `wanted` rows.
///
/// # Errors
/// [`TextProblem::Corrupt`] if it is no sound Parquet file.
pub fn open(path: &Path, wanted: usize, tokenizer: Option<&str>) -> Result<Table> {
    let corrupt = |why: String| TextProblem::Corrupt { file: path.to_path_buf(), row_group: None, why };
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let footer = shielded(|| Ok(ArrowReaderMetadata::load(&file, ArrowReaderOptions::new())?))
        .map_err(|error| corrupt(format!("not a sound Parquet file: {error:#}")))?;
    let about = footer.metadata();
    let row_groups: Vec<RowGroup> = about
        .row_groups()
        .iter()
        .map(|group| RowGroup {
            rows: group.num_rows(),
            bytes: group.total_byte_size(),
            compressed_bytes: group.compressed_size(),
        })
        .collect();
    let mut columns: Vec<Column> = Vec::new();
    for field in footer.schema().fields() {
        let chunks = about.row_groups().iter().flat_map(|group| group.columns());
        let own: Vec<_> = chunks.filter(|chunk| chunk.column_path().parts().first() == Some(field.name())).collect();
        columns.push(Column {
            name: field.name().clone(),
            kind: field.data_type().to_string(),
            nullable: field.is_nullable(),
            compression: own.first().map_or(String::new(), |chunk| {
                let name = chunk.compression().to_string().to_lowercase();
                name.split('(').next().unwrap_or_default().to_owned()
            }),
            compressed_bytes: own.iter().map(|chunk| chunk.compressed_size()).sum(),
        });
    }
    let notes = about.file_metadata().key_value_metadata().into_iter().flatten();
    let metadata: BTreeMap<String, String> = notes
        .filter(|note| note.key != "ARROW:schema")
        .map(|note| (note.key.clone(), note.value.clone().unwrap_or_default()))
        .collect();
    let (tokenizer, note) = find(tokenizer, &metadata, path)?;
    let first_rows = shielded(|| read(file, footer.clone(), wanted, tokenizer.as_ref()))
        .map_err(|error| corrupt(format!("its footer is sound, its first rows are not: {error:#}")))?;
    Ok(Table {
        file: path.display().to_string(),
        bytes: size(path)?,
        rows: about.file_metadata().num_rows(),
        created_by: about.file_metadata().created_by().map(str::to_owned),
        row_groups,
        columns,
        metadata,
        first_rows,
        note,
    })
}

fn read(
    file: File,
    footer: ArrowReaderMetadata,
    wanted: usize,
    tokenizer: Option<&Tokenizer>,
) -> Result<Vec<Map<String, Value>>> {
    let mut rows = Vec::new();
    if wanted == 0 {
        return Ok(rows);
    }
    let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(file, footer);
    for batch in reader.with_limit(wanted).with_batch_size(wanted.min(1024)).build()? {
        let batch = batch?;
        for row in 0..batch.num_rows() {
            let mut shown = Map::new();
            for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
                let value = cell::value(column, row)?;
                let text = tokenizer.and_then(|tokenizer| decoded(&value, tokenizer));
                shown.insert(field.name().clone(), value);
                if let Some(text) = text {
                    shown.insert(format!("{}.text", field.name()), text.into());
                }
            }
            rows.push(shown);
        }
    }
    Ok(rows)
}

/// The text of a list of ids, if that is what it is.
fn decoded(value: &Value, tokenizer: &Tokenizer) -> Option<String> {
    let ids: Option<Vec<u32>> = value.as_array()?.iter().map(|id| id.as_u64()?.try_into().ok()).collect();
    let ids = ids.filter(|ids| ids.iter().all(|id| *id < tokenizer.vocabulary_size()))?;
    tokenizer.decode(&ids).ok()
}

/// The tokenizer that was asked for, or the one whose hash the file gives, from where such files are; and what should
/// be said about it.
fn find(
    asked: Option<&str>,
    metadata: &BTreeMap<String, String>,
    path: &Path,
) -> Result<(Option<Tokenizer>, Option<String>)> {
    let (cache, end) = (Cache::new(None), text::tokenizer::END_OF_TEXT);
    let stated = metadata.get("millrace.tokenizer");
    if let Some(name) = asked {
        let tokenizer = match name {
            "gpt2" => Tokenizer::gpt2(&cache, end)?,
            file => Tokenizer::from_file(Path::new(file), end)?,
        };
        let differs = stated.filter(|hash| *hash != tokenizer.hash());
        let note =
            differs.map(|_| format!("the file was made with another tokenizer than {name}: the texts are wrong"));
        return Ok((Some(tokenizer), note));
    }
    let Some(hash) = stated else { return Ok((None, None)) };
    let mut places: Vec<PathBuf> =
        path.ancestors().skip(1).take(2).map(|folder| folder.join("tokenizer.json")).collect();
    let kept = cache.file("tokenizers", "x", "json");
    let kept = kept.parent().and_then(|folder| std::fs::read_dir(folder).ok()).into_iter().flatten().flatten();
    places.extend(kept.map(|entry| entry.path()));
    for place in places {
        let is_it = std::fs::read(&place).is_ok_and(|json| blake3::hash(&json).to_hex().as_str() == hash);
        if is_it && let Ok(tokenizer) = Tokenizer::from_file(&place, end) {
            return Ok((Some(tokenizer), None));
        }
    }
    let gpt2 = Tokenizer::gpt2(&cache, end).ok().filter(|gpt2| gpt2.hash() == hash);
    let note = "its tokenizer was not found: name one with --tokenizer to see texts";
    let note = gpt2.is_none().then(|| note.to_owned());
    Ok((gpt2, note))
}

impl Table {
    /// For people.
    pub fn text(&self, columns: usize) -> String {
        let groups = match &self.row_groups[..] {
            [] => "no row group".into(),
            [one] => format!("1 row group of {}", count(one.rows.unsigned_abs())),
            [first, ..] => format!("{} row groups of {}", self.row_groups.len(), count(first.rows.unsigned_abs())),
        };
        let mut out = format!("Parquet, {}: {} rows, {groups} rows\n", bytes(self.bytes), self.rows);
        if let Some(by) = &self.created_by {
            out += &fact("", &format!("made by {by}"), 0, columns);
        }
        let rows: Vec<Vec<String>> = self
            .columns
            .iter()
            .map(|c| {
                let null = if c.nullable { "may be null" } else { "" };
                vec![
                    c.name.clone(),
                    c.kind.clone(),
                    null.into(),
                    c.compression.clone(),
                    bytes(c.compressed_bytes.unsigned_abs()),
                ]
            })
            .collect();
        let heads = [
            ("column", Align::Left),
            ("type", Align::Left),
            ("", Align::Left),
            ("packing", Align::Left),
            ("size", Align::Right),
        ];
        out += &format!("\n{}\n", table(&heads, &rows, columns));
        if !self.metadata.is_empty() {
            out += "\nmetadata\n";
            let indent = self.metadata.keys().map(|key| key.chars().count()).max().unwrap_or(0).min(30) + 4;
            for (key, value) in &self.metadata {
                out += &fact(&format!("  {key}"), value, indent, columns);
            }
        }
        for (number, row) in self.first_rows.iter().enumerate() {
            out += &format!("\nrow {number}\n");
            let indent = row.keys().map(|key| key.chars().count()).max().unwrap_or(0).min(24) + 4;
            for (key, value) in row {
                out += &fact(&format!("  {key}"), &said(value), indent, columns);
            }
        }
        if let Some(note) = &self.note {
            out += &format!("\nnote: {note}\n");
        }
        out
    }
}

/// A value for people: long lists begin with their length.
fn said(value: &Value) -> String {
    match value {
        Value::Null => "(null)".into(),
        Value::String(text) if text.is_empty() => "(empty)".into(),
        Value::String(text) => text.clone(),
        Value::Array(items) if items.iter().all(Value::is_number) => {
            let shown: Vec<String> = items.iter().take(200).map(Value::to_string).collect();
            format!("{} values: {}", items.len(), shown.join(" "))
        }
        other => other.to_string(),
    }
}

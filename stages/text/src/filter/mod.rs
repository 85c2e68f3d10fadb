//! Stages that drop rows, each by a published heuristic. A filter is a pure function of a row: how rows are batched and
//! on which worker they are changes nothing.
//!
//! A dropped row is not removed: its reason, `<stage>: <what>`, is written into the column [`DROPPED`] (null: kept), and
//! later filters leave it alone, so that whoever counts or writes rows can tell why each is missing.
//!
//! | module | stage | heuristic |
//! |---|---|---|
//! | [`length`] | `length` | characters and words |
//! | [`language`] | `language` | what language a text is in |
//! | [`gopher_quality`] | `gopher_quality` | Rae et al., 2021, table A1, quality |
//! | [`gopher_repetition`] | `gopher_repetition` | Rae et al., 2021, table A1, repetition |
//! | [`c4`] | `c4` | Raffel et al., 2020, section 2.2 |
//! | [`fineweb`] | `fineweb` | Penedo et al., 2024, section 3.6 |
//! | [`block_list`] | `block_list` | words and phrases of one's own |
//!
//! Words are those of Unicode Standard Annex 29, punctuation marks each being one.
pub mod block_list;
pub mod c4;
pub mod fineweb;
pub mod gopher_quality;
pub mod gopher_repetition;
pub mod language;
pub mod length;

use anyhow::{Context, Result, bail};
use arrow::array::{Array, ArrayRef, AsArray, LargeStringBuilder, RecordBatch, StringBuilder};
use arrow::datatypes::{DataType, Field, Schema};
use contract::{At, Emit, Packet, Problem, Rows, Stage, Turn};
use rustc_hash::FxHashSet;
use std::sync::Arc;
use unicode_segmentation::UnicodeSegmentation;

pub use crate::parquet::columns::DROPPED;

/// What becomes of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It stays as it is.
    Keep,
    /// It stays with another text.
    Replace(String),
    /// It is dropped, for this reason.
    Drop(&'static str),
}

/// Decides on a text. A pure function: the same text, the same verdict.
pub trait Rule: Send {
    /// The verdict.
    fn judge(&self, text: &str) -> Verdict;
}

/// The stage that applies a rule to rows.
pub struct Filter<R> {
    name: &'static str,
    rule: R,
}

impl<R: Rule> Filter<R> {
    /// `name` is the stage's.
    pub fn new(name: &'static str, rule: R) -> Self {
        Self { name, rule }
    }

    /// The rows with their verdicts.
    pub fn apply(&self, records: &RecordBatch) -> Result<RecordBatch> {
        let texts = texts(records)?;
        let before = records.column_by_name(DROPPED).map(|column| {
            column.as_string_opt::<i32>().with_context(|| format!("the column `{DROPPED}` of rows is not a string"))
        });
        let before = before.transpose()?;
        let mut dropped = StringBuilder::new();
        let mut replaced: Vec<(usize, String)> = Vec::new();
        for (row, text) in texts.iter().enumerate() {
            if let Some(reason) = before.filter(|before| before.is_valid(row)) {
                dropped.append_value(reason.value(row));
                continue;
            }
            match self.rule.judge(text.unwrap_or_default()) {
                Verdict::Keep => dropped.append_null(),
                Verdict::Replace(text) => {
                    dropped.append_null();
                    replaced.push((row, text));
                }
                Verdict::Drop(reason) => dropped.append_value(format!("{}: {reason}", self.name)),
            }
        }
        let records = if replaced.is_empty() { records.clone() } else { with_texts(records, replaced)? };
        with_column(&records, Field::new(DROPPED, DataType::Utf8, true), Arc::new(dropped.finish()))
    }
}

impl<R: Rule> Stage for Filter<R> {
    fn packet(&mut self, _: At, packet: Packet, out: &mut dyn Emit) -> Result<Turn> {
        let Packet::Rows(rows) = packet else { bail!("{} takes rows, not {}", self.name, packet.kind().name()) };
        let records = self.apply(&rows.records)?;
        out.give(Packet::Rows(Rows { records, ..rows }));
        Ok(Turn::Done)
    }
}

/// The column `text`.
pub(crate) fn texts(records: &RecordBatch) -> Result<&arrow::array::LargeStringArray> {
    let column = records.column_by_name("text").context("rows without a column `text`")?;
    column.as_string_opt::<i64>().context("the column `text` of rows is not large_string")
}

/// The rows with other texts in some of them, given in order.
pub(crate) fn with_texts(records: &RecordBatch, replaced: Vec<(usize, String)>) -> Result<RecordBatch> {
    let mut built = LargeStringBuilder::new();
    let mut replaced = replaced.into_iter().peekable();
    for (row, text) in texts(records)?.iter().enumerate() {
        match replaced.next_if(|(at, _)| *at == row) {
            Some((_, text)) => built.append_value(text),
            None => built.append_value(text.unwrap_or_default()),
        }
    }
    with_column(records, Field::new("text", DataType::LargeUtf8, false), Arc::new(built.finish()))
}

/// The rows with a column more, or with another in its place.
pub(crate) fn with_column(records: &RecordBatch, field: Field, column: ArrayRef) -> Result<RecordBatch> {
    let schema = records.schema();
    let mut fields: Vec<Arc<Field>> = schema.fields().to_vec();
    let mut columns = records.columns().to_vec();
    match schema.index_of(field.name()) {
        Ok(at) => (fields[at], columns[at]) = (Arc::new(field), column),
        Err(_) => {
            fields.push(Arc::new(field));
            columns.push(column);
        }
    }
    Ok(RecordBatch::try_new(Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone())), columns)?)
}

/// The words of a text: letters and numbers that belong together, and each punctuation mark.
fn words(text: &str) -> Vec<&str> {
    text.split_word_bounds().filter(|word| !word.trim().is_empty()).collect()
}

fn characters(text: &str) -> usize {
    text.chars().count()
}

/// How many of `parts` were there before, and their characters.
fn duplicates<'a>(parts: impl Iterator<Item = &'a str>) -> (usize, usize) {
    let mut seen = FxHashSet::default();
    let again: Vec<&str> = parts.filter(|part| !seen.insert(*part)).collect();
    (again.len(), again.iter().map(|part| characters(part)).sum())
}

fn ratio(part: usize, whole: usize) -> f64 {
    part as f64 / whole.max(1) as f64
}

/// Problems with shares that are not between 0 and 1.
fn fractions(keys: &[(&'static str, f64)]) -> Vec<Problem> {
    let wrong = keys.iter().filter(|(_, value)| !(0.0..=1.0).contains(value));
    wrong.map(|(key, value)| Problem::at(key, format!("{value} is not between 0 and 1"))).collect()
}

/// `impl Settings` of a filter: rows in, rows out.
macro_rules! filter_settings {
    ($settings:ty, $check:expr, $build:expr) => {
        impl contract::Settings for $settings {
            fn takes(&self) -> Vec<contract::Port> {
                vec![contract::Port::stream(contract::Kind::Rows)]
            }

            fn gives(&self) -> Vec<contract::Kind> {
                vec![contract::Kind::Rows]
            }

            fn check(&self) -> Vec<contract::Problem> {
                let check: fn(&Self) -> Vec<contract::Problem> = $check;
                check(self)
            }

            fn build(&self, _: &contract::Env) -> anyhow::Result<contract::Built> {
                let build: fn(&Self) -> anyhow::Result<Box<dyn contract::Stage>> = $build;
                Ok(contract::Built::Stage(build(self)?))
            }
        }
    };
}
pub(crate) use filter_settings;

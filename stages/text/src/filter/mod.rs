//! Stages that drop rows, each by a published heuristic. A filter is a pure function of a row: its result does not
//! depend on how rows are batched or on which worker they are.
//!
//! A dropped row is not removed: its reason, `TYPE: WHAT`, is written to the column [`DROPPED`] (null: kept), and later
//! filters skip it, so that stages that count or write rows can tell why each is missing. The type is the stage's type,
//! not its name: rows that two stages of one type drop for the same reason are counted together.
//!
//! | module | stage | heuristic |
//! |---|---|---|
//! | [`length`] | `length` | characters and words |
//! | [`language`] | `language` | the language of a text |
//! | [`gopher_quality`] | `gopher_quality` | Rae et al., 2021, table A1, quality |
//! | [`gopher_repetition`] | `gopher_repetition` | Rae et al., 2021, table A1, repetition |
//! | [`c4`] | `c4` | Raffel et al., 2020, section 2.2 |
//! | [`fineweb`] | `fineweb` | Penedo et al., 2024, section 3.6 |
//! | [`block_list`] | `block_list` | the user's own words and phrases |
//!
//! Each is a [`Filter`], and so are filters of other crates: [`FilterSettings`] turns them into stages.
//!
//! Words are those of Unicode Standard Annex 29, punctuation marks each being one.
pub mod block_list;
pub mod c4;
pub mod fineweb;
pub mod gopher_quality;
pub mod gopher_repetition;
pub mod language;
pub mod length;

use crate::support::cache::hash_of;
use crate::support::problem::{TextProblem, similar_file};
use anyhow::{Context, Result, bail};
use arrow::array::{Array, ArrayRef, AsArray, LargeStringBuilder, RecordBatch, StringBuilder};
use arrow::datatypes::{DataType, Field, Schema};
use contract::{
    At, Built, Emit, Env, Goal, Key, Kind, Member, Packet, Port, Problem, Rows, Settings, Stage, StageKeys,
    StageSettings, StageType, Turn, code_version, stage_type,
};
use rustc_hash::FxHashSet;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::Arc;
use unicode_segmentation::UnicodeSegmentation;

pub use crate::parquet::columns::DROPPED;

/// What happens to a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is kept unchanged.
    Keep,
    /// It is kept with a changed text.
    Replace(String),
    /// It is dropped, for this reason, which does not depend on the text: rows are counted by reason.
    Drop(&'static str),
}

/// Judges a text. A pure function: the same text always gets the same verdict.
pub trait Rule: Send + 'static {
    /// The verdict.
    fn judge(&self, text: &str) -> Verdict;
}

/// A member of the family of filters: its keys, and the rule built from them. Most filters are their own rule.
///
/// ```
/// # extern crate millrace_text as text;
/// use contract::{Result, StageKeys, StageType};
/// use text::filter::{Filter, Rule, Verdict, filter_type};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Clone, Serialize, Deserialize, StageKeys)]
/// #[serde(default)]
/// struct Polite {
///     /// Maximum number of exclamation marks.
///     #[key(default = 3)]
///     max_exclamations: usize,
/// }
///
/// impl Filter for Polite {
///     const SUMMARY: &'static str = "drops texts that shout";
///     const EXAMPLE: &'static str = "max_exclamations = 1\n";
///     type Rule = Self;
///
///     fn rule(&self) -> Result<Self> {
///         Ok(self.clone())
///     }
/// }
///
/// impl Rule for Polite {
///     fn judge(&self, text: &str) -> Verdict {
///         let loud = text.matches('!').count() > self.max_exclamations;
///         if loud { Verdict::Drop("too many exclamation marks") } else { Verdict::Keep }
///     }
/// }
///
/// const POLITE: StageType = filter_type::<Polite>("polite");
/// # fn main() {
/// assert_eq!(POLITE.keys()[0].documentation, "Maximum number of exclamation marks.");
/// # }
/// ```
pub trait Filter: Member {
    /// What it drops, on one line.
    const SUMMARY: &'static str;
    /// A table that parses, shown by `pipeline stages` (TOML, without the header; `type` may be left out).
    const EXAMPLE: &'static str;
    /// The version of the rule's code. Results are cached: increase it whenever the same text may get another verdict.
    /// If this is forgotten, training fails when it notices that a verdict is not the one that was counted; a
    /// preparation reuses the verdicts of its previous version.
    const VERSION: u32 = 0;
    /// The type of the rule.
    type Rule: Rule;

    /// The files that the rule is built from, each with the key that names it. Results are cached under their content.
    fn files(&self) -> Vec<(&'static str, PathBuf)> {
        Vec::new()
    }

    /// Problems with the values, other than numbers out of range. No I/O.
    fn check(&self) -> Vec<Problem> {
        Vec::new()
    }

    /// Builds the rule for one worker.
    ///
    /// # Errors
    /// If something that it needs cannot be read.
    fn rule(&self) -> Result<Self::Rule>;
}

/// The registry entry for a filter.
pub const fn filter_type<F: Filter>(name: &'static str) -> StageType {
    stage_type::<FilterSettings<F>>(name)
}

/// Settings of any filter: rows in, rows out.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(transparent, bound = "F: Filter")]
pub struct FilterSettings<F> {
    /// The stage type, which is the prefix of reasons.
    #[serde(skip)]
    type_name: &'static str,
    filter: F,
}

impl<F: Filter> FilterSettings<F> {
    /// The settings of a filter registered as `type_name`.
    pub fn new(type_name: &'static str, filter: F) -> Self {
        Self { type_name, filter }
    }
}

impl<F: Filter> StageKeys for FilterSettings<F> {
    fn keys() -> Vec<Key> {
        F::keys()
    }
}

impl<F: Filter> StageSettings for FilterSettings<F> {
    const SUMMARY: &'static str = F::SUMMARY;
    const EXAMPLE: &'static str = F::EXAMPLE;

    fn named(self, type_name: &'static str) -> Self {
        Self { type_name, ..self }
    }
}

impl<F: Filter> Settings for FilterSettings<F> {
    fn takes(&self) -> Vec<Port> {
        vec![Port::stream(Kind::Rows)]
    }

    fn gives(&self) -> Vec<Kind> {
        vec![Kind::Rows]
    }

    fn check(&self) -> Vec<Problem> {
        self.filter.check()
    }

    fn check_files(&self, _: Goal, _: u64) -> Vec<Problem> {
        let missing = |(key, path): (&'static str, PathBuf)| {
            let similar = similar_file(&path);
            (!path.is_file()).then(|| Problem::at(key, TextProblem::Missing { path, similar }.to_string()))
        };
        let files = self.filter.files();
        let named = files.first().map(|(key, _)| *key);
        let mut problems: Vec<Problem> = files.into_iter().filter_map(missing).collect();
        // What is in the files is seen by building the rule from them.
        if let (Some(key), true) = (named, problems.is_empty()) {
            problems.extend(self.filter.rule().err().map(|error| Problem::with_file(key, &error)));
        }
        problems
    }

    fn most_tokens(&self, _: u64, input: u64) -> Option<u64> {
        Some(input)
    }

    fn reads(&self, _: u64) -> Result<Vec<PathBuf>> {
        Ok(self.filter.files().into_iter().map(|(_, path)| path).collect())
    }

    fn dependencies(&self) -> Result<Vec<(String, String)>> {
        let content = |(key, path): (&str, PathBuf)| {
            let content = std::fs::read(&path).with_context(|| format!("`{key}`: cannot read {}", path.display()))?;
            Ok((format!("content of `{key}`"), hash_of(&content)))
        };
        code_version(F::VERSION).map(Ok).into_iter().chain(self.filter.files().into_iter().map(content)).collect()
    }

    fn build(&self, _: &Env) -> Result<Built> {
        Ok(Built::Stage(Box::new(FilterStage { type_name: self.type_name, rule: self.filter.rule()? })))
    }
}

/// Applies a rule to rows.
struct FilterStage<R> {
    type_name: &'static str,
    rule: R,
}

impl<R: Rule> FilterStage<R> {
    /// The rows with the verdicts applied.
    fn apply(&self, records: &RecordBatch) -> Result<RecordBatch> {
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
                Verdict::Drop(reason) => dropped.append_value(format!("{}: {reason}", self.type_name)),
            }
        }
        let records = if replaced.is_empty() { records.clone() } else { with_texts(records, replaced)? };
        with_column(&records, Field::new(DROPPED, DataType::Utf8, true), Arc::new(dropped.finish()))
    }
}

impl<R: Rule> Stage for FilterStage<R> {
    fn packet(&mut self, _: At, packet: Packet, out: &mut dyn Emit) -> Result<Turn> {
        let Packet::Rows(rows) = packet else { bail!("{} takes rows, not {}", self.type_name, packet.kind().name()) };
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

/// The rows with the texts of some of them replaced; the new texts are given in order.
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

/// The rows with an additional column, or with a column replaced.
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

/// How many of `parts` have occurred before, and their characters.
fn duplicates<'a>(parts: impl Iterator<Item = &'a str>) -> (usize, usize) {
    let mut seen = FxHashSet::default();
    let again: Vec<&str> = parts.filter(|part| !seen.insert(*part)).collect();
    (again.len(), again.iter().map(|part| characters(part)).sum())
}

fn ratio(part: usize, whole: usize) -> f64 {
    part as f64 / whole.max(1) as f64
}

//! Stage `bpe`: texts to token ids.
use crate::Cache;
use crate::corpus::row_stages::CODE_HAS_CHANGED;
use crate::corpus::source_rows::{SourceFiles, SourceRows};
use crate::corpus::train_tokenizer::{TrainingProgress, no_progress, train_tokenizer};
use crate::parquet::columns::{COUNTED, dropped};
use crate::support::problem::TextProblem;
use crate::tokenizer::byte_bpe::Encoder;
use crate::tokenizer::{END_OF_TEXT, Tokenizer};
use anyhow::{Context, Result, bail};
use arrow::array::{Array, AsArray, ListArray, RecordBatch, StringArray, UInt32Array};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field, UInt32Type};
use contract::{
    At, Built, Emit, Env, Facts, Goal, Kind, Packet, Port, Prepare, Problem, Rows, Settings, Stage, StageKeys,
    StageSettings, Tokens, Turn,
};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::Arc;

/// Settings of stage `bpe`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, StageKeys)]
#[serde(default, deny_unknown_fields)]
pub struct Tokenize {
    /// "gpt2" (built in), the path of a `tokenizer.json`, or "train". If empty: "train" if `vocabulary_size` is given,
    /// else "gpt2".
    pub tokenizer: String,
    /// With "train": the number of token ids to train, at least 257. Otherwise: the number of ids that the tokenizer
    /// must have.
    #[key(max = 16_777_216)]
    pub vocabulary_size: Option<u32>,
    /// The token that ends a document.
    pub end_of_text: String,
}

/// Where the tokenizer comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// GPT-2's, built in.
    Gpt2,
    /// A `tokenizer.json`.
    File(PathBuf),
    /// Trained on the training split, with so many ids.
    Train(u32),
}

impl Default for Tokenize {
    fn default() -> Self {
        Self { tokenizer: String::new(), vocabulary_size: None, end_of_text: END_OF_TEXT.into() }
    }
}

impl Tokenize {
    /// The tokenizer; one that is to be trained is trained on `sources`, or taken from the cache.
    ///
    /// # Errors
    /// If it cannot be read, or has another size than `vocabulary_size` says.
    pub fn open(&self, sources: &[SourceRows], cache: &Cache, progress: TrainingProgress) -> Result<Tokenizer> {
        let tokenizer = match self.choice() {
            Choice::Gpt2 => Tokenizer::gpt2(cache, &self.end_of_text)?,
            Choice::File(path) => Tokenizer::from_file(&path, &self.end_of_text)?,
            Choice::Train(size) => {
                return train_tokenizer(sources, size as usize, &self.end_of_text, cache, progress);
            }
        };
        match self.vocabulary_size {
            Some(size) if size != tokenizer.vocabulary_size() => {
                let there = tokenizer.vocabulary_size();
                let why = format!(
                    "it has {there} ids, not {size} as `vocabulary_size` says; that key is for a tokenizer to train: remove it"
                );
                Err(TextProblem::Tokenizer { name: self.tokenizer.clone(), why }.into())
            }
            _ => Ok(tokenizer),
        }
    }

    /// Where the tokenizer comes from. (`train` without a size is refused by `check`.)
    pub fn choice(&self) -> Choice {
        match (self.tokenizer.as_str(), self.vocabulary_size) {
            ("", None) | ("gpt2", _) => Choice::Gpt2,
            ("" | "train", size) => Choice::Train(size.unwrap_or(10_000)),
            (path, _) => Choice::File(path.into()),
        }
    }
}

/// A resource of the run: the tokenizer that it has trained earlier, so that it is not trained again. Its hash is part of
/// the fingerprint, so another one is rejected.
pub struct TrainedTokenizer {
    /// The name of the file, for messages.
    pub name: String,
    /// The content of `tokenizer.json`.
    pub json: String,
}

impl StageSettings for Tokenize {
    const SUMMARY: &'static str = "turns documents into token ids with a byte-level BPE";
    const EXAMPLE: &'static str = "tokenizer = \"train\"\nvocabulary_size = 10000\n";
}

impl Settings for Tokenize {
    fn takes(&self) -> Vec<Port> {
        vec![Port::stream(Kind::Rows)]
    }

    fn gives(&self) -> Vec<Kind> {
        vec![Kind::Tokens]
    }

    fn check(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let trains = matches!(self.choice(), Choice::Train(_));
        match self.vocabulary_size {
            Some(size) if trains && size < 257 => {
                problems.push(Problem::at(
                    "vocabulary_size",
                    format!("is {size}, but must be at least 257: 256 bytes and end of text"),
                ));
            }
            None if trains => {
                problems.push(Problem::at(
                    "vocabulary_size",
                    "says how many ids to train; it is needed, for example 10000",
                ));
            }
            _ => {}
        }
        if self.end_of_text.is_empty() {
            problems.push(Problem::at("end_of_text", format!("is empty; the usual one is \"{END_OF_TEXT}\"")));
        }
        problems
    }

    fn check_goal(&self, goal: Goal) -> Vec<Problem> {
        let trains = goal == Goal::PrepareCorpus && matches!(self.choice(), Choice::Train(_));
        let why = "would be trained on documents that change with every version: name \"gpt2\" or a tokenizer.json";
        trains.then(|| Problem::at("tokenizer", why)).into_iter().collect()
    }

    fn check_files(&self, _: Goal, _: u64) -> Vec<Problem> {
        let trains = matches!(self.choice(), Choice::Train(_));
        let opened = if trains { Ok(()) } else { self.open(&[], &Cache::new(None), &mut no_progress()).map(drop) };
        opened.err().map(|error| Problem::with_file("tokenizer", &error)).into_iter().collect()
    }

    fn vocabulary(&self, _: u64) -> Result<Option<Facts>> {
        Ok(Some(match self.choice() {
            Choice::Train(size) => Facts { vocabulary: size as usize, length: 0, end_of_text: 0 },
            _ => self.open(&[], &Cache::new(None), &mut no_progress())?.vocabulary().facts(),
        }))
    }

    /// GPT-2's tokenizer and those that are trained make at least one byte a token. Others may insert something.
    fn most_tokens(&self, _: u64, input: u64) -> Option<u64> {
        (!matches!(self.choice(), Choice::File(_))).then_some(input)
    }

    /// Opens or trains the tokenizer, unless the run provides one; in a graph that trains, surveys the documents of all sources above before, and
    /// counts their tokens after.
    fn prepare(&self, before: &mut Prepare) -> Result<()> {
        let cache =
            before.found::<SourceFiles>().first().map_or_else(|| Cache::new(None), |(_, from)| from.cache.clone());
        if before.goal() == Goal::PrepareCorpus {
            before.provide(Arc::new(self.open(&[], &cache, &mut no_progress())?));
            return Ok(());
        }
        let sources = SourceRows::all(before)?;
        let (given, trained) = (before.resources().get::<Tokenizer>(), before.resources().get::<TrainedTokenizer>());
        let mut shown = |verb, unit, done, total| before.progress(verb, unit, done, total);
        let tokenizer = match (given, trained, self.choice()) {
            (Some(given), ..) => given,
            (_, Some(trained), Choice::Train(_)) => {
                Arc::new(Tokenizer::from_json(&trained.name, trained.json.clone(), &self.end_of_text)?)
            }
            _ => Arc::new(self.open(&sources, &cache, &mut shown)?),
        };
        if let Some(why) = tokenizer.slow_because() {
            before.note(format!("the tokenizer is one for Hugging Face's library, which is slower: {why}"));
        }
        let there = tokenizer.vocabulary_size();
        if let Choice::Train(asked) = self.choice()
            && there < asked
        {
            before.note(format!("the tokenizer has {there} ids, not {asked}: every word of the corpus is one already"));
        }
        let id = before.id().to_owned();
        before.fingerprint("content of tokenizer", &id, tokenizer.hash());
        before.vocabulary(tokenizer.vocabulary().facts(), Some(tokenizer.json().to_owned()))?;
        before.provide(Arc::new(tokenizer.vocabulary().clone()));
        before.provide(Arc::clone(&tokenizer));
        sources.into_iter().try_for_each(|source| source.count(before, tokenizer.hash()))
    }

    fn build(&self, env: &Env) -> Result<Built> {
        Ok(Built::Stage(Box::new(Bpe { encoder: Encoder::new(env.resource("the tokenizer (Tokenizer)")?) })))
    }
}

struct Bpe {
    encoder: Encoder,
}

impl Stage for Bpe {
    fn packet(&mut self, _: At, packet: Packet, out: &mut dyn Emit) -> Result<Turn> {
        let Packet::Rows(rows) = packet else { bail!("bpe takes rows, not {}", packet.kind().name()) };
        let column = rows.records.column_by_name("text").context("rows without a column `text`")?;
        let texts = column.as_string_opt::<i64>().context("the column `text` of rows is not large_string")?;
        let dropped = dropped(&rows.records)?;
        let mut ids = Vec::new();
        let mut ends = vec![0];
        for (row, text) in texts.iter().enumerate() {
            if dropped.is_none_or(|reasons| reasons.is_null(row)) {
                self.encoder.encode(text.unwrap_or_default(), &mut ids)?;
            }
            ends.push(i32::try_from(ids.len()).context("a packet of more than 2^31 tokens")?);
        }
        compare_with_counts(&rows.records, dropped, &ends)?;
        let field = Arc::new(Field::new_list_field(DataType::UInt32, true));
        let ends = OffsetBuffer::new(ends.into());
        // A dropped row has no tokens, which is another thing than a text without any.
        let kept = dropped.map(|reasons| reasons.nulls().map_or_else(|| NullBuffer::new_null(reasons.len()), invert));
        let documents = ListArray::try_new(field, ends, Arc::new(UInt32Array::from(ids)), kept)?;
        let Rows { lane, source, purpose, last, .. } = rows;
        out.give(Packet::Tokens(Tokens { lane, source, purpose, last, documents }));
        Ok(Turn::Done)
    }
}

/// Compares rows whose tokens end at `ends` with the numbers of tokens that were counted before training, if they have
/// them.
///
/// # Errors
/// If a number differs: a stage has processed the row in another way than when it was counted.
fn compare_with_counts(rows: &RecordBatch, dropped: Option<&StringArray>, ends: &[i32]) -> Result<()> {
    let Some(counted) = rows.column_by_name(COUNTED) else { return Ok(()) };
    let counted = counted.as_primitive_opt::<UInt32Type>();
    let counted = counted.with_context(|| format!("the column `{COUNTED}` of rows is not uint32"))?;
    for (row, counted) in counted.values().iter().enumerate() {
        let reason = dropped.filter(|reasons| reasons.is_valid(row)).map(|reasons| reasons.value(row));
        let tokens = (ends[row + 1] - ends[row]).unsigned_abs() + 1;
        let now = match reason {
            Some(reason) => format!("is dropped now ({reason})"),
            None if tokens != *counted => format!("has {tokens} now"),
            None => continue,
        };
        bail!("a document that had {counted} tokens {now}: the code of a stage above {CODE_HAS_CHANGED}");
    }
    Ok(())
}

/// Valid where `nulls` is not.
fn invert(nulls: &NullBuffer) -> NullBuffer {
    NullBuffer::new(!nulls.inner())
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::ArrayRef;
    use arrow::datatypes::Schema;

    #[test]
    fn rows_that_are_not_what_was_counted_are_an_error() {
        let counted = |column: ArrayRef| RecordBatch::try_from_iter([(COUNTED, column)]).unwrap();
        let rows = counted(Arc::new(UInt32Array::from(vec![4, 1, 3])));
        let said = |rows: &RecordBatch, reasons: Option<[Option<&str>; 3]>, ends: [i32; 4]| {
            let reasons = reasons.map(|reasons| StringArray::from(reasons.to_vec()));
            compare_with_counts(rows, reasons.as_ref(), &ends).map_err(|error| error.to_string())
        };
        assert_eq!(said(&rows, None, [0, 3, 3, 5]), Ok(()));
        assert_eq!(said(&rows, Some([None; 3]), [0, 3, 3, 5]), Ok(()));
        let dropped = said(&rows, Some([None, None, Some("long: too long")]), [0, 3, 3, 3]).unwrap_err();
        assert!(dropped.starts_with("a document that had 3 tokens is dropped now (long: too long): the"), "{dropped}");
        let longer = said(&rows, None, [0, 3, 3, 6]).unwrap_err();
        assert!(longer.starts_with("a document that had 3 tokens has 4 now: the code"), "{longer}");
        // A dropped row is another thing than an empty one.
        assert!(said(&rows, Some([None, Some("short: too short"), None]), [0, 3, 3, 5]).is_err());
        let uncounted = RecordBatch::new_empty(Arc::new(Schema::empty()));
        assert_eq!(said(&uncounted, None, [0, 3, 3, 6]), Ok(()));
        assert!(said(&counted(Arc::new(StringArray::from(vec!["4", "1", "3"]))), None, [0, 3, 3, 5]).is_err());
    }

    #[test]
    fn the_vocabulary_size_decides_when_no_tokenizer_is_named() {
        let settings = |tokenizer: &str, vocabulary_size| Tokenize {
            tokenizer: tokenizer.into(),
            vocabulary_size,
            ..Tokenize::default()
        };
        assert_eq!(settings("", None).choice(), Choice::Gpt2);
        assert_eq!(settings("", Some(300)).choice(), Choice::Train(300));
        assert_eq!(settings("a/b.json", None).choice(), Choice::File("a/b.json".into()));
        assert!(settings("gpt2", Some(300)).check().is_empty(), "the size is looked at when the tokenizer is opened");
        assert_eq!(settings("train", None).check().len(), 1);
        assert_eq!(settings("train", Some(100)).check().len(), 1);
        assert!(settings("train", Some(257)).check().is_empty());
    }
}

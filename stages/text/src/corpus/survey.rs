//! Which rows are learned from, which are held out, and how large both are.
//!
//! A [`Survey`] reads every text once: bytes and the part each belongs to. Counting tokens (by the graph `scan →
//! tokenize → count`) makes it a [`CorpusIndex`]. Both are files in the cache, so that the next run reads neither.
use crate::Progress;
use crate::corpus::row_stages::RowStages;
pub use crate::corpus::split::{Part, Split};
use crate::input::quarantine::{self, Bad, OnBadData, Reason};
use crate::parquet::documents::{CACHE_IS_DAMAGED, DocumentStore, RowGroup, Seen};
use crate::parquet::tokens::TokenStore;
use crate::support::cache::{Cache, key, used, write_whole};
use crate::support::on_all_cores::on_all_cores;
use crate::support::problem::{TextProblem, shielded};
use anyhow::{Context, Error, Result};
use arrow::array::{ArrayRef, AsArray, RecordBatch, UInt8Array, UInt32Array, UInt64Array};
use arrow::datatypes::{UInt8Type, UInt32Type, UInt64Type};
use contract::{Corpus, CorpusPart};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Rows read at a time.
const CHUNK: u64 = 256;

/// Every row's part and size in bytes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Survey {
    /// Part of each row.
    pub parts: Vec<Part>,
    /// Bytes of each row's text (0 where only tokens are known).
    pub bytes: Vec<u64>,
    /// Rows and row groups that cannot be read; all of them are [`Part::Skipped`].
    pub bad: Vec<Bad>,
    /// Rows that stages drop, by reason; all of them are [`Part::Dropped`].
    pub dropped: BTreeMap<String, u64>,
}

/// Builds a [`Survey`] row by row.
struct Surveyor {
    split: Split,
    survey: Survey,
    least: Option<(u64, Vec<usize>)>,
}

impl Surveyor {
    fn new(split: Split) -> Self {
        Self { split, survey: Survey::default(), least: None }
    }

    fn row(&mut self, file_row: u64, content: &[u8], bytes: u64) {
        self.hashed(file_row, (!content.is_empty()).then(|| content_hash(content)), bytes);
    }

    /// A row that a stage drops.
    fn dropped(&mut self, reason: &str) {
        self.survey.parts.push(Part::Dropped);
        self.survey.bytes.push(0);
        *self.survey.dropped.entry(reason.to_owned()).or_default() += 1;
    }

    /// A row by the hash of its content; `None` if it is empty.
    fn hashed(&mut self, file_row: u64, hash: Option<u64>, bytes: u64) {
        let part = if let Some(hash) = hash {
            let index = self.survey.parts.len();
            match &mut self.least {
                Some((least, rows)) if *least == hash => rows.push(index),
                Some((least, _)) if *least < hash => {}
                other => *other = Some((hash, vec![index])),
            }
            if self.split.holds_out(file_row, hash) { Part::Validation } else { Part::Train }
        } else {
            Part::Skipped
        };
        self.survey.parts.push(part);
        self.survey.bytes.push(bytes);
    }

    /// A split that ought to hold something out but meets too few rows holds out the document of the least hash,
    /// if another is left to learn from.
    fn finish(mut self) -> Survey {
        let has = |survey: &Survey, part| survey.parts.contains(&part);
        if self.split.holds_out_something() && !has(&self.survey, Part::Validation) {
            let rows = self.least.map(|(_, rows)| rows).unwrap_or_default();
            if self.survey.parts.iter().filter(|p| **p == Part::Train).count() > rows.len() {
                rows.iter().for_each(|row| self.survey.parts[*row] = Part::Validation);
            }
        }
        self.survey
    }
}

/// The first 64 bits of blake3, little-endian.
fn content_hash(content: &[u8]) -> u64 {
    let hash = blake3::hash(content);
    u64::from_le_bytes(std::array::from_fn(|i| hash.as_bytes()[i]))
}

impl Survey {
    /// Reads every document of `store` once. Progress is in rows.
    ///
    /// # Errors
    /// If a file cannot be read, or if bad data shall stop the run and there is some.
    pub fn of(store: &DocumentStore, split: Split, progress: Progress) -> Result<Self> {
        let (mut surveyor, mut bad) = (Surveyor::new(split), Vec::new());
        let mut set_aside = |one: Bad| match store.on_bad_data() {
            OnBadData::Quarantine => {
                bad.push(one);
                Ok(())
            }
            OnBadData::Stop => Err(Error::new(one.error(store.path(one.file)))),
        };
        let mut next = 0;
        while next < store.rows() {
            let read = store.each_seen(next..store.rows().min(next + CHUNK), |row, seen| {
                let text = match seen {
                    Seen::Text(text) => text,
                    Seen::Null | Seen::Lost => "",
                    Seen::NotUtf8(byte) => {
                        let RowGroup { file, row_group, first, .. } = store.row_group(row).context("a row was read")?;
                        let (row, detail) = (Some(store.file_row(row) - first), format!("at its byte {byte}"));
                        let bad = Bad { byte: None, ..Bad::at(0, Reason::NotUtf8, detail) };
                        set_aside(Bad { file, row_group: Some(row_group), row, ..bad })?;
                        ""
                    }
                };
                surveyor.row(store.file_row(row), text.as_bytes(), text.len() as u64);
                next = row + 1;
                Ok(())
            });
            if let Err(e) = read {
                let Some(TextProblem::Corrupt { row_group: Some(_), why, .. }) = e.downcast_ref() else {
                    return Err(e);
                };
                let RowGroup { file, row_group, rows, .. } = store.row_group(next).context("a row was asked for")?;
                if store.is_converted(file) {
                    return Err(e.context(CACHE_IS_DAMAGED));
                }
                let detail = why.trim_start_matches("cannot be decoded: ");
                let lost = Bad { byte: None, ..Bad::at(0, Reason::RowGroup, detail) };
                let documents = rows.end - next;
                set_aside(Bad { file, row_group: Some(row_group), documents, ..lost })?;
                for row in std::mem::replace(&mut next, rows.end)..rows.end {
                    surveyor.row(store.file_row(row), b"", 0);
                }
            }
            progress(next, store.rows());
        }
        Ok(Self { bad, ..surveyor.finish() })
    }

    /// As [`of`](Self::of), but from the cache if it is there, and kept there.
    pub fn cached(store: &DocumentStore, split: Split, cache: &Cache, progress: Progress) -> Result<Self> {
        let key = key(&["survey 2", store.content_hash(), &split.key()]);
        let path = cache.file("surveys", &key, "parquet");
        let kept = cache.file("surveys", &key, "quarantine.parquet");
        if kept.exists()
            && let Some((mut survey, _)) = read_columns(&path)?
        {
            used(&[&kept]);
            quarantine::read(&kept, &mut |bad| match store.on_bad_data() {
                OnBadData::Quarantine => {
                    survey.bad.push(bad);
                    Ok(())
                }
                OnBadData::Stop => Err(bad.error(store.path(bad.file)).into()),
            })?;
            return Ok(survey);
        }
        let survey = Self::of(store, split, progress)?;
        let none = vec![0; survey.parts.len()];
        quarantine::write(&kept, |set_aside| survey.bad.iter().cloned().try_for_each(set_aside))?;
        survey.save(&path, &none)?;
        Ok(survey)
    }

    /// The survey of what `stages` leave of the documents of `store`, as if files of just those rows were surveyed: rows
    /// that are dropped count nowhere, not even in [`Split::Every`]. Kept in the cache. Progress is in rows.
    ///
    /// # Errors
    /// If a file cannot be read, or a stage fails.
    pub fn after(
        stages: &RowStages,
        store: &DocumentStore,
        split: Split,
        cache: &Cache,
        progress: Progress,
    ) -> Result<Self> {
        let path = cache.file(
            "surveys",
            &key(&["survey after 1", store.content_hash(), &split.key(), &stages.key()]),
            "parquet",
        );
        if let Some((survey, _)) = read_columns(&path)? {
            return Ok(survey);
        }
        let (mut surveyor, mut rows) = (Surveyor::new(split), 0);
        for seen in see_all(stages, store, progress)? {
            match seen {
                SeenRow::Dropped(reason) => surveyor.dropped(&reason),
                SeenRow::Kept { hash, bytes } => {
                    surveyor.hashed(rows, hash, bytes);
                    rows += 1;
                }
            }
        }
        let survey = surveyor.finish();
        survey.save(&path, &vec![0; survey.parts.len()])?;
        Ok(survey)
    }

    fn save(&self, path: &Path, tokens: &[u32]) -> Result<()> {
        write_columns(path, self.parts.iter().map(|part| *part as u8).collect(), &self.bytes, tokens, &self.dropped)
    }

    /// Rows learned from, ascending.
    pub fn train(&self) -> impl Iterator<Item = u64> {
        (0u64..).zip(&self.parts).filter(|(_, part)| **part == Part::Train).map(|(row, _)| row)
    }
}

/// What is left of a row after the stages.
enum SeenRow {
    Dropped(String),
    /// `hash`: none of an empty text.
    Kept {
        hash: Option<u64>,
        bytes: u64,
    },
}

/// Every row of `store` after `stages`, in order.
fn see_all(stages: &RowStages, store: &DocumentStore, progress: Progress) -> Result<Vec<SeenRow>> {
    let starts: Vec<u64> = (0..store.rows()).step_by(CHUNK as usize).collect();
    let start = || Ok((stages.build()?, Vec::new()));
    let seen = on_all_cores(&starts, progress, store.rows(), start, |(stages, chunks), at, start| {
        let rows = *start..store.rows().min(start + CHUNK);
        let (count, mut seen) = (rows.end - rows.start, Vec::new());
        stages.each(store, rows, |text, dropped| {
            let hash = (!text.is_empty()).then(|| content_hash(text.as_bytes()));
            let kept = SeenRow::Kept { hash, bytes: text.len() as u64 };
            seen.push(dropped.map_or(kept, |reason| SeenRow::Dropped(reason.to_owned())));
        })?;
        chunks.push((at, seen));
        Ok(count)
    })?;
    let mut chunks: Vec<_> = seen.into_iter().flat_map(|(_, chunks)| chunks).collect();
    chunks.sort_by_key(|(at, _)| *at);
    Ok(chunks.into_iter().flat_map(|(_, seen)| seen).collect())
}

/// What is known of the corpus before training: rows, order and sizes.
#[derive(Clone, Debug, PartialEq)]
pub struct CorpusIndex {
    /// Rows learned from, ascending.
    pub train: Vec<u64>,
    /// Rows held out, ascending.
    pub validation: Vec<u64>,
    /// Tokens of every row, its end-of-text token included.
    pub tokens: Vec<u32>,
    /// Bytes of every row.
    pub bytes: Vec<u64>,
    /// Totals.
    pub corpus: Corpus,
    /// Rows that are null, empty, or without a token.
    pub skipped: u64,
    /// Rows that stages drop, by reason.
    pub dropped: BTreeMap<String, u64>,
}

impl CorpusIndex {
    /// From a survey and the number of tokens of every row, the end-of-text token included. An error if nothing
    /// is left to learn from.
    pub fn new(survey: Survey, tokens: Vec<u32>) -> Result<Self> {
        let Survey { parts, bytes, dropped, .. } = survey;
        let (rows, counted) = (parts.len(), tokens.len());
        anyhow::ensure!(rows == counted, "{counted} rows were counted, but the corpus has {rows}");
        let corpus = Corpus::default();
        let mut index = Self { train: vec![], validation: vec![], tokens, bytes, corpus, skipped: 0, dropped };
        for (row, part) in parts.into_iter().enumerate() {
            let (rows, total) = match part {
                Part::Train if index.tokens[row] > 1 => (&mut index.train, &mut index.corpus.train),
                Part::Validation if index.tokens[row] > 1 => (&mut index.validation, &mut index.corpus.validation),
                Part::Dropped => continue,
                _ => {
                    index.skipped += 1;
                    continue;
                }
            };
            rows.push(row as u64);
            let CorpusPart { rows, tokens, bytes } = total;
            *rows += 1;
            *tokens += u64::from(index.tokens[row]);
            *bytes += index.bytes[row];
        }
        if index.train.is_empty() {
            let (skipped, held) = (index.skipped, index.validation.len());
            let dropped = match index.dropped.values().sum::<u64>() {
                0 => String::new(),
                rows => format!(", {rows} are dropped by stages"),
            };
            let why = format!(
                "of its {counted} rows {held} are held out{dropped} and {skipped} are null or empty; see `read.paths`, `read.column` and how much is held out"
            );
            return Err(TextProblem::Empty { why }.into());
        }
        Ok(index)
    }

    /// From token files. Where they say which texts their tokens were made of, the index is that of the texts; else
    /// the lists say everything. Progress is in rows.
    pub fn of_tokens(store: &TokenStore, split: Split, progress: Progress) -> Result<Self> {
        let (mut surveyor, mut tokens, mut content) = (Surveyor::new(split), Vec::new(), Vec::new());
        let texts = store.texts()?;
        for row in 0..store.rows() {
            store.each([row], |ids| {
                tokens.push(ids.len() as u32 + 1);
                if let Some((hash, bytes)) = texts.as_ref().and_then(|texts| texts.get(row as usize)) {
                    return surveyor.hashed(row, (*bytes > 0).then_some(*hash), *bytes);
                }
                content.clear();
                content.extend(ids.iter().flat_map(|id| id.to_le_bytes()));
                surveyor.row(row, &content, 0);
            })?;
            if row.is_multiple_of(CHUNK) {
                progress(row, store.rows());
            }
        }
        Self::new(surveyor.finish(), tokens)
    }

    /// Mean tokens of a row learned from, its end-of-text token included.
    pub fn mean_tokens(&self) -> f64 {
        self.corpus.train.tokens as f64 / self.corpus.train.rows.max(1) as f64
    }

    /// Writes it, whole or not at all.
    pub fn save(&self, path: &Path) -> Result<()> {
        let mut parts = vec![Part::Skipped as u8; self.tokens.len()];
        // A row without even an end-of-text token has been dropped.
        (0..)
            .zip(&self.tokens)
            .filter(|(_, n)| **n == 0)
            .for_each(|(row, _): (usize, _)| parts[row] = Part::Dropped as u8);
        self.train.iter().for_each(|row| parts[*row as usize] = Part::Train as u8);
        self.validation.iter().for_each(|row| parts[*row as usize] = Part::Validation as u8);
        write_columns(path, parts, &self.bytes, &self.tokens, &self.dropped)
    }

    /// Where in the cache the index of documents of this content, after `stages`, with this tokenizer and this split, is
    /// kept.
    pub fn file(cache: &Cache, content_hash: &str, tokenizer_hash: &str, split: Split, stages: &RowStages) -> PathBuf {
        let (split, stages) = (split.key(), stages.key());
        let mut parts = vec!["index 1", content_hash, tokenizer_hash, &split];
        parts.extend((!stages.is_empty()).then_some(stages.as_str()));
        cache.file("indices", &key(&parts), "parquet")
    }

    /// Reads what [`save`](Self::save) wrote; `None` if there is no such file.
    pub fn load(path: &Path) -> Result<Option<Self>> {
        read_columns(path)?.map(|(survey, tokens)| Self::new(survey, tokens)).transpose()
    }
}

/// The key of the file's metadata under which the numbers of dropped rows are.
const DROPPED_ROWS: &str = "dropped";

fn write_columns(
    path: &Path,
    parts: Vec<u8>,
    bytes: &[u64],
    tokens: &[u32],
    dropped: &BTreeMap<String, u64>,
) -> Result<()> {
    let columns: [(&str, ArrayRef); 3] = [
        ("part", Arc::new(UInt8Array::from(parts))),
        ("bytes", Arc::new(UInt64Array::from(bytes.to_vec()))),
        ("tokens", Arc::new(UInt32Array::from(tokens.to_vec()))),
    ];
    let batch = RecordBatch::try_from_iter(columns)?;
    let mut schema = batch.schema().as_ref().clone();
    if !dropped.is_empty() {
        schema.metadata.insert(DROPPED_ROWS.to_owned(), serde_json::to_string(dropped)?);
    }
    let batch = batch.with_schema(Arc::new(schema))?;
    write_whole(path, |out| {
        let mut writer = ArrowWriter::try_new(out, batch.schema(), None)?;
        writer.write(&batch)?;
        writer.close()?;
        Ok(())
    })
}

fn read_columns(path: &Path) -> Result<Option<(Survey, Vec<u32>)>> {
    let Ok(file) = std::fs::File::open(path) else { return Ok(None) };
    used(&[path]);
    let (mut survey, mut tokens) = (Survey::default(), Vec::new());
    shielded(|| {
        let file = ParquetRecordBatchReaderBuilder::try_new(file)?;
        if let Some(dropped) = file.schema().metadata.get(DROPPED_ROWS) {
            survey.dropped = serde_json::from_str(dropped)?;
        }
        for batch in file.build()? {
            let batch = batch?;
            let part = |code: &u8| Part::ALL[usize::from(*code).min(3)];
            survey.parts.extend(batch.column(0).as_primitive::<UInt8Type>().values().iter().map(part));
            survey.bytes.extend(batch.column(1).as_primitive::<UInt64Type>().values());
            tokens.extend(batch.column(2).as_primitive::<UInt32Type>().values());
        }
        anyhow::Ok(())
    })
    .with_context(|| format!("{} is damaged; remove it", path.display()))?;
    Ok(Some((survey, tokens)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn survey(split: Split, texts: &[&str]) -> Survey {
        let mut surveyor = Surveyor::new(split);
        for (row, text) in (0..).zip(texts) {
            surveyor.row(row, text.as_bytes(), text.len() as u64);
        }
        surveyor.finish()
    }

    #[test]
    fn every_third_row_is_held_out() {
        use Part::*;
        let survey = survey(Split::Every(3), &["a", "b", "", "c", "d"]);
        assert_eq!(survey.parts, [Validation, Train, Skipped, Validation, Train]);
        let index = CorpusIndex::new(survey, vec![2, 3, 1, 4, 5]).unwrap();
        assert_eq!((index.train.clone(), index.validation.clone(), index.skipped), (vec![1, 4], vec![0, 3], 1));
        assert_eq!((index.corpus.train.tokens, index.corpus.validation.bytes), (8, 2));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index.parquet");
        assert!(CorpusIndex::load(&path).unwrap().is_none());
        index.save(&path).unwrap();
        assert_eq!(CorpusIndex::load(&path).unwrap(), Some(index));
    }

    #[test]
    fn a_fraction_is_about_that_and_never_nothing() {
        let texts: Vec<String> = (0..2000).map(|i| format!("document {i}")).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let held = |share, n: usize| {
            let parts = survey(Split::Fraction(share), &texts[..n]).parts;
            parts.iter().filter(|p| **p == Part::Validation).count()
        };
        assert!((150..250).contains(&held(0.1, 2000)));
        assert_eq!((held(0.0001, 3), held(0.0001, 1), held(0.0, 2000)), (1, 0, 0));
    }

    #[test]
    fn nothing_to_learn_from_is_an_error() {
        let said = CorpusIndex::new(survey(Split::Every(1), &["a", ""]), vec![2, 1]).unwrap_err().to_string();
        assert!(
            said.contains("the corpus is empty") && said.contains("2 rows 1 are held out and 1 are null"),
            "{said}"
        );
    }
}

//! Which rows are for training, which for validation, and how large both parts are.
//!
//! A [`Survey`] reads every text once and records its size and the part it belongs to. Counting tokens (with the graph
//! `scan → tokenize → count`) turns it into a [`CorpusIndex`](crate::corpus::index::CorpusIndex). Both are stored in
//! the cache ([`survey_file`]), so that the next run reads neither texts nor tokens.
use crate::Progress;
use crate::corpus::row_stages::RowStages;
use crate::corpus::split::{Part, Split};
use crate::corpus::survey_file;
use crate::input::quarantine::{self, OnBadData, Reason, Unreadable};
use crate::parquet::documents::{CACHE_IS_DAMAGED, DocumentStore, RowGroup, Seen};
use crate::support::cache::{Cache, key, used};
use crate::support::on_all_cores::on_all_cores;
use crate::support::problem::TextProblem;
use anyhow::{Context, Error, Result};
use std::collections::BTreeMap;

/// Rows per read.
const CHUNK: u64 = 256;

/// The part and the size in bytes of each row.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Survey {
    /// Part of each row.
    pub parts: Vec<Part>,
    /// Bytes of each row's text (0 if only tokens are known).
    pub bytes: Vec<u64>,
    /// Rows and row groups that cannot be read; all their rows are [`Part::Skipped`].
    pub bad: Vec<Unreadable>,
    /// Number of rows that stages drop, by reason; these rows are [`Part::Dropped`].
    pub dropped: BTreeMap<String, u64>,
}

/// Builds a [`Survey`] row by row.
pub(super) struct Surveyor {
    split: Split,
    survey: Survey,
    least: Option<(u64, Vec<usize>)>,
}

impl Surveyor {
    pub(super) fn new(split: Split) -> Self {
        Self { split, survey: Survey::default(), least: None }
    }

    pub(super) fn row(&mut self, file_row: u64, content: &[u8], bytes: u64) {
        self.hashed(file_row, (!content.is_empty()).then(|| content_hash(content)), bytes);
    }

    /// Adds a row that a stage drops.
    fn dropped(&mut self, reason: &str) {
        self.survey.parts.push(Part::Dropped);
        self.survey.bytes.push(0);
        *self.survey.dropped.entry(reason.to_owned()).or_default() += 1;
    }

    /// Adds a row by the hash of its content; `None` if it is empty.
    pub(super) fn hashed(&mut self, file_row: u64, hash: Option<u64>, bytes: u64) {
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

    /// If a split should hold something out but found too few rows to do so, it holds out the document with the
    /// smallest hash, provided that another one is left for training.
    pub(super) fn finish(mut self) -> Survey {
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
    /// Surveys every document of `store`, reading each once. Progress is in rows.
    ///
    /// # Errors
    /// If a file cannot be read, or if there is bad data and the source is configured to stop on it.
    pub fn of(store: &DocumentStore, split: Split, progress: Progress) -> Result<Self> {
        let (mut surveyor, mut bad) = (Surveyor::new(split), Vec::new());
        let mut set_aside = |one: Unreadable| match store.on_bad_data() {
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
                        let bad = Unreadable { byte: None, ..Unreadable::at(0, Reason::NotUtf8, detail) };
                        set_aside(Unreadable { file, row_group: Some(row_group), row, ..bad })?;
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
                let lost = Unreadable { byte: None, ..Unreadable::at(0, Reason::RowGroup, detail) };
                let documents = rows.end - next;
                set_aside(Unreadable { file, row_group: Some(row_group), documents, ..lost })?;
                for row in std::mem::replace(&mut next, rows.end)..rows.end {
                    surveyor.row(store.file_row(row), b"", 0);
                }
            }
            progress(next, store.rows());
        }
        Ok(Self { bad, ..surveyor.finish() })
    }

    /// Like [`of`](Self::of), but taken from the cache if it is there, and stored there otherwise.
    pub fn cached(store: &DocumentStore, split: Split, cache: &Cache, progress: Progress) -> Result<Self> {
        let key = key(&["survey 2", store.content_hash(), &split.key()]);
        let path = cache.file("surveys", &key, "parquet");
        let kept = cache.file("surveys", &key, "quarantine.parquet");
        if kept.exists()
            && let Some((mut survey, _)) = survey_file::read(&path)?
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
        quarantine::write(&kept, |set_aside| survey.bad.iter().cloned().try_for_each(set_aside))?;
        survey_file::write(&path, &survey, None)?;
        Ok(survey)
    }

    /// The survey of the documents of `store` after `stages`. It equals the survey of files that contain only the
    /// remaining rows: dropped rows do not count, not even in [`Split::Every`]. Stored in the cache. Progress is in
    /// rows.
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
        let key = key(&["survey after 1", store.content_hash(), &split.key(), &stages.key()]);
        let path = cache.file("surveys", &key, "parquet");
        if let Some((survey, _)) = survey_file::read(&path)? {
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
        survey_file::write(&path, &survey, None)?;
        Ok(survey)
    }

    /// Training rows, ascending.
    pub fn train(&self) -> impl Iterator<Item = u64> {
        (0u64..).zip(&self.parts).filter(|(_, part)| **part == Part::Train).map(|(row, _)| row)
    }
}

/// A row after the stages.
enum SeenRow {
    Dropped(String),
    /// `hash`: none for an empty text.
    Kept {
        hash: Option<u64>,
        bytes: u64,
    },
}

/// The rows of `store` after `stages`, in order.
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

/// The survey of `texts`.
#[cfg(test)]
pub(super) fn surveyed(split: Split, texts: &[&str]) -> Survey {
    let mut surveyor = Surveyor::new(split);
    for (row, text) in (0..).zip(texts) {
        surveyor.row(row, text.as_bytes(), text.len() as u64);
    }
    surveyor.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{document_file, with_failing_reads};

    fn parts(split: Split, texts: &[&str]) -> Vec<Part> {
        surveyed(split, texts).parts
    }

    #[test]
    fn every_third_row_is_held_out() {
        use Part::*;
        let expected = [Validation, Train, Skipped, Validation, Train];
        assert_eq!(parts(Split::Every(3), &["a", "b", "", "c", "d"]), expected);
    }

    #[test]
    fn a_fraction_is_about_that_and_never_nothing() {
        let texts: Vec<String> = (0..2000).map(|i| format!("document {i}")).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let held = |share, n: usize| {
            let parts = parts(Split::Fraction(share), &texts[..n]);
            parts.iter().filter(|p| **p == Part::Validation).count()
        };
        assert!((150..250).contains(&held(0.1, 2000)));
        assert_eq!((held(0.0001, 3), held(0.0001, 1), held(0.0, 2000)), (1, 0, 0));
    }

    #[test]
    fn a_read_that_fails_ends_the_survey_and_is_not_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let group = |of: &str| (0..300).map(|row| format!("text {row} of {of}")).collect();
        let file = document_file(&folder.path().join("a.parquet"), &[group("a"), group("b"), group("c")]);
        let cache = Cache::new(folder.path().join("cache").to_str());
        let survey = |is_kept: bool| {
            assert_eq!(cache.root().join("surveys").exists(), is_kept);
            let store = DocumentStore::open(std::slice::from_ref(&file), &cache)?;
            Survey::cached(&store, Split::Every(3), &cache, &mut |_, _| {})
        };
        // Of the documents, then of what is kept in the cache.
        let (first, reads) = with_failing_reads(|| survey(false));
        assert_eq!((first.parts.len(), first.bad.len()), (900, 0));
        assert!(reads > 6, "{reads} reads");
        let (again, reads) = with_failing_reads(|| survey(true));
        assert_eq!(again, first);
        assert!(reads > 6, "{reads} reads");
    }
}

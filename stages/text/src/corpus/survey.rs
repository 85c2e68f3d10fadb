//! Which rows are for training, which for validation, and how large both parts are.
//!
//! A [`Survey`] reads every text once and records its size and the part it belongs to. Counting tokens (with the graph
//! `scan → tokenize → count`) turns it into a [`CorpusIndex`](crate::corpus::index::CorpusIndex). Both are stored in
//! the cache ([`survey_file`]), so that the next run reads neither texts nor tokens.
//!
//! Both list documents, not rows: a row that is null, empty, unreadable or dropped takes no memory, because a Parquet
//! file of a few kilobytes may have millions of them.
use crate::Progress;
use crate::corpus::row_stages::{CODE_HAS_CHANGED, RowStages};
use crate::corpus::split::{Part, Split};
use crate::corpus::survey_file;
use crate::input::quarantine::{self, OnBadData, Reason, Unreadable};
use crate::parquet::documents::{CACHE_IS_DAMAGED, DocumentStore, RowGroup, Seen};
use crate::support::cache::{Cache, key, used};
use crate::support::in_order::in_order;
use crate::support::problem::TextProblem;
use anyhow::{Context, Error, Result, bail};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// Rows per read.
const CHUNK: u64 = 256;
/// Ranges of [`CHUNK`] rows that are compared with a survey in the cache.
const COMPARED: u64 = 4;

/// The documents of a corpus: its rows that are not empty, can be read, and are not dropped by a stage. The part and the
/// size of each.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Survey {
    /// Number of all rows, documents or not.
    pub all_rows: u64,
    /// The row of each document, ascending.
    pub rows: Vec<u64>,
    /// Part of each document.
    pub parts: Vec<Part>,
    /// Bytes of each document's text (0 if only tokens are known).
    pub bytes: Vec<u64>,
    /// Hash of each document's text (of its token ids if only tokens are known), which decides its position in an epoch.
    pub hashes: Vec<u64>,
    /// Rows and row groups that cannot be read.
    pub bad: Vec<Unreadable>,
    /// Number of rows that stages drop, by reason.
    pub dropped: BTreeMap<String, u64>,
}

/// The reason for which withdrawn documents are not used.
const WITHDRAWN: &str = "withdrawn";

/// Builds a [`Survey`] row by row.
pub(super) struct Surveyor {
    split: Split,
    survey: Survey,
}

impl Surveyor {
    pub(super) fn new(split: Split) -> Self {
        Self { split, survey: Survey::default() }
    }

    pub(super) fn row(&mut self, file_row: u64, content: &[u8], bytes: u64) {
        self.hashed(file_row, (!content.is_empty()).then(|| content_hash(content)), bytes);
    }

    /// Adds rows that are no documents.
    fn skip(&mut self, rows: u64) {
        self.survey.all_rows += rows;
    }

    /// Adds a row that a stage drops.
    fn dropped(&mut self, reason: &str) {
        self.skip(1);
        match self.survey.dropped.get_mut(reason) {
            Some(rows) => *rows += 1,
            None => _ = self.survey.dropped.insert(reason.to_owned(), 1),
        }
    }

    /// Adds a row by the hash of its content; `None` if it is empty.
    pub(super) fn hashed(&mut self, file_row: u64, hash: Option<u64>, bytes: u64) {
        let row = self.survey.all_rows;
        self.skip(1);
        let Some(hash) = hash else { return };
        let is_held_out = self.split.holds_out(file_row, hash);
        self.survey.rows.push(row);
        self.survey.parts.push(if is_held_out { Part::Validation } else { Part::Train });
        self.survey.bytes.push(bytes);
        self.survey.hashes.push(hash);
    }

    pub(super) fn finish(mut self) -> Survey {
        self.survey.hold_out_something(self.split);
        self.survey
    }
}

/// The first 64 bits of blake3, little-endian.
pub(super) fn content_hash(content: &[u8]) -> u64 {
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
                surveyor.skip(documents);
                next = rows.end;
            }
            progress(next, store.rows());
        }
        Ok(Self { bad, ..surveyor.finish() })
    }

    /// Like [`of`](Self::of), but taken from the cache if it is there, and stored there otherwise.
    pub fn cached(store: &DocumentStore, split: Split, cache: &Cache, progress: Progress) -> Result<Self> {
        let key = key(&["survey 4", store.content_hash(), &split.key()]);
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
    /// If a file cannot be read, a stage fails, or stages do not do what they did when the survey was stored.
    pub fn after(
        stages: &RowStages,
        store: &DocumentStore,
        split: Split,
        cache: &Cache,
        progress: Progress,
    ) -> Result<Self> {
        let key = key(&["survey after 3", store.content_hash(), &split.key(), &stages.key()]);
        let path = cache.file("surveys", &key, "parquet");
        if let Some((survey, _)) = survey_file::read(&path)? {
            survey.compare(stages, store)?;
            return Ok(survey);
        }
        let (mut surveyor, mut rows) = (Surveyor::new(split), 0);
        see_all(stages, store, progress, &mut |seen| match seen {
            SeenRow::Dropped(reason) => surveyor.dropped(&reason),
            SeenRow::Kept { hash, bytes } => {
                surveyor.hashed(rows, hash, bytes);
                rows += 1;
            }
        })?;
        let survey = surveyor.finish();
        survey_file::write(&path, &survey, None)?;
        Ok(survey)
    }

    /// Applies `stages` again to some rows of `store`, evenly spaced, and compares the result with this survey from the
    /// cache: the code of a filter may have changed without its version. All rows of a small corpus are compared.
    fn compare(&self, stages: &RowStages, store: &DocumentStore) -> Result<()> {
        let (mut chain, last) = (stages.build()?, store.rows().saturating_sub(CHUNK));
        let starts: BTreeSet<u64> = (0..COMPARED).map(|range| last * range / (COMPARED - 1)).collect();
        for start in starts {
            let (mut row, mut changed) = (start, None);
            chain.each(store, start..store.rows().min(start + CHUNK), |text, dropped| {
                let bytes = self.rows.binary_search(&row).map_or(0, |document| self.bytes[document]);
                let difference = match (bytes, dropped, text.len() as u64) {
                    (1.., Some(reason), _) => Some(format!("was kept, and is dropped now ({reason})")),
                    (0, None, 1..) => Some("was dropped, and is kept now".to_owned()),
                    (before, None, now) if before != now => {
                        Some(format!("had {before} bytes after the stages, and has {now} now"))
                    }
                    _ => None,
                };
                changed = changed.take().or(difference.map(|difference| (row, difference)));
                row += 1;
            })?;
            if let Some((row, difference)) = changed {
                let RowGroup { file, .. } = store.row_group(row).context("a row was read")?;
                let (file, row) = (store.path(file).display(), store.file_row(row));
                bail!("row {row} of {file} {difference}: the code of {} {CODE_HAS_CHANGED}", stages.names(" or "));
            }
        }
        Ok(())
    }

    /// If a split should hold something out but found too few rows to do so, it holds out the document with the
    /// smallest hash, provided that another one is left for training.
    fn hold_out_something(&mut self, split: Split) {
        if !split.holds_out_something() || self.parts.contains(&Part::Validation) {
            return;
        }
        let Some(least) = self.hashes.iter().min() else { return };
        if self.hashes.iter().any(|hash| hash != least) {
            let held_out = self.parts.iter_mut().zip(&self.hashes).filter(|(_, hash)| *hash == least);
            held_out.for_each(|(part, _)| *part = Part::Validation);
        }
    }

    /// The survey without the documents in these rows, ascending. It equals the survey of files without these rows, but
    /// for the numbers of the rows; so [`Split::Every`] holds out those of the others that it held out before.
    pub fn without(mut self, rows: &[u64], split: Split) -> Self {
        let stays: Vec<bool> = self.rows.iter().map(|row| rows.binary_search(row).is_err()).collect();
        let before = self.rows.len();
        retain(&mut self.rows, &stays);
        retain(&mut self.parts, &stays);
        retain(&mut self.bytes, &stays);
        retain(&mut self.hashes, &stays);
        let withdrawn = (before - self.rows.len()) as u64;
        if withdrawn > 0 {
            self.dropped.insert(WITHDRAWN.to_owned(), withdrawn);
        }
        if let Split::Fraction(_) = split {
            let part = |hash: &u64| if split.holds_out(0, *hash) { Part::Validation } else { Part::Train };
            self.parts = self.hashes.iter().map(part).collect();
        }
        self.hold_out_something(split);
        self
    }

    /// Rows of the documents for training, ascending.
    pub fn train(&self) -> impl Iterator<Item = u64> {
        self.rows.iter().zip(&self.parts).filter(|(_, part)| **part == Part::Train).map(|(row, _)| *row)
    }
}

/// Keeps the elements for which `stays` has `true`.
pub(super) fn retain<T>(elements: &mut Vec<T>, stays: &[bool]) {
    let mut stays = stays.iter();
    elements.retain(|_| stays.next().copied().unwrap_or(true));
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

/// Calls `each` with the rows of `store` after `stages`, in order. Every core processes some.
fn see_all(stages: &RowStages, store: &DocumentStore, progress: Progress, each: &mut dyn FnMut(SeenRow)) -> Result<()> {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let built = (0..threads).map(|_| stages.build()).collect::<Result<Vec<_>>>()?;
    let built = Mutex::new(built);
    let see = |rows: Range<u64>| -> Result<Vec<SeenRow>> {
        let idle = || built.lock().unwrap_or_else(PoisonError::into_inner);
        let mut stages = idle().pop().context("as many stages as threads")?;
        let mut seen = Vec::new();
        stages.each(store, rows, |text, dropped| {
            let hash = (!text.is_empty()).then(|| content_hash(text.as_bytes()));
            let kept = SeenRow::Kept { hash, bytes: text.len() as u64 };
            seen.push(dropped.map_or(kept, |reason| SeenRow::Dropped(reason.to_owned())));
        })?;
        idle().push(stages);
        Ok(seen)
    };
    let (mut next, mut done, all) = (0, 0, store.rows());
    let chunk = || {
        let rows = next..all.min(next + CHUNK);
        next = rows.end;
        Ok((!rows.is_empty()).then_some(rows))
    };
    in_order(threads, chunk, see, |seen| {
        let seen = seen?;
        done += seen.len() as u64;
        seen.into_iter().for_each(&mut *each);
        progress(done, all);
        Ok(())
    })
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
mod tests;

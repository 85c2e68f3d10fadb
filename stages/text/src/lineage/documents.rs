//! The documents of a source, for questions about them: what they are called, what has become of them, and where a text
//! is.
use crate::corpus::index::CorpusIndex;
use crate::corpus::row_stages::RowStages;
use crate::corpus::withdrawal::{Withdrawn, WithdrawnRows};
use crate::parquet::about::{self, About};
use crate::parquet::documents::{DocumentStore, Seen};
use crate::parquet::tokens::TokenStore;
use crate::support::on_all_cores::on_all_cores;
use crate::{Progress, TextProblem, Tokenizer};
use anyhow::Result;
use contract::Resources;
use memchr::memmem;
use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Rows that a thread searches at once.
const ROWS_AT_ONCE: u64 = 2048;
/// Bytes of text shown on each side of what is searched.
const AROUND: usize = 32;

/// The documents of a source.
pub struct SourceDocuments {
    /// Which of them are for training, and their tokens.
    pub index: Arc<CorpusIndex>,
    rows: Store,
    withdrawn: Option<Arc<Withdrawn>>,
    withdrawn_rows: Arc<WithdrawnRows>,
}

/// Where the rows of a source are.
enum Store {
    /// Texts, and the stages that they pass before they are tokenized.
    Texts(Arc<DocumentStore>, RowStages),
    /// Tokens.
    Tokens(Arc<TokenStore>),
}

/// What has become of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is this training document ([`CorpusIndex::train`]).
    Train(usize),
    /// It is this validation document ([`CorpusIndex::validation`]).
    Validation(usize),
    /// It is not used, for this reason.
    NotUsed(String),
}

/// A row in which a text was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    /// The row.
    pub row: u64,
    /// How often the text occurs in it.
    pub times: usize,
    /// The tokens of the first occurrence: from, up to; `None` if no tokenizer is known.
    pub tokens: Option<[u32; 2]>,
    /// The first occurrence, with some text before and after it.
    pub excerpt: String,
}

impl SourceDocuments {
    /// The documents of the source `id`, if it has provided an index of them.
    pub fn of(resources: &Resources, id: &str) -> Option<Self> {
        let index = resources.of::<CorpusIndex>(id)?;
        let texts = resources.of::<DocumentStore>(id).map(|store| {
            let stages = resources.of::<RowStages>(id).map(|stages| (*stages).clone()).unwrap_or_default();
            Store::Texts(store, stages)
        });
        let rows = texts.or_else(|| resources.of::<TokenStore>(id).map(Store::Tokens))?;
        let withdrawn_rows = resources.of::<WithdrawnRows>(id).unwrap_or_default();
        Some(Self { index, rows, withdrawn: resources.of::<Withdrawn>(id), withdrawn_rows })
    }

    /// What the files say about `rows`, in that order.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn about(&self, rows: &[u64]) -> Result<Vec<About>> {
        match &self.rows {
            Store::Texts(store, _) => store.about(rows),
            Store::Tokens(store) => store.about(rows),
        }
    }

    /// The documents whose id is `name`, or, if there are none, whose URL or title it is, with their rows. Those that
    /// are not in the sample have none.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn called(&self, name: &str) -> Result<Vec<(Option<u64>, About)>> {
        match &self.rows {
            Store::Texts(store, _) => store.called(name),
            Store::Tokens(store) => store.called(name),
        }
    }

    /// The documents that are withdrawn, if there are any.
    pub fn withdrawn(&self) -> Option<&Withdrawn> {
        self.withdrawn.as_deref()
    }

    /// Calls `f` with the id of each row of its files, those that are not in the sample included.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn each_id(&self, f: &mut dyn FnMut(&str)) -> Result<()> {
        let files = match &self.rows {
            Store::Texts(store, _) => store.files().to_vec(),
            Store::Tokens(store) => store.files(),
        };
        about::each_id(&files, &mut |_, id| f(id))
    }

    /// The folders that contain its files.
    pub fn folders(&self) -> BTreeSet<PathBuf> {
        let folder = |path: &Path| path.parent().map(PathBuf::from);
        match &self.rows {
            Store::Texts(store, _) => store.paths().filter_map(folder).collect(),
            Store::Tokens(store) => store.paths().filter_map(folder).collect(),
        }
    }

    /// What has become of a row.
    ///
    /// # Errors
    /// If it cannot be read because of the system, or a stage fails.
    pub fn fate(&self, row: u64) -> Result<Fate> {
        if let Ok(document) = self.index.train.rows.binary_search(&row) {
            return Ok(Fate::Train(document));
        }
        if let Ok(document) = self.index.validation.rows.binary_search(&row) {
            return Ok(Fate::Validation(document));
        }
        let why = match &self.rows {
            _ if self.withdrawn_rows.0.binary_search(&row).is_ok() => "it is withdrawn (`withdraw`)".into(),
            Store::Texts(store, stages) => why_not_used(store, stages, row)?,
            Store::Tokens(_) => "it has no tokens".into(),
        };
        Ok(Fate::NotUsed(why))
    }

    /// The rows whose texts, as they are tokenized, contain `wanted`, in order; those that are not used are left out.
    /// `None` if the files have no texts. Their tokens are those of `tokenizer`. Progress is in rows.
    ///
    /// # Errors
    /// If a file cannot be read, a stage fails, or a text cannot be tokenized.
    pub fn search(&self, wanted: &str, tokenizer: Option<&Tokenizer>, progress: Progress) -> Result<Option<Vec<Hit>>> {
        let Store::Texts(store, stages) = &self.rows else { return Ok(None) };
        let finder = memmem::Finder::new(wanted);
        let mut used: Vec<u64> =
            [&self.index.train, &self.index.validation].iter().flat_map(|part| part.rows.iter().copied()).collect();
        used.sort_unstable();
        let pieces: Vec<&[u64]> = used.chunks(ROWS_AT_ONCE as usize).collect();
        let start = || anyhow::Ok((stages.build()?, Vec::new()));
        let found = on_all_cores(&pieces, progress, used.len() as u64, start, |(chain, hits), _, rows| {
            let (mut all, mut found) = (rows.iter(), Ok(()));
            chain.each(store, rows.iter().copied(), |text, dropped| {
                let (Some(row), None, Ok(())) = (all.next(), dropped, &found) else { return };
                found = hit(*row, text, &finder, tokenizer).map(|hit| hits.extend(hit));
            })?;
            found.map(|()| rows.len() as u64)
        })?;
        let mut hits: Vec<Hit> = found.into_iter().flat_map(|(_, hits)| hits).collect();
        hits.sort_by_key(|hit| hit.row);
        Ok(Some(hits))
    }
}

fn why_not_used(store: &DocumentStore, stages: &RowStages, row: u64) -> Result<String> {
    let mut why = None;
    let seen = store.each_seen([row], |_, seen| {
        why = match seen {
            Seen::Text("") | Seen::Null => Some("its text is empty".to_owned()),
            Seen::Text(_) => None,
            Seen::NotUtf8(byte) => Some(format!("its text is not UTF-8 at byte {byte}")),
            Seen::Lost => Some("its row group cannot be decoded".to_owned()),
        };
        Ok(())
    });
    match seen {
        Err(error) if error.is::<TextProblem>() => return Ok(format!("{error:#}")),
        seen => seen?,
    }
    if let Some(why) = why {
        return Ok(why);
    }
    let mut why = "nothing is left of it to train on".to_owned();
    stages.build()?.each(store, [row], |_, dropped| {
        if let Some(reason) = dropped {
            why = format!("dropped: {reason}");
        }
    })?;
    Ok(why)
}

/// What was found in the text of a row.
fn hit(row: u64, text: &str, finder: &memmem::Finder, tokenizer: Option<&Tokenizer>) -> Result<Option<Hit>> {
    let mut all = finder.find_iter(text.as_bytes());
    let Some(first) = all.next() else { return Ok(None) };
    let bytes = first..first + finder.needle().len();
    let from = text.floor_char_boundary(first.saturating_sub(AROUND));
    let to = text.ceil_char_boundary((bytes.end + AROUND).min(text.len()));
    let excerpt = text[from..to].split_whitespace().collect::<Vec<_>>().join(" ");
    let tokens = tokenizer.map(|tokenizer| tokens_of(tokenizer, text, &bytes)).transpose()?;
    Ok(Some(Hit { row, times: 1 + all.count(), tokens, excerpt }))
}

/// The tokens of a text that contain some of its bytes: from, up to.
fn tokens_of(tokenizer: &Tokenizer, text: &str, bytes: &Range<usize>) -> Result<[u32; 2]> {
    let starts = tokenizer.starts(text)?;
    let from = starts.partition_point(|start| *start <= bytes.start).saturating_sub(1);
    let to = starts.partition_point(|start| *start < bytes.end);
    Ok([from as u32, to as u32])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_has_whole_characters() {
        let text = format!("{}needle in a\nhaystack, a needle {}", "ä".repeat(40), "ß".repeat(40));
        let hit = |wanted| hit(3, &text, &memmem::Finder::new(wanted), None).unwrap();
        let found = hit("needle").unwrap();
        assert_eq!((found.row, found.times, found.tokens), (3, 2, None));
        assert_eq!(found.excerpt, format!("{}needle in a haystack, a needle {}", "ä".repeat(16), "ß".repeat(4)));
        assert_eq!(hit("thread"), None);
    }

    #[test]
    fn tokens_that_contain_bytes_are_found() {
        let cache = tempfile::tempdir().unwrap();
        let tokenizer = Tokenizer::gpt2(&crate::Cache::new(cache.path().to_str()), "<|endoftext|>").unwrap();
        let text = "näïve needle: “in” a haystack";
        let starts = tokenizer.starts(text).unwrap();
        assert_eq!((starts.len(), starts[0]), (tokenizer.encode(text).unwrap().len(), 0));
        let ids = tokenizer.encode(text).unwrap();
        for wanted in ["needle", "ï", "in” a", "haystack"] {
            let at = text.find(wanted).unwrap();
            let [from, to] = tokens_of(&tokenizer, text, &(at..at + wanted.len())).unwrap().map(|token| token as usize);
            let found = tokenizer.decode(&ids[from..to]).unwrap();
            assert!(found.contains(wanted) || wanted == "ï", "{wanted}: {found}");
            assert!(starts[from] <= at && starts.get(to).is_none_or(|next| *next >= at + wanted.len()));
        }
    }
}

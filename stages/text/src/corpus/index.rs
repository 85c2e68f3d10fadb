//! The index of a training corpus: the part and the number of tokens of each row.
use crate::Progress;
use crate::corpus::split::{Part, Split};
use crate::corpus::survey::{Survey, Surveyor};
use crate::corpus::survey_file;
use crate::parquet::tokens::TokenStore;
use crate::support::cache::{Cache, key};
use crate::support::problem::TextProblem;
use anyhow::Result;
use contract::{Corpus, CorpusPart};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Number of rows between progress updates.
const CHUNK: u64 = 256;

/// What is known about the corpus before training: rows, order and sizes.
#[derive(Clone, Debug, PartialEq)]
pub struct CorpusIndex {
    /// Training rows, ascending.
    pub train: Vec<u64>,
    /// Validation rows, ascending.
    pub validation: Vec<u64>,
    /// Tokens of each row, including its end-of-text token.
    pub tokens: Vec<u32>,
    /// Bytes of each row.
    pub bytes: Vec<u64>,
    /// Totals.
    pub corpus: Corpus,
    /// Number of rows that are null, empty, or have no tokens.
    pub skipped: u64,
    /// Number of rows that stages drop, by reason.
    pub dropped: BTreeMap<String, u64>,
}

impl CorpusIndex {
    /// From a survey and the number of tokens of each row, including the end-of-text token. An error if no training
    /// rows are left.
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

    /// The number of validation tokens of each of `lanes` lanes: lane *l* has the rows *l*, *l + lanes*, ….
    pub fn validation_tokens(&self, lanes: u32) -> Vec<u64> {
        let mut tokens = vec![0; lanes as usize];
        for (rank, row) in self.validation.iter().enumerate() {
            tokens[rank % lanes as usize] += u64::from(self.tokens[*row as usize]);
        }
        tokens
    }

    /// From token files. If they record the hashes of the texts that their tokens were made from, the index is that of
    /// the texts; otherwise it depends on the token lists alone. Progress is in rows.
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

    /// Mean number of tokens of a training row, including its end-of-text token.
    pub fn mean_tokens(&self) -> f64 {
        self.corpus.train.tokens as f64 / self.corpus.train.rows.max(1) as f64
    }

    /// Writes it to a file, atomically.
    pub fn save(&self, path: &Path) -> Result<()> {
        // A row without even an end-of-text token was dropped.
        let part = |tokens: &u32| if *tokens == 0 { Part::Dropped } else { Part::Skipped };
        let mut parts: Vec<Part> = self.tokens.iter().map(part).collect();
        self.train.iter().for_each(|row| parts[*row as usize] = Part::Train);
        self.validation.iter().for_each(|row| parts[*row as usize] = Part::Validation);
        let (bytes, dropped) = (self.bytes.clone(), self.dropped.clone());
        survey_file::write(path, &Survey { parts, bytes, dropped, bad: Vec::new() }, Some(&self.tokens))
    }

    /// The path in the cache of the index of documents with this content
    /// ([`SourceRows::content_key`](crate::corpus::source_rows::SourceRows::content_key)), for this tokenizer and
    /// split.
    pub fn file(cache: &Cache, content_key: &str, tokenizer_hash: &str, split: Split) -> PathBuf {
        cache.file("indices", &key(&["index 1", content_key, tokenizer_hash, &split.key()]), "parquet")
    }

    /// Reads the file that [`save`](Self::save) wrote; `None` if there is none.
    pub fn load(path: &Path) -> Result<Option<Self>> {
        survey_file::read(path)?.map(|(survey, tokens)| Self::new(survey, tokens)).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corpus::survey::surveyed;

    #[test]
    fn an_index_is_the_same_when_it_is_read_again() {
        let survey = surveyed(Split::Every(3), &["a", "b", "", "c", "d"]);
        let index = CorpusIndex::new(survey, vec![2, 3, 1, 4, 5]).unwrap();
        assert_eq!((index.train.clone(), index.validation.clone(), index.skipped), (vec![1, 4], vec![0, 3], 1));
        assert_eq!((index.corpus.train.tokens, index.corpus.validation.bytes), (8, 2));
        assert_eq!((index.validation_tokens(2), index.validation_tokens(3)), (vec![2, 4], vec![2, 4, 0]));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index.parquet");
        assert!(CorpusIndex::load(&path).unwrap().is_none());
        index.save(&path).unwrap();
        assert_eq!(CorpusIndex::load(&path).unwrap(), Some(index));
    }

    #[test]
    fn nothing_to_learn_from_is_an_error() {
        let said = CorpusIndex::new(surveyed(Split::Every(1), &["a", ""]), vec![2, 1]).unwrap_err().to_string();
        assert!(
            said.contains("the corpus is empty") && said.contains("2 rows 1 are held out and 1 are null"),
            "{said}"
        );
    }
}

//! The index of a training corpus: the part and the number of tokens of each document.
use crate::Progress;
use crate::corpus::epoch_order::EpochOrders;
use crate::corpus::split::{HoldOutAll, Part, Split};
use crate::corpus::survey::{Survey, Surveyor, content_hash, retain};
use crate::corpus::survey_file;
use crate::parquet::tokens::TokenStore;
use crate::support::cache::{Cache, key};
use crate::support::problem::TextProblem;
use anyhow::Result;
use contract::{Corpus, CorpusPart, Resources};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Number of rows between progress updates.
const CHUNK: u64 = 256;

/// The documents of one part of a corpus, in the order of the files.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Documents {
    /// The row of each, ascending.
    pub rows: Vec<u64>,
    /// Tokens of each, including its end-of-text token.
    pub tokens: Vec<u32>,
    /// Bytes of each.
    pub bytes: Vec<u64>,
    /// Hash of the content of each.
    pub hashes: Vec<u64>,
}

impl Documents {
    /// Bytes of a document in memory, as text or as token ids, whichever is larger.
    pub fn decoded_bytes(&self, document: usize) -> u64 {
        self.bytes[document].max(size_of::<u32>() as u64 * u64::from(self.tokens[document]))
    }
}

/// What is known about the corpus before training: documents, hashes and sizes. It takes 28 bytes per document, and none
/// for a row without tokens; the order of an epoch takes 4 more while it is read.
#[derive(Debug)]
pub struct CorpusIndex {
    /// Training documents.
    pub train: Documents,
    /// Validation documents.
    pub validation: Documents,
    /// Totals.
    pub corpus: Corpus,
    /// Number of all rows.
    pub rows: u64,
    /// Number of rows that are null, empty, or have no tokens.
    pub skipped: u64,
    /// Number of rows that stages drop, by reason.
    pub dropped: BTreeMap<String, u64>,
    orders: EpochOrders,
}

/// The orders follow from the rest.
impl PartialEq for CorpusIndex {
    fn eq(&self, other: &Self) -> bool {
        let all = |index: &Self| (index.corpus, index.rows, index.skipped);
        all(self) == all(other)
            && self.train == other.train
            && self.validation == other.validation
            && self.dropped == other.dropped
    }
}

impl CorpusIndex {
    /// From a survey and the number of tokens of each of its documents, including the end-of-text token.
    pub fn new(survey: &Survey, counts: &[u32]) -> Result<Self> {
        let (documents, counted) = (survey.rows.len(), counts.len());
        anyhow::ensure!(documents == counted, "{counted} documents were counted, but the corpus has {documents}");
        anyhow::ensure!(
            u32::try_from(documents).is_ok(),
            "the corpus has {documents} documents; at most 2^32 are possible"
        );
        let (mut train, mut validation, mut corpus) = (Documents::default(), Documents::default(), Corpus::default());
        for (document, count) in counts.iter().enumerate().filter(|(_, count)| **count > 1) {
            let (part, total) = match survey.parts[document] {
                Part::Train => (&mut train, &mut corpus.train),
                Part::Validation => (&mut validation, &mut corpus.validation),
            };
            part.rows.push(survey.rows[document]);
            part.tokens.push(*count);
            part.bytes.push(survey.bytes[document]);
            part.hashes.push(survey.hashes[document]);
            let CorpusPart { rows, tokens, bytes } = total;
            *rows += 1;
            *tokens += u64::from(*count);
            *bytes += survey.bytes[document];
        }
        let (rows, dropped) = (survey.all_rows, survey.dropped.clone());
        let skipped = rows - dropped.values().sum::<u64>() - corpus.train.rows - corpus.validation.rows;
        Ok(Self { train, validation, corpus, rows, skipped, dropped, orders: EpochOrders::default() })
    }

    /// From a survey and the tokens of all documents, those of the rows `withdrawn` without.
    pub fn without(survey: Survey, mut counts: Vec<u32>, withdrawn: &[u64], split: Split) -> Result<Self> {
        if withdrawn.is_empty() {
            return Self::new(&survey, &counts);
        }
        let stays: Vec<bool> = survey.rows.iter().map(|row| withdrawn.binary_search(row).is_err()).collect();
        retain(&mut counts, &stays);
        Self::new(&survey.without(withdrawn, split), &counts)
    }

    /// An error if there are no documents to train on, unless the run holds out all documents.
    pub fn check(&self, resources: &Resources) -> Result<()> {
        if self.train.rows.is_empty() && resources.get::<HoldOutAll>().is_none() {
            return Err(TextProblem::Empty { why: self.why_empty() }.into());
        }
        Ok(())
    }

    /// What has become of all rows, and what to look at.
    fn why_empty(&self) -> String {
        let (skipped, held) = (self.skipped, self.validation.rows.len());
        let reasons: Vec<String> = self.dropped.iter().map(|(reason, rows)| format!("{rows} {reason}")).collect();
        let dropped = match self.dropped.values().sum::<u64>() {
            0 => String::new(),
            rows => format!(", {rows} are dropped by stages ({})", reasons.join(", ")),
        };
        let next = match dropped.is_empty() {
            true => "see `paths` and `column` of the source, and how much is held out",
            false => "see the keys of the stages that drop rows, and how much is held out",
        };
        format!("of its {} rows {held} are held out{dropped} and {skipped} are null or empty; {next}", self.rows)
    }

    /// From token files, without the rows `withdrawn`. If they record the hashes of the texts that their tokens were made from, the index is that of
    /// the texts; otherwise it depends on the token lists alone. Progress is in rows.
    pub fn of_tokens(store: &TokenStore, split: Split, withdrawn: &[u64], progress: Progress) -> Result<Self> {
        let (mut surveyor, mut counts, mut content) = (Surveyor::new(split), Vec::new(), Vec::new());
        let texts = store.texts()?;
        for row in 0..store.rows() {
            store.each([row], |ids| {
                let (hash, bytes) = match texts.as_ref().and_then(|texts| texts.get(row as usize)) {
                    Some((hash, bytes)) => ((*bytes > 0).then_some(*hash), *bytes),
                    None => {
                        content.clear();
                        content.extend(ids.iter().flat_map(|id| id.to_le_bytes()));
                        ((!ids.is_empty()).then(|| content_hash(&content)), 0)
                    }
                };
                counts.extend(hash.map(|_| ids.len() as u32 + 1));
                surveyor.hashed(row, hash, bytes);
            })?;
            if row.is_multiple_of(CHUNK) {
                progress(row, store.rows());
            }
        }
        Self::without(surveyor.finish(), counts, withdrawn, split)
    }

    /// The training documents in the order of `epoch` of a run with `seed`: indices into [`train`](Self::train). Computed
    /// when the first one asks, and shared by all that hold it at the same time.
    pub fn epoch(&self, seed: u64, epoch: u64) -> Arc<Vec<u32>> {
        self.orders.get(&self.train.hashes, seed, epoch)
    }

    /// Mean number of tokens of a training row, including its end-of-text token.
    pub fn mean_tokens(&self) -> f64 {
        self.corpus.train.tokens as f64 / self.corpus.train.rows.max(1) as f64
    }

    /// The path in the cache of the index of documents with this content
    /// ([`SourceRows::content_key`](crate::corpus::source_rows::SourceRows::content_key)), for this tokenizer and
    /// split.
    pub fn file(cache: &Cache, content_key: &str, tokenizer_hash: &str, split: Split) -> PathBuf {
        cache.file("indices", &key(&["index 3", content_key, tokenizer_hash, &split.key()]), "parquet")
    }

    /// Reads the index from the file of a survey with the tokens of each document ([`survey_file`]), without the rows
    /// `withdrawn`; `None` if there is none.
    pub fn load(path: &Path, withdrawn: &[u64], split: Split) -> Result<Option<Self>> {
        let read = survey_file::read(path)?;
        read.map(|(survey, tokens)| Self::without(survey, tokens, withdrawn, split)).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corpus::survey::surveyed;

    #[test]
    fn an_index_is_the_same_when_it_is_read_again() {
        let survey = surveyed(Split::Every(3), &["a", "b", "", "c", "d", "e"]);
        // The last document has no tokens but that which ends it.
        let counts = [2, 3, 4, 5, 1];
        let index = CorpusIndex::new(&survey, &counts).unwrap();
        assert_eq!((&index.train.rows[..], &index.train.tokens[..]), (&[1, 4][..], &[3, 5][..]));
        assert_eq!((&index.validation.rows[..], &index.validation.tokens[..]), (&[0, 3][..], &[2, 4][..]));
        assert_eq!((index.rows, index.skipped), (6, 2));
        assert_eq!((index.corpus.train.tokens, index.corpus.validation.bytes), (8, 2));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index.parquet");
        let load = |withdrawn: &[u64]| CorpusIndex::load(&path, withdrawn, Split::Every(3)).unwrap();
        assert!(load(&[]).is_none());
        survey_file::write(&path, &survey, Some(&counts)).unwrap();
        assert_eq!(load(&[]), Some(index));
        let without = load(&[1, 3]).unwrap();
        assert_eq!((&without.train.rows[..], &without.validation.rows[..]), (&[4][..], &[0][..]));
        assert_eq!((without.rows, without.skipped, without.dropped["withdrawn"]), (6, 2, 2));
    }

    #[test]
    fn nothing_to_learn_from_is_an_error() {
        let index = CorpusIndex::new(&surveyed(Split::Every(1), &["a", ""]), &[2]).unwrap();
        let mut resources = Resources::default();
        let said = index.check(&resources).unwrap_err().to_string();
        assert!(
            said.contains("the corpus is empty") && said.contains("2 rows 1 are held out and 1 are null"),
            "{said}"
        );
        resources.insert(std::sync::Arc::new(HoldOutAll));
        assert!(index.check(&resources).is_ok());
    }
}

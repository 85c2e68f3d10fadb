//! What is known about the documents of a source before training: their files, which of them are for training, and how
//! many tokens they have. A tokenizing stage determines this for all sources upstream of it, because only there is it
//! known how the stages in between change the documents.
use crate::corpus::count::Count;
use crate::corpus::epoch_order::{BY_CONTENT, ORDER};
use crate::corpus::index::CorpusIndex;
use crate::corpus::row_stages::RowStages;
use crate::corpus::scan::{Chunks, Scan};
use crate::corpus::split::Split;
use crate::corpus::survey::Survey;
use crate::corpus::survey_file;
use crate::corpus::withdrawal::{WITHDRAWN, Withdrawn, WithdrawnRows};
use crate::input::attribution::Attribution;
use crate::input::ingest::DocumentFile;
use crate::input::quarantine::{OnBadData, Quarantine};
use crate::parquet::documents::DocumentStore;
use crate::support::cache::Cache;
use anyhow::{Context, Result};
use contract::{Graph, Prepare, Settings, Unit};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Lanes of the counting graph; its result does not depend on them.
const LANES: u32 = 16;

/// What a source of documents provides when it is prepared: its files, not opened yet.
pub struct SourceFiles {
    /// The paths as given in the configuration.
    pub paths: Vec<String>,
    /// Source and licence of the texts.
    pub attributions: Vec<Attribution>,
    /// Document Parquet.
    pub files: Vec<DocumentFile>,
    /// What could not be converted to document Parquet.
    pub quarantine: Quarantine,
    /// Number of documents to use, if there is only one file and not all of it is used.
    pub sample: Option<u64>,
    /// The documents that are withdrawn.
    pub withdrawn: Option<Arc<Withdrawn>>,
    /// The rule for holding out documents.
    pub split: Split,
    /// What to do with rows that cannot be read.
    pub on_bad_data: OnBadData,
    /// Share of the documents that may be unreadable.
    pub max_bad_fraction: f64,
    /// The cache for what is made from the files.
    pub cache: Cache,
}

impl SourceFiles {
    /// Opens the documents. If only some of them are used, `seed` selects them.
    ///
    /// # Errors
    /// If a file cannot be read, or does not have the column.
    pub fn open(&self, seed: u64) -> Result<DocumentStore> {
        let store = DocumentStore::open(&self.files, &self.cache)?;
        let store = store.with_quarantine(self.quarantine.clone(), self.on_bad_data);
        Ok(match self.sample {
            Some(wanted) => store.sample(wanted, seed),
            None => store,
        })
    }
}

/// The documents of a source, as changed by the stages between it and a tokenizer.
pub struct SourceRows {
    /// The source's id in the plan.
    pub id: String,
    /// The opened documents.
    pub store: Arc<DocumentStore>,
    /// The stages that they pass before they are tokenized.
    pub stages: RowStages,
    /// Their parts and sizes, after the stages, without those that are withdrawn.
    pub survey: Survey,
    /// The same of all documents, if some are withdrawn.
    pub all: Option<Survey>,
    /// The rows that are withdrawn.
    pub withdrawn: WithdrawnRows,
    /// Chunks in which they are read to be counted.
    pub chunks: Arc<Chunks>,
    /// The rule for holding out documents.
    pub split: Split,
    /// The cache for what is made from them.
    pub cache: Cache,
    /// Documents that cannot be read.
    pub unreadable: u64,
}

impl SourceRows {
    /// Opens and surveys the documents of every source upstream of the stage that is being prepared. Provides each
    /// source's documents, and reports those that cannot be read.
    ///
    /// # Errors
    /// If a file cannot be read, or more documents are unreadable than the source's settings allow.
    pub fn all(before: &mut Prepare) -> Result<Vec<Self>> {
        let sources = before.found::<SourceFiles>();
        sources.into_iter().map(|(id, ingested)| Self::new(before, id, &ingested)).collect()
    }

    fn new(before: &mut Prepare, id: &str, ingested: &SourceFiles) -> Result<Self> {
        let SourceFiles { split, max_bad_fraction, cache, .. } = ingested;
        let mut store = ingested.open(before.seed())?;
        let mut shown = |done, total| before.progress("Splitting", Unit::Things("documents"), done, total);
        let mut survey = Survey::cached(&store, *split, cache, &mut shown)?;
        let quarantine = store.set_aside(&survey.bad, *max_bad_fraction)?;
        let unreadable = survey.bad.iter().map(|bad| bad.documents).sum();
        let stages = RowStages::between(before, id);
        let chunks = if stages.is_empty() {
            Chunks::of(&survey, &survey)
        } else {
            let mut shown = |done, total| before.progress("Filtering", Unit::Things("documents"), done, total);
            let after = Survey::after(&stages, &store, *split, cache, &mut shown)?;
            let chunks = Chunks::of(&after, &survey);
            survey = after;
            chunks
        };
        let withdrawn = match &ingested.withdrawn {
            None => WithdrawnRows::default(),
            Some(withdrawn) => {
                before.fingerprint(WITHDRAWN, id, &withdrawn.fingerprint());
                before.provide_to(id, Arc::clone(withdrawn));
                let rows = withdrawn.rows(store.files())?;
                WithdrawnRows(rows.into_iter().filter_map(|row| store.row_of_file(row)).collect())
            }
        };
        let mut all = None;
        if !withdrawn.0.is_empty() {
            let survey_of_all = all.insert(survey).clone();
            survey = survey_of_all.without(&withdrawn.0, *split);
        }
        let chunks = Arc::new(chunks);
        let store = Arc::new(store);
        before.provide_to(id, Arc::new(withdrawn.clone()));
        before.provide_to(id, Arc::new(quarantine));
        before.provide_to(id, Arc::clone(&store));
        before.provide_to(id, Arc::new(stages.clone()));
        before.fingerprint("content of documents", id, store.content_hash());
        before.fingerprint(ORDER, id, BY_CONTENT);
        let (id, split, cache) = (id.to_owned(), *split, cache.clone());
        Ok(Self { id, store, stages, survey, all, withdrawn, chunks, split, cache, unreadable })
    }

    /// A key for the documents after the stages, for the cache.
    pub fn content_key(&self) -> String {
        match self.stages.is_empty() {
            true => self.store.content_hash().to_owned(),
            false => crate::support::cache::key(&[self.store.content_hash(), &self.stages.key()]),
        }
    }

    /// Counts the tokens of each document with the stage that is being prepared, whose tokenizer has the hash
    /// `tokenizer`, and provides the source with its index.
    ///
    /// # Errors
    /// If a stage fails, or no training rows are left to train on.
    pub fn count(self, before: &mut Prepare, tokenizer: &str) -> Result<()> {
        let path = CorpusIndex::file(&self.cache, &self.content_key(), tokenizer, self.split);
        let withdrawn = &self.withdrawn.0;
        let index = match CorpusIndex::load(&path, withdrawn, self.split)? {
            Some(index) => index,
            None => {
                let all = self.all.as_ref().unwrap_or(&self.survey);
                let documents = all.rows.len() as u64;
                let this = before.this();
                // The ids contain a space, which ids of a plan cannot.
                let mut stages: Vec<(String, Arc<dyn Settings>)> =
                    vec![("scan rows".into(), Arc::new(Scan::new(Arc::clone(&self.store), Arc::clone(&self.chunks))))];
                stages.extend(self.stages.named());
                stages.push((this.id.clone(), Arc::clone(&this.settings)));
                stages.push(("count tokens".into(), Arc::new(Count)));
                let progress = ("Counting tokens", documents);
                let graph = Graph { stages, lanes: LANES, steps: self.chunks.steps(LANES), progress };
                let counts = Count::counts(&before.run(graph)?);
                survey_file::write(&path, all, Some(&counts))?;
                CorpusIndex::without(all.clone(), counts, withdrawn, self.split)?
            }
        };
        let checked = index.check(before.resources());
        match self.stages.is_empty() {
            true => checked?,
            false => checked.with_context(|| format!("after {}", self.stages.names(" and ")))?,
        }
        match index.skipped.saturating_sub(self.unreadable) {
            0 => {}
            empty => before.note(format!("{empty} empty documents are passed over")),
        }
        note_dropped(before, &index.dropped, index.rows);
        before.corpus(&self.id, index.corpus);
        before.provide_to(&self.id, Arc::new(index));
        Ok(())
    }
}

/// Adds up what stages drop, and notes it.
fn note_dropped(before: &mut Prepare, dropped: &BTreeMap<String, u64>, documents: u64) {
    if dropped.is_empty() {
        return;
    }
    let reasons: Vec<String> = dropped.iter().map(|(reason, n)| format!("{n} {reason}")).collect();
    let all: u64 = dropped.values().sum();
    before.note(format!("{all} of {documents} documents are dropped: {}", reasons.join(", ")));
    before.dropped(dropped);
}

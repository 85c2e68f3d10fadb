//! Before training: documents that can be addressed by row, a tokenizer, and what each row counts.
//!
//! Each part is kept in the cache under the hash of what it was made of. Counting is a graph of its own,
//! `scan → tokenize → count`, on the same engine and the same workers as training.
use super::Usage;
use crate::engine::{Job, execute};
use crate::plan::Plan;
use crate::show::{Line, Unit, Work};
use anyhow::{Context, Result};
use contract::{BatchShape, Calendar, Corpus, Env, Facts, Resources, Settings};
use std::sync::Arc;
use std::time::Instant;
use text::tokenize::Choice;
use text::{CorpusIndex, Count, Counted, DocumentStore, ReadDocuments, ReadTokens, Scan, Survey, Tokenize, Tokenizer};

/// Lanes of the counting graph: its result does not depend on them.
const LANES: u32 = 16;

/// What training needs to know of its data.
pub struct Prepared {
    /// The opened files, the index and the tokenizer, for the stages that read them.
    pub resources: Resources,
    /// Size of the corpus.
    pub corpus: Corpus,
    /// The vocabulary. `length` is left at 0.
    pub facts: Facts,
    /// The `tokenizer.json` text, where the configuration has a tokenizer.
    pub tokenizer_json: Option<String>,
    /// Hashes of what numbers follow from, by name.
    pub hashes: Vec<(&'static str, String)>,
    /// Rows passed over because they are null or empty.
    pub skipped: u64,
}

/// Opens, and if need be makes, everything that `plan` reads.
///
/// # Errors
/// If a file is missing or broken, or the parts do not fit each other.
pub fn prepare(plan: &Plan, workers: usize, line: &mut Line) -> Result<Prepared> {
    let seed = plan.run.seed;
    let tokenize = plan.settings::<Tokenize>().map(|(_, settings)| settings);
    if let Some((_, read)) = plan.settings::<ReadDocuments>() {
        let Some(tokenize) = tokenize else {
            return Err(Usage("documents are read but nothing tokenizes them: add a stage of type `bpe`".into()).into());
        };
        return documents(read, tokenize, seed, workers, line);
    }
    if let Some((_, read)) = plan.settings::<ReadTokens>() {
        return tokens(read, seed, line);
    }
    Err(Usage("nothing is read: add a stage of type `documents` or `tokens`".into()).into())
}

fn documents(
    read: &ReadDocuments,
    tokenize: &Tokenize,
    seed: u64,
    workers: usize,
    line: &mut Line,
) -> Result<Prepared> {
    let cache = read.cache();
    let store = Arc::new(read.open(seed, &mut shown(line, "Reading", Unit::Bytes))?);
    let ours = tokenize.end_of_text.as_str();
    let mut survey = None;
    let tokenizer = match tokenize.choice() {
        Choice::Gpt2 => Tokenizer::gpt2(&cache, ours)?,
        Choice::File(path) => Tokenizer::from_file(&path, ours)?,
        Choice::Train(size) => {
            let surveyed = Survey::of(&store, read.split(), &mut shown(line, "Splitting", Unit::Things("documents")))?;
            let mut shown = shown(line, "Training the tokenizer", Unit::Things("rows and ids"));
            let trained = Tokenizer::train(&store, &surveyed, size as usize, ours, &cache, &mut shown)?;
            survey = Some(surveyed);
            trained
        }
    };
    let tokenizer = Arc::new(tokenizer);
    let key = text::cache::key(&["corpus index 1", store.content_hash(), tokenizer.hash(), &read.split().key()]);
    let path = cache.file("indices", &key, "parquet");
    let index = match CorpusIndex::load(&path)? {
        Some(index) => index,
        None => {
            let survey = match survey {
                Some(survey) => survey,
                None => Survey::of(&store, read.split(), &mut shown(line, "Splitting", Unit::Things("documents")))?,
            };
            let index = CorpusIndex::new(survey, count(&store, tokenize, &tokenizer, workers, line)?)?;
            index.save(&path)?;
            index
        }
    };
    let mut resources = Resources::default();
    let (corpus, skipped) = (index.corpus, index.skipped);
    let facts =
        Facts { vocabulary: tokenizer.vocabulary_size() as usize, length: 0, end_of_text: tokenizer.end_of_text() };
    let hashes = vec![("documents", store.content_hash().to_owned()), ("tokenizer", tokenizer.hash().to_owned())];
    let tokenizer_json = Some(tokenizer.json().to_owned());
    resources.insert(store);
    resources.insert(Arc::new(index));
    resources.insert(tokenizer);
    Ok(Prepared { resources, corpus, facts, tokenizer_json, hashes, skipped })
}

fn tokens(read: &ReadTokens, seed: u64, line: &mut Line) -> Result<Prepared> {
    let cache = read.cache();
    let tokenizer = match read.tokenizer.as_deref() {
        None => None,
        Some("gpt2") => Some(Tokenizer::gpt2(&cache, text::tokenizer::END_OF_TEXT)?),
        Some(path) => Some(Tokenizer::from_file(path.as_ref(), text::tokenizer::END_OF_TEXT)?),
    };
    let store = Arc::new(read.open(seed, tokenizer.as_ref().map(Tokenizer::vocabulary))?);
    let index = CorpusIndex::of_tokens(&store, read.split(), &mut shown(line, "Counting", Unit::Things("documents")))?;
    let mut resources = Resources::default();
    let (corpus, skipped) = (index.corpus, index.skipped);
    let vocabulary = store.vocabulary().clone();
    let facts = Facts { vocabulary: vocabulary.size as usize, length: 0, end_of_text: vocabulary.end_of_text };
    let hashes = vec![("tokens", store.content_hash().to_owned()), ("tokenizer", vocabulary.hash.clone())];
    resources.insert(store);
    resources.insert(Arc::new(index));
    let tokenizer_json = tokenizer.map(|tokenizer| tokenizer.json().to_owned());
    Ok(Prepared { resources, corpus, facts, tokenizer_json, hashes, skipped })
}

/// Tokens of every row, by a graph over all workers.
fn count(
    store: &Arc<DocumentStore>,
    tokenize: &Tokenize,
    tokenizer: &Arc<Tokenizer>,
    workers: usize,
    line: &mut Line,
) -> Result<Vec<u32>> {
    line.note(&format!("Counting the tokens of {} documents", store.rows()));
    let counted = Arc::new(Counted::default());
    let mut resources = Resources::default();
    resources.insert(Arc::clone(store));
    resources.insert(Arc::clone(tokenizer));
    resources.insert(Arc::clone(&counted));
    let stages: Vec<(String, Box<dyn Settings>)> = vec![
        ("scan".into(), Box::new(Scan {})),
        ("tokenize".into(), Box::new(tokenize.clone())),
        ("count".into(), Box::new(Count {})),
    ];
    let plan = Plan::of(stages).map_err(anyhow::Error::new)?;
    let steps = Scan::steps(store.rows(), LANES);
    let env = Env {
        worker: 0,
        workers,
        seed: 0,
        calendar: Calendar { first: 0, steps, evaluate: None, checkpoint: None },
        shape: BatchShape { micro_batches: LANES, sequences: 0, length: 0 },
        model: None,
        corpus: None,
        run_dir: None,
        resources,
    };
    execute(Job { stages: plan.stages, env, saved: Vec::new(), endless: false, prefetch: 2 })?;
    counted.take().context("counting gave no result")
}

fn shown<'a>(line: &'a mut Line, verb: &'a str, unit: Unit) -> impl FnMut(u64, u64) + 'a {
    let began = Instant::now();
    move |done, total| line.work(&Work { verb: verb.into(), done, total, unit, spent: began.elapsed() })
}

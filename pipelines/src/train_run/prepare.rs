//! Before training: documents that can be addressed by row, a tokenizer, and what each row counts.
//!
//! Each part is kept in the cache under the hash of what it was made of. Counting is a graph of its own,
//! `scan → tokenize → count`, on the same engine and the same workers as training.
use crate::engine::{Job, execute};
use crate::plan::Plan;
use crate::problem::Usage;
use crate::show::{Line, Unit, Work};
use anyhow::{Context, Result};
use contract::{BatchShape, Corpus, Env, Facts, Resources, Schedule, Settings};
use std::sync::{Arc, Mutex};
use std::time::Instant;
use text::{
    Attribution, CorpusIndex, Count, Counted, DocumentStore, Quarantine, ReadDocuments, ReadTokens, Scan, Survey,
    Tokenize, Tokenizer, attributions,
};

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
    /// Whose text it is.
    pub sources: Vec<Attribution>,
    /// What could not be read.
    pub quarantine: Quarantine,
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
    let mut store = read.open(seed, &mut shown(line, "Reading", Unit::Bytes))?;
    let survey =
        Survey::cached(&store, read.split(), &cache, &mut shown(line, "Splitting", Unit::Things("documents")))?;
    let quarantine = read.quarantine(&mut store, &survey)?;
    let bad_rows: u64 = survey.bad.iter().map(|bad| bad.documents).sum();
    let store = Arc::new(store);
    let tokenizer = {
        let mut shown = shown(line, "Training the tokenizer", Unit::Things("rows and ids"));
        Arc::new(tokenize.open(&store, &survey, &cache, &mut shown)?)
    };
    let path = CorpusIndex::file(&cache, store.content_hash(), tokenizer.hash(), read.split());
    let index = match CorpusIndex::load(&path)? {
        Some(index) => index,
        None => {
            let index = CorpusIndex::new(survey, count(&store, tokenize, &tokenizer, workers, line)?)?;
            index.save(&path)?;
            index
        }
    };
    let mut resources = Resources::default();
    let (corpus, skipped) = (index.corpus, index.skipped.saturating_sub(bad_rows));
    let facts =
        Facts { vocabulary: tokenizer.vocabulary_size() as usize, length: 0, end_of_text: tokenizer.end_of_text() };
    let hashes = vec![("documents", store.content_hash().to_owned()), ("tokenizer", tokenizer.hash().to_owned())];
    let tokenizer_json = Some(tokenizer.json().to_owned());
    resources.insert(store);
    resources.insert(Arc::new(index));
    resources.insert(tokenizer);
    let sources = attributions(&text::resolve(&read.paths, read.sample, seed)?);
    Ok(Prepared { resources, corpus, facts, tokenizer_json, hashes, skipped, sources, quarantine })
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
    let sources = attributions(&text::resolve(&read.paths, read.sample, seed)?);
    Ok(Prepared {
        resources,
        corpus,
        facts,
        tokenizer_json,
        hashes,
        skipped,
        sources,
        quarantine: Quarantine::default(),
    })
}

/// Tokens of every row, by a graph over all workers.
fn count(
    store: &Arc<DocumentStore>,
    tokenize: &Tokenize,
    tokenizer: &Arc<Tokenizer>,
    workers: usize,
    line: &mut Line,
) -> Result<Vec<u32>> {
    // The line goes into the graph, which may not borrow it, and comes back.
    let lent = Arc::new(Mutex::new(std::mem::take(line)));
    let (watching, total, began) = (Arc::clone(&lent), store.rows(), Instant::now());
    let counted = Arc::new(Counted::watched(move |done| {
        let (unit, spent) = (Unit::Things("documents"), began.elapsed());
        let mut line = watching.lock().unwrap_or_else(|e| e.into_inner());
        line.work(&Work { verb: "Counting tokens".into(), done, total, unit, spent });
    }));
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
        schedule: Schedule { first: 0, steps, evaluate: None, checkpoint: None },
        shape: BatchShape { micro_batches: LANES, sequences: 0, length: 0 },
        model: None,
        corpus: None,
        run_dir: None,
        resources,
    };
    let done = execute(Job { stages: plan.stages, env, saved: Vec::new(), endless: false, prefetch: 2 });
    *line = std::mem::take(&mut *lent.lock().unwrap_or_else(|e| e.into_inner()));
    done?;
    counted.take().context("counting gave no result")
}

fn shown<'a>(line: &'a mut Line, verb: &'a str, unit: Unit) -> impl FnMut(u64, u64) + 'a {
    let began = Instant::now();
    move |done, total| line.work(&Work { verb: verb.into(), done, total, unit, spent: began.elapsed() })
}

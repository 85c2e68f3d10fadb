//! A run whose graph ends in `parquet`: documents become a version of a corpus.
//!
//! 1. [`mod@graph`]: the plan falls into what is done to every row, and what is done to those that are kept
//! 2. [`version`]: the output folder and the version that is there already
//! 3. `scan_rows → … → digest`: new rows are worked on, the others are found in the last version's catalog
//! 4. [`decide`]: who is kept ([`deduplicate`])
//! 5. [`layout`]: which row goes to which shard; shards that would come out the same are linked
//! 6. `kept → tokenize → parquet`: the others are written
//! 7. [`stats`]: what is worth knowing; then the version appears
//!
//! Whatever is found in the last version is found by content, so that the result is that of a run from nothing.
mod decide;
mod deduplicate;
mod graph;
mod layout;
pub(crate) mod stats;
pub(crate) mod version;

use crate::engine::{Job, execute};
use crate::plan::Plan;
use crate::prepare_stages::{prepare, without_training};
use crate::problem::Usage;
use crate::show::{Line, Unit, Work as Doing};
use anyhow::{Context, Result};
use contract::{Resources, Settings};
use graph::Preparation;
use layout::{Layout, Verdicts};
use serde::Serialize;
use stats::Stats;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use text::input::ingest::DocumentFile;
use text::prepare::catalog::Catalog;
use text::prepare::scan_rows::{Hash, Known, RowStore, ScanRows};
use text::prepare::signatures::Found;
use text::prepare::write::{KeptRow, Shard, Work};
use text::{Cache, DocumentStore, Quarantine, SignatureResults, Signatures, TokenStore, Tokenizer};
use version::{Draft, Folder, Previous};

/// Lanes of the first graph, a worker: its result does not depend on them.
const LANES: u32 = 4;

/// The version that `path` is, or the last one of the folder that it is.
///
/// # Errors
/// [`Usage`] if there is none.
pub fn find_version(path: &Path) -> Result<PathBuf> {
    if path.join(version::MANIFEST).is_file() {
        return Ok(path.to_path_buf());
    }
    let last = if path.is_dir() { version::versions(path)?.pop() } else { None };
    let at = path.display();
    let missing = || Usage(format!("{at} holds no version of a corpus: `pipeline run` of a preparation makes one"));
    Ok(last.ok_or_else(missing)?.1)
}

/// A version that was made.
#[derive(Debug, Serialize)]
pub struct Prepared {
    /// Its folder.
    version: PathBuf,
    #[serde(flatten)]
    stats: Stats,
}

/// Prepares what `plan` says into the next version of `folder`.
///
/// # Errors
/// [`Usage`], or the first failure of any stage. The versions that are there stay as they are.
pub fn run(plan: &Plan, folder: &Path, workers: usize, line: &mut Line) -> Result<Prepared> {
    let began = Instant::now();
    let folder = Folder::open(folder)?;
    let previous = folder.last(&mut |note| line.note(&format!("note: {note}")))?;
    let mut draft = folder.draft()?;
    let prepared = prepare(plan, workers, line)?;
    let prepared = Preparation::of(plan, &prepared.resources)?;
    let (cache, files) = (&prepared.read.cache, &prepared.read.files);

    let previous = previous.filter(|previous| previous.manifest.shards == prepared.write.shards);
    let store = Arc::new(RowStore::open(files, prepared.read.on_bad_data)?);
    let (catalog, mut found) = digest(&prepared, &store, previous.as_ref(), &draft, workers, line)?;
    let quarantine = set_aside(&prepared, &store, &catalog, draft.path(), line)?;
    let places = Places::of(&catalog, &mut found, previous.as_ref(), cache)?;
    let verdicts = decide::decide(&prepared, &catalog, previous.as_ref(), &places, workers, line)?;
    let layout = Layout::of(&catalog, &verdicts, prepared.write.shards, prepared.write.keep_dropped);

    let (footer, tokenizer) = (prepared.footer(), prepared.tokenizer.as_deref());
    let keys = layout.keys(&catalog, &verdicts, &footer, &prepared);
    let (same, changed): (Vec<u32>, Vec<u32>) = (0..prepared.write.shards).partition(|shard| {
        previous.as_ref().is_some_and(|last| last.manifest.shard_keys.get(shard) == keys.get(shard))
    });
    if let Some(last) = &previous {
        draft.link(last, &same)?;
    }
    let catalog = Arc::new(catalog);
    let shards = shards(&catalog, &layout, &verdicts, &changed, previous.as_ref(), tokenizer);
    let kept: u64 = shards.iter().map(|shard| shard.kept.len() as u64).sum();
    let work = Arc::new(Work {
        folder: draft.path().to_path_buf(),
        shards,
        catalog: (*catalog).clone(),
        texts: Arc::clone(&places.texts),
        text_rows: places.rows.clone(),
        tokens: last_tokens(previous.as_ref(), tokenizer, cache)?,
        footer,
        sequence_length: prepared.write.sequence_length,
        split: prepared.read.split,
        watch: Mutex::new(Box::new(|_| {})),
        written: Mutex::default(),
    });
    write(&prepared, &work, kept, workers, line)?;
    let written = std::mem::take(&mut *work.written.lock().unwrap_or_else(PoisonError::into_inner));
    let counts = layout.counts(&written, previous.as_ref().map(|last| (&last.layout, &last.tokens[..])), &same);
    let files = written.into_values().flat_map(|shard| shard.files).collect();
    let stats = stats::stats(&catalog, &verdicts, &counts, &work, quarantine.counts());
    draft.finish(&prepared, &catalog, &verdicts, &counts, keys, files, &stats, tokenizer)?;
    let done = folder.appear(draft)?;
    line.finish();
    line.note(&stats::summary(
        &done,
        &stats,
        previous.as_ref().map(|last| last.number),
        (same.len(), changed.len()),
        began.elapsed(),
    ));
    Ok(Prepared { version: done, stats })
}

fn shown(line: &mut Line, verb: &str, done: u64, total: u64, unit: Unit, began: Instant) {
    line.work(&Doing { verb: verb.into(), done, total, unit, spent: began.elapsed() });
}

/// Runs `stages` on all workers.
fn graph(
    stages: Vec<(String, Arc<dyn Settings>)>,
    resources: Resources,
    lanes: u32,
    steps: u64,
    workers: usize,
) -> Result<()> {
    let plan = Plan::of(stages).map_err(anyhow::Error::new)?;
    let env = without_training(workers, lanes, steps, resources);
    execute(Job { stages: plan.stages, env, saved: Vec::new(), endless: false, prefetch: 2 }).map(drop)
}

/// Lends `line` to a graph, which may not borrow it: `work` gets something to call with what is done.
fn lent<T>(
    line: &mut Line,
    verb: &'static str,
    total: u64,
    work: impl FnOnce(Box<dyn FnMut(u64) + Send>) -> Result<T>,
) -> Result<T> {
    let lent = Arc::new(Mutex::new(std::mem::take(line)));
    let (watching, began) = (Arc::clone(&lent), Instant::now());
    let done = work(Box::new(move |done| {
        let mut line = watching.lock().unwrap_or_else(PoisonError::into_inner);
        shown(&mut line, verb, done, total, Unit::Things("documents"), began);
    }));
    *line = std::mem::take(&mut *lent.lock().unwrap_or_else(PoisonError::into_inner));
    done
}

/// The catalog of all rows: new ones pass through the first graph, the others are in the last version's.
fn digest(
    prepared: &Preparation,
    store: &Arc<RowStore>,
    previous: Option<&Previous>,
    draft: &Draft,
    workers: usize,
    line: &mut Line,
) -> Result<(Catalog, Found)> {
    let previous = previous.filter(|previous| previous.manifest.chain == prepared.chain);
    let known = Arc::new(Known::new(previous.map(Previous::known).unwrap_or_default()));
    let lanes = LANES * workers.max(1) as u32;
    let (rows, steps) = (store.rows(), ScanRows::steps(store, lanes));
    let mut found = lent(line, "Reading", rows, |watch| {
        let write = &prepared.write;
        let deduplicate = prepared.deduplicate.as_deref().cloned();
        let signatures = SignatureResults::new(draft.aside(), write.shards, write.keep_dropped, deduplicate, watch);
        let signatures = Arc::new(signatures);
        let mut resources = Resources::default();
        resources.insert(Arc::clone(store));
        resources.insert(Arc::clone(&known));
        resources.insert(Arc::clone(&signatures));
        let mut stages: Vec<(String, Arc<dyn Settings>)> = vec![("scan".into(), Arc::new(ScanRows {}))];
        stages.extend(prepared.above.iter().cloned());
        stages.push(("signatures".into(), Arc::new(Signatures {})));
        graph(stages, resources, lanes, steps, workers)?;
        Ok(signatures.take())
    })?;
    let mut pieces = found.pieces();
    for met in known.met() {
        let last = previous.context("a row is known without a last version")?;
        pieces.push(Catalog::again(&last.catalog, &met)?);
    }
    let catalog = Catalog::of(&pieces)?;
    let (left, bad) = (catalog.len() as u64, store.bad().iter().map(|bad| bad.documents).sum::<u64>());
    anyhow::ensure!(left + bad == rows, "a stage has lost rows: {left} of {} are left", rows - bad);
    Ok((catalog, found))
}

/// What could not be read, in being converted and of Parquet: said, written, and not more than is allowed.
fn set_aside(
    prepared: &Preparation,
    store: &RowStore,
    catalog: &Catalog,
    folder: &Path,
    line: &mut Line,
) -> Result<Quarantine> {
    let mut quarantine = prepared.read.quarantine.clone();
    quarantine.hold(store.bad(), prepared.read.files.iter().map(|file| file.path.clone()).collect());
    let bad = quarantine.counts().documents();
    let quarantine = quarantine.among(catalog.len() as u64 + bad);
    quarantine.check(prepared.read.max_bad_fraction)?;
    if catalog.is_empty() {
        return Err(text::TextProblem::Empty { why: "its files have no rows".into() }.into());
    }
    if !quarantine.is_empty() {
        line.note(&format!("note: {} (see {})", quarantine.summary(), text::input::quarantine::FILE));
        quarantine.write(folder)?;
    }
    Ok(quarantine)
}

/// Where texts are: put aside by this run, or in the last version's files.
pub struct Places {
    /// All of them.
    pub texts: Arc<DocumentStore>,
    /// By row of the catalog; `u64::MAX` where there is no text, and need not be.
    pub rows: Vec<u64>,
    /// Of texts of the last version.
    pub old: HashMap<Hash, u64>,
}

impl Places {
    fn of(catalog: &Catalog, found: &mut Found, previous: Option<&Previous>, cache: &Cache) -> Result<Self> {
        let mut files = Vec::new();
        let mut push = |path: &Path| {
            files.push(DocumentFile { path: path.into(), column: "text".into(), hash: Some(String::new()) });
        };
        let mut counts = vec![0_u64; found.files.len()];
        found.texts.values().for_each(|(file, _)| counts[*file] += 1);
        found.files.iter().for_each(|path| push(path));
        let mut first = counts.iter().scan(0, |sum, count| {
            *sum += count;
            Some(*sum - count)
        });
        let starts: Vec<u64> = first.by_ref().collect();
        let mut next: u64 = counts.iter().sum();
        let mut old = HashMap::new();
        if let Some(previous) = previous {
            for (kind, shards) in [("documents", &previous.layout.kept), ("dropped", &previous.layout.dropped)] {
                for (shard, rows) in (0..).zip(shards).filter(|(_, rows)| !rows.is_empty()) {
                    push(&previous.file(kind, shard));
                    for row in rows {
                        old.entry(previous.catalog.content(*row as usize)).or_insert(next);
                        next += 1;
                    }
                }
            }
        }
        let rows = (0..catalog.len()).map(|row| match found.texts.get(&catalog.input_row(row)) {
            Some((file, at)) => starts[*file] + at,
            None => old.get(&catalog.content(row)).copied().unwrap_or(u64::MAX),
        });
        let rows = rows.collect();
        Ok(Self { texts: Arc::new(DocumentStore::open(&files, cache)?), rows, old })
    }
}

fn last_tokens(
    previous: Option<&Previous>,
    tokenizer: Option<&Tokenizer>,
    cache: &Cache,
) -> Result<Option<TokenStore>> {
    let (Some(previous), Some(tokenizer)) = (previous, tokenizer) else { return Ok(None) };
    if !previous.has_tokens_of(tokenizer) {
        return Ok(None);
    }
    let shards = (0..).zip(&previous.layout.kept).filter(|(_, rows)| !rows.is_empty());
    let paths: Vec<_> = shards.map(|(shard, _)| previous.file("documents", shard)).collect();
    if paths.is_empty() {
        return Ok(None);
    }
    TokenStore::open(&paths, Some(tokenizer.vocabulary()), cache).map(Some)
}

/// What there is to write: the `changed` shards, with tokens where the last version has them.
fn shards(
    catalog: &Catalog,
    layout: &Layout,
    verdicts: &Verdicts,
    changed: &[u32],
    previous: Option<&Previous>,
    tokenizer: Option<&Tokenizer>,
) -> Vec<Shard> {
    let mut tokens: HashMap<Hash, u64> = HashMap::new();
    if let (Some(previous), Some(tokenizer)) = (previous, tokenizer)
        && previous.has_tokens_of(tokenizer)
    {
        let rows = previous.layout.kept.iter().flatten();
        tokens.extend(rows.zip(0..).map(|(row, at)| (previous.catalog.content(*row as usize), at)));
    }
    let shard = |number: &u32| {
        let kept = layout.kept[*number as usize].iter();
        let kept = kept.map(|row| KeptRow { row: *row, tokens: tokens.get(&catalog.content(*row as usize)).copied() });
        let dropped = layout.dropped[*number as usize].iter();
        let dropped = dropped.map(|row| (*row, verdicts.reason(catalog, *row as usize).into_owned()));
        Shard { number: *number, kept: kept.collect(), dropped: dropped.collect() }
    };
    let all = changed.iter().map(shard);
    all.filter(|shard| !shard.kept.is_empty() || !shard.dropped.is_empty()).collect()
}

/// The second graph.
fn write(prepared: &Preparation, work: &Arc<Work>, total: u64, workers: usize, line: &mut Line) -> Result<()> {
    if work.shards.is_empty() {
        return Ok(());
    }
    lent(line, "Writing", total, |watch| {
        *work.watch.lock().unwrap_or_else(PoisonError::into_inner) = watch;
        let mut resources = Resources::default();
        resources.insert(Arc::clone(work));
        let mut stages: Vec<(String, Arc<dyn Settings>)> =
            vec![("unwritten_rows".into(), Arc::new(text::prepare::write::UnwrittenRows {}))];
        if let (Some((id, tokenize)), Some(tokenizer)) = (&prepared.tokenize, &prepared.tokenizer) {
            resources.provide(id, Arc::clone(tokenizer));
            stages.push((id.clone(), Arc::clone(tokenize)));
        }
        stages.push(prepared.writer.clone());
        // A lane a worker: one shard at a time is in memory there.
        let lanes = workers.max(1) as u32;
        graph(stages, resources, lanes, (work.shards.len() as u64).div_ceil(u64::from(lanes)), workers)
    })
}

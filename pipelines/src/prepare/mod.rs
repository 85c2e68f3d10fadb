//! Runs a graph that ends in `parquet`: turns documents into a version of a corpus.
//!
//! 1. [`mod@graph`]: splits the plan into what is done to every row and what is done to those that are kept
//! 2. [`version`]: the output folder; [`previous`]: its previous version ([`tables`]: the files next to the shards)
//! 3. [`mod@scan`]: `scan_rows → … → signatures` processes new rows; the others are taken from the previous version's
//!    catalog
//! 4. [`decide`]: decides which rows are kept ([`deduplicate`])
//! 5. [`layout`]: assigns rows to shards; unchanged shards are hard-linked
//! 6. `kept → tokenize → parquet`: writes the changed shards
//! 7. [`stats`]: computes statistics; with a [`card`], the version is a dataset; then it is published
//!
//! [`mod@explain`] draws both graphs.
//!
//! Results of the previous version are looked up by content, so the result equals that of a run from scratch.
mod card;
mod decide;
mod deduplicate;
pub mod explain;
mod graph;
mod layout;
pub(crate) mod previous;
mod scan;
pub(crate) mod stats;
mod tables;
pub(crate) mod version;

use crate::engine::gather;
use crate::plan::Plan;
use crate::prepare_stages::prepare;
use crate::problem::Usage;
use crate::show::{Line, Unit, Work as Doing};
use anyhow::Result;
use contract::{Env, Resources};
use graph::Preparation;
use layout::{Layout, Verdict, Verdicts};
use previous::Previous;
use scan::{Scanned, scan, set_aside};
use serde::Serialize;
use stats::Stats;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use text::input::ingest::DocumentFile;
use text::prepare::catalog::{Catalog, Hash};
use text::prepare::scan_rows::RowStore;
use text::prepare::text_files::TextFiles;
use text::prepare::write::{Pieces, RepeatedIds, RowToWrite, Shard, ShardWritten, Work};
use text::{Cache, DocumentStore, TextProblem, TokenStore, Tokenizer};
use version::Folder;

/// The version at `path`, or the last version in the folder `path`.
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

/// A version that was written.
#[derive(Debug, Serialize)]
pub struct Prepared {
    /// Its folder.
    version: PathBuf,
    #[serde(flatten)]
    stats: Stats,
}

/// Prepares the next version of `folder` according to `plan`.
///
/// # Errors
/// [`Usage`], or the first failure of any stage. Existing versions are not changed.
pub fn run(plan: &Plan, folder: &Path, workers: usize, line: &mut Line) -> Result<Prepared> {
    let began = Instant::now();
    let folder = Folder::open(folder)?;
    let previous = folder.last(&mut |note| line.note(&format!("note: {note}")))?;
    let mut draft = folder.draft()?;
    let prepared = prepare(plan, Resources::default(), workers, line)?;
    let prepared = Preparation::of(plan, &prepared.resources)?;
    let cache = &prepared.cache();

    let previous = previous.filter(|previous| previous.manifest.shards == prepared.write.shards);
    let store = Arc::new(RowStore::open(prepared.row_sources())?);
    let aside = TextFiles {
        folder: draft.aside().to_path_buf(),
        shards: prepared.write.shards,
        keep_dropped: prepared.write.keep_dropped,
    };
    let Scanned { catalog, texts, dropped, unreadable } =
        scan(&prepared, &store, previous.as_ref(), &aside, workers, line)?;
    let unreadable = set_aside(&prepared, &unreadable, &store, draft.path(), line)?;
    let places = RunPaths::of(&catalog, (&aside, &texts), previous.as_ref(), cache)?;
    let first = first_verdicts(&catalog, &store, &prepared, line)?;
    // The row groups that it has decoded are not needed any more.
    drop(store);
    let verdicts = decide::decide(&prepared, &catalog, first, previous.as_ref(), &places, workers, line)?;
    let name = |row: usize| verdicts.rows[row].name();
    let layout = Layout::new(&catalog, name, prepared.write.shards, prepared.write.keep_dropped);

    let (footer, tokenizer) = (prepared.footer(), prepared.tokenizer.as_deref());
    let keys = layout.keys(&catalog, &verdicts, &footer);
    let (same, changed): (Vec<u32>, Vec<u32>) = (0..prepared.write.shards).partition(|shard| {
        previous.as_ref().is_some_and(|last| last.manifest.shard_keys.get(shard) == keys.get(shard))
    });
    if let Some(last) = &previous {
        draft.link(last, &same)?;
    }
    let shards = shards(&catalog, &layout, &verdicts, &changed, previous.as_ref(), tokenizer);
    let kept: u64 = shards.iter().map(|shard| shard.kept.len() as u64).sum();
    let work = Arc::new(Work {
        folder: draft.path().to_path_buf(),
        // One lane per worker: each writes one shard at a time.
        pieces: Pieces::of(&shards, |row| catalog.bytes(row as usize), workers.max(1) as u32),
        shards,
        catalog: catalog.clone(),
        texts: Arc::clone(&places.texts),
        text_rows: places.rows.clone(),
        tokens: last_tokens(previous.as_ref(), tokenizer, cache)?,
        footer,
        sequence_length: prepared.write.sequence_length,
    });
    let written = write(&prepared, &work, kept, workers, line)?;
    let counts = layout.counts(&written, previous.as_ref().map(|last| (&last.layout, &last.tokens[..])), &same);
    let files = written.into_values().flat_map(|shard| shard.files).collect();
    let stats = stats::stats(&catalog, &dropped, &verdicts, &counts, &work, &unreadable);
    draft.finish(&prepared, (&catalog, &dropped), &verdicts, &counts, keys, files, &stats, tokenizer)?;
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

/// The environment of the stages of a graph.
fn environment(prepared: &Preparation, workers: usize, lanes: u32, steps: u64) -> Env {
    Env::without_training(workers, lanes, steps, prepared.resources.clone())
}

/// The verdicts before duplicates are looked for. Warns of documents with the id of an earlier one but another text, or
/// fails because of them.
fn first_verdicts(
    catalog: &Catalog,
    store: &RowStore,
    prepared: &Preparation,
    line: &mut Line,
) -> Result<Vec<Verdict>> {
    let policy = prepared.write.repeated_ids.unwrap_or_default();
    let (verdicts, repeated) = layout::first_verdicts(catalog, policy);
    let Some(layout::Repeated { documents, example: (second, first) }) = repeated else { return Ok(verdicts) };
    let place = |row: usize| match store.position(catalog.input_row(row)) {
        Some((file, row)) => format!("row {row} of {file}"),
        None => format!("row {row}"),
    };
    let (id, first, second) = (catalog.id(second), place(first), place(second));
    let have = if documents == 1 { "1 document has".to_owned() } else { format!("{documents} documents have") };
    let summary =
        format!("{have} the id of an earlier one but another text, for example `{id}` in {first} and in {second}");
    let key = format!("{}.repeated_ids", prepared.write_id);
    match policy {
        RepeatedIds::Error => return Err(TextProblem::RepeatedIds { summary, key }.into()),
        RepeatedIds::Drop => {
            line.note(&format!("warning: {summary}; the first of each id is kept (`{key} = \"keep\"` keeps all)"));
        }
        RepeatedIds::Keep => line.note(&format!("note: {summary}; all are kept (`{key}`)")),
    }
    Ok(verdicts)
}

/// Location of texts: stored by this run, or in the files of the previous version.
pub struct RunPaths {
    /// All texts.
    pub texts: Arc<DocumentStore>,
    /// By row of the catalog; `u64::MAX` if its text is neither stored nor needed.
    pub rows: Vec<u64>,
    /// Texts of the previous version.
    pub old: HashMap<Hash, u64>,
}

impl RunPaths {
    /// The texts of the rows of `catalog`; `aside`: this run's temporary files, and the location of each row in them.
    fn of(
        catalog: &Catalog,
        (files_aside, texts): (&TextFiles, &HashMap<u64, (u32, u64)>),
        previous: Option<&Previous>,
        cache: &Cache,
    ) -> Result<Self> {
        let mut files = Vec::new();
        let mut push = |path: &Path| {
            files.push(DocumentFile { hash: Some(String::new()), ..DocumentFile::new(path, "text") });
        };
        let mut counts: BTreeMap<u32, u64> = BTreeMap::new();
        texts.values().for_each(|(file, _)| *counts.entry(*file).or_default() += 1);
        let (mut starts, mut next) = (HashMap::new(), 0);
        for (file, count) in counts {
            push(&files_aside.path(file));
            starts.insert(file, next);
            next += count;
        }
        let mut old = HashMap::new();
        if let Some(previous) = previous {
            let documents = previous.layout.document_files();
            let documents = documents.map(|(part, shard, rows)| (previous.documents(part, shard), rows));
            let dropped = (0..).zip(&previous.layout.dropped).filter(|(_, rows)| !rows.is_empty());
            let dropped = dropped.map(|(shard, rows)| (previous.file("dropped", shard), &rows[..]));
            for (path, rows) in documents.chain(dropped) {
                push(&path);
                for row in rows {
                    old.entry(previous.catalog.content(*row as usize)).or_insert(next);
                    next += 1;
                }
            }
        }
        let rows = (0..catalog.len()).map(|row| match texts.get(&catalog.input_row(row)) {
            Some((file, at)) => starts[file] + at,
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
    let paths: Vec<_> =
        previous.layout.document_files().map(|(part, shard, _)| previous.documents(part, shard)).collect();
    if paths.is_empty() {
        return Ok(None);
    }
    TokenStore::open(&paths, Some(tokenizer.vocabulary()), cache).map(Some)
}

/// What has to be written: the `changed` shards, with tokens that the previous version has.
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
        let kept =
            kept.map(|row| RowToWrite { row: *row, tokens: tokens.get(&catalog.content(*row as usize)).copied() });
        let dropped = layout.dropped[*number as usize].iter();
        let dropped = dropped.map(|row| (*row, verdicts.reason(catalog, *row as usize).into_owned()));
        Shard { number: *number, kept: kept.collect(), dropped: dropped.collect() }
    };
    let all = changed.iter().map(shard);
    all.filter(|shard| !shard.kept.is_empty() || !shard.dropped.is_empty()).collect()
}

/// Runs the second graph, which writes the shards of `work`, with `total` documents. Returns what was written, by
/// number.
fn write(
    prepared: &Preparation,
    work: &Arc<Work>,
    total: u64,
    workers: usize,
    line: &mut Line,
) -> Result<BTreeMap<u32, ShardWritten>> {
    if work.shards.is_empty() {
        return Ok(BTreeMap::new());
    }
    let mut env = environment(prepared, workers, workers.max(1) as u32, work.pieces.steps());
    env.resources.insert(Arc::clone(work));
    let (began, mut done) = (Instant::now(), 0);
    let records = gather(prepared.graphs.shards.clone(), env, &mut |records| {
        done += records.iter().map(ShardWritten::documents).sum::<u64>();
        shown(line, "Writing", done, total, Unit::Things("documents"), began);
        Ok(records)
    })?;
    ShardWritten::of_records(&records)
}

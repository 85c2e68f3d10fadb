//! The first graph: what is known of every row of the input.
use super::graph::Preparation;
use super::previous::Previous;
use super::{environment, shown};
use crate::engine::gather_wired;
use crate::show::{Line, Unit};
use anyhow::{Context, Result, ensure};
use arrow::array::RecordBatch;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use text::input::quarantine;
use text::input::quarantine_file::of_records;
use text::prepare::catalog::{self, Catalog};
use text::prepare::dropped_lines::{DroppedLines, DroppedLinesWriter};
use text::prepare::scan_rows::{Known, RowStore, ScanRows};
use text::prepare::text_files::TextFiles;
use text::{Quarantine, TextProblem};

/// Lanes of the first graph per worker; its result does not depend on them.
const LANES: u32 = 4;

/// The result of the first graph.
pub struct Scanned {
    /// All rows that can be read, except for those in `dropped`.
    pub catalog: Catalog,
    /// Location of their stored texts, by input row: file and row.
    pub texts: HashMap<u64, (u32, u64)>,
    /// Rows that are dropped and whose texts are not stored.
    pub dropped: DroppedLines,
    /// The file with what cannot be read, in input order.
    pub unreadable: PathBuf,
}

/// Runs the first graph: new rows pass through the stages, the others are taken from the previous version's catalog.
///
/// # Errors
/// The first failure of any stage.
pub fn scan(
    prepared: &Preparation,
    store: &Arc<RowStore>,
    previous: Option<&Previous>,
    aside: &TextFiles,
    workers: usize,
    line: &mut Line,
) -> Result<Scanned> {
    let previous = previous.filter(|previous| previous.manifest.chain == prepared.chain);
    let known = previous.map_or_else(Known::default, |last| Known::new(last.catalog.clone(), last.known()));
    let lanes = LANES * workers.max(1) as u32;
    let mut env = environment(prepared, workers, lanes, ScanRows::steps(store, lanes));
    env.resources.insert(Arc::clone(store));
    env.resources.insert(Arc::new(known));
    env.resources.insert(Arc::new(aside.clone()));
    let (began, rows, mut done, mut lost) = (Instant::now(), store.rows(), 0, 0);
    let (keep_dropped, origins) = (aside.keep_dropped, Arc::new(store.origins().clone()));
    let file = aside.folder.join("dropped-lines.parquet");
    let mut dropped = DroppedLinesWriter::create(&file, keep_dropped, Arc::clone(&origins))?;
    let (unreadable, mut lines) = (aside.folder.join("unreadable.parquet"), Vec::new());
    quarantine::write(&unreadable, |push| {
        lines = gather_wired(prepared.graphs.rows.clone(), env, &mut |records| {
            let (lines, rest): (Vec<RecordBatch>, Vec<RecordBatch>) = records.into_iter().partition(catalog::has_lines);
            for bad in rest.iter().map(of_records).collect::<Result<Vec<_>>>()?.into_iter().flatten() {
                lost += bad.documents;
                push(bad)?;
            }
            done += lines.iter().map(|lines| lines.num_rows() as u64).sum::<u64>();
            shown(line, "Reading", done, rows, Unit::Things("documents"), began);
            let kept = dropped.separate(&lines)?;
            Ok((kept.num_rows() > 0).then_some(kept).into_iter().collect())
        })?;
        Ok(())
    })?;
    let there = rows - lost - store.passed_over();
    ensure!(done == there, "a stage has lost rows: {done} of {there} are left");
    if store.passed_over() > 0 {
        line.note(&format!("note: {} documents are withdrawn (`withdraw`)", store.passed_over()));
    }
    let (texts, catalog) = (catalog::texts(&lines), Catalog::of(&lines, origins)?);
    Ok(Scanned { catalog, texts, dropped: dropped.finish()?, unreadable })
}

/// Reports and writes what could not be read of the input, and fails if it exceeds the limit of a source. Returns what
/// could not be read of each source, and of all.
///
/// # Errors
/// If more of a source is unreadable than its settings allow, or nothing is left of it.
pub fn set_aside(
    prepared: &Preparation,
    unreadable: &Path,
    store: &RowStore,
    folder: &Path,
    line: &mut Line,
) -> Result<(Vec<Quarantine>, Quarantine)> {
    let (mut each, mut all, mut documents) = (Vec::new(), Quarantine::default(), 0);
    let paths: Vec<PathBuf> = prepared.files().map(|file| file.path.clone()).collect();
    let (origins, mut first) = (store.origins(), 0);
    for (index, source) in prepared.sources.iter().enumerate() {
        let rows = origins.mixed().get(index).map_or(store.rows(), |origin| origin.rows);
        let files = first..first + source.read.files.len() as u64;
        first = files.end;
        let mut quarantine = source.read.quarantine.clone();
        // What was lost when files were converted is not among their rows.
        let of_source = rows + quarantine.counts().documents();
        quarantine.add_files(unreadable.to_path_buf(), paths.clone(), files)?;
        let quarantine = quarantine.among(of_source);
        let checked = quarantine.check(source.read.max_bad_fraction).and_then(|()| {
            let is_empty = of_source == quarantine.counts().documents();
            let empty = || TextProblem::Empty { why: "its files have no rows".into() };
            if is_empty { Err(empty().into()) } else { Ok(()) }
        });
        match origins.are_mixed() {
            true => checked.with_context(|| format!("stage `{}`", source.id))?,
            false => checked?,
        }
        documents += of_source;
        all.merge(&quarantine);
        each.push(quarantine);
    }
    let all = all.among(documents);
    if !all.is_empty() {
        line.note(&format!("note: {} (see {})", all.summary(), quarantine::FILE));
        all.write(folder)?;
    }
    Ok((each, all))
}

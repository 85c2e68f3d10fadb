//! How a run directory is changed: everything that will be new is written into a folder, which gets its name when it is
//! complete. Then it is moved into place, piece by piece; this can be repeated, so that a process that is killed meanwhile
//! leaves a change that [`complete`] completes.
use super::super::directory::{CONFIG_FILE, FINGERPRINT_FILE, TOKENIZER_FILE, WITHDRAWN_FOLDER, list_of, set_list};
use super::super::status::STATUS_FILE;
use super::Cost;
use super::replay::Lanes;
use super::runs::{Runs, text_of};
use crate::plan::{Overrides, Plan};
use crate::problem::Usage;
use crate::report::REPORT_FILE;
use crate::train_run::why::replaced_by;
use anyhow::{Context, Error, Result};
use contract::files::write_whole;
use contract::{Env, SourceSizes};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use text::Cache;
use train::checkpoint::{self, CHECKPOINTS, TokenizerJson};
use train::documents::DOCUMENTS_FILE;
use train::record::{METRICS_FILE, SAMPLES_FILE, SampleLine, StepLine, read_metrics, read_samples};

/// The folder with what is to be moved into place.
const PENDING: &str = ".forget";
/// The same while it is being written.
const UNFINISHED: &str = ".forget.unfinished";
/// The checkpoints that have learned from the documents, while they are being removed.
const FORGOTTEN: &str = ".forgotten-checkpoints";
/// Beginnings of the names of other folders with weights: commits of a run on several hosts, and replays of `verify`.
const HIDDEN: [&str; 2] = [".commits", ".verify-"];
/// What else a run writes into its directory.
const OF_THE_RUN: [&str; 7] =
    ["environment.json", "attribution.txt", "quarantine.parquet", "tb", "mlruns", "run.lock", "secret"];

/// Writes everything that will be new, and gives it its name.
///
/// # Errors
/// If a file cannot be read or written. The run directory is then as it was.
pub fn prepare(run: &Path, runs: &Runs, cost: &Cost, checkpoint: Option<&Path>, lanes: Lanes) -> Result<()> {
    let folder = run.join(UNFINISHED);
    remove_folder(&folder)?;
    for folder in [folder.join(CHECKPOINTS), folder.join(WITHDRAWN_FOLDER)] {
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let new = &runs.sessions.new;
    let correct = |line: StepLine| corrected(line, &new.env, cost.validation_changes);
    if let Some(path) = checkpoint {
        let name = path.file_name().context("a checkpoint has a name")?;
        let saved = saved(path, lanes, &correct)?;
        checkpoint::with_other_data(path, &folder.join(CHECKPOINTS).join(name), &new.env, saved)?;
    }
    let mut set = runs.set.clone();
    for (source, ids) in &runs.lists {
        write(&list_of(&folder, source), &text_of(ids))?;
        set.push(set_list(source, &list_of(run, source)));
    }
    let overrides = Overrides { set, ..Overrides::default() };
    let plan = Plan::load(&run.join(CONFIG_FILE), &overrides, &runs.stages).map_err(Error::new)?;
    write(&folder.join(CONFIG_FILE), &plan.resolved.to_toml())?;
    write(&folder.join(FINGERPRINT_FILE), &format!("{}\n", serde_json::to_string_pretty(&*new.fingerprint)?))?;
    if let Some(tokenizer) = new.env.resources.get::<TokenizerJson>() {
        write(&folder.join(TOKENIZER_FILE), &tokenizer.json)?;
    }
    let lines = read_metrics(&run.join(METRICS_FILE))?.into_iter().filter(|line| line.step <= cost.from);
    write(&folder.join(METRICS_FILE), &json_lines(lines.map(correct))?)?;
    if run.join(SAMPLES_FILE).exists() {
        let samples = read_samples(&run.join(SAMPLES_FILE))?.into_iter();
        write(&folder.join(SAMPLES_FILE), &json_lines(samples.filter(|line: &SampleLine| line.step < cost.from))?)?;
    }
    sync(&folder)?;
    fs::rename(&folder, run.join(PENDING)).with_context(|| format!("cannot rename {}", folder.display()))?;
    sync(run)
}

/// Moves what is new into place, and removes what has learned from the documents. False if there is nothing to be done.
///
/// # Errors
/// If a file cannot be moved or removed. It can be called again then.
pub fn complete(run: &Path) -> Result<bool> {
    let folder = run.join(PENDING);
    if !folder.exists() {
        return Ok(false);
    }
    let (new, old) = (folder.join(CHECKPOINTS), run.join(CHECKPOINTS));
    if new.exists() {
        remove_folder(&run.join(FORGOTTEN))?;
        if old.exists() {
            rename(&old, &run.join(FORGOTTEN))?;
        }
        rename(&new, &old)?;
        sync(run)?;
    }
    remove_folder(&run.join(FORGOTTEN))?;
    let lists = (folder.join(WITHDRAWN_FOLDER), run.join(WITHDRAWN_FOLDER));
    for name in names(&lists.0)? {
        fs::create_dir_all(&lists.1).with_context(|| format!("cannot make {}", lists.1.display()))?;
        rename(&lists.0.join(&name), &lists.1.join(&name))?;
    }
    for name in [CONFIG_FILE, FINGERPRINT_FILE, TOKENIZER_FILE, METRICS_FILE, SAMPLES_FILE] {
        if folder.join(name).exists() {
            rename(&folder.join(name), &run.join(name))?;
        }
    }
    for path in [REPORT_FILE, DOCUMENTS_FILE, STATUS_FILE].map(|name| run.join(name)) {
        if path.exists() {
            fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    for name in names(run)?.into_iter().filter(|name| HIDDEN.iter().any(|hidden| name.starts_with(hidden))) {
        remove_folder(&run.join(name))?;
    }
    sync(run)?;
    remove_folder(&folder)?;
    Ok(true)
}

/// Refuses a run directory whose change was interrupted; removes what a change has left that has changed nothing. The caller
/// must hold the lock of the directory.
///
/// # Errors
/// [`Usage`] if the change must be completed.
pub fn check_none(run: &Path) -> Result<()> {
    let at = run.display();
    if run.join(PENDING).exists() {
        let why = "documents were being withdrawn when the process ended";
        return Err(Usage(format!("{at}: {why}: the same command, `pipeline forget`, completes that")).into());
    }
    remove_folder(&run.join(UNFINISHED))
}

/// What is to be known of documents that are withdrawn from `run`.
///
/// # Errors
/// If a folder or the catalog of a prepared corpus cannot be read.
pub fn notes(run: &Path, runs: &Runs) -> Result<Vec<String>> {
    let mut notes = Vec::new();
    for (source, documents) in &runs.sources.old {
        let of_source = runs.withdrawn.iter().filter(|withdrawn| withdrawn.source == *source);
        let ids: BTreeSet<&str> = of_source.map(|withdrawn| withdrawn.id.as_str()).collect();
        if let [(id, of), ..] = &replaced_by(documents, &ids)?[..] {
            notes.push(format!(
                "`{id}` was left out as a duplicate of `{of}` when the corpus was prepared, and stays out. To get it back, \
                 name `{of}` in `withdraw` of the preparation, prepare again, and forget with --set {source}.paths=…"
            ));
        }
    }
    let known =
        [CONFIG_FILE, FINGERPRINT_FILE, TOKENIZER_FILE, METRICS_FILE, SAMPLES_FILE, REPORT_FILE, DOCUMENTS_FILE];
    let more = [STATUS_FILE, CHECKPOINTS, WITHDRAWN_FOLDER];
    let is_known = |name: &String| {
        name.starts_with('.') || [&known[..], &more[..], &OF_THE_RUN[..]].concat().contains(&name.as_str())
    };
    let others: Vec<String> = names(run)?.into_iter().filter(|name| !is_known(name)).collect();
    if !others.is_empty() {
        let list = others.join(", ");
        notes.push(format!("{} contains files that are not of the run, and stay: {list}", run.display()));
    }
    let caches: BTreeSet<PathBuf> =
        runs.sessions.old.env.resources.all::<Cache>().map(|(_, cache)| cache.root().into()).collect();
    let caches: Vec<String> = caches.iter().map(|root| root.display().to_string()).collect();
    notes.push(format!(
        "the files of the corpus stay as they are, and so do texts in the cache ({}), copies of checkpoints and exported models",
        caches.join(", ")
    ));
    Ok(notes)
}

/// The state of stages for the checkpoint at `path`: of lanes that were replayed, and of all other stages as it was.
fn saved(path: &Path, lanes: Lanes, correct: &dyn Fn(StepLine) -> StepLine) -> Result<Vec<(String, u32, Value)>> {
    let replayed: BTreeSet<String> = lanes.iter().map(|saved| saved.stage.clone()).collect();
    let mut all = Vec::new();
    for (stage, lane, state) in checkpoint::read_state(path)?.saved {
        if !replayed.contains(&stage) {
            // The stage that records metrics keeps its last line.
            let line = serde_json::from_value::<StepLine>(state.clone());
            all.push((stage, lane, line.map_or(Ok(state), |line| serde_json::to_value(correct(line)))?));
        }
    }
    for saved in lanes {
        all.push((saved.stage, saved.lane, saved.state.value()?));
    }
    Ok(all)
}

/// A line of metrics, with the passes over the documents that are left, and without the results of other validation
/// documents.
fn corrected(mut line: StepLine, env: &Env, other_validation: bool) -> StepLine {
    if let Some(corpus) = env.corpus {
        line.epoch = line.tokens as f64 / corpus.train.tokens as f64;
    }
    if let Some(sizes) = env.resources.get::<SourceSizes>() {
        for (source, of_source) in &mut line.sources {
            of_source.epoch = sizes.epochs(source, of_source.tokens).unwrap_or_default();
        }
    }
    if other_validation {
        // The update of each block does not depend on what is validated.
        line = StepLine { blocks: std::mem::take(&mut line.blocks), ..line.not_validated() };
    }
    line
}

fn json_lines<T: serde::Serialize>(lines: impl Iterator<Item = T>) -> Result<String> {
    let mut text = String::new();
    for line in lines {
        text += &serde_json::to_string(&line)?;
        text.push('\n');
    }
    Ok(text)
}

fn write(path: &Path, text: &str) -> Result<()> {
    write_whole(path, |out| Ok(out.write_all(text.as_bytes())?))
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).with_context(|| format!("cannot move {} to {}", from.display(), to.display()))
}

fn sync(folder: &Path) -> Result<()> {
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .with_context(|| format!("cannot write into {}", folder.display()))
}

/// Removes a folder, if it is there.
fn remove_folder(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// The names in a folder, in order; none if it is not there.
fn names(folder: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| format!("cannot read {}", folder.display()))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(
            entry.with_context(|| format!("cannot read {}", folder.display()))?.file_name().to_string_lossy().into(),
        );
    }
    names.sort();
    Ok(names)
}

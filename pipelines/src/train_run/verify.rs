//! Verification of a run: parts of it, each from one checkpoint to the next, are replayed, and what comes out is compared
//! with what the run has recorded.
use super::session::Session;
use super::train::begin;
use super::{choose_gemm, directory, resume_checks};
use crate::engine::{Job, Stop, execute};
use crate::plan::{Plan, Scope};
use crate::prepare_stages::prepare;
use crate::problem::Usage;
use crate::show::{Line, Unit, Work};
use anyhow::{Context, Result};
use contract::{Prepared, StageType, Step, lock};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Instant;
use text::support::permutation::choose;
use train::checkpoint;
use train::record::{METRICS_FILE, Report, Reporter, StepLine, read_metrics};

/// Beginning of the names of folders that a replay works in; the id of its process follows.
const WORK: &str = ".verify-";

/// How to verify.
pub struct Options<'a> {
    /// How many parts to replay.
    pub spans: usize,
    /// What decides which ones.
    pub seed: u64,
    /// Worker threads.
    pub workers: Option<usize>,
    /// The registry of stages.
    pub stages: &'a [StageType],
}

/// The result of a verification.
#[derive(Debug, Serialize)]
pub struct Verification {
    /// The run's directory, as it was named.
    pub run: String,
    /// Whether everything came out as it was recorded.
    pub identical: bool,
    /// The parts that were replayed, in order.
    pub spans: Vec<Replayed>,
    /// Number of parts between kept checkpoints, the one before the first checkpoint included.
    pub available: usize,
    /// Number of updates that were replayed.
    pub replayed_steps: u64,
    /// Number of updates up to the last checkpoint.
    pub steps: u64,
    /// What chose the parts.
    pub seed: u64,
    /// What else is to be known: for example that the products are computed by other kernels than in the run.
    pub notes: Vec<String>,
}

/// A part of a run that was replayed.
#[derive(Debug, Serialize)]
pub struct Replayed {
    /// Updates before it.
    pub from: Step,
    /// Updates after it.
    pub to: Step,
    /// The first metric that differs.
    pub first_difference: Option<Difference>,
    /// Files of the checkpoint after it that differ.
    pub differing_files: Vec<String>,
    /// Its duration.
    pub seconds: f64,
}

/// A metric that differs.
#[derive(Debug, PartialEq, Serialize)]
pub struct Difference {
    /// The step.
    pub step: Step,
    /// The metric, as in `metrics.jsonl`.
    pub metric: String,
    /// What the run has recorded; null: nothing.
    pub recorded: Value,
    /// What came out now.
    pub replayed: Value,
}

impl Replayed {
    /// Whether everything came out as it was recorded.
    pub fn identical(&self) -> bool {
        self.first_difference.is_none() && self.differing_files.is_empty()
    }
}

/// A part of a run: a checkpoint and the one before it, if there is one.
#[derive(Clone, Debug, PartialEq)]
struct Span {
    from: Option<(Step, PathBuf)>,
    to: (Step, PathBuf),
}

impl Span {
    fn first(&self) -> Step {
        self.from.as_ref().map_or(0, |(step, _)| *step)
    }

    fn steps(&self) -> u64 {
        self.to.0 - self.first()
    }
}

/// Replays parts of the run in `run`, chosen at random. The run's own files are not touched.
///
/// # Errors
/// If there is no run or no checkpoint, if a checkpoint is damaged, or if the run's input is missing or has changed.
pub fn verify(run: &Path, options: &Options, mut line: Line) -> Result<Verification> {
    let at = run.display().to_string();
    let absolute = std::path::absolute(run)?;
    let run = if directory::enter(&absolute)?.is_some() { &absolute } else { run };
    let checkpoints = checkpoint::list(run)?;
    let Some((steps, last)) = checkpoints.last().cloned() else {
        let why = "has no checkpoint yet, so there is nothing to compare with; see `checkpoint.interval`";
        return Err(Usage::of(Path::new(&at), why).into());
    };
    let (spans, available) = chosen(&checkpoints, options);
    remove_abandoned(run);
    let scope = if spans.iter().any(|span| span.from.is_none()) { Scope::Run } else { Scope::Resume };
    let fingerprint = checkpoint::read_state(&last)?.fingerprint;
    let plan = directory::plan_of(run, fingerprint.as_ref(), options.workers, options.stages, scope, &[])?;
    choose_gemm(&plan)?;
    let workers = plan.run.workers.unwrap_or_else(crate::machine::cores);
    let prepared = prepare(&plan, directory::known(run)?, workers, &mut line)?;
    line.finish();
    let total = spans.iter().map(Span::steps).sum();
    let progress = Progress { line, began: Instant::now(), before: 0, first: 0, total };
    let replay = Replay { run, plan, options, workers, prepared, progress: Arc::new(Mutex::new(progress)) };
    let (mut replayed, mut notes) = (Vec::new(), Vec::new());
    for span in &spans {
        replayed.push(replay.span(span, &mut notes)?);
    }
    lock(&replay.progress).line.finish();
    Ok(Verification {
        run: at,
        identical: replayed.iter().all(Replayed::identical),
        spans: replayed,
        available,
        replayed_steps: total,
        steps,
        seed: options.seed,
        notes,
    })
}

/// The parts to replay, in order, and how many there are. A checkpoint at step 0 ends none.
fn chosen(checkpoints: &[(Step, PathBuf)], options: &Options) -> (Vec<Span>, usize) {
    let before = std::iter::once(None).chain(checkpoints.iter().cloned().map(Some));
    let all = before.zip(checkpoints).map(|(from, to)| Span { from, to: to.clone() });
    let all: Vec<Span> = all.filter(|span| span.steps() > 0).collect();
    let chosen = choose(all.len() as u64, options.spans as u64, options.seed);
    (chosen.into_iter().map(|at| all[at as usize].clone()).collect(), all.len())
}

/// Removes what verifications that were killed have left in a run directory.
fn remove_abandoned(run: &Path) {
    for entry in std::fs::read_dir(run).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let process = name.strip_prefix(WORK).and_then(|rest| rest.split('-').next()?.parse().ok());
        let process = process.and_then(rustix::process::Pid::from_raw);
        if process.is_some_and(|process| rustix::process::test_kill_process(process).is_err()) {
            // If it cannot be removed, it is in nobody's way.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// What replaying takes.
struct Replay<'a> {
    run: &'a Path,
    plan: Plan,
    options: &'a Options<'a>,
    workers: usize,
    /// The data, which all parts share.
    prepared: Prepared,
    progress: Arc<Mutex<Progress>>,
}

impl Replay<'_> {
    /// Replays `span`. Adds what is to be known to `notes`, once.
    fn span(&self, span: &Span, notes: &mut Vec<String>) -> Result<Replayed> {
        let (began, (to, recorded)) = (Instant::now(), &span.to);
        checkpoint::verify(recorded)?;
        let from = match &span.from {
            Some((_, path)) => directory::resumed(self.run, Some(path))?,
            None => None,
        };
        let folder = tempfile::Builder::new().prefix(&format!("{WORK}{}-", std::process::id())).tempdir_in(self.run);
        let folder = folder.or_else(|_| tempfile::tempdir()).context("there is no room for a replay")?;
        lock(&self.progress).first = span.first();
        let mut session = Session::new(&self.plan, self.prepared.clone(), self.workers, Some(folder.path().into()))?;
        let state = checkpoint::read_state(recorded)?;
        let new = resume_checks::compare(recorded, state.fingerprint.as_ref(), &session.fingerprint)?;
        notes.extend(new.into_iter().filter(|note| !notes.contains(note)).collect::<Vec<_>>());
        let saved = begin(&mut session, &self.plan, self.options.stages, from)?;
        let resources = &mut session.env.resources;
        resources.insert(Arc::new(Reporter(Box::new(Shared(Arc::clone(&self.progress))))));
        if *to < session.env.schedule.steps {
            resources.insert(Arc::new(Stop::after(to - 1)));
        }
        let stages = self.plan.stages.clone();
        execute(Job { stages, env: session.env, saved, prefetch: self.plan.run.prefetch })?;
        lock(&self.progress).before += span.steps();
        self.compared(span, folder.path(), began)
    }

    /// Compares what a replay of `span` has left in `folder` with what the run has recorded.
    fn compared(&self, span: &Span, folder: &Path, began: Instant) -> Result<Replayed> {
        let (to, recorded) = &span.to;
        let lines = |run: &Path| read_metrics(&run.join(METRICS_FILE));
        let first_difference = first_difference(&lines(self.run)?, &lines(folder)?, span.first()..*to)?;
        let replayed = checkpoint::list(folder)?.into_iter().find(|(step, _)| step == to);
        let (_, replayed) = replayed.context("the replay has left no checkpoint")?;
        let differing_files = checkpoint::differing_files(recorded, &replayed)?;
        let seconds = began.elapsed().as_secs_f64();
        Ok(Replayed { from: span.first(), to: *to, first_difference, differing_files, seconds })
    }
}

/// The first metric of the steps after `span.start` updates, up to `span.end`, that two runs do not have in common, except
/// for those that depend on the machine. Validation counts where both have it.
fn first_difference(
    recorded: &[StepLine],
    replayed: &[StepLine],
    span: std::ops::Range<Step>,
) -> Result<Option<Difference>> {
    let by_step = |lines: &[StepLine]| -> BTreeMap<Step, StepLine> {
        let inside = lines.iter().filter(|line| span.start < line.step && line.step <= span.end);
        inside.map(|line| (line.step, line.clone().reproducible())).collect()
    };
    let (recorded, replayed) = (by_step(recorded), by_step(replayed));
    for step in span.start + 1..=span.end {
        let lines = (recorded.get(&step).cloned(), replayed.get(&step).cloned());
        // When validation is due may be changed during a run, and a replay that ends at a step is not validated there.
        let (recorded, replayed) = match lines {
            (Some(a), Some(b)) if a.validation_loss.is_none() || b.validation_loss.is_none() => {
                (Some(a.not_validated()), Some(b.not_validated()))
            }
            lines => lines,
        };
        let (recorded, replayed) = (serde_json::to_value(recorded)?, serde_json::to_value(replayed)?);
        if recorded == replayed {
            continue;
        }
        let mut names = [&recorded, &replayed].into_iter().filter_map(Value::as_object).flat_map(|line| line.keys());
        let metric = names.find(|name| recorded.get(name) != replayed.get(name)).cloned().unwrap_or_default();
        let value = |line: &Value| line.get(&metric).cloned().unwrap_or_default();
        let (recorded, replayed) = (value(&recorded), value(&replayed));
        return Ok(Some(Difference { step, metric, recorded, replayed }));
    }
    Ok(None)
}

/// How far the replay is.
struct Progress {
    line: Line,
    began: Instant,
    /// Updates of the parts that are done.
    before: u64,
    /// Updates before the part that is being replayed.
    first: Step,
    /// Updates of all parts.
    total: u64,
}

struct Shared(Arc<Mutex<Progress>>);

impl Report for Shared {
    fn step(&self, line: &StepLine) {
        let mut progress = lock(&self.0);
        let done = progress.before + line.step.saturating_sub(progress.first);
        let (verb, total, spent) = ("Replaying".to_owned(), progress.total, progress.began.elapsed());
        progress.line.work(&Work { verb, done, total, unit: Unit::Things("steps"), spent });
    }

    fn validated(&self, _line: &StepLine) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(step: Step, loss: f64, validation_loss: Option<f64>) -> StepLine {
        StepLine { step, loss, validation_loss, tok_per_sec: loss, time: step as f64, ..StepLine::default() }
    }

    #[test]
    fn the_first_metric_that_differs_is_found() {
        let recorded = [line(1, 9.0, None), line(2, 3.0, None), line(3, 2.5, None), line(4, 2.0, Some(2.1))];
        let mut replayed = [line(2, 7.0, None), line(3, 2.5, None), line(4, 2.0, None)];
        // Rates and times do not count, nor do steps before, nor validation at the end.
        replayed[1].tok_per_sec = 5.0;
        let found = |replayed: &[StepLine]| first_difference(&recorded, replayed, 2..4).unwrap();
        assert_eq!(found(&replayed), None);
        replayed[2].loss = 2.25;
        let expected = |step, metric: &str, recorded: Value, replayed: Value| {
            Some(Difference { step, metric: metric.into(), recorded, replayed })
        };
        assert_eq!(found(&replayed), expected(4, "loss", 2.0.into(), 2.25.into()));
        assert_eq!(found(&replayed[..2]).map(|found| (found.step, found.replayed)), Some((4, Value::Null)));
        replayed[2] = line(4, 2.0, Some(2.5));
        assert_eq!(found(&replayed), expected(4, "validation_loss", 2.1.into(), 2.5.into()));
    }
}

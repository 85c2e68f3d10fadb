//! What an experiment will take, and which of its runs are done.
use super::cells::{Cell, Experiment};
use super::children::RunPaths;
use super::existing::beside_fingerprint;
use super::halving::Halving;
use crate::machine::cores;
use crate::plan::{Overrides, Plan};
use crate::problem::Usage;
use crate::show::human::{bytes, clock, count};
use crate::show::{Line, Unit, Work};
use crate::train_run::status::{self, State};
use crate::train_run::{Assessment, CONFIG_FILE, assess, calibrate, directory, resume_checks};
use anyhow::{Error, Result};
use compute::kernels::gemm;
use contract::StageType;
use serde::Serialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::time::{Duration, Instant};
use train::checkpoint::Fingerprint;

/// What a run takes.
#[derive(Clone, Debug, Serialize)]
pub struct Forecast {
    /// Its name.
    pub run: String,
    /// Its updates.
    pub steps: u64,
    /// Those that are done.
    pub done: u64,
    /// Whether it is finished, so that it is not run again.
    pub finished: bool,
    /// Whether it goes no further, as successive halving has stopped its variant.
    pub stopped: bool,
    /// Updates that are expected to be done: fewer than are left if halving may stop its variant.
    pub expected: f64,
    /// Worker threads.
    pub workers: usize,
    /// Seconds that the whole run takes.
    pub seconds: f64,
    /// Memory in MB of 2^20 bytes.
    pub peak_mb: u64,
}

/// The forecast of an experiment.
#[derive(Clone, Debug, Serialize)]
pub struct Whole {
    /// Number of runs.
    pub runs: usize,
    /// How many of them are finished.
    pub finished: usize,
    /// How many others successive halving has stopped.
    pub stopped: usize,
    /// Runs at the same time, at most.
    pub at_once: usize,
    /// Hours that are left.
    pub hours: f64,
    /// Memory of the runs at the same time, in MB of 2^20 bytes.
    pub peak_mb: u64,
    /// Each run.
    pub each: Vec<Forecast>,
    /// Notes on configurations and data.
    pub notes: Vec<String>,
}

/// Prepares the data of every run, which is then in the cache, and finds out what runs take and which are finished.
///
/// # Errors
/// [`Usage`] if a directory holds another run, or a run is too short for halving; whatever fails while data is prepared.
pub fn forecast(experiment: &Experiment, folder: &Path, registry: &[StageType], line: &mut Line) -> Result<Whole> {
    let Experiment { cells, halving, .. } = *experiment;
    let (itself, mut blas_buffers) = (calibrate::itself(), HashMap::new());
    let (mut known, mut each, mut notes, mut others) = (HashMap::new(), Vec::new(), Vec::new(), Vec::new());
    let began = Instant::now();
    for (index, cell) in cells.iter().enumerate() {
        // Nothing computes between the runs, so each can have a backend of its own.
        gemm::choose_again(&cell.plan.run.gemm).map_err(|error| Usage(error.to_string()))?;
        let buffers = blas_buffers.entry(gemm::chosen()).or_insert_with(|| calibrate::blas_buffers(cores()));
        let workers = workers(cell);
        // Only whole numbers and words change sizes: a grid of learning rates is measured once.
        let like = sizes(cell);
        let program = (!known.contains_key(&like)).then_some(itself + *buffers);
        let Assessment { explanation, fingerprint, steps, notes: found } = assess(&cell.plan, workers, program, line)?;
        if let Some(explanation) = explanation {
            known.insert(like.clone(), (explanation.tok_per_sec, explanation.peak_mb, tokens(explanation.batch)));
        }
        let (rate, peak_mb, tokens) = known[&like];
        let (done, finished, differing) =
            state(&RunPaths::of(folder, &cell.name).run_dir, &cell.plan, registry, &fingerprint, steps)?;
        others.extend(differing);
        let seconds = steps as f64 * tokens / rate;
        if let Some(after) = halving.last().filter(|after| **after + 1 >= steps) {
            let why = format!("`experiment.halving` compares after {after} steps, but {} has {steps}", cell.name);
            return Err(Usage(format!("{why}: give fewer steps, or make the runs longer")).into());
        }
        let (run, stopped, expected) = (cell.name.clone(), false, (steps - done) as f64);
        each.push(Forecast { run, steps, done, finished, stopped, expected, workers, seconds, peak_mb });
        for note in found {
            if !notes.contains(&note) {
                notes.push(note);
            }
        }
        let (done, total) = (index as u64 + 1, cells.len() as u64);
        let verb = "Checking".to_owned();
        line.work(&Work { verb, done, total, unit: Unit::Things("runs"), spent: began.elapsed() });
    }
    line.finish();
    if !others.is_empty() {
        let next = "Give another folder with --dir, or remove these runs";
        return Err(Usage(format!("{}\n{next}", others.join("\n"))).into());
    }
    let decided = Halving::so_far(experiment, folder, |_| false)?;
    for (cell, run) in cells.iter().zip(&mut each).filter(|(_, run)| !run.finished) {
        run.stopped = !decided.alive.contains(&cell.variant);
        run.expected = if run.stopped { 0.0 } else { decided.expected(run.steps, run.done) };
    }
    Ok(whole(each, notes))
}

/// Workers of a run: as many as it is given, or as there are cores, but no more than it can keep busy.
fn workers(cell: &Cell) -> usize {
    let shape = cell.plan.stages.iter().find_map(|stage| stage.settings.batch_shape());
    let leaves = shape.map_or(1, |shape| shape.micro_batches as usize);
    cell.plan.run.workers.unwrap_or_else(|| cores().min(leaves))
}

fn tokens([micro_batches, sequences, length]: [u64; 3]) -> f64 {
    (micro_batches * sequences * length) as f64
}

/// The values of a configuration that can change the time and memory of its steps, and its length.
fn sizes(cell: &Cell) -> String {
    fn without_fractions(value: &Value) -> bool {
        !value.is_f64()
    }
    let tables = cell.plan.resolved.stages.iter().map(|(id, table)| {
        let kept = table.entries.iter().filter(|(_, entry)| without_fractions(&entry.value));
        let kept: Vec<String> = kept.map(|(key, entry)| format!("{key}={}", entry.value)).collect();
        format!("{id}: {}\n", kept.join(" "))
    });
    let run = &cell.plan.run;
    format!("{:?} {}\n{}", run.workers, run.gemm, tables.collect::<String>())
}

/// Updates that the run in `run_dir` has done, whether it is finished, and what is wrong if it is another run.
fn state(
    run_dir: &Path,
    plan: &Plan,
    registry: &[StageType],
    fingerprint: &Fingerprint,
    steps: u64,
) -> Result<(u64, bool, Option<String>)> {
    let Some(there) = directory::fingerprint(run_dir)? else { return Ok((0, false, None)) };
    let (mut differing, _) = resume_checks::differences(&there, fingerprint);
    let recorded = Plan::load(&run_dir.join(CONFIG_FILE), &Overrides::default(), registry).map_err(Error::new)?;
    differing.extend(differences_beside(&recorded, plan));
    let (state, status) = status::read(run_dir);
    let status_steps = status.as_ref().map_or(steps, |status| status.steps);
    let checkpoint = train::checkpoint::list(run_dir)?.pop().map_or(0, |(step, _)| step);
    if checkpoint > steps || state == State::Done && status_steps != steps {
        differing.push(format!("  its length was {status_steps} steps, is {steps}"));
    }
    if !differing.is_empty() {
        let at = run_dir.display();
        return Ok((0, false, Some(format!("{at} holds a run of another configuration:\n{}", differing.join("\n")))));
    }
    let finished = state == State::Done;
    Ok((if finished { steps } else { checkpoint }, finished, None))
}

/// How the configuration of a run differs from `now` in what is not part of its fingerprint.
fn differences_beside(then: &Plan, now: &Plan) -> Vec<String> {
    let (then, now) = (beside_fingerprint(then), beside_fingerprint(now));
    let keys: BTreeSet<&String> = then.keys().chain(now.keys()).collect();
    let value = |of: &BTreeMap<String, String>, key| of.get(key).cloned().unwrap_or_else(|| "nothing".into());
    let differing = keys.into_iter().filter(|key| then.get(*key) != now.get(*key));
    differing.map(|key| format!("  {key} was {}, is {}", value(&then, key), value(&now, key))).collect()
}

fn whole(each: Vec<Forecast>, notes: Vec<String>) -> Whole {
    let left: Vec<&Forecast> = each.iter().filter(|run| !run.finished && !run.stopped).collect();
    let most = left.iter().map(|run| run.workers).max().unwrap_or(1);
    let at_once = (cores() / most).clamp(1, left.len().max(1));
    let seconds: f64 = left.iter().map(|run| run.seconds * run.expected / run.steps.max(1) as f64).sum();
    let mut peaks: Vec<u64> = left.iter().map(|run| run.peak_mb).collect();
    peaks.sort_unstable_by(|a, b| b.cmp(a));
    Whole {
        runs: each.len(),
        finished: each.iter().filter(|run| run.finished).count(),
        stopped: each.iter().filter(|run| run.stopped).count(),
        at_once,
        hours: seconds / at_once as f64 / 3600.0,
        peak_mb: peaks.iter().take(at_once).sum(),
        each,
        notes,
    }
}

impl Whole {
    /// On a line or two.
    pub fn text(&self) -> String {
        let left = self.runs - self.finished - self.stopped;
        let time = Duration::try_from_secs_f64(self.hours * 3600.0).unwrap_or(Duration::MAX);
        let steps = self.each.iter().map(|run| run.expected).sum::<f64>().round() as u64;
        let mut text = format!("{} runs", self.runs);
        if self.finished > 0 {
            text += &format!(", {} finished", self.finished);
        }
        if self.stopped > 0 {
            text += &format!(", {} stopped by halving", self.stopped);
        }
        if left > 0 {
            let at_once = if self.at_once > 1 { format!(", {} at once", self.at_once) } else { String::new() };
            let memory = bytes(self.peak_mb << 20);
            text +=
                &format!("; {left} to do{at_once}: {} steps, about {}, {memory} at most", count(steps), clock(time));
        }
        self.notes.iter().fold(text, |text, note| format!("{text}\nnote: {note}"))
    }
}

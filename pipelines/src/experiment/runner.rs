//! Runs the runs of an experiment: one after another on all cores, or several at once where one cannot use them all.
use super::cells::Experiment;
use super::children::{self, Job, Process, RunPaths};
use super::forecast::{Forecast, Whole};
use super::halving::Halving;
use crate::machine::{available_memory, cores};
use crate::problem::Usage;
use crate::show::human::time;
use crate::show::{Line, Unit, Work};
use crate::train_run::Interruption;
use crate::train_run::status::{self, State};
use anyhow::{Context, Result, bail};
use contract::lock;
use std::collections::VecDeque;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use train::record::{METRICS_FILE, StepLine};

/// Locked while a process runs the experiment.
const LOCK_FILE: &str = "experiment.lock";
/// How often processes are looked at.
const POLL: Duration = Duration::from_millis(50);
/// How often the progress of runs is read.
const LOOK: Duration = Duration::from_millis(500);
/// As much as the last line of metrics needs.
const END: u64 = 16 << 10;

/// The folder of an experiment, locked until dropped.
pub struct Folder {
    /// Where it is.
    pub path: PathBuf,
    _lock: File,
}

impl Folder {
    /// Makes the folder, or opens it.
    ///
    /// # Errors
    /// [`Usage`] if another process runs the experiment, or there are files of something else.
    pub fn open(path: &Path) -> Result<Self> {
        let at = path.display();
        std::fs::create_dir_all(path).with_context(|| format!("cannot make the folder {at}"))?;
        let lock = path.join(LOCK_FILE);
        let mut entries = std::fs::read_dir(path).with_context(|| format!("cannot read {at}"))?;
        if !lock.exists() && entries.next().is_some() {
            return Err(Usage(format!("{at} has other files than an experiment's; choose another with --dir")).into());
        }
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&lock);
        let file = file.with_context(|| format!("cannot write {}", lock.display()))?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => {
                Err(Usage(format!("another process runs the experiment in {at}; wait for it")).into())
            }
            // On a file system without locks, the runs' own directories refuse a second process or not.
            _ => Ok(Self { path: path.to_owned(), _lock: file }),
        }
    }
}

/// A run in progress.
struct Running {
    /// Its index.
    run: usize,
    places: RunPaths,
    process: Process,
    began: Instant,
    step: u64,
}

/// A run that failed.
pub struct Failed {
    /// Its name.
    pub run: String,
    /// Why.
    pub why: String,
}

/// Runs all runs that are not finished, unless halving stops their variants; returns those that failed.
///
/// # Errors
/// [`Interrupted`](crate::train_run::Interrupted) by a signal, after the runs in progress have stopped with a checkpoint; if
/// no process can be started.
pub fn run(
    experiment: &Experiment,
    whole: &Whole,
    folder: &Folder,
    interruption: &Interruption,
    line: Line,
) -> Result<Vec<Failed>> {
    for (cell, run) in experiment.cells.iter().zip(&whole.each).filter(|(_, run)| !run.finished && !run.stopped) {
        let config = RunPaths::of(&folder.path, &run.run).config;
        let text = cell.plan.resolved.to_toml();
        contract::files::write_whole(&config, |out| Ok(out.write_all(text.as_bytes())?))?;
    }
    let line = Arc::new(Mutex::new(line));
    let stop = Arc::new(AtomicBool::new(false));
    let (asked, said) = (Arc::clone(&stop), Arc::clone(&line));
    interruption.ask(
        move |_| asked.store(true, Ordering::SeqCst),
        move |note| lock(&said).warn(&note.replace("after this step", "after the current step of each run")),
    )?;
    let mut runner = Runner {
        folder: &folder.path,
        runs: whole.each.clone(),
        halving: Halving::default(),
        pending: VecDeque::new(),
        running: Vec::new(),
        failed: Vec::new(),
        done: 0,
        expected: whole.each.iter().map(|run| run.expected).sum::<f64>() as u64,
        memory: available_memory(),
        line,
        began: Instant::now(),
    };
    let stopped = runner.rounds(experiment, &stop)?;
    interruption.over();
    lock(&runner.line).finish();
    if stopped {
        return Err(interruption.several(runner.finished(), whole.runs).into());
    }
    Ok(runner.failed)
}

struct Runner<'a> {
    folder: &'a Path,
    /// All runs, as far as they have come.
    runs: Vec<Forecast>,
    /// What has been decided.
    halving: Halving,
    /// The indices of those that are to be started.
    pending: VecDeque<usize>,
    running: Vec<Running>,
    failed: Vec<Failed>,
    /// Updates of this process in runs that have ended.
    done: u64,
    /// Updates that it was expected to do when it began.
    expected: u64,
    /// Bytes that were free before.
    memory: u64,
    line: Arc<Mutex<Line>>,
    began: Instant,
}

impl Runner<'_> {
    /// Runs all runs until something is decided, and again, until nothing is left to do, or `stop` is set; whether it was.
    fn rounds(&mut self, experiment: &Experiment, stop: &AtomicBool) -> Result<bool> {
        loop {
            let failed = |name: &str| self.failed.iter().any(|failed| failed.run == name);
            self.halving = Halving::so_far(experiment, self.folder, failed)?;
            let goes_on = |index: &usize| {
                let (cell, run) = (&experiment.cells[*index], &self.runs[*index]);
                let has_more = !run.finished && run.done < self.halving.until(run.steps);
                has_more && self.halving.alive.contains(&cell.variant) && !failed(&run.run)
            };
            self.pending = (0..self.runs.len()).filter(goes_on).collect();
            if self.pending.is_empty() {
                self.check_decided()?;
                return Ok(false);
            }
            if self.round(stop)? {
                return Ok(true);
            }
        }
    }

    /// An error if nothing is left to run and yet something cannot be decided, although no run has failed.
    fn check_decided(&self) -> Result<()> {
        match self.halving.left.first() {
            Some(step) if self.failed.is_empty() => bail!(
                "variants cannot be compared after {step} steps: a run has no validation there; see `metrics.jsonl` of each \
                 run in {}, and remove runs that were validated at other steps",
                self.folder.display()
            ),
            _ => Ok(()),
        }
    }

    /// Until all pending runs have ended, or those in progress have after `stop` is set; whether it was.
    fn round(&mut self, stop: &AtomicBool) -> Result<bool> {
        let (mut told, mut looked) = (false, Instant::now());
        let mut stopped = false;
        while !self.running.is_empty() || (!self.pending.is_empty() && !told) {
            if stop.load(Ordering::SeqCst) && !told {
                told = true;
                self.running.iter().for_each(|run| run.process.stop());
            }
            if !told {
                self.start()?;
            }
            stopped |= self.collect(told)?;
            if looked.elapsed() >= LOOK {
                looked = Instant::now();
                self.show();
            }
            std::thread::sleep(POLL);
        }
        // A signal that came when all was done has stopped nothing.
        Ok(told && (stopped || !self.pending.is_empty() || !self.halving.left.is_empty()))
    }

    /// Starts as many runs as there is room for.
    fn start(&mut self) -> Result<()> {
        while let Some(run) = self.pending.front().copied().filter(|next| self.has_room(&self.runs[*next])) {
            let forecast = &self.runs[run];
            let places = RunPaths::of(self.folder, &forecast.run);
            // A process whose parent was killed is still stopping.
            if status::read(&places.run_dir).0 == State::Running {
                return Ok(());
            }
            self.pending.pop_front();
            let RunPaths { run_dir, config, log } = &places;
            let until = self.halving.until(forecast.steps);
            let stop_after = Some(until).filter(|until| *until < forecast.steps);
            // Such a process may have come so far.
            let done = train::checkpoint::list(run_dir)?.pop().map_or(0, |(step, _)| step);
            if done >= until && stop_after.is_some() {
                self.succeeded(run, run_dir, Duration::ZERO);
                continue;
            }
            let process = children::start(&Job { config, run_dir, log, workers: forecast.workers, stop_after })?;
            self.running.push(Running { run, places, process, began: Instant::now(), step: forecast.done });
        }
        Ok(())
    }

    fn has_room(&self, next: &Forecast) -> bool {
        let used = |of: fn(&Forecast) -> u64| self.running.iter().map(|run| of(&self.runs[run.run])).sum::<u64>();
        let (workers, memory) = (used(|run| run.workers as u64), used(|run| run.peak_mb));
        self.running.is_empty()
            || workers as usize + next.workers <= cores() && (memory + next.peak_mb) << 20 <= self.memory
    }

    /// Takes note of the runs that have ended; whether one of them has stopped early because it was asked to.
    fn collect(&mut self, stopping: bool) -> Result<bool> {
        let (mut at, mut stopped) = (0, false);
        while at < self.running.len() {
            let Some(status) = self.running[at].process.ended()? else {
                at += 1;
                continue;
            };
            let Running { run, places, began, .. } = self.running.remove(at);
            if stopping && !status.success() {
                stopped = true;
                continue;
            }
            if status.success() {
                self.succeeded(run, &places.run_dir, began.elapsed());
            } else {
                let (why, name) = (children::why_failed(status, &places.log), self.runs[run].run.clone());
                lock(&self.line).warn(&format!("{name} failed: {why} (see {})", places.log.display()));
                self.failed.push(Failed { run: name, why });
            }
        }
        Ok(stopped)
    }

    /// A run has ended, after all of its steps or those before the next decision.
    fn succeeded(&mut self, run: usize, run_dir: &Path, took: Duration) {
        let forecast = &mut self.runs[run];
        let until = self.halving.until(forecast.steps);
        self.done += until - forecast.done;
        (forecast.done, forecast.finished) = (until, until == forecast.steps);
        let so_far = if forecast.finished { String::new() } else { format!(" after {} steps", until - 1) };
        let (name, took) = (forecast.run.clone(), time(took));
        let loss = last_line(run_dir, |line| line.validation_loss.is_some()).and_then(|line| line.validation_loss);
        let loss = loss.map(|loss| format!("validation loss {loss:.4}{so_far}, ")).unwrap_or_default();
        lock(&self.line).note(&format!("{} {name}: {loss}{took}", self.count()));
    }

    /// Number of runs that are finished.
    fn finished(&self) -> usize {
        self.runs.iter().filter(|run| run.finished).count()
    }

    /// How many runs have ended, of how many.
    fn count(&self) -> String {
        let ended = self.runs.iter().filter(|run| run.finished || run.stopped).count();
        format!("[{}/{}]", ended + self.failed.len(), self.runs.len())
    }

    fn show(&mut self) {
        for run in &mut self.running {
            if let Some(line) = last_line(&run.places.run_dir, |_| true) {
                run.step = line.step;
            }
        }
        let now = self.running.iter().map(|run| run.step.saturating_sub(self.runs[run.run].done)).sum::<u64>();
        let done = self.done + now;
        let names: Vec<&str> = self.running.iter().map(|run| self.runs[run.run].run.as_str()).collect();
        let verb = format!("{} {}", self.count(), names.join(", "));
        let (total, spent) = (self.expected.max(done), self.began.elapsed());
        lock(&self.line).work(&Work { verb, done, total, unit: Unit::Things("steps"), spent });
    }
}

/// The last whole line of a run's metrics for which `wanted` is true.
fn last_line(run_dir: &Path, wanted: impl Fn(&StepLine) -> bool) -> Option<StepLine> {
    let mut file = File::open(run_dir.join(METRICS_FILE)).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(END))).ok()?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).ok()?;
    bytes.rsplit(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).find(wanted)
}

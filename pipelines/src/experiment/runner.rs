//! Runs the runs of an experiment: one after another on all cores, or several at once where one cannot use them all.
use super::cells::Cell;
use super::children::{self, Job, Process, RunPaths};
use super::forecast::{Forecast, Whole};
use crate::machine::{available_memory, cores};
use crate::problem::Usage;
use crate::show::human::time;
use crate::show::{Line, Unit, Work};
use crate::train_run::Interruption;
use crate::train_run::status::{self, State};
use anyhow::{Context, Result};
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
struct Running<'a> {
    forecast: &'a Forecast,
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

/// Runs all runs that are not finished; returns those that failed.
///
/// # Errors [`Interrupted`](crate::train_run::Interrupted) by a signal, after the runs in progress have stopped with
/// a checkpoint; if no process can be started.
pub fn run(
    cells: &[Cell],
    whole: &Whole,
    folder: &Folder,
    interruption: &Interruption,
    line: Line,
) -> Result<Vec<Failed>> {
    for (cell, forecast) in cells.iter().zip(&whole.each).filter(|(_, forecast)| !forecast.finished) {
        let config = RunPaths::of(&folder.path, &forecast.run).config;
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
        pending: whole.each.iter().filter(|forecast| !forecast.finished).collect(),
        running: Vec::new(),
        failed: Vec::new(),
        done: 0,
        ended: whole.finished,
        whole,
        memory: available_memory(),
        line,
        began: Instant::now(),
    };
    let stopped = runner.run(&stop)?;
    interruption.over();
    lock(&runner.line).finish();
    if stopped {
        return Err(interruption.several(runner.ended, whole.runs).into());
    }
    Ok(runner.failed)
}

struct Runner<'a> {
    folder: &'a Path,
    pending: VecDeque<&'a Forecast>,
    running: Vec<Running<'a>>,
    failed: Vec<Failed>,
    /// Updates of this process in runs that have ended.
    done: u64,
    /// Number of runs that have ended.
    ended: usize,
    whole: &'a Whole,
    /// Bytes that were free before.
    memory: u64,
    line: Arc<Mutex<Line>>,
    began: Instant,
}

impl Runner<'_> {
    /// Until all runs have ended, or those in progress have after `stop` is set; whether it was.
    fn run(&mut self, stop: &AtomicBool) -> Result<bool> {
        let (mut told, mut looked) = (false, Instant::now());
        while !self.running.is_empty() || (!self.pending.is_empty() && !told) {
            if stop.load(Ordering::SeqCst) && !told {
                told = true;
                self.running.iter().for_each(|run| run.process.stop());
            }
            if !told {
                self.start()?;
            }
            self.collect(told)?;
            if looked.elapsed() >= LOOK {
                looked = Instant::now();
                self.show();
            }
            std::thread::sleep(POLL);
        }
        // A signal that came when all was done has stopped nothing.
        Ok(told && self.ended < self.whole.runs)
    }

    /// Starts as many runs as there is room for.
    fn start(&mut self) -> Result<()> {
        while let Some(forecast) = self.pending.front().copied().filter(|next| self.has_room(next)) {
            let places = RunPaths::of(self.folder, &forecast.run);
            // A process whose parent was killed is still stopping.
            if status::read(&places.run_dir).0 == State::Running {
                return Ok(());
            }
            self.pending.pop_front();
            let RunPaths { run_dir, config, log } = &places;
            let process = children::start(&Job { config, run_dir, log, workers: forecast.workers })?;
            self.running.push(Running { forecast, places, process, began: Instant::now(), step: forecast.done });
        }
        Ok(())
    }

    fn has_room(&self, next: &Forecast) -> bool {
        let used = |of: fn(&Forecast) -> u64| self.running.iter().map(|run| of(run.forecast)).sum::<u64>();
        let (workers, memory) = (used(|run| run.workers as u64), used(|run| run.peak_mb));
        self.running.is_empty()
            || workers as usize + next.workers <= cores() && (memory + next.peak_mb) << 20 <= self.memory
    }

    /// Takes note of the runs that have ended.
    fn collect(&mut self, stopping: bool) -> Result<()> {
        let mut at = 0;
        while at < self.running.len() {
            let Some(status) = self.running[at].process.ended()? else {
                at += 1;
                continue;
            };
            let Running { forecast, places, began, .. } = self.running.remove(at);
            if stopping && !status.success() {
                continue;
            }
            self.ended += 1;
            self.done += forecast.steps - forecast.done;
            let (count, name) = (format!("[{}/{}]", self.ended, self.whole.runs), &forecast.run);
            if status.success() {
                let loss = last_line(&places.run_dir).and_then(|line| line.validation_loss);
                let loss = loss.map(|loss| format!("validation loss {loss:.4}, ")).unwrap_or_default();
                lock(&self.line).note(&format!("{count} {name}: {loss}{}", time(began.elapsed())));
            } else {
                let why = children::why_failed(status, &places.log);
                lock(&self.line).warn(&format!("{count} {name} failed: {why} (see {})", places.log.display()));
                self.failed.push(Failed { run: name.clone(), why });
            }
        }
        Ok(())
    }

    fn show(&mut self) {
        for run in &mut self.running {
            if let Some(line) = last_line(&run.places.run_dir) {
                run.step = line.step;
            }
        }
        let done = self.done + self.running.iter().map(|run| run.step.saturating_sub(run.forecast.done)).sum::<u64>();
        let total = self.whole.each.iter().map(|run| run.steps - run.done).sum();
        let names: Vec<&str> = self.running.iter().map(|run| run.forecast.run.as_str()).collect();
        let verb = format!("[{}/{}] {}", self.ended, self.whole.runs, names.join(", "));
        let work = Work { verb, done, total, unit: Unit::Things("steps"), spent: self.began.elapsed() };
        lock(&self.line).work(&work);
    }
}

/// The last whole line of a run's metrics.
fn last_line(run_dir: &Path) -> Option<StepLine> {
    let mut file = File::open(run_dir.join(METRICS_FILE)).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(END))).ok()?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).ok()?;
    bytes.rsplit(|byte| *byte == b'\n').find_map(|line| serde_json::from_slice(line).ok())
}

//! Processes of `pipeline run`, one per run of an experiment.
use anyhow::{Context, Result};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

/// The line of a log with which what a process prints begins.
const STARTED: &str = "== started";

/// A run to start.
pub struct Job<'a> {
    /// Its configuration.
    pub config: &'a Path,
    /// Its directory.
    pub run_dir: &'a Path,
    /// What its process prints.
    pub log: &'a Path,
    /// Worker threads.
    pub workers: usize,
    /// The number of updates after which it stops, if not at its end.
    pub stop_after: Option<u64>,
}

/// A process that runs.
pub struct Process(Child);

/// Starts a run, or resumes it if it has begun. Its process gets no signals of the terminal, and stops when this
/// process ends. (Must be called by the main thread: the system watches the thread that starts a process.)
///
/// # Errors
/// If the system refuses.
pub fn start(job: &Job) -> Result<Process> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let mut log = open_log(job.log).with_context(|| format!("cannot write {}", job.log.display()))?;
    writeln!(log, "{STARTED}").with_context(|| format!("cannot write {}", job.log.display()))?;
    let mut command = Command::new(program);
    command.arg("run").arg(job.config).arg("--run-dir").arg(job.run_dir).args(["--resume", "--progress", "none"]);
    command.args(["--workers", &job.workers.to_string(), "--parent", &std::process::id().to_string()]);
    command.args(job.stop_after.map(|steps| format!("--stop-after={steps}")));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).process_group(0);
    Ok(Process(command.spawn().context("cannot start a run")?))
}

fn open_log(path: &Path) -> std::io::Result<File> {
    path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
    OpenOptions::new().create(true).append(true).open(path)
}

impl Process {
    /// How it ended, if it has.
    ///
    /// # Errors
    /// If the system does not say.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.0.try_wait().context("cannot wait for a run")
    }

    /// Asks it to stop after the current step.
    pub fn stop(&self) {
        // One that has ended meanwhile need not stop.
        let _ = pid(self.0.id()).map(|pid| rustix::process::kill_process(pid, rustix::process::Signal::TERM));
    }
}

fn pid(id: u32) -> Option<rustix::process::Pid> {
    rustix::process::Pid::from_raw(i32::try_from(id).ok()?)
}

/// Why a process failed that ended with `status`: the error that it printed last, or how it ended.
pub fn why_failed(status: ExitStatus, log: &Path) -> String {
    let bytes = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let said = text.rfind(STARTED).map_or(&*text, |at| &text[at..]);
    let error = said.rfind("error:").and_then(|at| said[at..].lines().next());
    error.map_or_else(|| format!("it said nothing, {status}"), |error| error.trim().to_owned())
}

/// Where a run of an experiment has its files.
pub struct RunPaths {
    /// The run directory.
    pub run_dir: PathBuf,
    /// Its configuration, as it was when the experiment began.
    pub config: PathBuf,
    /// What its process prints.
    pub log: PathBuf,
}

impl RunPaths {
    /// Of the run called `name` in the experiment in `folder`.
    pub fn of(folder: &Path, name: &str) -> Self {
        Self {
            run_dir: folder.join(name),
            config: folder.join("configs").join(format!("{name}.toml")),
            log: folder.join("logs").join(format!("{name}.txt")),
        }
    }
}

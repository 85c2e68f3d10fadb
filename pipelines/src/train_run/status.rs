//! The state of a run: `status.json`, and a lock that the process of the run holds, which shows whether it is still
//! alive however it ended.
use crate::problem::Usage;
use crate::show::Times;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The state of a run, as its process last wrote it.
pub const STATUS_FILE: &str = "status.json";
/// Locked (`flock`) while a process uses the run directory.
pub const LOCK_FILE: &str = "run.lock";

/// [`read`] takes the lock for a moment to see whether it is free, so who takes it for long tries more than once.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(20);

/// The state of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// A process is running it.
    Running,
    /// All steps are done.
    Done,
    /// It was interrupted or killed, and can be resumed.
    Stopped,
    /// It ended with an error.
    Failed,
}

impl State {
    /// The name, in lower case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Done => "done",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
        }
    }
}

/// The contents of [`STATUS_FILE`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// As the process last wrote it; [`read`] corrects it if the process has died.
    pub state: State,
    /// Updates before this process began.
    pub first: u64,
    /// Updates of the whole run.
    pub steps: u64,
    /// When the process started training, in seconds since 1970 (UTC).
    pub started: u64,
    /// When it ended.
    #[serde(default)]
    pub ended: Option<u64>,
    /// Peak memory of the process, in MB (2^20 bytes).
    #[serde(default)]
    pub peak_rss_mb: u64,
    /// Why it failed.
    #[serde(default)]
    pub error: Option<String>,
    /// Time per stage.
    #[serde(default)]
    pub times: Option<Times>,
}

impl Status {
    /// The process starts training now.
    pub fn begin(first: u64, steps: u64) -> Self {
        let (state, started) = (State::Running, now());
        Self { state, first, steps, started, ended: None, peak_rss_mb: 0, error: None, times: None }
    }

    /// It failed before training started.
    pub fn failed(error: &anyhow::Error) -> Self {
        let (state, error) = (State::Failed, Some(format!("{error:#}")));
        Self { state, error, ended: Some(now()), peak_rss_mb: crate::machine::peak_rss_mb(), ..Self::begin(0, 0) }
    }

    /// It ended now, at `step`, with this result.
    pub fn end(&mut self, came: &Result<Times>, step: u64) {
        self.ended = Some(now());
        self.peak_rss_mb = crate::machine::peak_rss_mb();
        self.times = came.as_ref().ok().cloned();
        self.error = came.as_ref().err().map(|error| format!("{error:#}"));
        self.state = match came {
            Err(_) => State::Failed,
            Ok(_) if step < self.steps => State::Stopped,
            Ok(_) => State::Done,
        };
    }
}

/// The lock of a run directory. Released on drop.
pub struct Hold {
    path: PathBuf,
    _lock: Option<File>,
}

impl Hold {
    /// Locks the run directory.
    ///
    /// # Errors
    /// [`Usage`] if another process uses it.
    pub fn take(run_dir: &Path) -> Result<Self> {
        let path = run_dir.join(LOCK_FILE);
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let file = file.with_context(|| format!("cannot write {}", path.display()))?;
        let locked = (0..TRIES).find_map(|tries| match file.try_lock() {
            Err(TryLockError::WouldBlock) if tries + 1 < TRIES => {
                std::thread::sleep(PAUSE);
                None
            }
            result => Some(result),
        });
        match locked.unwrap_or(Err(TryLockError::WouldBlock)) {
            Ok(()) => Ok(Self { path: run_dir.join(STATUS_FILE), _lock: Some(file) }),
            Err(TryLockError::WouldBlock) => {
                let at = run_dir.display();
                Err(Usage(format!("another process is using {at}: wait for it, or choose another --run-dir")).into())
            }
            // On a file system without locks a run works, but `pipeline runs` cannot show whether it is alive.
            Err(TryLockError::Error(_)) => Ok(Self { path: run_dir.join(STATUS_FILE), _lock: None }),
        }
    }

    /// Writes `status`.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn tell(&self, status: &Status) -> Result<()> {
        let text = serde_json::to_string_pretty(status)?;
        contract::files::write_whole(&self.path, |out| Ok(std::io::Write::write_all(out, text.as_bytes())?))
    }

    /// Writes `status` if there is none yet. Ignores errors, since the original error matters more.
    pub fn tell_first(&self, status: &Status) {
        if !self.path.exists() {
            let _ = self.tell(status);
        }
    }
}

/// The state of a run, and the status that its process last wrote: `None` for runs that never started training.
pub fn read(run_dir: &Path) -> (State, Option<Status>) {
    let text = std::fs::read_to_string(run_dir.join(STATUS_FILE)).unwrap_or_default();
    let status: Option<Status> = serde_json::from_str(&text).ok();
    let held = File::open(run_dir.join(LOCK_FILE))
        .is_ok_and(|lock| matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock)));
    let state = match (held, &status) {
        (true, _) => State::Running,
        // Its process is gone and could not say so.
        (false, Some(Status { state: State::Running, .. }) | None) => State::Stopped,
        (false, Some(status)) => status.state,
    };
    (state, status)
}

/// Seconds since 1970 (UTC).
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_is_gone_is_told_from_one_that_lives() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read(folder.path()), (State::Stopped, None));
        let hold = Hold::take(folder.path()).unwrap();
        let mut status = Status::begin(0, 9);
        hold.tell(&status).unwrap();
        assert_eq!(read(folder.path()), (State::Running, Some(status.clone())));
        let said = Hold::take(folder.path()).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(said.starts_with("another process is using "), "{said}");
        drop(hold);
        assert_eq!(read(folder.path()).0, State::Stopped, "killed: it could not say that it ended");
        status.end(&Err(anyhow::anyhow!("no")), 3);
        Hold::take(folder.path()).unwrap().tell(&status).unwrap();
        assert_eq!(read(folder.path()), (State::Failed, Some(status.clone())));
        status.end(&Ok(Times::default()), 3);
        assert_eq!(status.state, State::Stopped);
        status.end(&Ok(Times::default()), 9);
        assert_eq!((status.state, status.error), (State::Done, None));
    }
}

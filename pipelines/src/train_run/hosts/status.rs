//! Who takes part in a run, for `pipeline status`.
use crate::hosts::{Notice, Step};
use crate::train_run::status::now;
use contract::{Lane, leaves_of};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The hosts of a run, in its directory.
const STATUS_FILE: &str = "hosts-status.json";
/// Commits are written down at most this often.
const PAUSE: Duration = Duration::from_secs(1);

/// The hosts of a run, as its head last wrote them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HostsStatus {
    /// Those that train, the head first; none while the run waits for hosts.
    pub hosts: Vec<HostShare>,
    /// The last commit: the step from which training goes on if a host is lost.
    pub commit: Step,
    /// The last time that something went wrong with a host.
    pub last_failure: Option<HostFailure>,
}

/// A host that trains.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HostShare {
    /// Its name.
    pub name: String,
    /// The fraction of the micro-batches of a step that it computes.
    pub share: f64,
}

/// Something that went wrong with a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFailure {
    /// What the head said.
    pub what: String,
    /// When, in seconds since 1970 (UTC).
    pub at: u64,
}

impl HostsStatus {
    /// The hosts of the run in `run_dir`; `None` if it runs or ran on one host without others.
    pub fn read(run_dir: &Path) -> Option<Self> {
        serde_json::from_str(&fs::read_to_string(run_dir.join(STATUS_FILE)).ok()?).ok()
    }

    /// What a notice changes, in a run of `leaves` micro-batches.
    fn note(&mut self, notice: &Notice, leaves: Lane) {
        let failed = match notice {
            Notice::Training { hosts, workers, .. } => {
                let share = |at: usize| leaves_of(at, workers, leaves).len() as f64 / f64::from(leaves.max(1));
                let hosts = hosts.iter().enumerate();
                self.hosts = hosts.map(|(at, name)| HostShare { name: name.clone(), share: share(at) }).collect();
                false
            }
            Notice::Ended { .. } | Notice::Gathering { .. } => {
                self.hosts.clear();
                false
            }
            Notice::Lost { .. } | Notice::SetAside { .. } | Notice::Refused { .. } | Notice::CannotConnect(_) => true,
            _ => false,
        };
        if failed {
            self.last_failure = Some(HostFailure { what: notice.to_string(), at: now() });
        }
    }
}

/// Writes [`HostsStatus`]. Errors are ignored: the run does not depend on it.
pub struct StatusWriter {
    path: PathBuf,
    leaves: Lane,
    known: Mutex<Known>,
}

/// The status, and when it was written.
#[derive(Default)]
struct Known {
    status: HostsStatus,
    written: Option<Instant>,
}

impl StatusWriter {
    /// For a run of `leaves` micro-batches that begins at `step`.
    pub fn new(run_dir: &Path, leaves: Lane, step: Step) -> Self {
        let status = HostsStatus { commit: step, ..HostsStatus::default() };
        Self { path: run_dir.join(STATUS_FILE), leaves, known: Mutex::new(Known { status, written: None }) }
    }

    /// The head has said something.
    pub fn note(&self, notice: &Notice) {
        let mut known = self.lock();
        known.status.note(notice, self.leaves);
        self.write_now(&mut known);
    }

    /// There is a new commit.
    pub fn committed(&self, step: Step) {
        let mut known = self.lock();
        known.status.commit = step;
        if known.written.is_none_or(|written| written.elapsed() >= PAUSE) {
            self.write_now(&mut known);
        }
    }

    /// Writes it as it is now.
    pub fn write(&self) {
        self.write_now(&mut self.lock());
    }

    fn write_now(&self, known: &mut Known) {
        known.written = Some(Instant::now());
        let part = self.path.with_extension("part");
        if let Ok(text) = serde_json::to_string(&known.status)
            && fs::write(&part, text).is_ok()
        {
            let _ = fs::rename(&part, &self.path);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hosts::{Epoch, Loss};

    #[test]
    fn it_shows_who_trains_and_what_went_wrong() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(HostsStatus::read(folder.path()), None);
        let writer = StatusWriter::new(folder.path(), 16, 0);
        let names = || ["ant", "bee", "cow"].map(String::from).to_vec();
        writer.note(&Notice::Training { epoch: Epoch::default(), hosts: names(), workers: vec![2, 2, 4], from: 0 });
        let status = HostsStatus::read(folder.path()).unwrap();
        let shares: Vec<_> = status.hosts.iter().map(|host| (host.name.as_str(), host.share)).collect();
        assert_eq!(shares, [("ant", 0.25), ("bee", 0.25), ("cow", 0.5)]);
        writer.committed(10);
        writer.note(&Notice::Lost { name: "bee".into(), loss: Loss::Silent });
        let status = HostsStatus::read(folder.path()).unwrap();
        assert_eq!((status.commit, status.hosts.len()), (10, 3));
        assert_eq!(status.last_failure.unwrap().what, "lost bee: it does not answer");
    }
}

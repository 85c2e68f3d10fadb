//! How far the workers of a process have got, for those who watch whether they hang.
use super::stage_runner::Ran;
use anyhow::Result;
use contract::Step;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Counts calls of stages, as a resource of the run.
#[derive(Debug, Default)]
pub struct Activity {
    step: AtomicU64,
    calls: AtomicU64,
    running: AtomicUsize,
}

impl Activity {
    /// The latest step that a stage of this process has worked on.
    pub fn step(&self) -> Step {
        self.step.load(Ordering::Relaxed)
    }

    /// Number of calls that have returned.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// Whether no stage is being called: all workers wait for something.
    pub fn is_idle(&self) -> bool {
        self.running.load(Ordering::Relaxed) == 0
    }

    /// Calls a stage, and counts that if it had something to do.
    pub(super) fn during(activity: Option<&Self>, step: Step, call: impl FnOnce() -> Result<Ran>) -> Result<Ran> {
        let Some(activity) = activity else { return call() };
        activity.running.fetch_add(1, Ordering::Relaxed);
        let ran = call();
        activity.running.fetch_sub(1, Ordering::Relaxed);
        if !matches!(ran, Ok(Ran::Idle)) {
            activity.calls.fetch_add(1, Ordering::Relaxed);
            activity.step.fetch_max(step, Ordering::Relaxed);
        }
        ran
    }
}

//! How a failure on any worker ends the run on all of them.
use crate::panics;
use anyhow::Error;
use contract::Step;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// Where a failure happened: the context of its error.
#[derive(Clone, Debug)]
pub struct InStage {
    /// The stage.
    pub stage: String,
    /// The step, if it was in one.
    pub step: Option<Step>,
}

impl fmt::Display for InStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stage `{}`", self.stage)?;
        self.step.map_or(Ok(()), |step| write!(f, ", step {step}"))
    }
}

/// The first failure of a run, shared by all its workers and threads.
#[derive(Clone, Default)]
pub struct Failure(Arc<Shared>);

#[derive(Default)]
struct Shared {
    happened: AtomicBool,
    first: Mutex<Option<Error>>,
}

impl Failure {
    /// Whether anything has failed, so that all workers must stop.
    pub fn happened(&self) -> bool {
        self.0.happened.load(Ordering::Acquire)
    }

    /// The first failure, once.
    pub fn take(&self) -> Option<Error> {
        self.0.first.lock().unwrap_or_else(|e| e.into_inner()).take()
    }

    /// Notes a failure; the first one stays.
    pub fn note(&self, error: Error) {
        self.0.first.lock().unwrap_or_else(|e| e.into_inner()).get_or_insert(error);
        self.0.happened.store(true, Ordering::Release);
    }

    /// Runs `work` of a stage; if it fails or panics, notes that with the stage's name and the step.
    pub fn guard<T>(&self, stage: &str, step: Option<Step>, work: impl FnOnce() -> anyhow::Result<T>) -> Option<T> {
        let error = match panics::catch(work) {
            Ok(value) => return Some(value),
            Err(error) => error,
        };
        self.note(error.context(InStage { stage: stage.to_owned(), step }));
        None
    }
}

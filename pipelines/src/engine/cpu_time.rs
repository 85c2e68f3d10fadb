//! CPU time of a worker and of its stages, for `pipeline bench`. Unlike the times in [`timing`](super::timing), it does
//! not count the time in which another thread has the core, so it can be compared between any numbers of workers.
use super::timing::StageTiming;
use compute::cpu::thread_time;
use contract::Step;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::Duration;

/// That the CPU time of workers and stages is measured, as a resource.
pub struct MeasureCpu {
    /// The first step that counts.
    pub from: Step,
}

/// Measures one worker.
pub struct CpuTime {
    /// The first step that counts.
    from: Step,
    /// The worker's CPU time when it came to that step.
    began: Cell<Option<Duration>>,
    stages: RefCell<BTreeMap<String, Duration>>,
}

impl CpuTime {
    /// Measures from step `from` on.
    pub fn new(from: Step) -> Self {
        Self { from, began: Cell::default(), stages: RefCell::default() }
    }

    /// Calls `work` of stage `id`, which is at `step`.
    pub fn of<R>(&self, id: &str, step: Step, work: impl FnOnce() -> R) -> R {
        if step < self.from {
            return work();
        }
        let before = thread_time();
        self.began.set(self.began.get().or(Some(before)));
        let result = work();
        *self.stages.borrow_mut().entry(id.to_owned()).or_default() += thread_time().saturating_sub(before);
        result
    }

    /// Adds the time of each stage to `stages`. Returns the worker's time, which includes that of the engine.
    pub fn read(&self, stages: &mut [StageTiming]) -> Duration {
        let measured = self.stages.borrow();
        for stage in stages {
            stage.cpu = measured.get(&stage.id).copied().unwrap_or_default();
        }
        self.began.get().map_or(Duration::ZERO, |began| thread_time().saturating_sub(began))
    }
}

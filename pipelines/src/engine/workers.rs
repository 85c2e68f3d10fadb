//! Runs a graph on worker threads until it is finished, or until anything fails on any of them.
use super::cpu_time::{CpuTime, MeasureCpu};
use super::failure::Failure;
use super::graph::build;
use super::shared_queue::SharedQueues;
use super::timing::{StageTiming, Stopwatch, WorkerTiming};
use crate::panics;
use crate::plan::{PlannedStage, upstream};
use anyhow::{Result, anyhow};
use contract::{Built, Env, Saved, SharedValues, leaf_owner};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use timely::worker::Worker;

/// How often a parked worker checks whether another worker has failed.
const CHECK_INTERVAL: Duration = Duration::from_millis(50);

/// A graph and its environment.
pub struct Job {
    /// The stages and how they are connected.
    pub stages: Vec<PlannedStage>,
    /// Their environment, as worker 0 sees it.
    pub env: Env,
    /// State of stages from the checkpoint that this run resumes from.
    pub saved: Vec<Saved>,
    /// How many steps ahead of the optimizer sources may read; at least 1.
    pub prefetch: u64,
}

/// Runs `job` on `job.env.workers` threads. Each builds its own stages, from the same settings.
///
/// # Errors
/// The first failure of any stage on any worker, with the stage's name and the step; all workers stop.
pub fn execute(mut job: Job) -> Result<Vec<WorkerTiming>> {
    let queues = SharedQueues::new(&job.stages);
    job.env.resources.insert(Arc::new(SharedValues::default()));
    threads(job.env.workers, move |worker, failure| Ok(work(worker, &job, &queues, failure)))
}

/// Runs `work` on `workers` threads. `work` builds dataflows and [runs](finish) them until they are finished.
///
/// # Errors
/// The first failure on any worker; all workers stop.
pub fn threads<R: Default + Send + 'static>(
    workers: usize,
    work: impl Fn(&mut Worker, &Failure) -> Result<R> + Send + Sync + 'static,
) -> Result<Vec<R>> {
    let failure = Failure::default();
    let noted = failure.clone();
    let config = if workers == 1 { timely::Config::thread() } else { timely::Config::process(workers) };
    let guards = timely::execute(config, move |worker| {
        // timely would wait for ever for a dataflow that a panic has left incomplete, so all are dropped.
        let result = failure.guard("(engine)", None, || work(worker, &failure));
        for dataflow in worker.installed_dataflows() {
            failure.guard("(engine)", None, || {
                worker.drop_dataflow(dataflow);
                Ok(())
            });
        }
        result.unwrap_or_default()
    })
    .map_err(|error| anyhow!("cannot start the workers: {error}"))?;
    let mut results = Vec::new();
    for guard in guards.join() {
        match guard {
            Ok(result) => results.push(result),
            // timely reports only that a worker panicked, not the message.
            Err(_) => noted.note(panics::last().context("in a worker")),
        }
    }
    match noted.take() {
        Some(error) => Err(error),
        None => Ok(results),
    }
}

/// Steps until the worker's dataflows are finished, or until anything fails on any worker.
pub fn finish(worker: &mut Worker, failure: &Failure) {
    while !failure.happened() && worker.step_or_park(Some(CHECK_INTERVAL)) {}
}

/// The work of one worker.
fn work(worker: &mut Worker, job: &Job, queues: &SharedQueues, failure: &Failure) -> WorkerTiming {
    let ids: Vec<String> = job.stages.iter().map(|stage| stage.id.clone()).collect();
    let env = Env { worker: worker.index(), ..job.env.clone() };
    let watch = Stopwatch::install(worker);
    let built: Option<Vec<Built>> =
        (0..job.stages.len()).map(|at| failure.guard(&ids[at], None, || restored(job, at, &env))).collect();
    let Some(built) = built else { return WorkerTiming::default() };
    let cpu = env.resources.get::<MeasureCpu>().map(|measure| Rc::new(CpuTime::new(measure.from)));
    let clocks = worker.dataflow(|scope| build(scope, job, queues, built, &env, cpu.clone(), failure));
    finish(worker, failure);
    let mut timing = watch.borrow().read(&ids);
    timing.cpu = cpu.map_or(Duration::ZERO, |cpu| cpu.read(&mut timing.stages));
    for (id, clock) in clocks {
        let busy = Duration::from_nanos(clock.load(Ordering::Relaxed));
        timing.stages.push(StageTiming { id: format!("{id} (thread)"), busy, ..StageTiming::default() });
    }
    timing
}

/// Builds a stage of this worker and loads the saved state of the lanes that the worker owns.
fn restored(job: &Job, at: usize, env: &Env) -> Result<Built> {
    let stage = &job.stages[at];
    let upstream = upstream(&job.stages, at).into_iter().rev().map(|at| job.stages[at].id.clone()).collect();
    let mut built = stage.settings.build(&Env { stage: stage.id.clone(), upstream, ..env.clone() })?;
    for saved in job.saved.iter().filter(|saved| saved.stage == stage.id) {
        if leaf_owner(saved.lane, env.workers) == env.worker {
            match &mut built {
                Built::Stage(made) => made.load(saved.lane, saved.state.value()?)?,
                Built::Source(made) => made.load(saved.lane, saved.state.value()?)?,
            }
        }
    }
    Ok(built)
}

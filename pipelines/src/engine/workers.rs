//! Runs a graph on worker threads, of one process or of several, until it is finished or anything fails on any of them.
use super::connections::{Broken, Cancellation, Cancelled, Connections};
use super::cpu_time::{CpuTime, MeasureCpu};
use super::distribution::{across_processes, elsewhere, runs_here};
use super::failure::Failure;
use super::graph::build;
use super::position::Position;
use super::shared_queue::SharedQueues;
use super::stop::Stop;
use super::timing::{StageTiming, Stopwatch, WorkerTiming};
use crate::plan::{PlannedStage, upstream};
use crate::{machine, panics};
use anyhow::{Context, Error, Result, anyhow};
use contract::{Built, Env, Saved, SharedValues};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use timely::communication::allocator::zero_copy::initialize::{CommsGuard, initialize_networking_from_sockets};
use timely::communication::allocator::{AllocatorBuilder, ProcessBuilder};
use timely::communication::{Config, Hooks};
use timely::worker::Worker;

/// How often a parked worker checks whether another worker has failed.
const CHECK_INTERVAL: Duration = Duration::from_millis(50);

/// How many empty buffers each end of a connection keeps.
const EMPTY_BUFFERS: usize = 4;

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
pub fn execute(job: Job) -> Result<Vec<WorkerTiming>> {
    run(job, None)
}

/// Runs `job` together with other processes, each on `job.env.workers` threads. All processes run the same graph with the
/// same environment, of which only the first one needs data and a run directory; the results are those of one process.
///
/// # Errors
/// The first failure of any stage on any worker of this process; [`Broken`] when another process has ended before its time,
/// [`Cancelled`] when it was asked to end.
pub fn execute_together(mut job: Job, connections: Connections) -> Result<Vec<WorkerTiming>> {
    (job.env.process, job.env.shares) = (connections.process, connections.computing.clone().into());
    job.stages = across_processes(&job.stages)?;
    // The graph has the same operators everywhere.
    if job.env.resources.get::<Stop>().is_none() {
        job.env.resources.insert(Arc::new(Stop::default()));
    }
    run(job, Some(connections))
}

fn run(mut job: Job, connections: Option<Connections>) -> Result<Vec<WorkerTiming>> {
    let computing = connections.as_ref().map(|connections| connections.computing[connections.process] as usize);
    let queues = SharedQueues::new(&job.stages, computing.unwrap_or(usize::MAX));
    job.env.resources.insert(Arc::new(SharedValues::default()));
    let workers = job.env.workers;
    // Work that workers take when they are idle is worth keeping them apart for. What is assigned to workers in advance is
    // done sooner if the system may move them.
    let placed = if queues.is_empty() { 0 } else { computing.map_or(workers, |computing| computing.min(workers)) };
    start(workers, connections, move |worker, failure| {
        let index = worker.index() % workers;
        if index < placed {
            machine::place_worker(index, placed);
        }
        Ok(work(worker, &job, &queues, failure))
    })
}

/// Runs `work` on `workers` threads. `work` builds dataflows and [runs](finish) them until they are finished.
///
/// # Errors
/// The first failure on any worker; all workers stop.
pub fn threads<R: Default + Send + 'static>(
    workers: usize,
    work: impl Fn(&mut Worker, &Failure) -> Result<R> + Send + Sync + 'static,
) -> Result<Vec<R>> {
    start(workers, None, work)
}

fn start<R: Default + Send + 'static>(
    workers: usize,
    connections: Option<Connections>,
    work: impl Fn(&mut Worker, &Failure) -> Result<R> + Send + Sync + 'static,
) -> Result<Vec<R>> {
    let failure = Failure::default();
    let noted = failure.clone();
    let (allocators, network) = allocators(workers, connections, &failure)?;
    let guards =
        timely::execute::execute_from(allocators, Box::new(()), timely::WorkerConfig::default(), move |worker| {
            // timely would wait for ever for a dataflow that a panic has left incomplete, so all are dropped.
            let result = failure.guard("(engine)", None, || work(worker, &failure));
            let finished = worker.installed_dataflows().is_empty();
            for dataflow in worker.installed_dataflows() {
                failure.guard("(engine)", None, || {
                    worker.drop_dataflow(dataflow);
                    Ok(())
                });
            }
            (result.unwrap_or_default(), finished)
        })
        .map_err(|error| anyhow!("cannot start the workers: {error}"))?;
    let (mut results, mut all_finished) = (Vec::new(), true);
    for guard in guards.join() {
        match guard {
            Ok((result, finished)) => {
                results.push(result);
                all_finished &= finished;
            }
            // timely reports only that a worker panicked, not the message.
            Err(_) => {
                noted.note(panics::last().context("in a worker"));
                all_finished = false;
            }
        }
    }
    network.into_iter().for_each(|network| network.end(&noted));
    // A process that has come to the end does not need the others any more.
    let of_others = |error: &Error| error.is::<Broken>() || error.is::<Cancelled>();
    match noted.take().filter(|error| !(all_finished && of_others(error))) {
        Some(error) => Err(error),
        None => Ok(results),
    }
}

/// timely's threads that read and write sockets.
struct Network {
    cancellation: Cancellation,
    guard: CommsGuard,
}

impl Network {
    /// Waits until everything is sent and the other processes have ended too; after a failure, closes the sockets.
    fn end(self, failure: &Failure) {
        if failure.happened() {
            self.cancellation.close();
        }
        // It panics if one of the threads has, which has noted its failure before.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(self.guard)));
    }
}

/// What timely's workers communicate by.
fn allocators(
    workers: usize,
    connections: Option<Connections>,
    failure: &Failure,
) -> Result<(Vec<AllocatorBuilder>, Option<Network>)> {
    let Some(connections) = connections else {
        let config = if workers == 1 { Config::Thread } else { Config::Process(workers) };
        let (allocators, _) = config.try_build().map_err(Error::msg).context("cannot start the workers")?;
        return Ok((allocators, None));
    };
    let (process, mut hooks) = (connections.process, Hooks::default());
    hooks.refill.limit = Some(EMPTY_BUFFERS);
    let cancellation = connections.cancellation.clone();
    let streams = connections.into_streams(failure).context("cannot use the sockets of the run")?;
    let threads = ProcessBuilder::new_typed_vector(workers, hooks.refill.clone(), None);
    let (allocators, guard) = initialize_networking_from_sockets(threads, streams, process, workers, hooks)
        .context("cannot start the threads of the run's sockets")?;
    Ok((allocators.into_iter().map(AllocatorBuilder::Tcp).collect(), Some(Network { cancellation, guard })))
}

/// Steps until the worker's dataflows are finished, or until anything fails on any worker.
pub fn finish(worker: &mut Worker, failure: &Failure) {
    while !failure.happened() && worker.step_or_park(Some(CHECK_INTERVAL)) {}
}

/// The work of one worker.
fn work(worker: &mut Worker, job: &Job, queues: &SharedQueues, failure: &Failure) -> WorkerTiming {
    let ids: Vec<String> = job.stages.iter().map(|stage| stage.id.clone()).collect();
    let env = Env { worker: worker.index() % job.env.workers, ..job.env.clone() };
    debug_assert_eq!(worker.index(), Position::of(&env).index(), "timely numbers workers process by process");
    let watch = Stopwatch::install(worker);
    let build_stage = |(at, here): (usize, bool)| match here {
        true => failure.guard(&ids[at], None, || restored(job, at, &env)),
        false => Some(elsewhere(&job.stages[at])),
    };
    let built: Option<Vec<Built>> =
        runs_here(&job.stages, env.process).into_iter().enumerate().map(build_stage).collect();
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
        if env.lanes().any(|lane| lane == saved.lane) {
            match &mut built {
                Built::Stage(made) => made.load(saved.lane, saved.state.value()?)?,
                Built::Source(made) => made.load(saved.lane, saved.state.value()?)?,
            }
        }
    }
    Ok(built)
}

//! The engine run on toy stages, against plain loops.
//!
//! - [`toys`]: a miniature training pipeline, its stages; [`plain`]: the same as a plain loop
//! - [`watch`]: wraps a stage so that every call is logged, and fails on request
mod contract_kept;
mod failures;
mod gather;
mod idle_workers;
mod plain;
mod prefetch;
mod processes;
mod restore;
mod stop;
mod timing;
mod toys;
mod training;
mod watch;

use super::{Job, Stop, WorkerTiming, execute};
use crate::plan::{Edge, PlannedStage};
use contract::{BatchShape, Built, Env, Kind, Port, Resources, Saved, Schedule, Settings};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use watch::{Call, Fault, Log, Watched};

type Build = dyn Fn(&Env) -> anyhow::Result<Built> + Send + Sync;

/// Settings made by hand.
struct Toy {
    takes: Vec<Port>,
    pulls: bool,
    build: Box<Build>,
}

impl Settings for Toy {
    fn takes(&self) -> Vec<Port> {
        self.takes.clone()
    }
    fn gives(&self) -> Vec<Kind> {
        Vec::new() // the engine asks the takers
    }
    fn build(&self, env: &Env) -> anyhow::Result<Built> {
        (self.build)(env)
    }
    fn pulls(&self) -> bool {
        self.pulls
    }
}

/// A graph to run.
#[derive(Clone)]
struct Setup {
    workers: usize,
    lanes: u32,
    first: u64,
    steps: u64,
    checkpoint: Option<u64>,
    prefetch: u64,
    saved: Vec<Saved>,
    stop: Option<Arc<Stop>>,
    fault: Option<Fault>,
    log: Log,
}

impl Setup {
    fn new(workers: usize, lanes: u32, steps: u64) -> Self {
        let (fault, log) = (None, Arc::new(Mutex::new(Vec::new())));
        let (first, checkpoint, prefetch, saved) = (0, None, 2, Vec::new());
        let stop = None;
        Self { workers, lanes, first, steps, checkpoint, prefetch, saved, stop, fault, log }
    }

    /// A stage of the plan, watched. `inputs`: for each port the stages that feed it, and whether by feedback.
    fn stage(&self, id: &'static str, takes: &[Port], inputs: &[&[(usize, bool)]], build: Box<Build>) -> PlannedStage {
        let (log, fault) = (Arc::clone(&self.log), self.fault.clone());
        let watched = move |env: &Env| Watched::built(id, build(env)?, env.worker, Arc::clone(&log), fault.clone());
        let edges = |port: &&[(usize, bool)]| {
            port.iter().map(|(from, feedback)| Edge { from: *from, feedback: *feedback }).collect()
        };
        PlannedStage {
            id: id.into(),
            type_name: "toy",
            keys: Some(Vec::new()),
            settings: Arc::new(Toy { takes: takes.to_vec(), pulls: id == "pack", build: Box::new(watched) }),
            inputs: inputs.iter().map(edges).collect(),
        }
    }

    /// Runs `stages`; panics if that takes longer than anything here may.
    fn run(&self, stages: Vec<PlannedStage>) -> anyhow::Result<Vec<WorkerTiming>> {
        let job = self.job(stages);
        within(Duration::from_secs(20), move || execute(job))
    }

    fn job(&self, stages: Vec<PlannedStage>) -> Job {
        let schedule = Schedule { first: self.first, steps: self.steps, evaluate: None, checkpoint: self.checkpoint };
        let shape = BatchShape { micro_batches: self.lanes, lanes: self.lanes, sequences: 1, length: 1 };
        let (workers, mut resources) = (self.workers, Resources::default());
        self.stop.iter().for_each(|stop| resources.insert(Arc::clone(stop)));
        let env = Env { schedule, shape, ..Env::without_training(workers, shape.lanes, schedule.steps, resources) };
        Job { stages, env, saved: self.saved.clone(), prefetch: self.prefetch }
    }

    /// What stage `id` was called with on `worker`, in order.
    fn calls(&self, id: &str, worker: usize) -> Vec<Call> {
        let log = self.log.lock().unwrap();
        log.iter().filter(|(i, w, _)| *i == id && *w == worker).map(|(_, _, call)| call.clone()).collect()
    }
}

/// The result of `work`, which must not hang.
fn within<T: Send + 'static>(limit: Duration, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (send, receive) = channel();
    std::thread::spawn(move || send.send(work()));
    receive.recv_timeout(limit).expect("finished in time, without a panic")
}

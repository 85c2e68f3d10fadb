//! The context in which a stage is built.
use crate::parameters::ModelFacts;
use crate::resources::Resources;
use crate::sections::{Section, Updates};
use crate::settings::{BatchShape, Corpus};
use crate::shared::SharedValues;
use crate::step::{Lane, Schedule, leaf_owner, leaves_of};
use anyhow::Result;
use std::any::Any;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

/// The context in which a stage is built. The same on every worker except for `worker`.
#[derive(Clone)]
pub struct Env {
    /// The stage's id in the plan.
    pub stage: String,
    /// The stages whose packets reach it within a step, nearest first.
    pub upstream: Vec<String>,
    /// The index of this worker in its process.
    pub worker: usize,
    /// Number of workers of each process.
    pub workers: usize,
    /// The index of this process among those that run the graph together.
    pub process: usize,
    /// The shares of the leaves that the processes compute, one for each.
    pub shares: Arc<[u32]>,
    /// The run's seed.
    pub seed: u64,
    /// When validations and checkpoints are due.
    pub schedule: Schedule,
    /// Shape of the micro-batches.
    pub shape: BatchShape,
    /// The model, if the graph has one.
    pub model: Option<Arc<ModelFacts>>,
    /// The size of the corpus, if it is known.
    pub corpus: Option<Corpus>,
    /// The run directory, if the run has one.
    pub run_dir: Option<PathBuf>,
    /// Resources of stages and of the run.
    pub resources: Resources,
}

impl Env {
    /// What a stage may know in a graph of `steps` steps of `lanes` lanes that does not train: no model, no corpus, no
    /// run directory. It is the environment of the first worker of one process, with seed 0; others are made from it.
    pub fn without_training(workers: usize, lanes: u32, steps: u64, resources: Resources) -> Self {
        Self {
            stage: String::new(),
            upstream: Vec::new(),
            worker: 0,
            workers,
            process: 0,
            shares: Arc::new([1]),
            seed: 0,
            schedule: Schedule { first: 0, steps, evaluate: None, checkpoint: None },
            shape: BatchShape { micro_batches: lanes, lanes, sequences: 0, length: 0 },
            model: None,
            corpus: None,
            run_dir: None,
            resources,
        }
    }

    /// The lanes of this worker. All lanes belong to the first process.
    pub fn lanes(&self) -> impl Iterator<Item = Lane> + use<> {
        let (worker, workers) = (self.worker, self.workers);
        let lanes = if self.process == 0 { 0..self.shape.lanes } else { 0..0 };
        lanes.filter(move |lane| leaf_owner(*lane, workers) == worker)
    }

    /// The leaves that the workers of this process compute.
    pub fn leaves(&self) -> Range<Lane> {
        leaves_of(self.process, &self.shares, self.shape.micro_batches)
    }

    /// Number of processes.
    pub fn processes(&self) -> usize {
        self.shares.len()
    }

    /// Whether this is worker 0 of the first process, to which packets go that are gathered in one place.
    pub fn gathers(&self) -> bool {
        (self.process, self.worker) == (0, 0)
    }

    /// The index of a worker of a process among the workers of all processes.
    pub fn among_all(&self, process: usize, worker: usize) -> usize {
        process * self.workers + worker
    }

    /// The model, or an error saying that this stage needs one.
    pub fn model(&self) -> Result<Arc<ModelFacts>> {
        self.model
            .clone()
            .ok_or_else(|| anyhow::anyhow!("there is no model: a stage that gives activations is missing"))
    }

    /// The sections of the model's tensors, in order, with their owners.
    pub fn sections(&self) -> Result<Vec<Section>> {
        let model = self.model()?;
        let updates = self.resources.get::<Updates>();
        Ok(updates
            .unwrap_or_else(|| Arc::new(Updates::of_whole_tensors(&model)))
            .sections(self.workers, self.processes()))
    }

    /// The value that all workers' copies of this stage share; the first that asks makes it.
    ///
    /// # Errors
    /// If this is not the environment of a graph that runs.
    pub fn shared<T: Any + Send + Sync>(&self, make: impl FnOnce() -> T) -> Result<Arc<T>> {
        let values = self.resources.get::<SharedValues>();
        let values = values.ok_or_else(|| anyhow::anyhow!("values are shared only while a graph runs"))?;
        Ok(values.of(&self.stage, make))
    }

    /// The resource of type `T` that this stage provides; otherwise that of the nearest stage upstream that provides
    /// one; otherwise that of the run.
    pub fn find<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        let stages = std::iter::once(&self.stage).chain(&self.upstream);
        stages.map(|stage| self.resources.of(stage)).find(Option::is_some).flatten().or_else(|| self.resources.get())
    }

    /// Like [`find`](Self::find), but an error that names `what` if there is none.
    pub fn resource<T: Any + Send + Sync>(&self, what: &str) -> Result<Arc<T>> {
        self.find().ok_or_else(|| anyhow::anyhow!("{what} is missing"))
    }
}

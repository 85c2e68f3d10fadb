//! What a host that joins has to know to take part: the configuration and what follows from the data, which only the head
//! has.
use crate::engine::{Job, Stop};
use crate::plan::{Overrides, Plan};
use crate::train_run::session::{Session, batch_shape};
use anyhow::{Context, Error, Result, anyhow};
use compute::kernels::gemm;
use contract::{CommitEvery, Env, Facts, Resources, Schedule, StageType, Step};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use train::weights::Start;

/// The configuration as a file.
const CONFIG_FILE: &str = "config.toml";

/// A run, for a host that joins it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostJob {
    /// The resolved configuration.
    pub config: String,
    vocabulary: usize,
    end_of_text: u32,
    /// Updates of the whole run.
    steps: u64,
    evaluate: Option<u64>,
    checkpoint: Option<u64>,
    commit_every: u64,
    /// Workers of each host.
    pub workers: usize,
    gemm: String,
    /// What the files beside this description are.
    pub from: From,
}

/// The source of the parameters and the optimizer state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum From {
    /// The seed.
    Seed,
    /// The files of a model.
    Weights,
    /// The files of a checkpoint.
    Checkpoint,
}

impl From {
    /// The source that `start` says, and its folder.
    pub fn of(start: Option<&Start>) -> (Self, Option<PathBuf>) {
        match start {
            None | Some(Start::Fresh) => (Self::Seed, None),
            Some(Start::Weights(folder)) => (Self::Weights, Some(folder.clone())),
            Some(Start::Resume(folder)) => (Self::Checkpoint, Some(folder.clone())),
        }
    }

    fn start(self, folder: &Path) -> Start {
        match self {
            Self::Seed => Start::Fresh,
            Self::Weights => Start::Weights(folder.into()),
            Self::Checkpoint => Start::Resume(folder.into()),
        }
    }
}

impl HostJob {
    /// The run of `session`, whose state comes `from`.
    ///
    /// # Errors
    /// If the session has no vocabulary.
    pub fn new(plan: &Plan, session: &Session, commit_every: u64, from: From) -> Result<Self> {
        let facts = session.env.resources.get::<Facts>().context("the run has no vocabulary")?;
        let mut resolved = plan.resolved.clone();
        // What it determines is in the other keys, and its files are at the head.
        ["initial_checkpoint", "accept_differences"].iter().for_each(|key| drop(resolved.run.remove(key)));
        let Schedule { steps, evaluate, checkpoint, .. } = session.env.schedule;
        Ok(Self {
            config: resolved.to_toml(),
            vocabulary: facts.vocabulary,
            end_of_text: facts.end_of_text,
            steps,
            evaluate,
            checkpoint,
            commit_every,
            workers: session.env.workers,
            gemm: gemm::chosen().into(),
            from,
        })
    }

    /// The same run, whose state comes `from`.
    #[must_use]
    pub fn with(&self, from: From) -> Self {
        Self { from, ..self.clone() }
    }

    /// The graph of a generation that begins at step `first`, of which this host runs its part. `folder` has the files of
    /// the state, and the configuration is written to it.
    ///
    /// # Errors
    /// If this program cannot run the configuration.
    pub fn job(&self, folder: &Path, first: Step, stages: &[StageType], stop: &Arc<Stop>) -> Result<Job> {
        gemm::choose(&self.gemm).map_err(|error| anyhow!("the head multiplies with `{}`: {error}", self.gemm))?;
        let path = folder.join(CONFIG_FILE);
        std::fs::write(&path, &self.config).with_context(|| format!("cannot write {}", path.display()))?;
        let plan = Plan::load(&path, &Overrides::default(), stages).map_err(Error::new)?;
        let shape = batch_shape(&plan)?;
        let facts = Facts { vocabulary: self.vocabulary, length: shape.length, end_of_text: self.end_of_text };
        let model = Arc::new(plan.model(&facts).context("the configuration of the head has no model")?);
        let mut resources = Resources::default();
        resources.insert(Arc::new(facts));
        plan.updates(&model).into_iter().for_each(|updates| resources.insert(Arc::new(updates)));
        resources.insert(Arc::new(self.from.start(folder)));
        resources.insert(Arc::new(CommitEvery(self.commit_every)));
        resources.insert(Arc::clone(stop));
        let schedule = Schedule { first, steps: self.steps, evaluate: self.evaluate, checkpoint: self.checkpoint };
        let without = Env::without_training(self.workers, shape.micro_batches, self.steps, resources);
        let env = Env { seed: plan.run.seed, schedule, shape, model: Some(model), ..without };
        Ok(Job { stages: plan.stages, env, saved: Vec::new(), prefetch: plan.run.prefetch })
    }
}

//! The contents of checkpoints: the optimizer's tensors, and the state of every stage's lanes.
use crate::step::Lane;
use crate::tensor::Tensor;
use anyhow::Result;
use std::sync::Arc;

/// One tensor with its optimizer state, for a checkpoint. The optimizer emits these after every update; the engine
/// forwards them only if a checkpoint is due, or as [`CommitEvery`] says.
#[derive(Clone, Debug)]
pub struct OptimizerState {
    /// Index into the model's parameters.
    pub tensor: usize,
    /// The parameter of the model in the checkpoint: that after the update, or its average if the optimizer keeps one.
    pub parameter: Arc<Tensor>,
    /// The optimizer's tensors of this parameter by name, for example `m` and `v`.
    pub state: Vec<(&'static str, Arc<Tensor>)>,
}

/// How often the state of a run is gathered besides checkpoints, as a resource: after every so many updates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommitEvery(pub u64);

/// What one stage needs in order to continue one lane. Stages never create these: they implement
/// [`Stage::save`](crate::Stage::save), which the engine calls after every step.
#[derive(Clone, Debug)]
pub struct Saved {
    /// The stage's id in the plan.
    pub stage: String,
    /// The lane.
    pub lane: Lane,
    /// Its state after the step.
    pub state: Snapshot,
}

/// A snapshot of a stage's state of a lane. One is taken after every step, because a run may be stopped after any step;
/// so it must be cheap to take (a copy), and is converted to JSON only when a checkpoint is written.
#[derive(Clone, Default)]
pub struct Snapshot(Option<Arc<dyn Fn() -> Result<serde_json::Value> + Send + Sync>>);

impl Snapshot {
    /// A snapshot of `state`, which it takes ownership of.
    pub fn of(state: impl serde::Serialize + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(move || Ok(serde_json::to_value(&state)?))))
    }

    /// An empty snapshot: the stage has no state for the lane.
    pub fn is_nothing(&self) -> bool {
        self.0.is_none()
    }

    /// The snapshot as JSON; `Null` if it is empty.
    ///
    /// # Errors
    /// If the state cannot be written as JSON.
    pub fn value(&self) -> Result<serde_json::Value> {
        self.0.as_ref().map_or(Ok(serde_json::Value::Null), |value| value())
    }
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.is_nothing() { "nothing" } else { "a snapshot" })
    }
}

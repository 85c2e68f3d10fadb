//! What checkpoints hold: the optimizer's tensors, and every stage's state of each lane.
use crate::step::Lane;
use crate::tensor::Tensor;
use anyhow::Result;
use std::sync::Arc;

/// One tensor with its optimizer state, for a checkpoint. The optimizer gives these after every update; they leave
/// it only where a checkpoint is due, which the engine knows.
#[derive(Clone, Debug)]
pub struct OptimizerState {
    /// Index into the model's parameters.
    pub tensor: usize,
    /// The parameter after the update.
    pub parameter: Arc<Tensor>,
    /// The optimizer's tensors of this parameter by name, for example `m` and `v`.
    pub state: Vec<(&'static str, Arc<Tensor>)>,
}

/// What one stage must find again to go on with one lane. Stages never make these: they implement
/// [`Stage::save`](crate::Stage::save), and the engine asks after every step.
#[derive(Clone, Debug)]
pub struct Saved {
    /// The stage's name in the plan.
    pub stage: String,
    /// The lane.
    pub lane: Lane,
    /// Its state after the step.
    pub state: Snapshot,
}

/// A stage's state of a lane as it was when this was taken. It is taken after every step, because a run may be
/// stopped after any: so it must be cheap, a copy, and becomes JSON only where a checkpoint is written.
#[derive(Clone, Default)]
pub struct Snapshot(Option<Arc<dyn Fn() -> Result<serde_json::Value> + Send + Sync>>);

impl Snapshot {
    /// Keeps `state`, which belongs to nobody else any more.
    pub fn of(state: impl serde::Serialize + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(move || Ok(serde_json::to_value(&state)?))))
    }

    /// There is nothing to go on from: the lane has no state in this stage.
    pub fn is_nothing(&self) -> bool {
        self.0.is_none()
    }

    /// As JSON; `Null` if it is nothing.
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

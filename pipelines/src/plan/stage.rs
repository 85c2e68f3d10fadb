//! A stage of a plan.
use super::Edge;
use contract::{Env, Key, Memory, Settings};
use std::sync::Arc;

/// One stage of a [`Plan`](super::Plan).
#[derive(Clone)]
pub struct PlannedStage {
    /// Its name in the plan.
    pub id: String,
    /// Its type in the registry; empty for a plan made in code.
    pub type_name: &'static str,
    /// The keys of its type, with what each affects; `None` of a stage that only observes.
    pub keys: Option<Vec<Key>>,
    /// What its table says.
    pub settings: Arc<dyn Settings>,
    /// For each port of its settings, what feeds it.
    pub inputs: Vec<Vec<Edge>>,
}

/// A stage of a plan made in code.
#[derive(Clone)]
pub struct Wired {
    /// Its name in the plan.
    pub id: String,
    /// What it is.
    pub settings: Arc<dyn Settings>,
    /// The stages that feed it; by default the nearest ones above.
    pub inputs: Option<Vec<String>>,
}

impl Wired {
    /// A stage that the nearest ones above feed.
    pub fn new(id: &str, settings: Arc<dyn Settings>) -> Self {
        Self { id: id.to_owned(), settings, inputs: None }
    }
}

impl PlannedStage {
    /// `env` for this stage.
    pub fn env(&self, env: &Env) -> Env {
        Env { stage: self.id.clone(), ..env.clone() }
    }

    /// The peak memory of the stages that it becomes: see [`Settings::memory`].
    pub fn memory(&self, env: &Env) -> Memory {
        self.settings.memory(&self.env(env))
    }
}

impl std::fmt::Debug for PlannedStage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let PlannedStage { id, type_name, inputs, .. } = self;
        write!(f, "{id} ({type_name}) ← {inputs:?}")
    }
}

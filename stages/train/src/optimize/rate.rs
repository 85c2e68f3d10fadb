//! The keys of the learning rates, and keys for groups of parameters.
use crate::optimize::schedule::{Decay, LearningRateSchedule};
use contract::{Group, ModelFacts, Problem, StageKeys};
use serde::{Deserialize, Serialize};

/// The keys of the learning rates.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, StageKeys)]
#[serde(default)]
pub struct RateSettings {
    /// Peak learning rate.
    #[key(default = 1e-3, min = 0, max = 1e3)]
    pub learning_rate: f64,
    /// Peak learning rate of the embeddings of tokens and positions; if not given, `learning_rate`.
    #[key(min = 0, max = 1e3)]
    pub embedding_learning_rate: Option<f64>,
    /// Peak learning rate of a head of its own; if not given, `learning_rate`. A head that is tied to the embedding has
    /// the embedding's.
    #[key(min = 0, max = 1e3)]
    pub head_learning_rate: Option<f64>,
    /// Peak learning rate of biases and of the gains of normalisations; if not given, `learning_rate`.
    #[key(min = 0, max = 1e3)]
    pub vector_learning_rate: Option<f64>,
    /// Updates of the linear warmup to the peak.
    #[key(default = 50)]
    pub warmup_steps: u64,
    /// The learning rate after warmup: "constant", "linear", "cosine" or "wsd" (constant until a linear decay at the end).
    pub schedule: Decay,
    /// Updates until the decay is complete, after which the rate is constant; if not given, the length of the run.
    #[key(min = 1)]
    pub schedule_steps: Option<u64>,
    /// Fraction of the updates in which "wsd" decays; if not given, 0.2.
    #[key(min = 1e-3, max = 1)]
    pub decay_fraction: Option<f64>,
    /// Last learning rate as a fraction of the peak; 0 to 1.
    #[key(default = 0.1, min = 0, max = 1)]
    pub final_fraction: f64,
}

/// Fraction of a run in which "wsd" decays, unless it is given: as Hägele et al. (2024) recommend.
const DECAY_FRACTION: f64 = 0.2;

/// Learning rates above it are accepted with a note: published runs of AdamW and of Muon stay below.
const UNUSUAL_RATE: f64 = 0.1;

impl RateSettings {
    /// The learning rate of a run of `steps` updates.
    pub fn over(&self, steps: u64) -> LearningRateSchedule {
        LearningRateSchedule {
            peak: self.learning_rate,
            warmup: self.warmup_steps,
            steps: self.schedule_steps.unwrap_or(steps),
            decay: self.schedule,
            decay_fraction: self.decay_fraction.unwrap_or(DECAY_FRACTION),
            floor: self.final_fraction,
        }
    }

    fn of_groups(&self) -> [GroupKey; 3] {
        [
            GroupKey { name: "embedding_learning_rate", value: self.embedding_learning_rate, group: Group::Embedding },
            GroupKey { name: "head_learning_rate", value: self.head_learning_rate, group: Group::Head },
            GroupKey { name: "vector_learning_rate", value: self.vector_learning_rate, group: Group::Vector },
        ]
    }

    /// The peak learning rate of a group of parameters.
    pub(super) fn peak(&self, group: &Group) -> f64 {
        GroupKey::of(&self.of_groups(), group).unwrap_or(self.learning_rate)
    }

    /// Problems with the values.
    pub(super) fn check(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if self.schedule == Decay::Constant && self.schedule_steps.is_some() {
            let why = "a constant learning rate does not decay: leave it out, or set `schedule` to \"linear\", \"cosine\" or \
                       \"wsd\"";
            problems.push(Problem::at("schedule_steps", why));
        }
        if self.schedule != Decay::Wsd && self.decay_fraction.is_some() {
            let why = "only `schedule = \"wsd\"` decays in a part of the run: leave it out, or set that";
            problems.push(Problem::at("decay_fraction", why));
        }
        problems
    }

    /// Keys for groups of parameters that `model` does not have.
    pub(super) fn check_model(&self, model: &ModelFacts) -> Vec<Problem> {
        self.of_groups().iter().filter_map(|key| key.check(model)).collect()
    }

    /// What is allowed in a run of `steps` updates, but most likely not meant.
    pub(super) fn notes(&self, steps: Option<u64>) -> Vec<Problem> {
        let RateSettings { warmup_steps, learning_rate, .. } = *self;
        let mut notes = Vec::new();
        if learning_rate > UNUSUAL_RATE {
            let why = format!("{learning_rate} is above {UNUSUAL_RATE}, at which models seldom learn anything");
            notes.push(Problem::at("learning_rate", why));
        }
        if let Some(steps) = steps.filter(|steps| *steps < warmup_steps) {
            let reached = learning_rate * steps as f64 / warmup_steps as f64;
            let why = format!(
                "the warmup takes {warmup_steps} steps, longer than the run of {steps}: the learning rate ends at \
                 {reached:.2e} instead of {learning_rate:e}"
            );
            notes.push(Problem::at("warmup_steps", why));
        }
        notes
    }
}

/// A key for one group of parameters, which replaces that of all parameters.
pub struct GroupKey {
    /// Its name.
    pub name: &'static str,
    /// Its value, if it is given.
    pub value: Option<f64>,
    /// The group.
    pub group: Group,
}

impl GroupKey {
    /// The value that is given for `group`.
    pub fn of(keys: &[Self], group: &Group) -> Option<f64> {
        keys.iter().find(|key| key.group == *group)?.value
    }

    /// The problem if it is given, and `model` has no parameters of the group.
    pub fn check(&self, model: &ModelFacts) -> Option<Problem> {
        self.value?;
        let why = match self.group {
            _ if model.parameters.iter().any(|spec| spec.group == self.group) => return None,
            Group::Head => "the model's head is tied to its embedding and updated with it",
            Group::Embedding => "the model has no embedding",
            Group::Vector => "the model has neither biases nor gains",
            Group::Matrix(_) => "the model has no matrices inside blocks",
        };
        Some(Problem::at(self.name, format!("{why}: leave it out")))
    }
}

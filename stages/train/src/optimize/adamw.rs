//! The optimizer `adamw` (Loshchilov and Hutter 2019).
use crate::optimize::{GroupKey, Optimizer, UpdateScalars};
use compute::kernels::adamw::{self, adamw};
use contract::{Group, ModelFacts, ParameterSpec, Problem, StageKeys, Tensor};
use serde::{Deserialize, Serialize};

/// The member `adamw`.
#[derive(Clone, Debug, Serialize, Deserialize, StageKeys)]
#[serde(default)]
pub struct AdamW {
    /// AdamW: decay of the mean of gradients.
    #[key(default = 0.9, min = 0, max = 0.999_999)]
    pub beta1: f64,
    /// AdamW: decay of the mean of squared gradients.
    #[key(default = 0.95, min = 0, max = 0.999_999_9)]
    pub beta2: f64,
    /// AdamW: added to the root of the mean square.
    #[key(default = 1e-8, min = 1e-30, max = 1)]
    pub epsilon: f64,
    /// Decoupled weight decay, of matrices and embeddings only.
    #[key(default = 0.1, min = 0, max = 1e3)]
    pub weight_decay: f64,
    /// Weight decay of the embeddings of tokens and positions; if not given, `weight_decay`.
    #[key(min = 0, max = 1e3)]
    pub embedding_weight_decay: Option<f64>,
    /// Weight decay of a head of its own; if not given, `weight_decay`.
    #[key(min = 0, max = 1e3)]
    pub head_weight_decay: Option<f64>,
    /// Weight decay over the run: "constant", or in proportion to the "learning_rate" (Defazio 2025), so that it ends
    /// with it. The learning rate multiplies either.
    pub weight_decay_schedule: DecaySchedule,
}

/// The weight decay of each step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DecaySchedule {
    /// It stays constant.
    #[default]
    Constant,
    /// It is multiplied by the learning rate as a fraction of its peak.
    LearningRate,
}

impl AdamW {
    fn of_groups(&self) -> [GroupKey; 2] {
        [
            GroupKey { name: "embedding_weight_decay", value: self.embedding_weight_decay, group: Group::Embedding },
            GroupKey { name: "head_weight_decay", value: self.head_weight_decay, group: Group::Head },
        ]
    }

    /// The weight decay that applies to a parameter.
    pub fn decay(&self, scalars: &UpdateScalars, spec: &ParameterSpec) -> f64 {
        if !spec.decays() {
            return 0.0;
        }
        let decay = GroupKey::of(&self.of_groups(), &spec.group).unwrap_or(self.weight_decay);
        match self.weight_decay_schedule {
            DecaySchedule::Constant => decay,
            DecaySchedule::LearningRate => decay * scalars.rate_fraction,
        }
    }
}

impl Optimizer for AdamW {
    const SUMMARY: &'static str = "AdamW (Loshchilov and Hutter 2019), clipping by global norm, schedule with warmup";
    const EXAMPLE: &'static str = "type = \"adamw\"\nlearning_rate = 3e-4\nwarmup_steps = 100\nschedule = \"cosine\"\n";

    fn check_model(&self, model: &ModelFacts) -> Vec<Problem> {
        self.of_groups().iter().filter_map(|key| key.check(model)).collect()
    }

    fn is_elementwise(&self, _spec: &ParameterSpec) -> bool {
        true
    }

    fn state(&self, _spec: &ParameterSpec) -> &'static [&'static str] {
        &["m", "v"]
    }

    fn update(
        &self,
        scalars: &UpdateScalars,
        spec: &ParameterSpec,
        parameter: &mut Tensor,
        state: &mut [&mut Tensor],
        gradient: Tensor,
    ) {
        let [m, v] = state else { return };
        let numbers = adamw::AdamW {
            beta1: self.beta1 as f32,
            beta2: self.beta2 as f32,
            epsilon: self.epsilon as f32,
            decay: self.decay(scalars, spec) as f32,
            rate: scalars.learning_rate as f32,
            bias1: (1.0 - self.beta1.powf(scalars.number)) as f32,
            bias2: (1.0 - self.beta2.powf(scalars.number)) as f32,
            scale: scalars.gradient_scale as f32,
        };
        adamw(&numbers, &mut parameter.data, &mut m.data, &mut v.data, &gradient.data);
    }
}

//! `optimize`: clips by the global norm and applies AdamW, each worker to the tensors it owns, in place.
use crate::diverged::finite;
use crate::schedule::{Decay, Schedule};
use crate::weights::{Start, StartFiles};
use anyhow::{Result, ensure};
use compute::kernels::adamw::{AdamW, adamw};
use contract::{
    At, Built, Calendar, Emit, Env, Gather, Kind, Metric, Metrics, Moments, Norms, Packet, ParameterPiece, Port,
    Problem, Purpose, Route, Settings, Stage, StageSettings, Step, Tensor, Turn,
};
use serde::{Deserialize, Serialize};
use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Settings of `type = "adamw"`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdamWOptimize {
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Updates until it is reached.
    pub warmup_steps: u64,
    /// What happens after that.
    pub schedule: Decay,
    /// Last learning rate as a fraction of the peak.
    pub final_fraction: f64,
    /// Decay of the mean of gradients.
    pub beta1: f64,
    /// Decay of the mean of squares.
    pub beta2: f64,
    /// Added to the root.
    pub epsilon: f64,
    /// Decoupled weight decay, of matrices only.
    pub weight_decay: f64,
    /// Largest global norm of the gradient; 0 for no clipping.
    pub clip_norm: f64,
}

impl Default for AdamWOptimize {
    fn default() -> Self {
        Self {
            learning_rate: 1e-3,
            warmup_steps: 50,
            schedule: Decay::Cosine,
            final_fraction: 0.1,
            beta1: 0.9,
            beta2: 0.95,
            epsilon: 1e-8,
            weight_decay: 0.1,
            clip_norm: 1.0,
        }
    }
}

impl StageSettings for AdamWOptimize {
    const SUMMARY: &'static str = "AdamW (Loshchilov and Hutter 2019), clipping by global norm, schedule with warmup";
    const KEYS: &'static [(&'static str, &'static str)] = &[
        ("learning_rate", "peak learning rate"),
        ("warmup_steps", "updates until the peak, in a straight line"),
        ("schedule", "after warmup: \"constant\", \"linear\" or \"cosine\""),
        ("final_fraction", "last learning rate as a fraction of the peak, 0 to 1"),
        ("beta1", "decay of the mean of gradients, 0 to 1"),
        ("beta2", "decay of the mean of squared gradients, 0 to 1"),
        ("epsilon", "added to the root of the mean square"),
        ("weight_decay", "decoupled weight decay, of matrices and embeddings only"),
        ("clip_norm", "largest global norm of the gradient; 0: no clipping"),
    ];
    const EXAMPLE: &'static str = "type = \"adamw\"\nlearning_rate = 3e-4\nwarmup_steps = 100\nschedule = \"cosine\"\n";
}

impl Settings for AdamWOptimize {
    fn takes(&self) -> Vec<Port> {
        vec![Port::stream(Kind::Gradient), Port::stream(Kind::Norms).by(Route::Broadcast)]
    }

    fn gives(&self) -> Vec<Kind> {
        vec![Kind::Parameters, Kind::Moments, Kind::Metrics]
    }

    fn check(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut within = |key, value: f64, low: f64, high: f64| {
            if !(low..=high).contains(&value) {
                problems.push(Problem::at(key, format!("`{key}` is {value}: it must be from {low} to {high}")));
            }
        };
        within("learning_rate", self.learning_rate, 0.0, 1e3);
        within("final_fraction", self.final_fraction, 0.0, 1.0);
        within("beta1", self.beta1, 0.0, 0.999_999);
        within("beta2", self.beta2, 0.0, 0.999_999_9);
        within("epsilon", self.epsilon, 1e-30, 1.0);
        within("weight_decay", self.weight_decay, 0.0, 1e3);
        within("clip_norm", self.clip_norm, 0.0, 1e9);
        problems
    }

    fn build(&self, env: &Env) -> Result<Built> {
        let model = env.model()?;
        let start = env.resources.get::<Start>().unwrap_or_default();
        let files = StartFiles::open(&start, env.seed)?;
        let mut owned = BTreeMap::new();
        for (tensor, owner) in model.owners(env.workers).into_iter().enumerate() {
            if owner as usize == env.worker {
                let spec = &model.parameters[tensor];
                let shared = |tensor: Result<Tensor>| tensor.map(Arc::new);
                owned.insert(
                    tensor,
                    Owned {
                        parameter: shared(files.parameter(spec))?,
                        m: shared(files.state(spec, "m"))?,
                        v: shared(files.state(spec, "v"))?,
                        decay: spec.decay,
                        gradient: None,
                    },
                );
            }
        }
        let schedule = Schedule {
            peak: self.learning_rate,
            warmup: self.warmup_steps,
            steps: env.calendar.steps,
            decay: self.schedule,
            floor: self.final_fraction,
        };
        Ok(Built::Stage(Box::new(Optimize {
            settings: self.clone(),
            schedule,
            calendar: env.calendar,
            worker: env.worker,
            tensors: model.parameters.len(),
            owned,
            norms: BTreeMap::new(),
        })))
    }

    /// Each parameter, and its means of gradients and of their squares.
    fn memory(&self, env: &Env) -> u64 {
        env.model.as_ref().map_or(0, |model| (3 * model.parameter_count() * size_of::<f32>()) as u64)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A tensor of this worker, with its optimizer state and, once it has come, its summed gradient.
struct Owned {
    parameter: Arc<Tensor>,
    m: Arc<Tensor>,
    v: Arc<Tensor>,
    decay: bool,
    gradient: Option<Tensor>,
}

struct Optimize {
    settings: AdamWOptimize,
    schedule: Schedule,
    calendar: Calendar,
    worker: usize,
    tensors: usize,
    owned: BTreeMap<usize, Owned>,
    norms: BTreeMap<usize, Norms>,
}

impl Optimize {
    fn give_parameters(&self, out: &mut dyn Emit) {
        for (tensor, owned) in &self.owned {
            let data = Arc::clone(&owned.parameter);
            out.give(Packet::Parameters(ParameterPiece { tensor: *tensor, data }));
        }
    }

    /// The norm of the mean gradient over all tensors and the number of targets, summed in one fixed order.
    fn global_norm(&mut self) -> Result<(f64, u64)> {
        ensure!(self.norms.len() == self.tensors, "norms of {} of {} tensors arrived", self.norms.len(), self.tensors);
        let squares: f64 = self.norms.values().flat_map(|norms| &norms.blocks).sum();
        let targets = self.norms.values().next().map_or(0, |norms| norms.targets);
        self.norms.clear();
        Ok((squares.sqrt() / targets.max(1) as f64, targets.max(1)))
    }
}

impl Stage for Optimize {
    fn start(&mut self, out: &mut dyn Emit) -> Result<()> {
        self.give_parameters(out);
        Ok(())
    }

    fn packet(&mut self, _at: At, packet: Packet, _out: &mut dyn Emit) -> Result<Turn> {
        match packet {
            Packet::Gradient(gradient) => {
                if let Some(owned) = self.owned.get_mut(&gradient.tensor) {
                    owned.gradient = Some(gradient.data);
                }
            }
            Packet::Norms(norms) => drop(self.norms.insert(norms.tensor, norms)),
            _ => {}
        }
        Ok(Turn::Done)
    }

    fn step_done(&mut self, step: Step, out: &mut dyn Emit) -> Result<()> {
        if !self.calendar.trains(step) {
            return Ok(());
        }
        let (norm, targets) = self.global_norm()?;
        finite("gradient's norm", norm, step)?;
        let s = &self.settings;
        let clip = if s.clip_norm > 0.0 { (s.clip_norm / (norm + 1e-6)).min(1.0) } else { 1.0 };
        let (rate, update) = (self.schedule.rate(step), step as f64 + 1.0);
        for owned in self.owned.values_mut() {
            let Some(gradient) = owned.gradient.take() else { continue };
            let rule = AdamW {
                beta1: s.beta1 as f32,
                beta2: s.beta2 as f32,
                epsilon: s.epsilon as f32,
                decay: if owned.decay { s.weight_decay as f32 } else { 0.0 },
                rate: rate as f32,
                bias1: (1.0 - s.beta1.powf(update)) as f32,
                bias2: (1.0 - s.beta2.powf(update)) as f32,
                scale: (clip / targets as f64) as f32,
            };
            // In place: whoever read this step's parameters has let go of them. Only a checkpoint that is still
            // being written may hold on, and then keeps the old values.
            let parameter = Arc::make_mut(&mut owned.parameter);
            let (m, v) = (Arc::make_mut(&mut owned.m), Arc::make_mut(&mut owned.v));
            adamw(&rule, &mut parameter.data, &mut m.data, &mut v.data, &gradient.data);
        }
        self.give_parameters(out);
        for (tensor, owned) in &self.owned {
            let (parameter, m, v) = (Arc::clone(&owned.parameter), Arc::clone(&owned.m), Arc::clone(&owned.v));
            out.give(Packet::Moments(Moments { tensor: *tensor, parameter, state: vec![("m", m), ("v", v)] }));
        }
        if self.worker == 0 {
            let first = |name, value| Metric { name, gather: Gather::First, value };
            let values = vec![first("learning_rate", rate), first("gradient_norm", norm)];
            out.give(Packet::Metrics(Metrics { purpose: Purpose::Train, from: (0, 0), values }));
        }
        Ok(())
    }
}

//! `optimize`: clips by the global norm and applies a [`Rule`], each worker to the tensors it owns, in place. AdamW's is
//! here, [`muon`] has another; norms, schedule, shards and checkpoints are the same for all.
pub mod muon;
pub mod schedule;

use crate::diverged::finite;
use crate::optimize::schedule::{Decay, LearningRateSchedule};
use crate::weights::{Start, StartFiles};
use anyhow::{Result, ensure};
use compute::kernels::adamw::{AdamW, adamw};
use contract::{
    At, Built, Emit, Env, Gather, Kind, Memory, Metric, Metrics, Norms, OptimizerState, Packet, ParameterPiece,
    ParameterSpec, Port, Problem, Purpose, Route, Schedule, Settings, Stage, StageKeys, StageSettings, Step, Tensor,
    Turn,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Settings of `type = "adamw"`.
#[derive(Clone, Debug, Serialize, Deserialize, StageKeys)]
#[serde(default, deny_unknown_fields)]
pub struct AdamWOptimize {
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Updates of the linear warmup to the peak.
    pub warmup_steps: u64,
    /// The learning rate after warmup: "constant", "linear" or "cosine".
    pub schedule: Decay,
    /// Last learning rate as a fraction of the peak; 0 to 1.
    pub final_fraction: f64,
    /// Decay of the mean of gradients; 0 to 1.
    pub beta1: f64,
    /// Decay of the mean of squared gradients; 0 to 1.
    pub beta2: f64,
    /// Added to the root of the mean square.
    pub epsilon: f64,
    /// Decoupled weight decay, of matrices and embeddings only.
    pub weight_decay: f64,
    /// Largest global norm of the gradient; 0: no clipping.
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
    const EXAMPLE: &'static str = "type = \"adamw\"\nlearning_rate = 3e-4\nwarmup_steps = 100\nschedule = \"cosine\"\n";
}

impl AdamWOptimize {
    fn common(&self) -> Common {
        Common {
            learning_rate: self.learning_rate,
            warmup_steps: self.warmup_steps,
            schedule: self.schedule,
            final_fraction: self.final_fraction,
            clip_norm: self.clip_norm,
        }
    }

    fn rule(&self) -> AdamWRule {
        let &Self { beta1, beta2, epsilon, weight_decay, .. } = self;
        AdamWRule { beta1, beta2, epsilon, weight_decay }
    }
}

impl Settings for AdamWOptimize {
    fn takes(&self) -> Vec<Port> {
        takes()
    }

    fn gives(&self) -> Vec<Kind> {
        gives()
    }

    fn check(&self) -> Vec<Problem> {
        let mut problems = self.common().check();
        problems.extend(adamw_problems(&self.rule()));
        problems
    }

    fn build(&self, env: &Env) -> Result<Built> {
        build(env, self.common(), Box::new(self.rule()))
    }

    fn memory(&self, env: &Env) -> Memory {
        memory(env)
    }
}

/// What every optimizer says at most: each parameter and two tensors of its size.
pub fn memory(env: &Env) -> Memory {
    let floats = env.model.as_ref().map_or(0, |model| 3 * model.parameter_count());
    Memory { lasting: (floats * size_of::<f32>()) as u64, ..Memory::default() }
}

/// What every optimizer takes.
pub fn takes() -> Vec<Port> {
    vec![Port::stream(Kind::Gradient), Port::stream(Kind::Norms).by(Route::Broadcast)]
}

/// What every optimizer gives.
pub fn gives() -> Vec<Kind> {
    vec![Kind::Parameters, Kind::OptimizerState, Kind::Metrics]
}

/// What every optimizer is told.
#[derive(Clone, Copy, Debug)]
pub struct Common {
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Updates until it is reached.
    pub warmup_steps: u64,
    /// What happens after that.
    pub schedule: Decay,
    /// Last learning rate as a fraction of the peak.
    pub final_fraction: f64,
    /// Largest global norm of the gradient; 0 for no clipping.
    pub clip_norm: f64,
}

impl Common {
    /// What is wrong with it.
    pub fn check(&self) -> Vec<Problem> {
        let rate = within("learning_rate", self.learning_rate, 0.0, 1e3);
        let floor = within("final_fraction", self.final_fraction, 0.0, 1.0);
        rate.into_iter().chain(floor).chain(within("clip_norm", self.clip_norm, 0.0, 1e9)).collect()
    }
}

fn within(key: &'static str, value: f64, low: f64, high: f64) -> Option<Problem> {
    let fits = (low..=high).contains(&value);
    (!fits).then(|| Problem::at(key, format!("`{key}` is {value}: it must be from {low} to {high}")))
}

/// One step's numbers.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Learning rate.
    pub rate: f64,
    /// Number of the update, from 1.
    pub update: f64,
    /// What gradients are multiplied by first: the clipping factor over the number of targets.
    pub scale: f64,
}

/// How one tensor is updated. Each tensor is updated whole, by its owner, so a rule says nothing of workers.
pub trait Rule: Send {
    /// The names of the tensors, of the parameter's shape, that it keeps; they start as zeros.
    fn state(&self, spec: &ParameterSpec) -> &'static [&'static str];
    /// Updates the parameter and its state, in the order of their names. `gradient` is of the summed loss.
    fn update(
        &self,
        now: &Now,
        spec: &ParameterSpec,
        parameter: &mut Tensor,
        state: &mut [&mut Tensor],
        gradient: Tensor,
    );
}

/// AdamW (Loshchilov and Hutter 2019).
#[derive(Clone, Copy, Debug)]
pub struct AdamWRule {
    /// Decay of the mean of gradients.
    pub beta1: f64,
    /// Decay of the mean of squares.
    pub beta2: f64,
    /// Added to the root.
    pub epsilon: f64,
    /// Decoupled weight decay, of matrices only.
    pub weight_decay: f64,
}

impl AdamWRule {
    /// The weight decay of a parameter.
    pub fn decay(&self, spec: &ParameterSpec) -> f64 {
        if spec.decay { self.weight_decay } else { 0.0 }
    }
}

/// What is wrong with it.
pub fn adamw_problems(rule: &AdamWRule) -> Vec<Problem> {
    let betas =
        within("beta1", rule.beta1, 0.0, 0.999_999).into_iter().chain(within("beta2", rule.beta2, 0.0, 0.999_999_9));
    let rest = within("epsilon", rule.epsilon, 1e-30, 1.0).into_iter();
    betas.chain(rest).chain(within("weight_decay", rule.weight_decay, 0.0, 1e3)).collect()
}

impl Rule for AdamWRule {
    fn state(&self, _spec: &ParameterSpec) -> &'static [&'static str] {
        &["m", "v"]
    }

    fn update(
        &self,
        now: &Now,
        spec: &ParameterSpec,
        parameter: &mut Tensor,
        state: &mut [&mut Tensor],
        gradient: Tensor,
    ) {
        let [m, v] = state else { return };
        let numbers = AdamW {
            beta1: self.beta1 as f32,
            beta2: self.beta2 as f32,
            epsilon: self.epsilon as f32,
            decay: self.decay(spec) as f32,
            rate: now.rate as f32,
            bias1: (1.0 - self.beta1.powf(now.update)) as f32,
            bias2: (1.0 - self.beta2.powf(now.update)) as f32,
            scale: now.scale as f32,
        };
        adamw(&numbers, &mut parameter.data, &mut m.data, &mut v.data, &gradient.data);
    }
}

/// The stage of one worker that updates the tensors it owns by `rule`.
///
/// # Errors
/// If what the run starts from cannot be read.
pub fn build(env: &Env, common: Common, rule: Box<dyn Rule>) -> Result<Built> {
    let model = env.model()?;
    let start = env.resources.get::<Start>().unwrap_or_default();
    let files = StartFiles::open(&start, env.seed)?;
    let mut owned = BTreeMap::new();
    for (tensor, owner) in model.owners(env.workers).into_iter().enumerate() {
        if owner as usize == env.worker {
            let spec = &model.parameters[tensor];
            let kept = |name: &&'static str| Ok((*name, Arc::new(files.state(spec, name)?)));
            let state = rule.state(spec).iter().map(kept).collect::<Result<_>>()?;
            let parameter = Arc::new(files.parameter(spec)?);
            owned.insert(tensor, Owned { parameter, state, spec: spec.clone(), gradient: None });
        }
    }
    let learning_rate = LearningRateSchedule {
        peak: common.learning_rate,
        warmup: common.warmup_steps,
        steps: env.schedule.steps,
        decay: common.schedule,
        floor: common.final_fraction,
    };
    Ok(Built::Stage(Box::new(Optimize {
        rule,
        clip_norm: common.clip_norm,
        learning_rate,
        schedule: env.schedule,
        worker: env.worker,
        tensors: model.parameters.len(),
        owned,
        norms: BTreeMap::new(),
    })))
}

/// A tensor of this worker, with its optimizer state and, once it has come, its summed gradient.
struct Owned {
    parameter: Arc<Tensor>,
    state: Vec<(&'static str, Arc<Tensor>)>,
    spec: ParameterSpec,
    gradient: Option<Tensor>,
}

struct Optimize {
    rule: Box<dyn Rule>,
    clip_norm: f64,
    learning_rate: LearningRateSchedule,
    schedule: Schedule,
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
        if !self.schedule.trains(step) {
            return Ok(());
        }
        let (norm, targets) = self.global_norm()?;
        finite("gradient's norm", norm, step)?;
        let clip = if self.clip_norm > 0.0 { (self.clip_norm / (norm + 1e-6)).min(1.0) } else { 1.0 };
        let rate = self.learning_rate.rate(step);
        let now = Now { rate, update: step as f64 + 1.0, scale: clip / targets as f64 };
        for owned in self.owned.values_mut() {
            let Some(gradient) = owned.gradient.take() else { continue };
            // In place: whoever read this step's parameters has let go of them. Only a checkpoint that is still
            // being written may hold on, and then keeps the old values.
            let parameter = Arc::make_mut(&mut owned.parameter);
            let mut state: Vec<&mut Tensor> = owned.state.iter_mut().map(|(_, tensor)| Arc::make_mut(tensor)).collect();
            self.rule.update(&now, &owned.spec, parameter, &mut state, gradient);
        }
        self.give_parameters(out);
        for (tensor, owned) in &self.owned {
            let (parameter, state) = (Arc::clone(&owned.parameter), owned.state.clone());
            out.give(Packet::OptimizerState(OptimizerState { tensor: *tensor, parameter, state }));
        }
        if self.worker == 0 {
            let first = |name, value| Metric { name, gather: Gather::First, value };
            let values = vec![first("learning_rate", rate), first("gradient_norm", norm)];
            out.give(Packet::Metrics(Metrics { purpose: Purpose::Train, from: (0, 0), values }));
        }
        Ok(())
    }
}

//! `optimize`: clips gradients by their global norm and updates each tensor in place, on the worker that owns it.
//!
//! The trait [`Optimizer`] defines how one tensor is updated. [`OptimizerSettings`] turns any optimizer into a stage,
//! which handles norms, schedule, ownership and checkpoints. Members of the family are [`adamw`] and [`muon`].
pub mod adamw;
mod average;
pub mod muon;
mod rate;
pub mod schedule;

pub use average::{Averaging, WeightAverage};
pub use rate::{GroupKey, RateSettings};

use crate::diverged::finite;
use crate::optimize::schedule::LearningRateSchedule;
use crate::weights::{RAW, Start, StartFiles};
use anyhow::{Result, ensure};
use compute::kernels::lerp::lerp;
use contract::{
    At, Built, Emit, Env, Gather, Kind, Member, Memory, Metric, Metrics, ModelFacts, Norms, OptimizerState, Packet,
    ParameterPiece, ParameterSpec, Port, Precision, Prepare, Problem, Purpose, Route, Schedule, Settings, Stage,
    StageKeys, StageSettings, StageType, Step, Tensor, Turn, Updates, stage_type,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A member of the family of optimizers: its configuration keys, and how one tensor is updated. A tensor is always
/// updated as a whole by the worker that owns it, so members need not know about workers.
pub trait Optimizer: Member {
    /// A one-line description.
    const SUMMARY: &'static str;
    /// A valid example table for `pipeline stages` (TOML, without the header).
    const EXAMPLE: &'static str;

    /// Problems with the values, except for numbers out of range, which are found already. No I/O.
    fn check(&self) -> Vec<Problem> {
        Vec::new()
    }

    /// Problems of the values with `model`: see [`GroupKey::check`].
    fn check_model(&self, _model: &ModelFacts) -> Vec<Problem> {
        Vec::new()
    }

    /// The time that an update of the parameter takes; an element that AdamW updates takes 1. Balances the workers' load.
    fn cost(&self, spec: &ParameterSpec) -> u64 {
        spec.len() as u64
    }

    /// The precision of the products of updates, if there are any.
    fn precision(&self) -> Option<Precision> {
        None
    }

    /// Names of the state tensors per parameter, other than [`RAW`]. They have the shape of the parameter and are
    /// initialised to zero.
    fn state(&self, spec: &ParameterSpec) -> &'static [&'static str];

    /// Updates the parameter and its state tensors, which are in the order of [`Self::state`]. `gradient` is that of
    /// the summed loss.
    fn update(
        &self,
        scalars: &UpdateScalars,
        spec: &ParameterSpec,
        parameter: &mut Tensor,
        state: &mut [&mut Tensor],
        gradient: Tensor,
    );
}

/// The numbers that an update uses.
#[derive(Clone, Copy, Debug)]
pub struct UpdateScalars {
    /// The learning rate of this step for the parameter's group.
    pub learning_rate: f64,
    /// That rate as a fraction of its peak.
    pub rate_fraction: f64,
    /// The number of this update, from 1.
    pub number: f64,
    /// The factor by which the gradient must be multiplied: the clipping factor divided by the number of targets.
    pub gradient_scale: f64,
}

/// The registry entry of an optimizer.
pub const fn optimizer_type<O: Optimizer>(name: &'static str) -> StageType {
    stage_type::<OptimizerSettings<O>>(name)
}

/// The settings of an optimizer stage.
#[derive(Clone, Debug, Default, Serialize, Deserialize, StageKeys)]
#[serde(bound = "O: Optimizer")]
pub struct OptimizerSettings<O> {
    /// The learning rate.
    #[serde(flatten)]
    pub rate: RateSettings,
    /// The member's own keys.
    #[serde(flatten)]
    pub optimizer: O,
    /// Clipping.
    #[serde(flatten)]
    pub clipping: Clipping,
    /// The average of the weights.
    #[serde(flatten)]
    pub averaging: Averaging,
}

/// The key of clipping.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, StageKeys)]
#[serde(default)]
pub struct Clipping {
    /// Largest global norm of the gradient; 0: no clipping.
    #[key(default = 1.0, min = 0, max = 1e9)]
    pub clip_norm: f64,
}

impl<O: Optimizer> StageSettings for OptimizerSettings<O> {
    const SUMMARY: &'static str = O::SUMMARY;
    const EXAMPLE: &'static str = O::EXAMPLE;
}

impl<O: Optimizer> Settings for OptimizerSettings<O> {
    fn takes(&self) -> Vec<Port> {
        vec![Port::stream(Kind::Gradient), Port::stream(Kind::Norms).by(Route::Broadcast)]
    }

    fn gives(&self) -> Vec<Kind> {
        vec![Kind::Parameters, Kind::OptimizerState, Kind::Metrics]
    }

    fn check(&self) -> Vec<Problem> {
        self.optimizer.check().into_iter().chain(self.rate.check()).collect()
    }

    fn check_model(&self, model: &ModelFacts) -> Vec<Problem> {
        self.optimizer.check_model(model).into_iter().chain(self.rate.check_model(model)).collect()
    }

    fn updates(&self, model: &ModelFacts) -> Option<Updates> {
        let costs = model.parameters.iter().map(|spec| self.optimizer.cost(spec)).collect();
        Some(Updates { costs, precision: self.optimizer.precision() })
    }

    /// Provides [`RateSettings`], from which a resumed run knows whether its learning rate is the one that was planned, and
    /// [`WeightAverage`], if there is one.
    fn prepare(&self, before: &mut Prepare) -> Result<()> {
        before.provide(Arc::new(self.rate));
        if let Some(decay) = self.averaging.average_decay {
            before.provide(Arc::new(WeightAverage { decay }));
        }
        Ok(())
    }

    fn notes(&self, steps: Option<u64>) -> Vec<Problem> {
        self.rate.notes(steps)
    }

    fn build(&self, env: &Env) -> Result<Built> {
        let model = env.model()?;
        let start = env.resources.get::<Start>().unwrap_or_default();
        let files = StartFiles::open(&start, env.seed)?;
        let trains = env.schedule.trains(env.schedule.first);
        let mut owned = BTreeMap::new();
        for (tensor, owner) in env.owners()?.into_iter().enumerate() {
            if owner as usize == env.worker {
                let spec = &model.parameters[tensor];
                let kept = |name: &&'static str| Ok((*name, Arc::new(files.state(spec, name)?)));
                let names = if trains { self.optimizer.state(spec) } else { &[] };
                let state = names.iter().map(kept).collect::<Result<_>>()?;
                let (parameter, average) = self.start(&files, spec, trains)?;
                let peak = self.rate.peak(&spec.group);
                owned.insert(tensor, Owned { parameter, average, state, spec: spec.clone(), peak, gradient: None });
            }
        }
        Ok(Built::Stage(Box::new(Optimize {
            optimizer: self.optimizer.clone(),
            clip_norm: self.clipping.clip_norm,
            averaging: self.averaging,
            learning_rate: self.rate.over(env.schedule.steps),
            schedule: env.schedule,
            worker: env.worker,
            tensors: model.parameters.len(),
            owned,
            norms: BTreeMap::new(),
        })))
    }

    /// Memory of each parameter, its average and its optimizer state.
    fn memory(&self, env: &Env) -> Memory {
        let averages = usize::from(self.averaging.average_decay.is_some());
        let floats = |spec: &ParameterSpec| (1 + averages + self.optimizer.state(spec).len()) * spec.len();
        let floats: usize = env.model.iter().flat_map(|model| &model.parameters).map(floats).sum();
        Memory { permanent: (floats * size_of::<f32>()) as u64, ..Memory::default() }
    }
}

impl<O> OptimizerSettings<O> {
    /// A parameter at the beginning of the run, and its average if the run keeps one.
    fn start(
        &self,
        files: &StartFiles,
        spec: &ParameterSpec,
        trains: bool,
    ) -> Result<(Arc<Tensor>, Option<Arc<Tensor>>)> {
        let of_model = Arc::new(files.parameter(spec)?);
        // A run that only validates needs what it validates.
        if !trains || self.averaging.average_decay.is_none() {
            return Ok((of_model, None));
        }
        Ok((Arc::new(files.raw_parameter(spec)?), Some(of_model)))
    }
}

/// A tensor that this worker owns, with its optimizer state and, once it has arrived, its summed gradient.
struct Owned {
    parameter: Arc<Tensor>,
    /// The average of the parameter over the updates so far, if the run keeps one.
    average: Option<Arc<Tensor>>,
    state: Vec<(&'static str, Arc<Tensor>)>,
    spec: ParameterSpec,
    /// Its peak learning rate.
    peak: f64,
    gradient: Option<Tensor>,
}

impl Owned {
    /// What a checkpoint holds of the tensor with this index: the average takes the place of the parameter, which becomes
    /// a part of the optimizer state.
    fn saved(&self, tensor: usize) -> OptimizerState {
        let (parameter, mut state) = (Arc::clone(&self.parameter), self.state.clone());
        let Some(average) = &self.average else { return OptimizerState { tensor, parameter, state } };
        state.push((RAW, parameter));
        OptimizerState { tensor, parameter: Arc::clone(average), state }
    }
}

struct Optimize<O> {
    optimizer: O,
    clip_norm: f64,
    averaging: Averaging,
    learning_rate: LearningRateSchedule,
    schedule: Schedule,
    worker: usize,
    tensors: usize,
    owned: BTreeMap<usize, Owned>,
    norms: BTreeMap<usize, Norms>,
}

impl<O> Optimize<O> {
    fn give_parameters(&self, out: &mut dyn Emit) {
        for (tensor, owned) in &self.owned {
            let (data, average) = (Arc::clone(&owned.parameter), owned.average.clone());
            out.give(Packet::Parameters(ParameterPiece { tensor: *tensor, data, average }));
        }
    }

    /// The global norm of the mean gradient, summed in a fixed order, and the number of targets.
    fn global_norm(&mut self) -> Result<(f64, u64)> {
        ensure!(self.norms.len() == self.tensors, "norms of {} of {} tensors arrived", self.norms.len(), self.tensors);
        let squares: f64 = self.norms.values().flat_map(|norms| &norms.blocks).sum();
        let targets = self.norms.values().next().map_or(0, |norms| norms.targets);
        self.norms.clear();
        Ok((squares.sqrt() / targets.max(1) as f64, targets.max(1)))
    }
}

impl<O: Optimizer> Stage for Optimize<O> {
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
        finite("gradient norm", norm, step)?;
        let clip = if self.clip_norm > 0.0 { (self.clip_norm / (norm + 1e-6)).min(1.0) } else { 1.0 };
        let learning_rate = self.learning_rate.rate(step);
        let (number, gradient_scale) = (step as f64 + 1.0, clip / targets as f64);
        let at_peak = |peak| LearningRateSchedule { peak, ..self.learning_rate }.rate(step);
        let rate_fraction = at_peak(1.0);
        for owned in self.owned.values_mut() {
            let Some(gradient) = owned.gradient.take() else { continue };
            let scalars = UpdateScalars { learning_rate: at_peak(owned.peak), rate_fraction, number, gradient_scale };
            // Updates in place, since all readers of this step's parameters have dropped their references. Only a
            // checkpoint that is still being written may hold one; the tensor is then copied, and the checkpoint keeps
            // the old values.
            let parameter = Arc::make_mut(&mut owned.parameter);
            let mut state: Vec<&mut Tensor> = owned.state.iter_mut().map(|(_, tensor)| Arc::make_mut(tensor)).collect();
            self.optimizer.update(&scalars, &owned.spec, parameter, &mut state, gradient);
            if let (Some(average), Some(weight)) = (&mut owned.average, self.averaging.weight(step + 1)) {
                lerp(weight as f32, &mut Arc::make_mut(average).data, &parameter.data);
            }
        }
        self.give_parameters(out);
        for (tensor, owned) in &self.owned {
            out.give(Packet::OptimizerState(owned.saved(*tensor)));
        }
        if self.worker == 0 {
            let first = |name, value| Metric { name, gather: Gather::First, value };
            let values = vec![first("learning_rate", learning_rate), first("gradient_norm", norm)];
            out.give(Packet::Metrics(Metrics { purpose: Purpose::Train, from: (0, 0), values }));
        }
        Ok(())
    }
}

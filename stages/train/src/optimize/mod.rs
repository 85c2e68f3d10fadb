//! `optimize`: clips gradients by their global norm and updates each section of a tensor in place, on the worker that
//! owns it.
//!
//! The trait [`Optimizer`] defines how one tensor is updated. [`OptimizerSettings`] turns any optimizer into a stage,
//! which handles norms, schedule, ownership and checkpoints. Members of the family are [`adamw`] and [`muon`].
pub mod adamw;
mod average;
mod change;
pub mod muon;
mod rate;
pub mod schedule;
mod shared_tensors;

pub use average::{Averaging, WeightAverage};
pub use rate::{GroupKey, RateSettings};

use crate::diverged::finite;
use crate::optimize::change::Before;
use crate::optimize::schedule::LearningRateSchedule;
use crate::optimize::shared_tensors::SharedTensors;
use crate::weights::{RAW, Start, StartFiles};
use anyhow::{Context, Result, bail, ensure};
use compute::kernels::lerp::lerp;
use contract::{
    At, Built, Emit, Env, Gather, Kind, Member, Memory, Metric, Metrics, ModelFacts, Norms, OptimizerState, Packet,
    ParameterPiece, ParameterSpec, Port, Precision, Prepare, Problem, Purpose, Route, Schedule, Section, Settings,
    Stage, StageKeys, StageSettings, StageType, Step, Tensor, TensorUpdate, Turn, Updates, code_version, stage_type,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A member of the family of optimizers: its configuration keys, and how one tensor is updated. Members need not know
/// about workers.
pub trait Optimizer: Member {
    /// A one-line description.
    const SUMMARY: &'static str;
    /// A valid example table for `pipeline stages` (TOML, without the header).
    const EXAMPLE: &'static str;
    /// The version of the code: increase it whenever the same settings and gradients may give other updates, so that a
    /// run does not go on from a checkpoint of another version.
    const VERSION: u32 = 0;

    /// Problems with the values, except for numbers out of range, which are found already. No I/O.
    fn check(&self) -> Vec<Problem> {
        Vec::new()
    }

    /// Problems of the values with `model`: see [`GroupKey::check`].
    fn check_model(&self, _model: &ModelFacts) -> Vec<Problem> {
        Vec::new()
    }

    /// The time that an update of the parameter takes; an element that AdamW updates takes 1. Balances the workers'
    /// load.
    fn cost(&self, spec: &ParameterSpec) -> u64 {
        spec.len() as u64
    }

    /// Whether each element of the parameter is updated on its own. If so, workers share the tensor, and
    /// [`update`](Self::update) gets a part of it; otherwise always the whole.
    fn is_elementwise(&self, _spec: &ParameterSpec) -> bool {
        false
    }

    /// The precision of the products of the update, if there are any.
    fn precision(&self, _spec: &ParameterSpec) -> Option<Precision> {
        None
    }

    /// Names of the state tensors per parameter, other than [`RAW`]. They have the shape of the parameter and are
    /// initialised to zero.
    fn state(&self, spec: &ParameterSpec) -> &'static [&'static str];

    /// Updates the parameter that `spec` describes and its state tensors, which are in the order of [`Self::state`],
    /// or, if it [is elementwise](Self::is_elementwise), the same part of each as a vector. `gradient` is that of the
    /// summed loss.
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
        vec![Port::stream(Kind::Gradient).by(Route::Owners), Port::stream(Kind::Norms).by(Route::Broadcast)]
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

    fn dependencies(&self) -> Result<Vec<(String, String)>> {
        Ok(code_version(O::VERSION).into_iter().collect())
    }

    fn updates(&self, model: &ModelFacts) -> Option<Updates> {
        let optimizer = &self.optimizer;
        let tensors = model.parameters.iter().map(|spec| TensorUpdate {
            elements: spec.len(),
            cost: optimizer.cost(spec),
            elementwise: optimizer.is_elementwise(spec),
        });
        let precisions = model.parameters.iter().filter_map(|spec| optimizer.precision(spec));
        let precision = precisions.max_by_key(|precision| *precision != Precision::F32);
        Some(Updates { tensors: tensors.collect(), precision })
    }

    /// Provides [`RateSettings`], from which a resumed run knows whether its learning rate is the one that was planned,
    /// and [`WeightAverage`], if there is one.
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
        let absent = || model.parameters.iter().map(|_| SharedTensors::default()).collect::<Vec<_>>();
        let tensors = env.shared(absent)?;
        let start = env.resources.get::<Start>().unwrap_or_default();
        let files = StartFiles::open(&start, env.seed)?;
        let trains = env.schedule.trains(env.schedule.first);
        let (sections, mut own, mut initial) = (env.sections()?, Vec::new(), Vec::new());
        for (index, Section { tensor, elements, owner, .. }) in sections.iter().enumerate() {
            if *owner as usize != env.worker {
                continue;
            }
            let spec = model.parameters[*tensor].clone();
            if elements.start == 0 {
                let whole = self.start(&files, &spec, trains)?;
                initial.push(self.parameter_piece(*tensor, &whole));
                tensors[*tensor].set(whole);
            }
            let first = sections.partition_point(|section| section.tensor < *tensor);
            let (part, length) = (index - first, sections[first].elements.len());
            let peak = self.rate.peak(&spec.group);
            own.push(OwnSection { index, tensor: *tensor, part, length, spec, peak, gradient: None, squares: 0.0 });
        }
        Ok(Built::Stage(Box::new(Optimize {
            learning_rate: self.rate.over(env.schedule.steps),
            settings: self.clone(),
            schedule: env.schedule,
            worker: env.worker,
            process: env.process,
            sections: sections.len(),
            tensors,
            initial,
            own,
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

impl<O: Optimizer> OptimizerSettings<O> {
    /// A parameter at the beginning of the run, its average if the run keeps one, and the tensors of its state.
    fn start(&self, files: &StartFiles, spec: &ParameterSpec, trains: bool) -> Result<Vec<Arc<Tensor>>> {
        let of_model = files.parameter(spec)?;
        // A run that only validates needs what it validates.
        if !trains {
            return Ok(vec![Arc::new(of_model)]);
        }
        let mut tensors = match self.averaging.average_decay {
            Some(_) => vec![files.raw_parameter(spec)?, of_model],
            None => vec![of_model],
        };
        for name in self.optimizer.state(spec) {
            tensors.push(files.state(spec, name)?);
        }
        Ok(tensors.into_iter().map(Arc::new).collect())
    }

    /// The parameter and its average among the tensors that are updated together.
    fn parameter_piece(&self, tensor: usize, whole: &[Arc<Tensor>]) -> ParameterPiece {
        let average = self.averaging.average_decay.and(whole.get(1));
        ParameterPiece { tensor, data: Arc::clone(&whole[0]), average: average.cloned() }
    }

    /// What a checkpoint holds of a tensor: the average takes the place of the parameter, which becomes a part of the
    /// optimizer state.
    fn saved(&self, tensor: usize, spec: &ParameterSpec, whole: &[Arc<Tensor>]) -> OptimizerState {
        let ParameterPiece { data: parameter, average, .. } = self.parameter_piece(tensor, whole);
        let state = &whole[1 + usize::from(average.is_some())..];
        let mut state: Vec<_> = self.optimizer.state(spec).iter().copied().zip(state.iter().cloned()).collect();
        let Some(average) = average else { return OptimizerState { tensor, parameter, state } };
        state.push((RAW, parameter));
        OptimizerState { tensor, parameter: average, state }
    }

    /// Updates a section: its part of the parameter, of its average and of its state.
    fn update(&self, scalars: &UpdateScalars, spec: &ParameterSpec, parts: &mut [Tensor], gradient: Tensor) {
        let [parameter, others @ ..] = parts else { return };
        let averages = usize::from(self.averaging.average_decay.is_some()).min(others.len());
        let (averages, state) = others.split_at_mut(averages);
        let mut state: Vec<&mut Tensor> = state.iter_mut().collect();
        self.optimizer.update(scalars, spec, parameter, &mut state, gradient);
        if let ([average], Some(weight)) = (averages, self.averaging.weight(scalars.number as u64)) {
            lerp(weight as f32, &mut average.data, &parameter.data);
        }
    }
}

/// A section that this worker owns, with its summed gradient once it has arrived.
struct OwnSection {
    /// Index into [`Env::sections`].
    index: usize,
    tensor: usize,
    /// Which section of its tensor it is.
    part: usize,
    /// Elements of the tensor's sections.
    length: usize,
    spec: ParameterSpec,
    /// The peak learning rate of its tensor.
    peak: f64,
    gradient: Option<Tensor>,
    /// Sum of squares of the summed gradient.
    squares: f64,
}

struct Optimize<O> {
    settings: OptimizerSettings<O>,
    learning_rate: LearningRateSchedule,
    schedule: Schedule,
    worker: usize,
    /// The index of this worker's process, of which the first reports metrics: all compute the same.
    process: usize,
    /// Number of sections of all workers.
    sections: usize,
    /// All parameters, shared by all workers: each with its average if the run keeps one, and the tensors of its state.
    tensors: Arc<Vec<SharedTensors>>,
    /// The parameters that this worker emits before the first step.
    initial: Vec<ParameterPiece>,
    /// This worker's sections, in order.
    own: Vec<OwnSection>,
    norms: BTreeMap<usize, Norms>,
}

impl<O> Optimize<O> {
    /// The global norm of the mean gradient, summed in a fixed order, and the number of targets.
    fn global_norm(&mut self) -> Result<(f64, u64)> {
        let arrived = self.norms.len();
        ensure!(arrived == self.sections, "norms of {arrived} of {} sections arrived", self.sections);
        let squares: f64 = self.norms.values().flat_map(|norms| &norms.blocks).sum();
        let targets = self.norms.values().next().map_or(0, |norms| norms.targets);
        for own in &mut self.own {
            own.squares = self.norms.get(&own.index).map_or(0.0, |norms| norms.blocks.iter().sum());
        }
        self.norms.clear();
        Ok((squares.sqrt() / targets.max(1) as f64, targets.max(1)))
    }
}

impl<O: Optimizer> Stage for Optimize<O> {
    fn start(&mut self, out: &mut dyn Emit) -> Result<()> {
        self.initial.drain(..).for_each(|piece| out.give(Packet::Parameters(piece)));
        Ok(())
    }

    fn packet(&mut self, _at: At, packet: Packet, _out: &mut dyn Emit) -> Result<Turn> {
        match packet {
            Packet::Gradient(gradient) => {
                let found = self.own.binary_search_by_key(&gradient.section, |own| own.index);
                let Ok(own) = found else { bail!("section {} is of another worker", gradient.section) };
                self.own[own].gradient = Some(gradient.data);
            }
            Packet::Norms(norms) => drop(self.norms.insert(norms.section, norms)),
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
        let clip_norm = self.settings.clipping.clip_norm;
        let clip = if clip_norm > 0.0 { (clip_norm / (norm + 1e-6)).min(1.0) } else { 1.0 };
        let learning_rate = self.learning_rate.rate(step);
        let (number, gradient_scale) = (step as f64 + 1.0, clip / targets as f64);
        let at_peak = |peak| LearningRateSchedule { peak, ..self.learning_rate }.rate(step);
        let rate_fraction = at_peak(1.0);
        let measured = self.process == 0 && self.schedule.validates(step + 1);
        let mut changes = Vec::new();
        for own in &mut self.own {
            let Some(gradient) = own.gradient.take() else { continue };
            let scalars = UpdateScalars { learning_rate: at_peak(own.peak), rate_fraction, number, gradient_scale };
            let shared = &self.tensors[own.tensor];
            let taken = shared.take(own.part, own.length);
            let mut parts = taken.with_context(|| format!("section {} is being updated already", own.index))?;
            let mean_squares = own.squares / (targets as f64).powi(2);
            let before = measured.then(|| Before::new(own.index, mean_squares, &parts[0].data));
            self.settings.update(&scalars, &own.spec, &mut parts, gradient);
            changes.extend(before.map(|before| before.changed(&parts[0].data)));
            if let Some(whole) = shared.put(own.part, parts) {
                out.give(Packet::Parameters(self.settings.parameter_piece(own.tensor, &whole)));
                out.give(Packet::OptimizerState(self.settings.saved(own.tensor, &own.spec, &whole)));
            }
        }
        let mut values = Vec::new();
        if (self.process, self.worker) == (0, 0) {
            let first = |name, value| Metric { name, gather: Gather::First, value };
            values = vec![first("learning_rate", learning_rate), first("gradient_norm", norm)];
        }
        if !(values.is_empty() && changes.is_empty()) {
            out.give(Packet::Metrics(Metrics { changes, ..Metrics::new(Purpose::Train, (0, 0), self.worker, values) }));
        }
        Ok(())
    }
}

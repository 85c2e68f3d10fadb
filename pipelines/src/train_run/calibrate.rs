//! Estimates the speed and memory of a configuration on this machine by running a micro-batch.
use crate::panics;
use crate::plan::{Plan, PlannedStage};
use anyhow::{Context, Result, bail, ensure};
use compute::kernels::gemm::{self, matrix, matrix_mut, product};
use compute::kernels::head::gradient_later;
use contract::testing::Collect;
use contract::{
    At, Batch, BatchShape, Built, Env, Gradient, Kind, Memory, ModelFacts, Norms, Packet, ParameterPiece, Purpose,
    Schedule, Section, SharedValues, Stage, Tensor, Turn, pool,
};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long micro-batches are measured, unless one takes longer.
const MEASURED: Duration = Duration::from_millis(300);
/// A micro-batch that would take longer than this is not run.
const PATIENCE: Duration = Duration::from_secs(15);
/// Bytes per worker for packed operands, if no micro-batch was run.
const USUAL_BESIDE: u64 = 16 << 20;
/// Bytes for other structures of a run: threads, the graph, the tokenizer, files being read, code that has not yet run.
const STRUCTURES: u64 = 20 << 20;
/// Fraction of the rate of large products that a step reaches, if no micro-batch was run.
const USUAL_SHARE: f64 = 0.6;

/// Estimated speed of training.
pub struct Speed {
    /// Seconds that a worker takes for a micro-batch while the others are busy too.
    pub micro_batch: f64,
    /// How it was determined.
    pub measured: String,
    /// Whether a micro-batch was run.
    pub was_run: bool,
    /// Bytes that stages use in addition to their own estimates.
    pub beside: u64,
}

impl Speed {
    /// Tokens per second with so many workers, each with a core as fast as those that were measured.
    pub fn tok_per_sec(&self, shape: &BatchShape, workers: usize) -> f64 {
        // The last round of leaves may leave workers idle.
        let rounds = (shape.micro_batches as usize).div_ceil(workers) as f64;
        (shape.tokens() as f64 / (rounds * self.micro_batch)).round()
    }
}

/// Bytes that the program uses before a run: itself, and the buffers that OpenBLAS allocates per thread.
pub fn program(workers: usize) -> u64 {
    itself() + blas_buffers(workers)
}

/// Bytes that the program uses now, and those of [`STRUCTURES`].
pub fn itself() -> u64 {
    (crate::machine::rss_mb() << 20) + STRUCTURES
}

/// Bytes of the buffers that OpenBLAS allocates per thread, if it is the backend. It keeps them, so only the first call
/// finds out.
pub fn blas_buffers(workers: usize) -> u64 {
    const N: usize = 768;
    if gemm::chosen() != "openblas" {
        return 0;
    }
    let before = crate::machine::rss_mb();
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                let (a, b, mut c) = (vec![0.5; N * N], vec![0.5; N * N], vec![0.0; N * N]);
                product(1.0, matrix(&a, N), matrix(&b, N), 0.0, matrix_mut(&mut c, N));
            });
        }
    });
    crate::machine::rss_mb().saturating_sub(before) << 20
}

/// Estimates the speed of `plan` from the forward and backward pass of one micro-batch per worker if that fits into
/// free memory and takes a short time, else from the rate of large products. `peak`: bytes that the run will use.
///
/// # Errors
/// If a stage fails.
pub fn speed(plan: &Plan, env: &Env, model: &ModelFacts, peak: u64) -> Result<Speed> {
    let busy = env.workers.min(env.shape.micro_batches as usize);
    let rate = super::speed::full_speed(busy, model.precision) * 1e9;
    let tokens = (env.shape.sequences * env.shape.length) as f64;
    let guess = rate * USUAL_SHARE / model.flops_per_token;
    let a_micro_batch = tokens * busy as f64 / guess;
    if peak > crate::machine::available_memory() || 2.0 * a_micro_batch > PATIENCE.as_secs_f64() {
        let measured = format!("at {:.0} % of the rate of large products, as is usual", 100.0 * USUAL_SHARE);
        let beside = busy as u64 * USUAL_BESIDE;
        return Ok(Speed { micro_batch: a_micro_batch, measured, was_run: false, beside });
    }
    let before = pool::watch();
    let spent = micro_batches(plan, env, model, busy)?;
    let taken = pool::most_bytes() - before;
    // Parameters, activations, logits and each worker's gradient of the head, unless it is computed in parts, are in it, and
    // are counted elsewhere.
    let trained = plan.stages.iter().filter(|stage| {
        stage.settings.takes().iter().any(|port| [Kind::Batch, Kind::Activations].contains(&port.kind))
    });
    let estimate = trained.map(|stage| stage.memory(env)).fold(Memory::default(), Memory::with);
    let head = &model.parameters[model.head];
    let later = match head.shape[..] {
        [vocabulary, width] => gradient_later(model.precision, tokens as usize, vocabulary, width).is_some(),
        _ => false,
    };
    let tensors = model.parameter_count() + if later { 0 } else { busy * head.len() };
    let beside = taken.saturating_sub(estimate.peak() + (tensors * size_of::<f32>()) as u64);
    let (micro_batch, measured) = (spent.as_secs_f64(), "micro-batches of each worker, forward and backward".into());
    Ok(Speed { micro_batch, measured, was_run: true, beside })
}

/// Time of a micro-batch with all workers busy, after one to warm up: the median of as many as take [`MEASURED`], since a
/// short one may be interrupted.
fn micro_batches(plan: &Plan, env: &Env, model: &ModelFacts, busy: usize) -> Result<Duration> {
    let parameters: Vec<Arc<Tensor>> = model.parameters.iter().map(|spec| Arc::new(spec.initial(env.seed))).collect();
    let work = |worker: usize| -> Result<Duration> {
        let mut trial = Trial::new(plan, &Env { worker, ..env.clone() }, &parameters)?;
        trial.run(env, 0)?;
        let (began, mut times) = (Instant::now(), Vec::new());
        while times.is_empty() || began.elapsed() < MEASURED {
            let this = Instant::now();
            trial.run(env, 0)?;
            times.push(this.elapsed());
        }
        times.sort();
        Ok(times[times.len() / 2])
    };
    let spent: Result<Vec<Duration>> = std::thread::scope(|scope| {
        let work = &work;
        let workers: Vec<_> = (0..busy).map(|worker| scope.spawn(move || work(worker))).collect();
        workers.into_iter().map(|w| w.join().unwrap_or_else(|panic| Err(panics::error(&*panic)))).collect()
    });
    spent?.into_iter().max().context("no worker")
}

/// Seconds in which the workers of `env` update all parameters of `model`, the second time.
///
/// # Errors
/// If the stage that updates fails.
pub fn update(plan: &Plan, env: &Env, model: &ModelFacts) -> Result<f64> {
    let updates = |stage: &&PlannedStage| stage.settings.updates(model).is_some();
    let Some(stage) = plan.stages.iter().find(updates) else { return Ok(0.0) };
    let mut resources = env.resources.clone();
    stage.settings.updates(model).into_iter().for_each(|updates| resources.insert(Arc::new(updates)));
    resources.insert(Arc::new(SharedValues::default()));
    let schedule = Schedule { first: 0, steps: 2, evaluate: None, checkpoint: None };
    let env = Env { stage: stage.id.clone(), schedule, resources, ..env.clone() };
    let sections = env.sections()?;
    let build = |worker| stage_of(stage, &Env { worker, ..env.clone() });
    let mut workers = (0..env.workers).map(build).collect::<Result<Vec<_>>>()?;
    // Parameters that others hold would be copied.
    workers.iter_mut().try_for_each(|made| made.start(&mut Collect::default()))?;
    let mut longest = 0.0;
    for step in 0..2 {
        for (worker, made) in workers.iter_mut().enumerate() {
            give_gradients(&mut **made, &sections, worker, model, step)?;
        }
        let update = |made: &mut Box<dyn Stage>| -> Result<f64> {
            let began = Instant::now();
            made.step_done(step, &mut Collect::default())?;
            Ok(began.elapsed().as_secs_f64())
        };
        let spent = std::thread::scope(|scope| -> Result<Vec<f64>> {
            let threads: Vec<_> = workers.iter_mut().map(|made| scope.spawn(move || update(made))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(|p| Err(panics::error(&*p)))).collect()
        });
        longest = spent?.into_iter().fold(0.0, f64::max);
    }
    Ok(longest)
}

fn stage_of(stage: &PlannedStage, env: &Env) -> Result<Box<dyn Stage>> {
    match stage.settings.build(env)? {
        Built::Stage(made) => Ok(made),
        Built::Source(_) => bail!("`{}` is a source", stage.id),
    }
}

/// Passes a worker's stage the summed gradients of its sections, which here are the parameters' initial values.
fn give_gradients(
    stage: &mut dyn Stage,
    sections: &[Section],
    worker: usize,
    model: &ModelFacts,
    step: u64,
) -> Result<()> {
    let mut out = Collect::default();
    // The tensor of the last section, of which the next ones are mostly parts, too.
    let mut last: Option<(usize, Tensor)> = None;
    for (index, section) in sections.iter().enumerate() {
        let norms = Norms { section: index, targets: 1, blocks: vec![1.0] };
        stage.packet(At { step, port: 1, waited: Duration::ZERO }, Packet::Norms(norms), &mut out)?;
        if section.owner as usize == worker {
            let (tensor, whole) = match last.take().filter(|(tensor, _)| *tensor == section.tensor) {
                Some(known) => known,
                None => (section.tensor, model.parameters[section.tensor].initial(0)),
            };
            let shape = if section.elements.len() == whole.data.len() {
                whole.shape.clone()
            } else {
                vec![section.elements.len()]
            };
            let data = Tensor::from_values(shape, &whole.data[section.elements.clone()]);
            last = Some((tensor, whole));
            let gradient = Gradient { leaves: 0..1, section: index, owner: section.owner, targets: 1, data };
            stage.packet(At { step, port: 0, waited: Duration::ZERO }, Packet::Gradient(gradient), &mut out)?;
        }
    }
    Ok(())
}

/// The stages between a batch and its gradients, called by hand.
struct Trial {
    forward: Box<dyn Stage>,
    batch_port: usize,
    rest: Vec<Box<dyn Stage>>,
}

impl Trial {
    fn new(plan: &Plan, env: &Env, parameters: &[Arc<Tensor>]) -> Result<Self> {
        let taking =
            |kind: Kind| plan.stages.iter().find(|stage| stage.settings.takes().iter().any(|p| p.kind == kind));
        let port = |stage: &PlannedStage, kind| stage.settings.takes().iter().position(|port| port.kind == kind);
        let stage = taking(Kind::Batch).context("no stage consumes batches")?;
        let (batch_port, ports) = (port(stage, Kind::Batch).unwrap_or(0), port(stage, Kind::Parameters));
        let mut forward = stage_of(stage, env)?;
        for (tensor, data) in parameters.iter().enumerate() {
            let at = At { step: 0, port: ports.unwrap_or(0), waited: Duration::ZERO };
            let piece = ParameterPiece { tensor, data: Arc::clone(data), average: None };
            forward.packet(at, Packet::Parameters(piece), &mut Collect::default())?;
        }
        let mut rest = Vec::new();
        for kind in [Kind::Activations, Kind::LossGradient] {
            let stage = taking(kind).with_context(|| format!("no stage consumes {}", kind.name()))?;
            rest.push(stage_of(stage, env)?);
        }
        Ok(Self { forward, batch_port, rest })
    }

    fn run(&mut self, env: &Env, step: u64) -> Result<()> {
        let (sequences, length) = (env.shape.sequences, env.shape.length);
        let vocabulary = env.model()?.parameters[env.model()?.head].shape[0] as u64;
        let ids = |seed: u64| -> Vec<u32> {
            let id = |i| (contract::parameters::splitmix64(seed, i) % vocabulary) as u32;
            (0..(sequences * length) as u64).map(id).collect()
        };
        let batch = Batch {
            leaf: 0,
            purpose: Purpose::Train,
            part: 0,
            sequences,
            length,
            tokens: ids(1).into(),
            targets: ids(2).into(),
            document_starts: Vec::new().into(),
            documents: Vec::new().into(),
        };
        let at = At { step, port: self.batch_port, waited: Duration::ZERO };
        let mut given = call(&mut *self.forward, at, Packet::Batch(batch))?;
        for (stage, kind) in self.rest.iter_mut().zip([Kind::Activations, Kind::LossGradient]) {
            let next = given.into_iter().find(|packet| packet.kind() == kind);
            let next = next.with_context(|| format!("no {} came of a batch", kind.name()))?;
            given = call(&mut **stage, At { step, port: 0, waited: Duration::ZERO }, next)?;
        }
        ensure!(given.iter().any(|packet| packet.kind() == Kind::Gradient), "no gradient came of a batch");
        Ok(())
    }
}

/// The output of `stage` for one packet. Gradients are dropped, except for the last ones.
fn call(stage: &mut dyn Stage, at: At, packet: Packet) -> Result<Vec<Packet>> {
    let mut out = Collect::default();
    let mut turn = stage.packet(at, packet, &mut out)?;
    while turn == Turn::More {
        out.0.clear();
        turn = stage.more(at.step, &mut out)?;
    }
    Ok(out.0)
}

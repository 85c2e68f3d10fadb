//! One measurement: the training graph of `run`, on synthetic tokens, with a fixed thread count.
use super::cpu::CpuUse;
use crate::engine::{Connections, Job, MeasureCpu, WorkerTiming, execute, execute_together};
use crate::machine::peak_rss_mb;
use crate::plan::Plan;
use anyhow::Result;
use arrow::buffer::ScalarBuffer;
use compute::kernels::gemm;
use contract::parameters::splitmix64;
use contract::{
    Batch, BatchShape, Built, Emit, Env, Facts, Kind, Lane, ModelFacts, Packet, Port, Precision, Purpose, Resources,
    Section, Settings, Source, Step, Turn,
};
use serde::Serialize;
use std::sync::{Arc, Mutex};
use train::forward::{
    Batching, Computation, ModelSettings, ModelType, Sizes, gpt2::Gpt2, llama::Llama, nanochat::NanoChat, qwen3::Qwen3,
};
use train::loss::{CrossEntropyLoss, LossSettings};
use train::optimize::adamw::AdamW;
use train::optimize::muon::Muon;
use train::optimize::{Optimizer, OptimizerSettings};
use train::record::{Report, Reporter, StepLine};

/// The sizes of a model, a micro-batch, and the number of micro-batches.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Its name on the command line.
    pub name: &'static str,
    pub(super) layers: usize,
    pub(super) heads: usize,
    pub(super) width: usize,
    pub(super) vocabulary: usize,
    pub(super) batch: BatchShape,
}

/// How a [`Shape`] is measured.
#[derive(Clone, Copy, Debug)]
pub struct How {
    pub model: super::Model,
    pub precision: Precision,
    pub batching: Batching,
    pub optimizer: super::Optimizer,
    pub workers: usize,
    /// Leaves of a batch, if not those of the shape.
    pub leaves: Option<u32>,
    pub warmup: u64,
    pub steps: u64,
}

const fn shape(name: &'static str, model: [usize; 4], batch: BatchShape) -> Shape {
    Shape { name, layers: model[0], heads: model[1], width: model[2], vocabulary: model[3], batch }
}

const fn batch(micro_batches: u32, sequences: usize, length: usize) -> BatchShape {
    BatchShape { micro_batches, lanes: micro_batches, sequences, length }
}

/// The shapes that are compared with other programs: layers, heads, width, vocabulary; leaves × sequences × tokens. A
/// leaf has up to 1,024 tokens, enough rows for efficient products, and every worker has at least one leaf.
pub const SHAPES: [Shape; 4] = [
    shape("seed", [2, 8, 256, 10_000], batch(4, 8, 128)),
    shape("small", [6, 6, 384, 16_384], batch(4, 4, 256)),
    shape("gpt2", [12, 12, 768, 50_257], batch(2, 2, 256)),
    shape("long", [12, 12, 768, 50_257], batch(2, 1, 1024)),
];

/// A batch of `leaves` leaves with as many sequences as this one, or, if they cannot be divided, as near to that as
/// whole sequences allow.
fn divided(batch: BatchShape, leaves: u32) -> BatchShape {
    let sequences = batch.micro_batches as usize * batch.sequences / leaves as usize;
    BatchShape { micro_batches: leaves, lanes: leaves, sequences: sequences.max(1), ..batch }
}

/// The output of `bench`.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    shape: &'static str,
    model: String,
    dtype: Precision,
    batching: Batching,
    optimizer: String,
    workers: usize,
    /// Leaves of a batch, and tokens of all together.
    leaves: u32,
    batch_tokens: u64,
    /// Loss of the last step.
    loss: f64,
    /// The GEMM backend.
    gemm: &'static str,
    /// Median over the measured steps.
    pub(super) tok_per_sec: f64,
    best_tok_per_sec: f64,
    /// Median, relative to `gemm_gflops`.
    pub(super) mfu: f64,
    /// The best rate of a list of large products in this process, computed by all workers at once.
    gemm_gflops: f64,
    peak_rss_mb: u64,
    #[serde(flatten)]
    pub(super) cpu: CpuUse,
}

/// Runs `warmup` steps that are not measured, and `steps` that are; `limit` returns the rate that MFU refers to, in
/// GFLOP/s.
///
/// # Errors
/// If any stage fails.
pub fn measure(shape: &Shape, how: &How, limit: impl FnOnce() -> f64) -> Result<Measured> {
    let training = Training::new(shape, how)?;
    let flops = training.model().map_or(0.0, |model| model.flops_per_token);
    let trained = training.run(None)?;
    // Before the products below, which are not part of a step.
    let peak_rss_mb = peak_rss_mb();
    let gemm_gflops = limit();
    let median = trained.tok_per_sec();
    let batch = how.batch(shape);
    Ok(Measured {
        shape: shape.name,
        model: how.model.to_string(),
        dtype: how.precision,
        batching: how.batching,
        optimizer: how.optimizer.to_string(),
        workers: how.workers,
        leaves: batch.micro_batches,
        batch_tokens: batch.tokens(),
        gemm: gemm::chosen(),
        loss: (trained.loss * 1e4).round() / 1e4,
        tok_per_sec: median.round(),
        best_tok_per_sec: trained.rates.last().copied().unwrap_or_default().round(),
        mfu: (median * flops / (gemm_gflops * 1e9) * 1e4).round() / 1e4,
        gemm_gflops: (gemm_gflops * 10.0).round() / 10.0,
        peak_rss_mb,
        cpu: CpuUse::of(&trained.timings, how.steps * batch.tokens()).detailed(how.leaves.is_some()),
    })
}

impl How {
    /// The batch of a step.
    pub fn batch(&self, shape: &Shape) -> BatchShape {
        self.leaves.map_or(shape.batch, |leaves| divided(shape.batch, leaves))
    }
}

/// A training run on synthetic tokens.
pub struct Training {
    job: Job,
    warmup: u64,
    lines: Arc<Mutex<Vec<StepLine>>>,
}

/// What was seen of a training run.
pub struct Trained {
    /// Tokens per second of the measured steps, ascending.
    pub rates: Vec<f64>,
    /// Loss of the last step.
    pub loss: f64,
    /// By worker of this process.
    pub timings: Vec<WorkerTiming>,
}

impl Training {
    /// The graph of `run`, between a source of random tokens and `record`.
    ///
    /// # Errors
    /// If the stages do not fit together.
    pub fn new(shape: &Shape, how: &How) -> Result<Self> {
        let (batch, steps) = (how.batch(shape), how.warmup + how.steps);
        let forward = match how.model {
            super::Model::Gpt2 => forward::<Gpt2>(shape, how),
            super::Model::Llama => forward::<Llama>(shape, how),
            super::Model::Qwen3 => forward::<Qwen3>(shape, how),
            super::Model::Nanochat => forward::<NanoChat>(shape, how),
        };
        let optimize = match how.optimizer {
            super::Optimizer::Adamw => slow::<AdamW>(),
            super::Optimizer::Muon => slow::<Muon>(),
        };
        let facts = Facts { vocabulary: shape.vocabulary, length: batch.length, end_of_text: 0 };
        let model = forward.model(&facts).map(Arc::new);
        let lines = Arc::new(Mutex::new(Vec::new()));
        let mut resources = Resources::default();
        resources.insert(Arc::new(facts));
        let updates = model.iter().filter_map(|model| optimize.updates(model));
        updates.for_each(|updates| resources.insert(Arc::new(updates)));
        resources.insert(Arc::new(MeasureCpu { from: how.warmup }));
        resources.insert(Arc::new(Reporter(Box::new(Lines(Arc::clone(&lines))))));
        let stages: Vec<(String, Arc<dyn Settings>)> = vec![
            ("read".into(), Arc::new(Synthetic { batch, vocabulary: shape.vocabulary as u32, steps })),
            ("forward".into(), forward),
            ("loss".into(), Arc::new(LossSettings::<CrossEntropyLoss>::default())),
            ("backward".into(), Arc::new(train::backward::Backward {})),
            ("reduce".into(), Arc::new(train::reduce::Reduce {})),
            ("optimize".into(), optimize),
            ("record".into(), Arc::new(train::record::Record::default())),
        ];
        let plan = Plan::of(stages).map_err(anyhow::Error::new)?;
        let env = Env::without_training(how.workers, batch.lanes, steps, resources);
        let env = Env { seed: 1, shape: batch, model, ..env };
        let job = Job { stages: plan.stages, env, saved: Vec::new(), prefetch: 2 };
        Ok(Self { job, warmup: how.warmup, lines })
    }

    /// Number of workers of each process.
    pub fn workers(&self) -> usize {
        self.job.env.workers
    }

    /// What is known of the model.
    pub fn model(&self) -> Option<&ModelFacts> {
        self.job.env.model.as_deref()
    }

    /// The sections of its parameters, on so many processes.
    ///
    /// # Errors
    /// If there is no model.
    pub fn sections(&self, processes: usize) -> Result<Vec<Section>> {
        Env { shares: vec![1; processes].into(), ..self.job.env.clone() }.sections()
    }

    /// Trains, together with other processes if there are `connections`.
    ///
    /// # Errors
    /// If any stage fails, or a connection breaks.
    pub fn run(self, connections: Option<Connections>) -> Result<Trained> {
        let timings = match connections {
            None => execute(self.job)?,
            Some(connections) => execute_together(self.job, connections)?,
        };
        let lines = self.lines.lock().unwrap_or_else(|e| e.into_inner());
        let mut rates: Vec<f64> = lines.iter().skip(self.warmup as usize).map(|line| line.tok_per_sec).collect();
        rates.sort_by(f64::total_cmp);
        Ok(Trained { rates, loss: lines.last().map_or(f64::NAN, |line| line.loss), timings })
    }
}

impl Trained {
    /// Tokens per second, the median of the measured steps.
    pub fn tok_per_sec(&self) -> f64 {
        self.rates.get(self.rates.len() / 2).copied().unwrap_or_default()
    }
}

/// A model of the sizes of `shape`.
fn forward<M: ModelType>(shape: &Shape, how: &How) -> Arc<dyn Settings> {
    Arc::new(ModelSettings {
        sizes: Sizes { layers: shape.layers, heads: shape.heads, width: shape.width },
        context: None,
        vocabulary: None,
        model: M::default(),
        computation: Computation { batching: how.batching, precision: how.precision.into() },
    })
}

/// An optimizer with a learning rate at which random tokens do no harm.
fn slow<O: Optimizer>() -> Arc<dyn Settings> {
    let mut settings = OptimizerSettings::<O>::default();
    settings.rate.learning_rate = 1e-4;
    Arc::new(settings)
}

/// Keeps the metrics of every step.
struct Lines(Arc<Mutex<Vec<StepLine>>>);

impl Report for Lines {
    fn step(&self, line: &StepLine) {
        self.0.lock().unwrap_or_else(|e| e.into_inner()).push(line.clone());
    }
    fn validated(&self, _line: &StepLine) {}
}

/// Batches of random tokens, one per lane and step that trains.
struct Synthetic {
    batch: BatchShape,
    vocabulary: u32,
    steps: Step,
}

impl Settings for Synthetic {
    fn takes(&self) -> Vec<Port> {
        Vec::new()
    }
    fn gives(&self) -> Vec<Kind> {
        vec![Kind::Batch]
    }
    fn build(&self, _env: &Env) -> Result<Built> {
        Ok(Built::Source(Box::new(Synthetic { ..*self })))
    }
}

impl Source for Synthetic {
    fn next(&mut self, lane: Lane, step: Step, out: &mut dyn Emit) -> Result<Turn> {
        // The last step of a run only validates.
        if step >= self.steps {
            return Ok(Turn::Done);
        }
        let BatchShape { sequences, length, .. } = self.batch;
        let draw = |stream: u64| -> ScalarBuffer<u32> {
            let seed = splitmix64(stream, step << 32 | u64::from(lane));
            (0..(sequences * length) as u64)
                .map(|i| (splitmix64(seed, i) % u64::from(self.vocabulary)) as u32)
                .collect()
        };
        out.give(Packet::Batch(Batch {
            leaf: lane,
            purpose: Purpose::Train,
            part: 0,
            sequences,
            length,
            tokens: draw(1),
            targets: draw(2),
            document_starts: Vec::new().into(),
            documents: Vec::new().into(),
        }));
        Ok(Turn::Done)
    }
}

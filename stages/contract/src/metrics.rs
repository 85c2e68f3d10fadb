//! Named numbers, and how they are combined.
use crate::packet::Purpose;
use crate::step::Lane;

/// How the values of one name are combined over leaves and workers, in the order of [`Metrics::from`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gather {
    /// Sum.
    Sum,
    /// Sum, divided by the sum of `targets`.
    PerTarget,
    /// The same everywhere: take the first.
    First,
    /// Maximum.
    Max,
}

/// One named number.
#[derive(Clone, Debug, PartialEq)]
pub struct Metric {
    /// Its name in `metrics.jsonl`.
    pub name: &'static str,
    /// How it is combined.
    pub gather: Gather,
    /// Its value.
    pub value: f64,
}

/// Named numbers of one leaf's batch, or of one worker's step.
#[derive(Clone, Debug, PartialEq)]
pub struct Metrics {
    /// What was measured, and on which part of the data.
    pub purpose: Purpose,
    /// Where it was measured: `(leaf, part)`. Fixes the order of summation.
    pub from: (Lane, u32),
    /// The worker that measured it. Only for measurements of time.
    pub worker: usize,
    /// The numbers.
    pub values: Vec<Metric>,
    /// The loss of each held-out document in the batch, or of the part of it that the batch holds; only at the last step
    /// of a run.
    pub documents: Vec<DocumentLoss>,
    /// Texts that the model of the step has generated, in the order of their prompts.
    pub samples: Vec<Sample>,
    /// What the update of the step has done to sections of parameters; only if the run validates after it.
    pub changes: Vec<SectionChange>,
}

impl Metrics {
    /// Numbers alone.
    pub fn new(purpose: Purpose, from: (Lane, u32), worker: usize, values: Vec<Metric>) -> Self {
        Self { purpose, from, worker, values, documents: Vec::new(), samples: Vec::new(), changes: Vec::new() }
    }
}

/// What an update has done to a section of a parameter: sums of squares over its elements.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SectionChange {
    /// Index into [`Env::sections`](crate::Env::sections).
    pub section: usize,
    /// Of the mean gradient, before clipping.
    pub gradient: f64,
    /// Of the parameter before the update.
    pub weight: f64,
    /// Of the difference that the update makes.
    pub update: f64,
}

/// A text that the model has generated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// What it continues; empty: the beginning of a document.
    pub prompt: String,
    /// The continuation, without the prompt.
    pub text: String,
}

/// The loss of a held-out document, or of a part of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DocumentLoss {
    /// Its position among the held-out documents of its source, from 0, times the number of sources, plus the
    /// position of its source in the mixture.
    pub document: u32,
    /// Number of targets: its tokens, and the one that ends it.
    pub tokens: u32,
    /// Their summed cross-entropy.
    pub nats: f64,
}

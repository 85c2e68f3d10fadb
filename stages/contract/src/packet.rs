//! Packets: the data that flows between stages. [`Packet`] has one variant per [`Kind`].
use crate::metrics::Metrics;
use crate::precision::Precision;
use crate::saved::{OptimizerState, Saved};
use crate::step::Lane;
use crate::tape::{HeadGradient, Tape, Ticket};
use crate::tensor::Tensor;
use arrow::array::ListArray;
use arrow::buffer::ScalarBuffer;
use arrow::record_batch::RecordBatch;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// A target that is ignored: it counts neither in the loss nor in the number of targets.
pub const IGNORED: u32 = u32::MAX;

/// Whether documents, batches and losses belong to training or to validation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Purpose {
    /// Parameters are trained on it.
    Train,
    /// The loss is measured on it, with the parameters of the step or their average.
    Validate,
}

/// The kinds of [`Packet`]. Ports are declared in terms of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Documents as text.
    Rows,
    /// Documents as token ids.
    Tokens,
    /// A micro-batch.
    Batch,
    /// The model's parameters, one tensor per packet.
    Parameters,
    /// Hidden states, and what the backward pass needs.
    Activations,
    /// The gradient of the loss with respect to the hidden states.
    LossGradient,
    /// The gradient of one tensor, for one leaf or summed over several.
    Gradient,
    /// Squared norms of a summed gradient.
    Norms,
    /// One tensor with its optimizer state, for a checkpoint.
    OptimizerState,
    /// The state of one lane of a stage, for a checkpoint.
    Saved,
    /// Named numbers.
    Metrics,
    /// Results of a graph that does not train.
    Records,
}

/// The type of all edges. A single type lets a graph be built from a configuration file.
pub enum Packet {
    /// See [`Rows`].
    Rows(Rows),
    /// See [`Tokens`].
    Tokens(Tokens),
    /// See [`Batch`].
    Batch(Batch),
    /// See [`ParameterPiece`].
    Parameters(ParameterPiece),
    /// See [`Activations`].
    Activations(Box<Activations>),
    /// See [`LossGradient`].
    LossGradient(Box<LossGradient>),
    /// See [`Gradient`].
    Gradient(Gradient),
    /// See [`Norms`].
    Norms(Norms),
    /// See [`OptimizerState`].
    OptimizerState(OptimizerState),
    /// See [`Saved`].
    Saved(Saved),
    /// See [`Metrics`].
    Metrics(Metrics),
    /// See [`Records`].
    Records(Records),
}

/// Documents of one lane, in order.
#[derive(Clone, Debug)]
pub struct Rows {
    /// The lane they belong to.
    pub lane: Lane,
    /// The index of their source in the run's [`Mixture`](crate::Mixture), set by the stage that mixes; otherwise 0.
    pub source: usize,
    /// Training or validation.
    pub purpose: Purpose,
    /// True on the last packet of a step's validation documents of this lane (which may be empty).
    pub last: bool,
    /// At least a column `text` (`LargeUtf8`, no nulls).
    pub records: RecordBatch,
}

/// Results of a graph that does not train, for the rows of one lane and step. The engine gathers records on worker 0
/// and returns them in the order of steps and lanes when the graph has ended.
#[derive(Clone, Debug)]
pub struct Records {
    /// The lane they belong to.
    pub lane: Lane,
    /// The columns are an agreement between the stage that emits the records and the code that reads them.
    pub records: RecordBatch,
}

/// Tokenized documents of one lane, in order. A stage between a source and `pack` emits exactly one packet for each
/// packet that it takes, an empty one if necessary, so that `pack` can ask for more.
#[derive(Clone, Debug)]
pub struct Tokens {
    /// The lane they belong to.
    pub lane: Lane,
    /// As in [`Rows`].
    pub source: usize,
    /// Training or validation.
    pub purpose: Purpose,
    /// As in [`Rows`].
    pub last: bool,
    /// One list of `UInt32` ids per document, without the end-of-text token.
    pub documents: ListArray,
}

/// A micro-batch: `sequences × length` tokens, row-major.
///
/// For training, a sequence may hold several documents. For validation, it is a window of one document, which is
/// evaluated alone: the input begins with the end-of-text token that precedes every document in training (or
/// [`DocumentStart`](crate::DocumentStart)), and each token of the document and the end-of-text token after it are the
/// target of one position of one window. All other targets are [`IGNORED`].
#[derive(Clone, Debug)]
pub struct Batch {
    /// Index of its leaf.
    pub leaf: Lane,
    /// Training or validation.
    pub purpose: Purpose,
    /// Index among the leaf's validation batches of this step, modulo the number of sources its source; 0 for training.
    pub part: u32,
    /// Number of sequences. A validation batch may have fewer than [`BatchShape::sequences`](crate::BatchShape).
    pub sequences: usize,
    /// Tokens per sequence. Those of a validation batch may be shorter than
    /// [`BatchShape::length`](crate::BatchShape).
    pub length: usize,
    /// `[sequences, length]` token ids.
    pub tokens: ScalarBuffer<u32>,
    /// `[sequences, length]`: the id that follows each token, or [`IGNORED`].
    pub targets: ScalarBuffer<u32>,
    /// `[sequences, length]`: the position in its sequence at which the token's document starts, before which it attends
    /// to nothing; empty if tokens attend to all before them.
    pub document_starts: ScalarBuffer<u32>,
    /// `[sequences]`: the document of each window of a validation batch ([`DocumentLoss`](crate::DocumentLoss) says which);
    /// empty for training.
    pub documents: ScalarBuffer<u32>,
}

/// One parameter tensor at a step. Consumers share it; it is never copied.
#[derive(Clone, Debug)]
pub struct ParameterPiece {
    /// Index into [`ModelFacts::parameters`](crate::ModelFacts::parameters).
    pub tensor: usize,
    /// Its values.
    pub data: Arc<Tensor>,
    /// The average of its values over the updates so far, if the optimizer keeps one.
    pub average: Option<Arc<Tensor>>,
}

impl ParameterPiece {
    /// The values for this purpose: for validation the average, if there is one.
    ///
    /// ```
    /// # use {millrace_contract as contract, std::sync::Arc};
    /// use contract::{ParameterPiece, Purpose, Tensor};
    /// let [data, average] = [1.0, 2.0].map(|value| Arc::new(Tensor::from_values([1], &[value])));
    /// let piece = ParameterPiece { tensor: 0, data, average: Some(average) };
    /// assert_eq!(piece.values(Purpose::Train).data[..], [1.0]);
    /// assert_eq!(piece.values(Purpose::Validate).data[..], [2.0]);
    /// ```
    pub fn values(&self, purpose: Purpose) -> &Arc<Tensor> {
        match purpose {
            Purpose::Train => &self.data,
            Purpose::Validate => self.average.as_ref().unwrap_or(&self.data),
        }
    }
}

/// The result of forward for one micro-batch.
pub struct Activations {
    /// The leaf.
    pub leaf: Lane,
    /// Training or validation.
    pub purpose: Purpose,
    /// See [`Batch::part`].
    pub part: u32,
    /// `[rows, width]`: hidden states after the final normalisation, `rows = sequences × length`.
    pub hidden: Tensor,
    /// `[rows]`: see [`Batch::targets`].
    pub targets: ScalarBuffer<u32>,
    /// See [`Batch::documents`].
    pub documents: ScalarBuffer<u32>,
    /// `[vocabulary, width]`: the matrix that turns hidden states into logits.
    pub head: Arc<Tensor>,
    /// See [`ModelFacts::logit_softcap`](crate::ModelFacts::logit_softcap).
    pub logit_softcap: Option<f32>,
    /// If set, products over the rows are computed in groups of this many rows (`batching = "per_sequence"`).
    pub rows_at_once: Option<usize>,
    /// Precision of the products with the head.
    pub precision: Precision,
    /// What random numbers depend on if gradients are rounded to eight bits: derived from seed, step and leaf.
    pub key: u64,
    /// The input of the backward pass; `None` during validation.
    pub tape: Option<Box<dyn Tape>>,
    /// How long forward waited for the batch.
    pub waited: Duration,
    /// The last field, because fields are dropped in order and this one must be dropped last.
    pub ticket: Ticket,
}

/// The result of the loss for one micro-batch: the input of the backward pass.
pub struct LossGradient {
    /// The leaf.
    pub leaf: Lane,
    /// Number of targets that are not ignored.
    pub targets: u64,
    /// `[rows, width]`: gradient of the summed loss with respect to the hidden states.
    pub hidden: Tensor,
    /// The gradient with respect to the head's weights.
    pub head: HeadGradient,
    /// Taken from [`Activations`].
    pub tape: Box<dyn Tape>,
    /// Taken from [`Activations`].
    pub ticket: Ticket,
}

/// The gradient of the *summed* loss of some leaves with respect to one section of a tensor.
#[derive(Debug)]
pub struct Gradient {
    /// The leaves that it is summed over: a node of the fixed tree.
    pub leaves: Range<Lane>,
    /// Index into [`Env::sections`](crate::Env::sections).
    pub section: usize,
    /// The worker that it is for, among those of all processes: an owner of the section.
    pub owner: u32,
    /// Number of targets of these leaves that are not ignored.
    pub targets: u64,
    /// The gradient. It has the tensor's shape if the section is the whole tensor.
    pub data: Tensor,
}

/// Squared norms of one section's summed gradient.
#[derive(Clone, Debug)]
pub struct Norms {
    /// Index into [`Env::sections`](crate::Env::sections).
    pub section: usize,
    /// Number of targets of the global batch.
    pub targets: u64,
    /// Sum of squares of each block of 64 Ki elements, in order, in f64.
    pub blocks: Vec<f64>,
}

impl Packet {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Packet::Rows(_) => Kind::Rows,
            Packet::Tokens(_) => Kind::Tokens,
            Packet::Batch(_) => Kind::Batch,
            Packet::Parameters(_) => Kind::Parameters,
            Packet::Activations(_) => Kind::Activations,
            Packet::LossGradient(_) => Kind::LossGradient,
            Packet::Gradient(_) => Kind::Gradient,
            Packet::Norms(_) => Kind::Norms,
            Packet::OptimizerState(_) => Kind::OptimizerState,
            Packet::Saved(_) => Kind::Saved,
            Packet::Metrics(_) => Kind::Metrics,
            Packet::Records(_) => Kind::Records,
        }
    }

    /// The worker that a port with [`Route::Exchange`](crate::Route::Exchange) sends it to: a gradient goes to the
    /// owner of its section, everything else to worker 0.
    pub fn address(&self) -> usize {
        match self {
            Packet::Gradient(gradient) => gradient.owner as usize,
            _ => 0,
        }
    }

    /// Another handle to the same data, for a second consumer; `None` for kinds that have a single owner.
    pub fn share(&self) -> Option<Packet> {
        Some(match self {
            Packet::Rows(x) => Packet::Rows(x.clone()),
            Packet::Tokens(x) => Packet::Tokens(x.clone()),
            Packet::Batch(x) => Packet::Batch(x.clone()),
            Packet::Parameters(x) => Packet::Parameters(x.clone()),
            Packet::Norms(x) => Packet::Norms(x.clone()),
            Packet::OptimizerState(x) => Packet::OptimizerState(x.clone()),
            Packet::Saved(x) => Packet::Saved(x.clone()),
            Packet::Metrics(x) => Packet::Metrics(x.clone()),
            Packet::Records(x) => Packet::Records(x.clone()),
            Packet::Activations(_) | Packet::LossGradient(_) | Packet::Gradient(_) => return None,
        })
    }

    /// The lane of packets that flow from a source to `pack`; the leaf of a batch.
    pub fn lane(&self) -> Option<Lane> {
        match self {
            Packet::Rows(rows) => Some(rows.lane),
            Packet::Tokens(tokens) => Some(tokens.lane),
            Packet::Records(records) => Some(records.lane),
            Packet::Batch(batch) => Some(batch.leaf),
            _ => None,
        }
    }

    /// The ticket of a packet that holds a micro-batch's memory.
    pub fn ticket(&mut self) -> Option<&mut Ticket> {
        match self {
            Packet::Activations(a) => Some(&mut a.ticket),
            Packet::LossGradient(g) => Some(&mut g.ticket),
            _ => None,
        }
    }
}

impl Kind {
    /// The kind's name in messages about the plan.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Rows => "rows",
            Kind::Tokens => "tokens",
            Kind::Batch => "batch",
            Kind::Parameters => "parameters",
            Kind::Activations => "activations",
            Kind::LossGradient => "loss gradient",
            Kind::Gradient => "gradient",
            Kind::Norms => "norms",
            Kind::OptimizerState => "optimizer state",
            Kind::Saved => "saved",
            Kind::Metrics => "metrics",
            Kind::Records => "records",
        }
    }

    /// Whether every process of a run makes these packets for itself, as each updates its own copy of the parameters.
    pub fn is_replicated(self) -> bool {
        matches!(self, Kind::Parameters | Kind::OptimizerState)
    }

    /// May a packet of this kind go to more than one consumer?
    pub fn shareable(self) -> bool {
        !matches!(self, Kind::Activations | Kind::LossGradient | Kind::Gradient)
    }
}

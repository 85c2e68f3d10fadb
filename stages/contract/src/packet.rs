//! What flows between stages: one variant of [`Packet`] a [`Kind`].
use crate::metrics::Metrics;
use crate::saved::{OptimizerState, Saved};
use crate::step::{Lane, Turn};
use crate::tensor::Tensor;
use anyhow::Result;
use arrow::array::ListArray;
use arrow::buffer::ScalarBuffer;
use arrow::record_batch::RecordBatch;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// A target that counts nowhere: neither in the loss nor in the number of targets.
pub const IGNORED: u32 = u32::MAX;

/// What documents, batches and losses are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Purpose {
    /// To learn from.
    Train,
    /// To measure on, with the parameters of the step.
    Validate,
}

/// The kinds of [`Packet`]: what ports take and give.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Documents as text.
    Rows,
    /// Documents as token ids.
    Tokens,
    /// A micro-batch.
    Batch,
    /// The model's parameters, a tensor a packet.
    Parameters,
    /// Hidden states and what backward will need.
    Activations,
    /// The gradient of the loss at the hidden states.
    LossGradient,
    /// The gradient of one tensor, of one leaf or of the sum of several.
    Gradient,
    /// Squared norms of a summed gradient.
    Norms,
    /// One tensor with its optimizer state, for a checkpoint.
    OptimizerState,
    /// A stage's own state of one lane, for a checkpoint.
    Saved,
    /// Named numbers.
    Metrics,
    /// Results of a graph that does not train.
    Records,
}

/// What flows on every edge. One type keeps the graph buildable from a configuration file.
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
    /// What they are for.
    pub purpose: Purpose,
    /// True on the last packet of a step's validation documents of this lane (which may be empty).
    pub last: bool,
    /// At least a column `text` (`LargeUtf8`, no nulls).
    pub records: RecordBatch,
}

/// What a graph that does not train has found out about the rows of one lane and step. The engine gathers records on
/// worker 0 and returns them, in the order of steps and lanes, when the graph has ended.
#[derive(Clone, Debug)]
pub struct Records {
    /// The lane they belong to.
    pub lane: Lane,
    /// Columns as giver and taker agree.
    pub records: RecordBatch,
}

/// Tokenized documents of one lane, in order. A stage between a source and `pack` gives one packet for each
/// that it takes, if need be an empty one, so that `pack` can ask for more.
#[derive(Clone, Debug)]
pub struct Tokens {
    /// The lane they belong to.
    pub lane: Lane,
    /// What they are for.
    pub purpose: Purpose,
    /// As in [`Rows`].
    pub last: bool,
    /// One list of `UInt32` ids a document, without end-of-text token.
    pub documents: ListArray,
}

/// A micro-batch: `sequences × length` tokens, row-major.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The leaf it is (equal to its lane).
    pub leaf: Lane,
    /// What it is for.
    pub purpose: Purpose,
    /// Which of the lane's validation batches of this step it is; 0 for training.
    pub part: u32,
    /// Number of sequences. A validation batch may have fewer than the others.
    pub sequences: usize,
    /// Tokens a sequence.
    pub length: usize,
    /// `[sequences, length]` token ids.
    pub tokens: ScalarBuffer<u32>,
    /// `[sequences, length]`: the id that follows each token, or [`IGNORED`].
    pub targets: ScalarBuffer<u32>,
    /// `[sequences, length]`: the position in its sequence at which the token's document starts.
    pub document_starts: ScalarBuffer<u32>,
}

/// One tensor of the parameters of a step, shared, never copied.
#[derive(Clone, Debug)]
pub struct ParameterPiece {
    /// Index into [`ModelFacts::parameters`](crate::ModelFacts::parameters).
    pub tensor: usize,
    /// Its values.
    pub data: Arc<Tensor>,
}

/// What a model keeps of a forward pass to run it backward, one piece at a time.
pub trait Tape: Send {
    /// Begins backward. `hidden` `[rows, width]` is the gradient of the summed loss at the hidden states, `head`
    /// `[vocabulary, width]` at the head's weights (with a tied head the model adds the embedding's share to it).
    fn start(&mut self, hidden: Tensor, head: Tensor);
    /// Works one layer back and gives the gradients that are complete, as `(tensor index, gradient)`;
    /// [`Turn::Done`] after the last.
    fn turn(&mut self, give: &mut dyn FnMut(usize, Tensor)) -> Result<Turn>;
}

/// Runs a function when dropped. [`Activations`] and [`LossGradient`] carry one through, by which the stage that
/// gave them knows that their memory is free and the next micro-batch may begin.
#[derive(Default)]
pub struct Ticket(Option<Box<dyn FnOnce() + Send>>);

impl Ticket {
    /// A ticket that calls `f` once, when dropped.
    pub fn new(f: impl FnOnce() + Send + 'static) -> Self {
        Self(Some(Box::new(f)))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(f) = self.0.take() {
            f();
        }
    }
}

/// To what the operands of products are rounded; sums, parameters and optimizer state are single precision always.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// IEEE single precision: not at all.
    #[default]
    F32,
    /// bfloat16: the upper half of a single, 8 bits of precision.
    Bf16,
}

/// As in a configuration.
///
/// ```
/// assert_eq!(millrace_contract::Precision::Bf16.to_string(), "bf16");
/// ```
impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// The result of forward for one micro-batch.
pub struct Activations {
    /// The leaf.
    pub leaf: Lane,
    /// What the batch is for.
    pub purpose: Purpose,
    /// See [`Batch::part`].
    pub part: u32,
    /// `[rows, width]`: hidden states after the final normalisation, `rows = sequences × length`.
    pub hidden: Tensor,
    /// `[rows]`: see [`Batch::targets`].
    pub targets: ScalarBuffer<u32>,
    /// `[vocabulary, width]`: the matrix that turns hidden states into logits.
    pub head: Arc<Tensor>,
    /// If set, products over the rows are to be made in groups of this many (`batching = "per_sequence"`).
    pub rows_at_once: Option<usize>,
    /// Of the products with the head.
    pub precision: Precision,
    /// For backward; `None` when validating.
    pub tape: Option<Box<dyn Tape>>,
    /// How long forward waited for the batch.
    pub waited: Duration,
    /// Dropped last of all: fields drop in order.
    pub ticket: Ticket,
}

/// The result of the loss for one micro-batch: where backward starts.
pub struct LossGradient {
    /// The leaf.
    pub leaf: Lane,
    /// Targets that counted.
    pub targets: u64,
    /// `[rows, width]`: gradient of the summed loss at the hidden states.
    pub hidden: Tensor,
    /// `[vocabulary, width]`: gradient of the summed loss at the head's weights.
    pub head: Tensor,
    /// From [`Activations`].
    pub tape: Box<dyn Tape>,
    /// From [`Activations`].
    pub ticket: Ticket,
}

/// The gradient of the *summed* loss over some leaves at one tensor.
#[derive(Debug)]
pub struct Gradient {
    /// The leaves it sums over, a node of the fixed tree.
    pub leaves: Range<Lane>,
    /// Index into the model's parameters.
    pub tensor: usize,
    /// The worker that owns the tensor.
    pub owner: u32,
    /// Targets that counted in these leaves.
    pub targets: u64,
    /// The gradient, in the tensor's shape.
    pub data: Tensor,
}

/// Squared norms of one tensor's summed gradient.
#[derive(Clone, Debug)]
pub struct Norms {
    /// Index into the model's parameters.
    pub tensor: usize,
    /// Targets of the global batch.
    pub targets: u64,
    /// Sum of squares of each block of 64 Ki elements, in order, in f64.
    pub blocks: Vec<f64>,
}

impl Packet {
    /// Which kind it is.
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

    /// The worker to which a port with [`Route::Exchange`](crate::Route::Exchange) sends it: a gradient goes to
    /// its tensor's owner, everything else to worker 0.
    pub fn address(&self) -> usize {
        match self {
            Packet::Gradient(gradient) => gradient.owner as usize,
            _ => 0,
        }
    }

    /// Another handle to the same data, for a second consumer; `None` for kinds that have one owner.
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

    /// The step's lane, for packets that flow from a source to `pack`.
    pub fn lane(&self) -> Option<Lane> {
        match self {
            Packet::Rows(rows) => Some(rows.lane),
            Packet::Tokens(tokens) => Some(tokens.lane),
            Packet::Records(records) => Some(records.lane),
            Packet::Batch(batch) => Some(batch.leaf),
            _ => None,
        }
    }

    /// Where the ticket of a packet that holds a micro-batch's memory is, if it holds one.
    pub fn ticket(&mut self) -> Option<&mut Ticket> {
        match self {
            Packet::Activations(a) => Some(&mut a.ticket),
            Packet::LossGradient(g) => Some(&mut g.ticket),
            _ => None,
        }
    }
}

impl Kind {
    /// Its name in the plan's messages.
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

    /// May a packet of this kind go to more than one consumer?
    pub fn shareable(self) -> bool {
        !matches!(self, Kind::Activations | Kind::LossGradient | Kind::Gradient)
    }
}

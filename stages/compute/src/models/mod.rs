//! Models: what computes hidden states from a batch, and gradients back through itself.
//!
//! - [`gpt2`]: GPT-2, whole micro-batches at a time
//! - [`per_sequence`]: any model, one sequence of the batch at a time, to measure against

pub mod gpt2;
pub mod per_sequence;

pub use gpt2::{Gpt2, Gpt2Shape};
pub use per_sequence::forward_per_sequence;

use contract::{Batch, ModelFacts, Parameters, Precision, Tape, Tensor};

/// A model: parameters in, hidden states out, and a tape that goes back.
pub trait Model: Send + Sync {
    /// Its parameters in order, the head's index, FLOPs, Hugging Face configuration, summary.
    fn facts(&self) -> &ModelFacts;

    /// To what the operands of its products are rounded, the head's among them.
    fn precision(&self) -> Precision {
        Precision::F32
    }

    /// The hidden states of every token of `batch`; `keep` says whether a backward pass will follow.
    ///
    /// # Panics
    /// If the parameters are not the model's, a token is not in the vocabulary, or sequences are longer than the
    /// model's: the plan and the tokenizer stage have checked all three.
    fn forward(&self, parameters: &Parameters, batch: &Batch, keep: bool) -> Forward;
}

/// What a forward pass gives.
pub struct Forward {
    /// `[sequences · length, width]`: hidden states after the final normalisation.
    pub hidden: Tensor,
    /// For backward, if it was asked to keep one: owns what it needs of the parameters and the activations, and
    /// drops each layer's as it goes.
    pub tape: Option<Box<dyn Tape>>,
}

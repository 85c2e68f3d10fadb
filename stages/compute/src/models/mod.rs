//! Models: what computes hidden states from a batch, and gradients back through itself.
//!
//! - [`architecture`], [`norm`], [`feed_forward`]: what a transformer is made of, as values that all of the following read
//! - [`transformer`]: training, whole micro-batches at a time; [`decode`]: one sequence continued token by token; `memory`: how
//!   much activations take
//! - [`gpt2`], [`llama`]: such values; [`config`]: their shapes from Hugging Face's `config.json`
//! - `saved`: activations that are saved for backward; [`sampling`]: which token comes next
//! - [`per_sequence`]: any model, one sequence of the batch at a time, to measure against
pub mod architecture;
pub mod config;
pub mod decode;
pub mod feed_forward;
pub mod gpt2;
pub mod llama;
mod memory;
pub mod norm;
pub mod per_sequence;
pub mod sampling;
mod saved;
pub mod transformer;

pub use architecture::{Architecture, Positions};
pub use decode::Decoder;
pub use gpt2::Gpt2Shape;
pub use llama::LlamaShape;
pub use per_sequence::forward_per_sequence;
pub use transformer::Transformer;

use contract::{Batch, ModelFacts, Parameters, Tape, Tensor};

/// A model: parameters in, hidden states out, and a tape that goes back.
pub trait Model: Send + Sync {
    /// Its parameters in order, the head's index, FLOPs, Hugging Face configuration, summary.
    fn facts(&self) -> &ModelFacts;

    /// The hidden states of every token of `batch`; `keep` says whether a backward pass will follow.
    ///
    /// # Panics
    /// If the parameters are not the model's, a token is not in the vocabulary, or sequences are longer than the
    /// model's: the plan and the tokenizer stage have checked all three.
    fn forward(&self, parameters: &Parameters, batch: &Batch, keep: bool) -> Forward;

    /// What a batch of `sequences × length` tokens takes at most, including gradients of parameters until the next layer is
    /// done. The default is an estimate of nothing.
    fn activations(&self, _sequences: usize, _length: usize) -> ActivationMemory {
        ActivationMemory::default()
    }

    /// The model with these parameters, to continue a text. Attention sees all of it.
    ///
    /// # Panics
    /// If the parameters are not the model's.
    fn decoder(&self, parameters: Parameters) -> Decoder;
}

/// Memory for the activations of a batch, in floats.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ActivationMemory {
    /// From the forward pass until backward has gone through them.
    pub saved: usize,
    /// In addition to these while a layer is computed.
    pub temporary: usize,
}

/// What a forward pass gives.
pub struct Forward {
    /// `[sequences · length, width]`: hidden states after the final normalisation.
    pub hidden: Tensor,
    /// For backward, if it was asked to keep one: owns what it needs of the parameters and the activations, and
    /// drops each layer's as it goes.
    pub tape: Option<Box<dyn Tape>>,
}

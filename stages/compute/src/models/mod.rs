//! Models: compute hidden states from a batch, and gradients by backpropagation.
//!
//! - [`architecture`], with its [`norm`] and [`activation`]: the description of a transformer, which the others read
//! - [`transformer`]: training on whole micro-batches; [`decode`]: decoding one sequence; `memory`: the memory that
//!   activations need
//! - [`gpt2`], [`llama`], [`qwen3`], [`nanochat`]: types of models, which are such descriptions; [`config`]: reads
//!   their shapes from Hugging Face's `config.json`
//! - `saved`: activations that are operands of products; `compact`: those that are saved for backward
//! - [`sampling`]: selection of the next token
//! - [`per_sequence`]: runs any model on one sequence of the batch at a time, as a baseline
pub mod activation;
pub mod architecture;
mod compact;
pub mod config;
pub mod decode;
pub mod gpt2;
pub mod llama;
mod memory;
pub mod nanochat;
pub mod norm;
pub mod per_sequence;
pub mod qwen3;
pub mod sampling;
mod saved;
pub mod transformer;

pub use crate::kernels::rotary::RopeScaling;
pub use architecture::{Architecture, Positions};
pub use decode::Decoder;
pub use gpt2::Gpt2Shape;
pub use llama::LlamaShape;
pub use nanochat::NanoChatShape;
pub use norm::Norm;
pub use per_sequence::forward_per_sequence;
pub use qwen3::Qwen3Shape;
pub use transformer::Transformer;

use contract::{Batch, Load, ModelFacts, Parameters, Precision, Result, Tape, Tensor};

/// A model: computes hidden states from parameters and a batch, and a tape for the backward pass.
pub trait Model: Send + Sync {
    /// The parameters in order, the index of the head, FLOPs, Hugging Face configuration and summary.
    fn facts(&self) -> &ModelFacts;

    /// The hidden states of every token of `batch`, and a tape if `keep` is set, which a backward pass needs.
    ///
    /// # Panics
    /// If the parameters are not those of this model, a token is not in the vocabulary, or sequences are longer than
    /// the model's context. The plan and the tokenizer stage check all three in advance.
    fn forward(&self, parameters: &Parameters, batch: &Batch, keep: bool) -> Forward;

    /// Peak memory for a batch of `sequences × length` tokens, including the gradients of a layer's parameters until
    /// the next layer is done. The default is zero.
    fn activations(&self, _sequences: usize, _length: usize) -> ActivationMemory {
        ActivationMemory::default()
    }

    /// A decoder to continue a text, with weights in `precision`. It takes the parameters one after the other. Attention
    /// is not limited to the current document.
    ///
    /// # Errors
    /// Those of `parameters`.
    ///
    /// # Panics
    /// If the parameters are not those of this model.
    fn decoder(&self, precision: Precision, parameters: &mut Load) -> Result<Decoder>;
}

/// Memory for the activations of a batch, in numbers of f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ActivationMemory {
    /// Saved by the forward pass until backward has used them.
    pub saved: usize,
    /// Needed in addition while a layer is computed.
    pub temporary: usize,
}

/// The result of a forward pass.
pub struct Forward {
    /// `[sequences · length, width]`: hidden states after the final normalisation.
    pub hidden: Tensor,
    /// The tape for backward, if requested. It owns the parameters and activations that backward needs, and drops those
    /// of each layer when it is done.
    pub tape: Option<Box<dyn Tape>>,
}

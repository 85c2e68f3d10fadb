//! Models from checkpoints, for generating and evaluating text.
use crate::parameters::{ModelFacts, Parameters};
use crate::settings::Settings;
use crate::tensor::Buffer;
use std::sync::Arc;

/// A model during generation, with the tokens that it has been fed.
pub trait Decode: Send {
    /// Feeds the next tokens at once and returns the logits `[vocabulary]` of the token after them.
    ///
    /// # Panics
    /// If `tokens` is empty, has an id outside the vocabulary, or exceeds the model's positions.
    fn feed(&mut self, tokens: &[u32]) -> Buffer;
    /// Tokens fed so far.
    fn length(&self) -> usize;
    /// The maximum number of tokens: the model's positions.
    fn capacity(&self) -> usize;
    /// Number of token ids.
    fn vocabulary(&self) -> usize;
}

/// The model described by a checkpoint, without its parameters.
pub struct Pretrained {
    /// The facts of the model.
    pub facts: ModelFacts,
    /// The stage that computes hidden states with this model, in f32, whatever the vocabulary and the length of sequences.
    pub forward: Arc<dyn Settings>,
    /// Combines the model with these parameters, ready to generate.
    pub decoder: Box<dyn FnOnce(Parameters) -> Box<dyn Decode>>,
}

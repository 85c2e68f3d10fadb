//! Models that continue texts, from the checkpoints that describe them.
use crate::parameters::{ModelFacts, Parameters};
use crate::tensor::Buffer;

/// A model and the tokens that it has been fed.
pub trait Decode: Send {
    /// Feeds the next tokens, all at once, and returns the logits `[vocabulary]` of the token after them.
    ///
    /// # Panics
    /// If there is no token, one is not in the vocabulary, or they are more than the model has positions for.
    fn feed(&mut self, tokens: &[u32]) -> Buffer;
    /// Tokens fed so far.
    fn length(&self) -> usize;
    /// Tokens that can be fed in all: the model's positions.
    fn capacity(&self) -> usize;
    /// Number of token ids.
    fn vocabulary(&self) -> usize;
}

/// The model of a checkpoint, without its parameters.
pub struct Pretrained {
    /// What it is.
    pub facts: ModelFacts,
    /// Makes it continue texts with these parameters.
    pub decoder: Box<dyn FnOnce(Parameters) -> Box<dyn Decode>>,
}

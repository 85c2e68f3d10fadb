//! Models from checkpoints, for generating and evaluating text.
use crate::Result;
use crate::parameters::{ModelFacts, Parameters};
use crate::precision::Precision;
use crate::settings::Settings;
use crate::tensor::{Buffer, Tensor};
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
    /// Bytes of the weights that are read for each token.
    fn weight_bytes(&self) -> usize;
    /// Forgets all tokens.
    fn restart(&mut self);
}

/// What a decoder takes the parameters of its model from: the one with this index.
pub type Load<'a> = dyn FnMut(usize) -> Result<Arc<Tensor>> + 'a;

impl Parameters {
    /// Hands out these parameters.
    pub fn load(&self) -> impl FnMut(usize) -> Result<Arc<Tensor>> {
        |index| Ok(Arc::clone(&self.0[index]))
    }
}

/// The model described by a checkpoint, without its parameters.
pub struct Pretrained {
    /// The facts of the model.
    pub facts: ModelFacts,
    /// The stage that computes hidden states with this model, in this precision, whatever the vocabulary and the length of
    /// sequences.
    pub forward: Box<dyn Fn(Precision) -> Arc<dyn Settings>>,
    /// Combines the model with its parameters, ready to generate with weights in this precision.
    pub decoder: Box<dyn Fn(Precision, &mut Load) -> Result<Box<dyn Decode>>>,
}

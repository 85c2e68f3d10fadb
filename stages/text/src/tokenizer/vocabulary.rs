//! What token ids mean: how many there are, and which one ends a document.
use anyhow::Result;
use contract::{Env, Facts};
use serde::{Deserialize, Serialize};

/// The token that ends a document unless the settings say otherwise.
pub const END_OF_TEXT: &str = "<|endoftext|>";

/// What must agree between token files, packing and the model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vocabulary {
    /// blake3 of the tokenizer's `tokenizer.json`.
    pub hash: String,
    /// Number of ids.
    pub size: u32,
    /// Id of the token that ends a document.
    pub end_of_text: u32,
}

impl Vocabulary {
    /// That of the tokens which reach the stage that `env` is for.
    ///
    /// # Errors
    /// If no stage above has provided one.
    pub fn of(env: &Env) -> Result<Self> {
        env.resource::<Vocabulary>("what the tokens mean (Vocabulary)").map(|vocabulary| (*vocabulary).clone())
    }

    /// For a model; its length is left at 0.
    pub fn facts(&self) -> Facts {
        Facts { vocabulary: self.size as usize, length: 0, end_of_text: self.end_of_text }
    }
}

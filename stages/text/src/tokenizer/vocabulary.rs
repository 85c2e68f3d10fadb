//! The vocabulary of token ids: how many there are, and which one ends a document.
use anyhow::Result;
use contract::{Env, Facts};
use serde::{Deserialize, Serialize};

/// The default token that ends a document.
pub const END_OF_TEXT: &str = "<|endoftext|>";

/// What token files, packing and the model must agree on.
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
    /// The vocabulary of the tokens that reach the stage that `env` is for.
    ///
    /// # Errors
    /// If no stage upstream provides one.
    pub fn of(env: &Env) -> Result<Self> {
        env.resource::<Vocabulary>("what the tokens mean (Vocabulary)").map(|vocabulary| (*vocabulary).clone())
    }

    /// For a model; its sequence length is left at 0.
    pub fn facts(&self) -> Facts {
        Facts { vocabulary: self.size as usize, length: 0, end_of_text: self.end_of_text }
    }
}

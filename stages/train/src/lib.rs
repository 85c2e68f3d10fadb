//! The stages of training, in the order of a step.
//!
//! - [`forward`]: parameters and a batch become hidden states; models: [`gpt2`](forward::gpt2),
//!   [`llama`](forward::llama)
//! - [`loss`]: hidden states become a loss and its gradient
//! - [`backward`]: backpropagation through the model, one layer per turn
//! - [`reduce`]: sums the gradients of the leaves (micro-batches) along a fixed [`tree`](reduce::tree) and computes
//!   norms
//! - [`optimize`]: clips gradients and updates parameters; [`schedule`](optimize::schedule): the learning rate;
//!   optimizers: [`adamw`](optimize::adamw), [`muon`](optimize::muon)
//! - [`evaluate`]: validation loss and bits per byte; [`documents`]: the loss of each held-out document
//! - [`sample`]: texts that the model generates at validations
//! - [`checkpoint`]: everything needed to resume a run, in a format that Hugging Face's libraries load;
//!   [`hugging_face`]: the files beside the weights; [`weights`]: safetensors files; [`gguf`]: files for llama.cpp
//! - [`diverged`]: the error for a loss or gradient that is not finite
//! - [`record`]: progress, and metrics and samples in [`sink`](record::sink)s: [`jsonl`](record::jsonl),
//!   [`tensorboard`](record::tensorboard), [`mlflow`](record::mlflow); [`clock`](record::clock): the time of a step
//!
//! Losses, optimizers and models are families: a member supplies the mathematics and its own configuration keys, and
//! the family turns it into a stage.
#![forbid(unsafe_code)]

pub mod backward;
pub mod checkpoint;
pub mod diverged;
pub mod documents;
pub mod evaluate;
pub mod forward;
pub mod gguf;
pub mod hugging_face;
pub mod loss;
pub mod optimize;
pub mod record;
pub mod reduce;
pub mod sample;
pub mod weights;

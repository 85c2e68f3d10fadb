//! Training, in the order a micro-batch meets it.
//!
//! - [`forward`]: parameters and a batch become hidden states; models: [`gpt2`](forward::gpt2),
//!   [`llama`](forward::llama)
//! - [`loss`]: hidden states become a loss and its gradient
//! - [`backward`]: the gradient goes back through the model, a layer a turn
//! - [`reduce`]: the leaves' gradients are summed along a fixed [`tree`](reduce::tree), with their norms
//! - [`optimize`]: clip and update ([`schedule`](optimize::schedule): the learning rate); gives the next step's
//!   parameters; optimizers: [`adamw`](optimize::adamw), [`muon`](optimize::muon)
//! - [`evaluate`]: validation loss and bits per byte
//! - [`checkpoint`]: everything a run needs to go on, and what Hugging Face needs to load it ([`weights`])
//! - [`diverged`]: what is said where a loss or gradient is not finite
//! - [`record`]: `metrics.jsonl`, and what people see; [`tensorboard`](record::tensorboard): the same as event files;
//!   [`clock`](record::clock): what a step took
//!
//! Losses, optimizers and models are families: a member of one supplies the mathematics and its own keys, the family
//! makes a stage of it.
#![forbid(unsafe_code)]

pub mod backward;
pub mod checkpoint;
pub mod diverged;
pub mod evaluate;
pub mod forward;
pub mod loss;
pub mod optimize;
pub mod record;
pub mod reduce;
pub mod weights;

//! GGUF files, which llama.cpp and the programs around it read.
//!
//! | module | contents |
//! |---|---|
//! | [`writer`] | the layout of a file: header, metadata, tensors |
//! | [`dtype`] | the types of tensors: f32, f16, bf16, q8_0 |
//! | [`architecture`] | the metadata of a model, and its parameters with llama.cpp's names and layouts |
//!
//! The format is specified in [`docs/gguf.md`](https://github.com/ggml-org/ggml/blob/master/docs/gguf.md) of ggml. What
//! each architecture needs is defined by llama.cpp (`src/models/*.cpp`, and its converter, `conversion/`).
pub mod architecture;
pub mod dtype;
#[cfg(test)]
mod tests;
pub mod writer;

pub use architecture::{GgufModel, GgufTensor};
pub use dtype::Dtype;
pub use writer::{TensorInfo, Value, write};

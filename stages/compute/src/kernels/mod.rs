//! One file per kernel: forward, backward, and tests against a naive reference in f64, whose finite differences are the
//! expected gradients. The list follows the order of a forward pass.
//!
//! Matrices are row-major slices; names carry their shape where it helps: `x_rc` is `[rows, width]`, `_rf` `[rows,
//! feed-forward]`, `_vc` `[vocabulary, width]`, `_rv` `[rows, vocabulary]`. Kernels panic if the length of a slice does
//! not match its shape.

pub mod adamw;
pub mod attention;
pub mod bias;
pub mod cross_entropy;
pub mod embedding;
pub mod gelu;
pub mod gemm;
pub mod head;
pub mod int8_matrix;
pub mod layer_norm;
pub mod lerp;
pub mod matrix_vector;
pub mod muon;
pub mod newton_schulz;
pub mod relu2;
pub mod rms_norm;
pub mod rotary;
pub mod softcap;
pub mod sum;
pub mod swiglu;

#[cfg(test)]
pub(crate) mod testing;

//! Matrix products (GEMM). All of them are computed here, on the calling thread, since one worker per core is faster
//! than multithreaded products.
//!
//! - [`mod@product`]: `c = alpha · a · b + beta · c`, whole or block by block
//! - [`symmetric_product`]: products with a symmetric result, at half the work
//! - [`panels`]: small products with an operand that is packed once and used many times, for attention
//! - `matrix`: views of matrices in f32 or bfloat16; transposes and column blocks are views and never copied
//! - [`backends`]: the list of backends and the selected one; `backend`: the interface of a backend
//! - `int8`: products in eight bits
//! - `amx`, `avx512`, `avx2`, [`openblas`], `portable`: one backend each
//! - `blocking`: the loops that `avx512` and `avx2` share; `tile`: panels, tiles and their kernels; `load`: SIMD loads
//! - [`rate`]: the machine's GEMM rate; [`mod@round`]: rounding to bfloat16
//!
//! In [`Precision::Bf16`](contract::Precision::Bf16) both operands are rounded to bfloat16 (to nearest, ties to even)
//! while they are packed, unless they are stored in bfloat16 already; sums are in f32. Backends use the CPU's bfloat16
//! instruction where it is fast, and multiply the rounded numbers in f32 elsewhere. In
//! [`Precision::Int8`](contract::Precision::Int8), [`mod@product`] rounds them to integers of eight bits with a scale for
//! each row of `a` and column of `b`; everything else treats it as bfloat16.
#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod backend;
pub mod backends;
#[cfg(target_arch = "x86_64")]
mod blocking;
mod int8;
#[cfg(target_arch = "x86_64")]
mod load;
mod matrix;
pub mod openblas;
pub mod panels;
mod portable;
mod product;
pub mod rate;
mod round;
mod symmetric;
mod tile;

pub use backends::{available, choose, choose_again, chosen, description, fast_precision, with_backend};
pub use int8::magnitudes::Magnitudes;
pub use int8::stored::{Quantised, product_of_quantised};
pub use matrix::{
    MatRef, Matrix, MatrixMut, OutputBlock, Scalar, SliceRef, bf16, block, block_mut, matrix, matrix_mut,
};
pub use product::{Rounding, product, product_in, product_in_blocks, product_then};
pub use round::{round, round_in_place, round_to_bf16};
pub use symmetric::symmetric_product;

#[cfg(test)]
mod tests;

//! The maths of training: kernels over plain slices, and models made of them. Knows no dataflow.
//!
//! - [`simd`]: how loops reach the CPU's full width, and `exp` inside them
//! - [`kernels`]: one file a kernel: forward, backward, and a naive reference that its tests compare both with
//! - [`models`]: [`models::Model`], GPT-2, the one-sequence-at-a-time variant, and continuing a text
//! - [`cpu`]: name, extensions and cache of the CPU; [`memory`]: huge pages
//!
//! Everything here runs on the calling thread (but for [`models::decode`], which shares a token's products out), and
//! the same inputs give the same bits on any thread.

pub mod cpu;
pub mod kernels;
pub mod memory;
pub mod models;
pub mod simd;

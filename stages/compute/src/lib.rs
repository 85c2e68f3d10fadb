//! The mathematics of training: kernels on plain slices, and models composed of them. Independent of the dataflow
//! engine.
//!
//! - [`simd`]: SIMD dispatch, and a vectorisable `exp`
//! - [`kernels`]: one file per kernel: forward, backward, and tests of both against a naive reference
//! - [`models`]: [`models::Model`], GPT-2, Llama, a one-sequence-at-a-time baseline, and decoding
//! - [`cpu`]: name, extensions and caches of the CPU; [`bandwidth`]: how fast it reads memory; [`memory`]: huge pages
//!
//! Everything here runs on the calling thread (except [`models::decode`], which distributes products over threads), and
//! the same inputs give the same bits on any thread.

pub mod bandwidth;
pub mod cpu;
pub mod kernels;
pub mod memory;
pub mod models;
pub mod simd;

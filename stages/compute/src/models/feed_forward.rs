//! The feed-forward parts that a block can have, as kernels and names.
use crate::kernels::{gelu, swiglu};

/// The part of a block that sees one token at a time.
#[derive(Clone, Copy, Debug)]
pub enum FeedForward {
    /// `down(f(up x + bias))`
    Pointwise(&'static Pointwise),
    /// `down(f(gate x, up x))`
    Gated(&'static Gated),
}

/// An activation function of one number.
#[derive(Debug)]
pub struct Pointwise {
    /// `out = f(x + bias)`, for rows as long as `bias`.
    pub forward: fn(x: &[f32], bias: &[f32], out: &mut [f32]),
    /// Turns `d` from the gradient at the output into the one at the input, writes the output to `out` once more, and adds the
    /// bias's gradient to `d_bias`.
    pub backward: fn(x: &[f32], bias: &[f32], d: &mut [f32], out: &mut [f32], d_bias: &mut [f32]),
}

/// An activation function of two numbers: a gate and a value.
#[derive(Debug)]
pub struct Gated {
    /// From rows of `width` gates and `width` values to rows of `width`.
    pub forward: fn(gate_up: &[f32], width: usize, out: &mut [f32]),
    /// Turns `gate_up` into its gradient, and `d_out`, the gradient at the output, into the output.
    pub backward: fn(gate_up: &mut [f32], width: usize, d_out: &mut [f32]),
}

/// GELU, approximated with tanh (Hendrycks and Gimpel 2016); `gelu_new` in Hugging Face's configurations.
pub static GELU: Pointwise = Pointwise { forward: gelu::forward, backward: gelu::backward };

/// SwiGLU (Shazeer 2020): `silu(gate) · up`; `silu` in Hugging Face's configurations.
pub static SWIGLU: Gated = Gated { forward: swiglu::forward, backward: swiglu::backward };

impl FeedForward {
    /// Projections into the part: up, or gate and up.
    pub fn projections(&self) -> usize {
        match self {
            Self::Pointwise(_) => 1,
            Self::Gated(_) => 2,
        }
    }
}

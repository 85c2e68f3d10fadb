//! The activation functions of feed-forward layers. A type of model chooses one in its
//! [`Architecture`](super::architecture::Architecture), and training, decoding and the memory estimate follow it.
use crate::kernels::{gelu, relu2, swiglu};

/// The activation function of a feed-forward layer, which also determines how many projections go into the layer.
#[derive(Clone, Copy, Debug)]
pub enum Activation {
    /// `down(f(up x + bias))`
    Pointwise(&'static Pointwise),
    /// `down(f(gate x, up x))`
    Gated(&'static Gated),
}

/// An elementwise activation function.
#[derive(Debug)]
pub struct Pointwise {
    /// `out = f(x + bias)`, for rows of the length of `bias`.
    pub forward: fn(x: &[f32], bias: &[f32], out: &mut [f32]),
    /// Turns `d` from the gradient of the output into that of the input, recomputes the output into `out`, and adds the
    /// gradient of the bias to `d_bias`.
    pub backward: fn(x: &[f32], bias: &[f32], d: &mut [f32], out: &mut [f32], d_bias: &mut [f32]),
}

/// A gated activation function of two numbers: a gate and a value.
#[derive(Debug)]
pub struct Gated {
    /// Takes rows of `width` gates and `width` values; writes rows of `width`.
    pub forward: fn(gate_up: &[f32], width: usize, out: &mut [f32]),
    /// Replaces `gate_up` by its gradient, and `d_out`, the gradient of the output, by the recomputed output.
    pub backward: fn(gate_up: &mut [f32], width: usize, d_out: &mut [f32]),
}

/// GELU, approximated with tanh (Hendrycks and Gimpel 2016); `gelu_new` in Hugging Face's configurations.
pub static GELU: Pointwise = Pointwise { forward: gelu::forward, backward: gelu::backward };

/// ReLU² (So et al. 2021); `relu2` in Hugging Face's configurations.
pub static RELU2: Pointwise = Pointwise { forward: relu2::forward, backward: relu2::backward };

/// SwiGLU (Shazeer 2020): `silu(gate) · up`; `silu` in Hugging Face's configurations.
pub static SWIGLU: Gated = Gated { forward: swiglu::forward, backward: swiglu::backward };

impl Activation {
    /// Number of projections into the layer: up, or gate and up.
    pub fn projections(&self) -> usize {
        match self {
            Self::Pointwise(_) => 1,
            Self::Gated(_) => 2,
        }
    }
}

//! The normalisations that a block can use.
use crate::kernels::{layer_norm, rms_norm};
use contract::Tensor;
use std::borrow::Cow;
use std::sync::Arc;

/// A normalisation of each row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Norm {
    /// See [`layer_norm`]: a gain and a bias.
    Layer,
    /// See [`rms_norm`]: a gain.
    Rms {
        /// Added to the mean square.
        epsilon: f32,
    },
    /// See [`rms_norm`], with a constant gain of 1 instead of a parameter.
    UnitRms {
        /// Added to the mean square.
        epsilon: f32,
    },
}

impl Norm {
    /// Number of parameter tensors, `[width]` each: the gain, then the bias if there is one.
    pub fn tensors(self) -> usize {
        match self {
            Self::Layer => 2,
            Self::Rms { .. } => 1,
            Self::UnitRms { .. } => 0,
        }
    }

    /// Number of statistics that are saved per row for backward.
    pub fn statistics(self) -> usize {
        match self {
            Self::Layer => 2,
            Self::Rms { .. } | Self::UnitRms { .. } => 1,
        }
    }

    /// Normalises the rows of `x` `[rows, width]` into `out` and saves their `statistics`. `parameters` starts with
    /// those of this layer.
    pub fn forward(self, parameters: &[Arc<Tensor>], width: usize, x: &[f32], out: &mut [f32], statistics: &mut [f32]) {
        let gain = self.gain(parameters, width);
        match self {
            Self::Layer => layer_norm::forward(x, &gain, &parameters[1].data, out, statistics),
            Self::Rms { epsilon } | Self::UnitRms { epsilon } => rms_norm::forward(x, &gain, epsilon, out, statistics),
        }
    }

    /// Recomputes the output of [`forward`](Self::forward) from its `statistics`.
    pub fn recompute(self, parameters: &[Arc<Tensor>], width: usize, x: &[f32], statistics: &[f32], out: &mut [f32]) {
        let gain = self.gain(parameters, width);
        match self {
            Self::Layer => layer_norm::recompute(x, &gain, &parameters[1].data, statistics, out),
            Self::Rms { .. } | Self::UnitRms { .. } => rms_norm::recompute(x, &gain, statistics, out),
        }
    }

    /// Takes the gradient of the output in `d_out`, adds the gradient of `x` to `d_x`, and passes the gradients of the
    /// parameters to `give` by index.
    #[allow(clippy::too_many_arguments)]
    pub fn backward(
        self,
        parameters: &[Arc<Tensor>],
        width: usize,
        x: &[f32],
        statistics: &[f32],
        d_out: &[f32],
        d_x: &mut [f32],
        give: &mut dyn FnMut(usize, Tensor),
    ) {
        let gain = self.gain(parameters, width);
        let mut d_gain = Tensor::scratch([width]);
        match self {
            Self::Layer => {
                let mut d_bias = Tensor::scratch([width]);
                layer_norm::backward(x, &gain, statistics, d_out, d_x, &mut d_gain.data, &mut d_bias.data);
                give(0, d_gain);
                give(1, d_bias);
            }
            Self::Rms { .. } => {
                rms_norm::backward(x, &gain, statistics, d_out, d_x, &mut d_gain.data);
                give(0, d_gain);
            }
            Self::UnitRms { .. } => rms_norm::backward(x, &gain, statistics, d_out, d_x, &mut d_gain.data),
        }
    }

    /// `[width]`: the gain.
    fn gain(self, parameters: &[Arc<Tensor>], width: usize) -> Cow<'_, [f32]> {
        match self {
            Self::Layer | Self::Rms { .. } => Cow::Borrowed(&parameters[0].data),
            Self::UnitRms { .. } => Cow::Owned(vec![1.0; width]),
        }
    }
}

//! The state that all blocks share while one batch is computed.
use crate::kernels::attention::Attention;
use crate::kernels::gemm::{Magnitudes, Rounding};
use crate::kernels::rotary::Rotary;
use crate::models::architecture::{Architecture, BlockLayout};
use crate::models::saved::SavedActivation;
use contract::parameters::splitmix64;
use contract::{Batch, Precision, Tensor};
use std::sync::Arc;

/// The batch and the model, without the model's parameters.
pub struct BlockContext {
    pub batch: Batch,
    pub architecture: Arc<Architecture>,
    pub layout: BlockLayout,
    /// For rotary positions.
    pub rotary: Option<Arc<Rotary>>,
    /// The precision that operands of matrix products are rounded to.
    pub precision: Precision,
    /// The precision that activations are saved for backward in.
    pub saving: Precision,
    /// What the random numbers depend on with which the gradients of the current block are rounded to eight bits: see
    /// [`Tape::round_with`](contract::Tape::round_with).
    pub key: u64,
}

impl BlockContext {
    /// Number of tokens in the batch.
    pub fn rows(&self) -> usize {
        self.batch.sequences * self.batch.length
    }

    /// How a product of a gradient with the transpose of the block's tensor `tensor` is rounded.
    pub fn input_gradient(&self, tensor: usize) -> Rounding {
        Rounding::of_left_gradient(self.precision, splitmix64(self.key, 2 * tensor as u64))
    }

    /// How a product whose result is the gradient of the block's tensor `tensor` is rounded; its left operand is the
    /// gradient of the output if `left`, otherwise its right one.
    pub fn weight_gradient(&self, tensor: usize, left: bool) -> Rounding {
        let key = splitmix64(self.key, 2 * tensor as u64 + 1);
        if left {
            Rounding::of_left_gradient(self.precision, key)
        } else {
            Rounding::of_right_gradient(self.precision, key)
        }
    }

    /// The largest magnitudes of `x_rc`, the operand of several products, if these are in eight bits.
    pub fn magnitudes(&self, x_rc: &Tensor) -> Option<Magnitudes> {
        (self.precision == Precision::Int8).then(|| Magnitudes::new(&x_rc.data, x_rc.shape[1]))
    }

    /// Normalises `x_rc` for a matrix product; returns the rows and their statistics.
    pub fn normalise(&self, parameters: &[Arc<Tensor>], x_rc: &Tensor) -> (SavedActivation, Tensor) {
        let (c, norm) = (self.architecture.width, self.architecture.norm);
        let n = norm.statistics();
        let mut statistics = Tensor::scratch([self.rows() * n]);
        let normal_rc = SavedActivation::computed(self.precision, self.rows(), c, |rows, out| {
            let x = &x_rc.data[rows.start * c..rows.end * c];
            norm.forward(parameters, c, x, out, &mut statistics.data[rows.start * n..rows.end * n]);
        });
        (normal_rc, statistics)
    }

    /// Recomputes the normalised rows of `x_rc` from their statistics.
    pub fn normalise_again(&self, parameters: &[Arc<Tensor>], x_rc: &Tensor, statistics: &Tensor) -> SavedActivation {
        let (c, norm) = (self.architecture.width, self.architecture.norm);
        let n = norm.statistics();
        SavedActivation::computed(self.precision, self.rows(), c, |rows, out| {
            let x = &x_rc.data[rows.start * c..rows.end * c];
            norm.recompute(parameters, c, x, &statistics.data[rows.start * n..rows.end * n], out);
        })
    }

    /// Takes the gradient of the output of a normalisation in `d_normal_rc` and adds the gradient of `x_rc` to `d_rc`.
    /// The normalisation's parameters start at index `first` of the block's `weights`.
    pub fn normalise_backward(
        &self,
        weights: &[Arc<Tensor>],
        first: usize,
        (x_rc, statistics): (&Tensor, &Tensor),
        d_normal_rc: &Tensor,
        d_rc: &mut Tensor,
        give: &mut dyn FnMut(usize, Tensor),
    ) {
        let (x, d_normal, d) = (&x_rc.data, &d_normal_rc.data, &mut d_rc.data);
        let (c, norm) = (self.architecture.width, self.architecture.norm);
        norm.backward(&weights[first..], c, x, &statistics.data, d_normal, d, &mut |index, gradient| {
            give(first + index, gradient);
        });
    }

    /// The shape that the attention kernels need.
    pub fn attention(&self) -> Attention<'_> {
        let Batch { sequences, length, .. } = self.batch;
        let heads = self.architecture.heads;
        let width = self.architecture.query_width();
        let starts = Some(&self.batch.document_starts[..]).filter(|starts| !starts.is_empty());
        Attention { sequences, length, heads, width, starts, precision: self.precision }
    }
}

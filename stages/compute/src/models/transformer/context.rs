//! What all blocks share during one batch.
use crate::kernels::attention::Attention;
use crate::kernels::rotary::Rotary;
use crate::models::architecture::{Architecture, BlockLayout};
use crate::models::saved::SavedActivation;
use contract::{Batch, Precision, Tensor};
use std::sync::Arc;

/// The batch and the model, without its parameters.
pub struct BlockContext {
    pub batch: Batch,
    pub architecture: Arc<Architecture>,
    pub layout: BlockLayout,
    /// For rotary positions.
    pub rotary: Option<Arc<Rotary>>,
    /// To what the operands of products are rounded.
    pub precision: Precision,
    /// To what activations that are saved for backward are rounded.
    pub saving: Precision,
}

impl BlockContext {
    /// Tokens of the batch.
    pub fn rows(&self) -> usize {
        self.batch.sequences * self.batch.length
    }

    /// The normalised rows of `x_rc`, for products, and their statistics.
    pub fn normalise(&self, parameters: &[Arc<Tensor>], x_rc: &Tensor) -> (SavedActivation, Tensor) {
        let (c, norm) = (self.architecture.width, self.architecture.norm);
        let n = norm.statistics();
        let mut statistics = Tensor::scratch([self.rows() * n]);
        let normal_rc = SavedActivation::computed(self.precision, self.rows(), c, |rows, out| {
            let x = &x_rc.data[rows.start * c..rows.end * c];
            norm.forward(parameters, x, out, &mut statistics.data[rows.start * n..rows.end * n]);
        });
        (normal_rc, statistics)
    }

    /// The normalised rows of `x_rc` once more.
    pub fn normalise_again(&self, parameters: &[Arc<Tensor>], x_rc: &Tensor, statistics: &Tensor) -> SavedActivation {
        let (c, norm) = (self.architecture.width, self.architecture.norm);
        let n = norm.statistics();
        SavedActivation::computed(self.precision, self.rows(), c, |rows, out| {
            let x = &x_rc.data[rows.start * c..rows.end * c];
            norm.again(parameters, x, &statistics.data[rows.start * n..rows.end * n], out);
        })
    }

    /// Adds the gradient at `x_rc` to `d_rc`, from `d_normal_rc`, the gradient at the output of the normalisation whose
    /// parameters begin at index `first` of the block's `weights`.
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
        let norm = self.architecture.norm;
        norm.backward(&weights[first..], x, &statistics.data, d_normal, d, &mut |index, gradient| {
            give(first + index, gradient);
        });
    }

    /// The shape of attention.
    pub fn attention(&self) -> Attention<'_> {
        let Batch { sequences, length, .. } = self.batch;
        let &Architecture { heads, width, document_mask, .. } = &*self.architecture;
        let starts = document_mask.then_some(&self.batch.document_starts[..]);
        Attention { sequences, length, heads, width, starts, precision: self.precision }
    }
}

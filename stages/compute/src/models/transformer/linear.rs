//! Linear layers: one projection, or several of the same input with concatenated outputs.
use super::context::BlockContext;
use crate::kernels::bias;
use crate::kernels::gemm::{Magnitudes, MatRef, OutputBlock, block_mut, matrix, matrix_mut, product_in, product_then};
use crate::models::architecture::{LinearLayout, WeightLayout};
use crate::models::saved::SavedActivation;
use contract::{Precision, Tensor};
use std::sync::Arc;

/// A linear layer of a block.
#[derive(Clone, Copy)]
pub struct Linear<'a> {
    layout: LinearLayout,
    weights: &'a [Arc<Tensor>],
}

impl<'a> Linear<'a> {
    /// The layer whose tensors are at the indices of `layout` in a block's `weights`.
    pub fn new(layout: LinearLayout, weights: &'a [Arc<Tensor>]) -> Self {
        Self { layout, weights }
    }

    /// The weights of a projection, for products in `precision`.
    pub fn weight(&self, precision: Precision, projection: usize) -> Weight<'a> {
        let tensor = self.layout.matrix(projection);
        let magnitudes = (precision == Precision::Int8).then(|| Magnitudes::of(&self.weights[tensor]));
        Weight { tensor, stored: &self.weights[tensor], layout: self.layout.weights, magnitudes }
    }

    /// Number of outputs of a projection.
    fn outputs(&self, projection: usize) -> usize {
        let shape = &self.weights[self.layout.matrix(projection)].shape;
        if self.layout.weights == WeightLayout::InOut { shape[1] } else { shape[0] }
    }

    /// Number of outputs of all projections.
    fn all_outputs(&self) -> usize {
        (0..self.layout.projections).map(|projection| self.outputs(projection)).sum()
    }

    /// The bias of a projection, if it has one.
    pub fn bias(&self, projection: usize) -> Option<&'a [f32]> {
        self.layout.bias.then(|| &self.weights[self.layout.matrix(projection) + 1].data[..])
    }

    /// `x W + b` of all projections, concatenated, saved in the precision `saving`.
    pub fn forward_saved(&self, context: &BlockContext, x: SavedActivation, saving: Precision) -> SavedActivation {
        if self.layout.projections > 1 {
            return SavedActivation::new(saving, self.forward(context, x));
        }
        let (bias, w) = (self.bias(0), self.weight(context.precision, 0));
        SavedActivation::product(saving, context.precision, x.matrix(), w.matrix(), |block| add_bias(bias, block))
    }

    /// `x W + b` of all projections, concatenated.
    pub fn forward(&self, context: &BlockContext, x: SavedActivation) -> Tensor {
        let x = x.matrix();
        let rows = x.dim().0;
        let outputs = self.all_outputs();
        let mut y = Tensor::scratch([rows, outputs]);
        let mut at = 0;
        for projection in 0..self.layout.projections {
            let (w, bias, n) =
                (self.weight(context.precision, projection), self.bias(projection), self.outputs(projection));
            let c = block_mut(&mut y.data, at, rows, n, outputs);
            product_then(context.precision, 1.0, x, w.matrix(), 0.0, c, &mut |block| add_bias(bias, block));
            at += n;
        }
        y
    }

    /// `residual + x W + b` for a single projection.
    pub fn onto(&self, context: &BlockContext, x: MatRef<'_>, residual: &Tensor) -> Tensor {
        let (w, columns) = (self.weight(context.precision, 0), residual.shape[1]);
        let Some(bias) = self.bias(0) else {
            let mut y = residual.clone();
            product_in(context.precision, x, w.matrix(), 1.0, matrix_mut(&mut y.data, columns));
            return y;
        };
        let mut y = Tensor::scratch(residual.shape.clone());
        let c = matrix_mut(&mut y.data, columns);
        product_then(context.precision, 1.0, x, w.matrix(), 0.0, c, &mut |block| {
            for row in block.rows.clone() {
                let range = block.columns.clone();
                let residual = &residual.data[row * columns..][range.clone()];
                bias::add_with_residual(residual, &bias[range], block.row(row));
            }
        });
        y
    }

    /// Takes the gradient of the output in `d_y`; passes the gradients of the weights to `give` and writes that of `x`
    /// to `d_x`.
    pub fn backward(
        &self,
        context: &BlockContext,
        x: &SavedActivation,
        d_y: &SavedActivation,
        d_x: &mut Tensor,
        give: &mut dyn FnMut(usize, Tensor),
    ) {
        let inputs = x.matrix().dim().1;
        let mut at = 0;
        for projection in 0..self.layout.projections {
            let (w, n) = (self.weight(context.precision, projection), self.outputs(projection));
            let here = d_y.matrix().columns(at..at + n);
            self.give_weight_gradient(context, projection, x.matrix(), here, give);
            let beta = if projection == 0 { 0.0 } else { 1.0 };
            let d_x = matrix_mut(&mut d_x.data, inputs);
            product_in(context.input_gradient(w.tensor), here, w.transposed(), beta, d_x);
            at += n;
        }
    }

    /// Passes the gradient of a projection's weights to `give`.
    pub fn give_weight_gradient(
        &self,
        context: &BlockContext,
        projection: usize,
        x: MatRef<'_>,
        d_y: MatRef<'_>,
        give: &mut dyn FnMut(usize, Tensor),
    ) {
        let index = self.layout.matrix(projection);
        let mut d_w = Tensor::scratch(self.weights[index].shape.clone());
        let columns = d_w.shape[1];
        let c = matrix_mut(&mut d_w.data, columns);
        match self.layout.weights {
            WeightLayout::InOut => product_in(context.weight_gradient(index, false), x.reversed_axes(), d_y, 0.0, c),
            WeightLayout::OutIn => product_in(context.weight_gradient(index, true), d_y.reversed_axes(), x, 0.0, c),
        }
        give(index, d_w);
    }

    /// Passes the gradient of each bias, if there are any, to `give`. Takes the gradient of the output in `d_y`.
    pub fn give_bias_gradient(&self, d_y: &[f32], give: &mut dyn FnMut(usize, Tensor)) {
        if !self.layout.bias {
            return;
        }
        let outputs = self.all_outputs();
        let mut sums = Tensor::scratch([outputs]);
        bias::column_sums(d_y, &mut sums.data);
        self.give_bias(sums, give);
    }

    /// Passes `d_bias`, the concatenated gradients of all biases, to `give`, if there are any.
    pub fn give_bias(&self, d_bias: Tensor, give: &mut dyn FnMut(usize, Tensor)) {
        match (self.layout.bias, self.layout.projections) {
            (false, _) => (),
            (true, 1) => give(self.layout.matrix(0) + 1, d_bias),
            (true, several) => {
                let mut rest = &d_bias.data[..];
                for projection in 0..several {
                    let (here, after) = rest.split_at(self.outputs(projection));
                    give(self.layout.matrix(projection) + 1, Tensor::from_values([here.len()], here));
                    rest = after;
                }
            }
        }
    }
}

/// The weights of a projection, as operands of products.
pub struct Weight<'a> {
    /// The index of the tensor in the block.
    pub tensor: usize,
    stored: &'a Tensor,
    layout: WeightLayout,
    /// In eight bits.
    magnitudes: Option<Arc<Magnitudes>>,
}

impl Weight<'_> {
    /// `[in, out]`.
    pub fn matrix(&self) -> MatRef<'_> {
        let stored = MatRef::from(matrix(&self.stored.data, self.stored.shape[1]));
        let stored = stored.with_magnitudes(self.magnitudes.as_deref());
        if self.layout == WeightLayout::InOut { stored } else { stored.reversed_axes() }
    }

    /// `[out, in]`.
    pub fn transposed(&self) -> MatRef<'_> {
        self.matrix().reversed_axes()
    }
}

fn add_bias(bias: Option<&[f32]>, block: &mut OutputBlock) {
    let Some(bias) = bias else { return };
    for row in block.rows.clone() {
        bias::add(&bias[block.columns.clone()], block.row(row));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::random;

    /// In eight bits, products with weights have the bits of products that search for the largest magnitudes, in both
    /// layouts and directions. The matrix is square, so that exchanged rows and columns would not be noticed otherwise.
    #[test]
    fn magnitudes_of_weights_are_those_of_their_rows_and_columns() {
        let (rows, n) = (5, 24);
        let weights = [Arc::new(Tensor::from_values([n, n], &random(1, n * n)))];
        let x = random(2, rows * n);
        for layout in [WeightLayout::InOut, WeightLayout::OutIn] {
            let layout = LinearLayout { first: 0, projections: 1, weights: layout, bias: false };
            let weight = Linear::new(layout, &weights).weight(Precision::Int8, 0);
            for w in [weight.matrix(), weight.transposed()] {
                let [known, searched] = [w, w.without_magnitudes()].map(|w| {
                    let mut y = vec![f32::NAN; rows * n];
                    product_in(Precision::Int8, matrix(&x, n), w, 0.0, matrix_mut(&mut y, n));
                    y
                });
                assert_eq!(known, searched, "{layout:?}");
            }
        }
    }
}

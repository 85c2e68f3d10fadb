//! The feed-forward part of a block: `x + down(f(up(norm x)))`.
use super::context::BlockContext;
use super::linear::Linear;
use crate::kernels::gemm::{MatRef, matrix, matrix_mut, product_in};
use crate::models::activation::{Activation, Gated, Pointwise};
use crate::models::compact::CompactActivation;
use crate::models::saved::{SavedActivation, SavedBuilder};
use contract::Tensor;
use std::borrow::Cow;
use std::sync::Arc;

/// The activations that the feed-forward part saves for backward.
pub struct SavedFeedForward {
    x_rc: CompactActivation,
    /// Statistics of the normalisation.
    statistics: Tensor,
    /// `[rows, projections · inner]`: the input of the activation function, before the bias.
    up: CompactActivation,
}

impl SavedFeedForward {
    /// The output, and the activations that backward needs.
    pub fn forward(context: &BlockContext, weights: &[Arc<Tensor>], x_rc: Tensor) -> (Tensor, Self) {
        let layout = &context.layout;
        let (up, down) = (Linear::new(layout.up, weights), Linear::new(layout.down, weights));
        let (normal_rc, statistics) = context.normalise(&weights[layout.norm_2..], &x_rc);
        let (up, inner_rf) = match context.architecture.activation {
            Activation::Pointwise(kernel) => pointwise_forward(context, kernel, &up, normal_rc),
            Activation::Gated(kernel) => gated_forward(context, kernel, &up, normal_rc),
        };
        let out_rc = down.onto(context, inner_rf.matrix(), &x_rc);
        drop(inner_rf);
        let x_rc = CompactActivation::new(context.saving, x_rc);
        (out_rc, Self { x_rc, statistics, up })
    }

    /// Turns `d_rc` from the gradient of the output into that of the input; `d_normal_rc` is scratch memory.
    pub fn backward(
        self,
        context: &BlockContext,
        weights: &[Arc<Tensor>],
        d_rc: &mut Tensor,
        d_normal_rc: &mut Tensor,
        give: &mut dyn FnMut(usize, Tensor),
    ) {
        let Self { x_rc, statistics, up: saved_up } = self;
        let layout = &context.layout;
        let (up, down) = (Linear::new(layout.up, weights), Linear::new(layout.down, weights));
        down.give_bias_gradient(&d_rc.data, give);
        let magnitudes = context.magnitudes(d_rc);
        let d_out = MatRef::from(matrix(&d_rc.data, context.architecture.width)).with_magnitudes(magnitudes.as_ref());
        let (d_up, inner_rf) = match context.architecture.activation {
            Activation::Pointwise(kernel) => pointwise_backward(context, kernel, (&up, &down), saved_up, d_out, give),
            Activation::Gated(kernel) => gated_backward(context, kernel, &down, saved_up, d_out),
        };
        down.give_weight_gradient(context, 0, inner_rf.matrix(), d_out, give);
        drop(inner_rf);
        let x_rc = x_rc.widen();
        let normal_rc = context.normalise_again(&weights[layout.norm_2..], &x_rc, &statistics);
        up.backward(context, &normal_rc, &d_up, d_normal_rc, give);
        drop((d_up, normal_rc));
        context.normalise_backward(weights, layout.norm_2, (&x_rc, &statistics), d_normal_rc, d_rc, give);
    }
}

/// Returns the projection, saved for backward, and the output of the activation function, which is computed block by
/// block while the projection is in cache.
fn pointwise_forward(
    context: &BlockContext,
    kernel: &Pointwise,
    up: &Linear<'_>,
    normal_rc: SavedActivation,
) -> (CompactActivation, SavedActivation) {
    let f = context.architecture.inner;
    let bias = bias_or_zeros(up, f);
    let mut inner_rf = SavedBuilder::new(context.precision, context.rows(), f);
    let (x, w) = (normal_rc.matrix(), up.weight(context.precision, 0));
    let up_rf = SavedActivation::product(context.saving, context.precision, x, w.matrix(), |block| {
        for row in block.rows.clone() {
            let (columns, at) = (block.columns.clone(), row * f + block.columns.start);
            let up = block.row(row);
            inner_rf.write(at..at + columns.len(), |out| (kernel.forward)(up, &bias[columns], out));
        }
    });
    (CompactActivation::of_operand(context.saving, up_rf), inner_rf.finish())
}

/// Returns the gradient of the projection and the recomputed output of the activation function; passes on the gradient
/// of the bias.
fn pointwise_backward(
    context: &BlockContext,
    kernel: &Pointwise,
    (up, down): (&Linear<'_>, &Linear<'_>),
    up_rf: CompactActivation,
    d_out: MatRef<'_>,
    give: &mut dyn FnMut(usize, Tensor),
) -> (SavedActivation, SavedActivation) {
    let f = context.architecture.inner;
    let bias = bias_or_zeros(up, f);
    let (mut inner_rf, mut scratch) = (SavedBuilder::new(context.precision, context.rows(), f), vec![0.0; f]);
    let mut d_bias = Tensor::zeros([f]);
    let w = down.weight(context.precision, 0);
    let rounding = context.input_gradient(w.tensor);
    let d_up_rf = SavedActivation::product(context.precision, rounding, d_out, w.transposed(), |block| {
        for row in block.rows.clone() {
            let (columns, at) = (block.columns.clone(), row * f + block.columns.start);
            let (up, d_up) = (up_rf.part(at..at + columns.len(), &mut scratch), block.row(row));
            inner_rf.write(at..at + columns.len(), |out| {
                (kernel.backward)(up, &bias[columns.clone()], d_up, out, &mut d_bias.data[columns]);
            });
        }
    });
    up.give_bias(d_bias, give);
    (d_up_rf, inner_rf.finish())
}

/// As [`pointwise_forward`], but row by row, since gate and value are in different blocks of the projection.
fn gated_forward(
    context: &BlockContext,
    kernel: &Gated,
    up: &Linear<'_>,
    normal_rc: SavedActivation,
) -> (CompactActivation, SavedActivation) {
    let f = context.architecture.inner;
    let gate_up = up.forward(context, normal_rc);
    let inner_rf = SavedActivation::computed(context.precision, context.rows(), f, |rows, out| {
        (kernel.forward)(&gate_up.data[rows.start * 2 * f..rows.end * 2 * f], f, out);
    });
    (CompactActivation::new(context.saving, gate_up), inner_rf)
}

/// Returns the gradient of gate and value, and the recomputed output of the activation function.
fn gated_backward(
    context: &BlockContext,
    kernel: &Gated,
    down: &Linear<'_>,
    gate_up: CompactActivation,
    d_out: MatRef<'_>,
) -> (SavedActivation, SavedActivation) {
    let f = context.architecture.inner;
    let mut inner_rf = Tensor::scratch([context.rows(), f]);
    let (w, d_inner) = (down.weight(context.precision, 0), matrix_mut(&mut inner_rf.data, f));
    product_in(context.input_gradient(w.tensor), d_out, w.transposed(), 0.0, d_inner);
    let d_gate_up = gate_up.changed(context.precision, |rows, gate_up| {
        (kernel.backward)(gate_up, f, &mut inner_rf.data[rows.start * f..rows.end * f]);
    });
    (d_gate_up, SavedActivation::new(context.precision, inner_rf))
}

/// The bias of the projection, which the activation function adds.
fn bias_or_zeros<'a>(up: &Linear<'a>, inner: usize) -> Cow<'a, [f32]> {
    up.bias(0).map_or_else(|| Cow::Owned(vec![0.0; inner]), Cow::Borrowed)
}

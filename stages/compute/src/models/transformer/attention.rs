//! The attention part of a block: `x + out(attention(qkv(norm x)))`.
use super::context::BlockContext;
use super::head_norm::SavedHeadNorms;
use super::linear::Linear;
use crate::kernels::attention;
use crate::kernels::gemm::{MatRef, matrix, matrix_mut, product_in};
use crate::kernels::rotary::Groups;
use crate::models::compact::CompactActivation;
use crate::models::saved::SavedActivation;
use contract::Tensor;
use std::sync::Arc;

/// The activations that the attention part saves for backward.
pub struct SavedAttention {
    x_rc: CompactActivation,
    /// Statistics of the normalisation.
    statistics: Tensor,
    /// If queries and keys are normalised.
    head_norms: Option<SavedHeadNorms>,
    /// `[rows, 3 · query width]`: the input of [`attention::forward`], with queries and keys normalised
    /// and rotated, and keys and values repeated for each query head of a group, if the model does so. Never in eight
    /// bits: probabilities are computed again from these and from `log_sums`, and must be those of the forward pass.
    qkv: SavedActivation,
    /// `[sequences, heads, length]`: see [`attention::forward`].
    log_sums: Tensor,
    attended_rq: CompactActivation,
}

impl SavedAttention {
    /// The output, and the activations that backward needs.
    pub fn forward(context: &BlockContext, weights: &[Arc<Tensor>], x_rc: Tensor) -> (Tensor, Self) {
        let (layout, rows, q) = (&context.layout, context.rows(), context.architecture.query_width());
        let (project, out) = (Linear::new(layout.qkv, weights), Linear::new(layout.out, weights));
        let (normal_rc, statistics) = context.normalise(&weights[layout.norm_1..], &x_rc);
        let (qkv, head_norms) = if context.rotary.is_none() && context.architecture.query_key_norm.is_none() {
            (project.forward_saved(context, normal_rc, context.saving), None)
        } else {
            let mut projected = project.forward(context, normal_rc);
            let head_norms = SavedHeadNorms::forward(context, weights, &mut projected);
            let qkv = match &context.rotary {
                None => projected,
                Some(rotary) => {
                    let mut qkv = Tensor::scratch([rows, 3 * q]);
                    rotary.forward(groups(context), context.batch.length, &projected.data, &mut qkv.data);
                    qkv
                }
            };
            (SavedActivation::new(context.saving, qkv), head_norms)
        };
        let mut log_sums = Tensor::scratch([context.batch.sequences, context.architecture.heads, context.batch.length]);
        let mut attended_rq = Tensor::scratch([rows, q]);
        attention::forward(&context.attention(), qkv.slice(), &mut attended_rq.data, &mut log_sums.data);
        let attended_rq = SavedActivation::new(context.saving, attended_rq);
        let out_rc = out.onto(context, attended_rq.matrix(), &x_rc);
        let x_rc = CompactActivation::new(context.saving, x_rc);
        let attended_rq = CompactActivation::of_operand(context.saving, attended_rq);
        (out_rc, Self { x_rc, statistics, head_norms, qkv, log_sums, attended_rq })
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
        let Self { x_rc, statistics, head_norms, qkv, log_sums, attended_rq } = self;
        let (layout, rows, c) = (&context.layout, context.rows(), context.architecture.width);
        let q = context.architecture.query_width();
        let (project, out) = (Linear::new(layout.qkv, weights), Linear::new(layout.out, weights));
        out.give_bias_gradient(&d_rc.data, give);
        let attended_rq = attended_rq.operand(context.precision);
        let magnitudes = context.magnitudes(d_rc);
        let d_out = MatRef::from(matrix(&d_rc.data, c)).with_magnitudes(magnitudes.as_ref());
        out.give_weight_gradient(context, 0, attended_rq.matrix(), d_out, give);
        let mut other_width = (q != c).then(|| Tensor::scratch([rows, q]));
        let d_attended_rq = other_width.as_mut().unwrap_or(&mut *d_normal_rc);
        let w = out.weight(context.precision, 0);
        let d_attended = matrix_mut(&mut d_attended_rq.data, q);
        product_in(context.input_gradient(w.tensor), d_out, w.transposed(), 0.0, d_attended);
        let attended_rq = attended_rq.widen();
        let mut d_qkv = Tensor::scratch([rows, 3 * q]);
        let (attended, log_sums) = (&attended_rq.data, &log_sums.data);
        attention::backward(
            &context.attention(),
            qkv.slice(),
            attended,
            log_sums,
            &d_attended_rq.data,
            &mut d_qkv.data,
        );
        drop((qkv, attended_rq, other_width));
        if let Some(rotary) = &context.rotary {
            let mut d_projected = Tensor::scratch([rows, q + 2 * context.architecture.kv_width()]);
            rotary.backward(groups(context), context.batch.length, &d_qkv.data, &mut d_projected.data);
            d_qkv = d_projected;
        }
        if let Some(head_norms) = head_norms {
            head_norms.backward(context, weights, &mut d_qkv, give);
        }
        project.give_bias_gradient(&d_qkv.data, give);
        let (d_qkv, x_rc) = (SavedActivation::new(context.precision, d_qkv), x_rc.widen());
        let normal_rc = context.normalise_again(&weights[layout.norm_1..], &x_rc, &statistics);
        project.backward(context, &normal_rc, &d_qkv, d_normal_rc, give);
        context.normalise_backward(weights, layout.norm_1, (&x_rc, &statistics), d_normal_rc, d_rc, give);
    }
}

fn groups(context: &BlockContext) -> Groups {
    Groups { heads: context.architecture.heads, kv_heads: context.architecture.kv_heads }
}

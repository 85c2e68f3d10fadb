//! One transformer block of Llama, forward and backward. Weights are `[out, in]`: products take them turned over.
use super::{LlamaShape, spec};
use crate::kernels::attention::{self, Attention};
use crate::kernels::gemm::{MatRef, MatrixMut, block_mut, matrix, matrix_mut, product_in};
use crate::kernels::rotary::Rotary;
use crate::kernels::{rms_norm, swiglu};
use crate::models::saved::SavedActivation;
use contract::{Batch, Init, ParameterSpec, Precision, Tensor};
use std::sync::Arc;

/// Tensors of a layer, in Hugging Face's order.
pub const TENSORS: usize = 9;
pub const NORM_1: usize = 0;
pub const Q: usize = 1; // then keys, then values
pub const OUT: usize = 4;
pub const NORM_2: usize = 5;
pub const GATE: usize = 6; // then up
pub const DOWN: usize = 8;

/// The parameters of layer `index`: projections onto the residual stream start smaller, by the root of their number.
pub fn specs(index: usize, shape: &LlamaShape) -> [ParameterSpec; TENSORS] {
    let (c, n, f) = (shape.width, shape.narrow(), shape.feed_forward);
    let (inner, projection) = (Init::Normal(0.02), Init::Normal(0.02 / (2.0 * shape.layers as f32).sqrt()));
    let named = |name: &str, shape: &[usize], init| ParameterSpec {
        hidden: shape.len() > 1,
        ..spec(&format!("model.layers.{index}.{name}.weight"), shape, init)
    };
    [
        named("input_layernorm", &[c], Init::Ones),
        named("self_attn.q_proj", &[c, c], inner),
        named("self_attn.k_proj", &[n, c], inner),
        named("self_attn.v_proj", &[n, c], inner),
        named("self_attn.o_proj", &[c, c], projection),
        named("post_attention_layernorm", &[c], Init::Ones),
        named("mlp.gate_proj", &[f, c], inner),
        named("mlp.up_proj", &[f, c], inner),
        named("mlp.down_proj", &[c, f], projection),
    ]
}

/// What all layers share during one batch.
pub struct Place {
    pub batch: Batch,
    pub shape: Arc<LlamaShape>,
    pub rotary: Arc<Rotary>,
    pub precision: Precision,
    /// What waits for backward is rounded to that.
    pub waiting: Precision,
}

impl Place {
    pub fn rows(&self) -> usize {
        self.batch.sequences * self.batch.length
    }

    fn attention(&self) -> Attention<'_> {
        let Batch { sequences, length, .. } = self.batch;
        let starts = self.shape.document_mask.then_some(&self.batch.document_starts[..]);
        Attention {
            sequences,
            length,
            heads: self.shape.heads,
            width: self.shape.width,
            starts,
            precision: self.precision,
        }
    }

    /// The output of a normalisation, for products; keeps its `factors`.
    fn normalised(&self, x_rc: &Tensor, gain_c: &[f32], factors: &mut Tensor) -> SavedActivation {
        let c = self.shape.width;
        SavedActivation::computed(self.precision, self.rows(), c, |rows, out| {
            let x = &x_rc.data[rows.start * c..rows.end * c];
            rms_norm::forward(x, gain_c, self.epsilon(), out, &mut factors.data[rows]);
        })
    }

    /// The same once more, from what it has kept.
    fn normalised_again(&self, x_rc: &Tensor, gain_c: &[f32], factors: &Tensor) -> SavedActivation {
        let c = self.shape.width;
        SavedActivation::computed(self.precision, self.rows(), c, |rows, out| {
            let x = &x_rc.data[rows.start * c..rows.end * c];
            rms_norm::again(x, gain_c, &factors.data[rows], out);
        })
    }

    fn epsilon(&self) -> f32 {
        self.shape.rms_epsilon as f32
    }
}

/// What a layer keeps for backward. Outputs of its normalisations and of SwiGLU are computed again.
pub struct Layer {
    weights: Vec<Arc<Tensor>>,
    x_rc: SavedActivation,
    /// `[rows]`: see [`rms_norm::forward`].
    norm_1: Tensor,
    /// `[rows, 3 · width]`: turned, and repeated for each head.
    qkv: SavedActivation,
    /// `[sequences, heads, length]`: see [`attention::forward`].
    log_sums: Tensor,
    attended_rc: SavedActivation,
    middle_rc: SavedActivation,
    norm_2: Tensor,
    /// `[rows, 2 · feed forward]`
    gate_up: SavedActivation,
}

impl Layer {
    /// The layer's output, and what backward needs.
    pub fn forward(place: &Place, weights: &[Arc<Tensor>], x_rc: Tensor) -> (Tensor, Layer) {
        let (rows, c, f) = (place.rows(), place.shape.width, place.shape.feed_forward);
        let w = |index: usize| &weights[index].data[..];
        let [mut norm_1, mut norm_2] = [(); 2].map(|()| Tensor::scratch([rows]));

        let normal_rc = place.normalised(&x_rc, w(NORM_1), &mut norm_1);
        let mut projected = Tensor::scratch([rows, c + 2 * place.shape.narrow()]);
        side_by_side(place.precision, normal_rc.matrix(), &weights[Q..OUT], &mut projected);
        drop(normal_rc);
        let mut qkv = Tensor::scratch([rows, 3 * c]);
        place.rotary.forward(place.shape.groups(), place.batch.length, &projected.data, &mut qkv.data);
        drop(projected);
        let mut log_sums = Tensor::scratch([place.batch.sequences, place.shape.heads, place.batch.length]);
        let (qkv, mut attended_rc) = (SavedActivation::new(place.waiting, qkv), Tensor::scratch([rows, c]));
        attention::forward(&place.attention(), qkv.slice(), &mut attended_rc.data, &mut log_sums.data);
        let (attended_rc, mut middle_rc) = (SavedActivation::new(place.waiting, attended_rc), x_rc.clone());
        onto(place.precision, attended_rc.matrix(), w(OUT), &mut middle_rc);
        let x_rc = SavedActivation::new(place.waiting, x_rc);

        let normal_rc = place.normalised(&middle_rc, w(NORM_2), &mut norm_2);
        let mut gate_up = Tensor::scratch([rows, 2 * f]);
        side_by_side(place.precision, normal_rc.matrix(), &weights[GATE..DOWN], &mut gate_up);
        drop(normal_rc);
        let inner_rf = SavedActivation::computed(place.precision, rows, f, |rows, out| {
            swiglu::forward(&gate_up.data[rows.start * 2 * f..rows.end * 2 * f], f, out);
        });
        let gate_up = SavedActivation::new(place.waiting, gate_up);
        let mut out_rc = middle_rc.clone();
        onto(place.precision, inner_rf.matrix(), w(DOWN), &mut out_rc);
        let middle_rc = SavedActivation::new(place.waiting, middle_rc);

        let weights = weights.to_vec();
        (out_rc, Layer { weights, x_rc, norm_1, qkv, log_sums, attended_rc, middle_rc, norm_2, gate_up })
    }

    /// Turns `d_rc` from the gradient at the layer's output into the one at its input, and gives the gradient of each
    /// of its tensors, by its index in the layer.
    pub fn backward(self, place: &Place, d_rc: &mut Tensor, give: &mut dyn FnMut(usize, Tensor)) {
        let (c, f) = (place.shape.width, place.shape.feed_forward);
        let Layer { weights, x_rc, norm_1, qkv, log_sums, attended_rc, middle_rc, norm_2, gate_up } = self;
        let w = |index: usize| &weights[index].data[..];
        let mut d_normal_rc = Tensor::scratch([place.rows(), c]);

        // Feed-forward: down, SwiGLU, gate and up, normalisation.
        let mut d_gate_up = gate_up;
        let mut inner_rf = Tensor::scratch([place.rows(), f]);
        product_in(place.precision, matrix(&d_rc.data, c), matrix(w(DOWN), f), 0.0, matrix_mut(&mut inner_rf.data, f));
        d_gate_up.change(|rows, gate_up| {
            swiglu::backward(gate_up, f, &mut inner_rf.data[rows.start * f..rows.end * f]);
        });
        let inner_rf = SavedActivation::new(place.precision, inner_rf);
        give(DOWN, of_weight(place.precision, matrix(&d_rc.data, c).into(), inner_rf.matrix()));
        drop(inner_rf);
        let middle_rc = middle_rc.widen();
        let normal_rc = place.normalised_again(&middle_rc, w(NORM_2), &norm_2);
        side_by_side_backward(
            place.precision,
            &normal_rc,
            &weights[GATE..DOWN],
            &d_gate_up,
            &mut d_normal_rc,
            GATE,
            give,
        );
        drop((d_gate_up, normal_rc));
        let mut d_gain = Tensor::scratch([c]);
        let d_normal = &d_normal_rc.data;
        rms_norm::backward(&middle_rc.data, w(NORM_2), &norm_2.data, d_normal, &mut d_rc.data, &mut d_gain.data);
        give(NORM_2, d_gain);
        drop(middle_rc);

        // Attention: out, softmax, positions and groups, projections, normalisation.
        give(OUT, of_weight(place.precision, matrix(&d_rc.data, c).into(), attended_rc.matrix()));
        let attended_rc = attended_rc.widen();
        let d_attended_rc = &mut d_normal_rc.data;
        product_in(place.precision, matrix(&d_rc.data, c), matrix(w(OUT), c), 0.0, matrix_mut(d_attended_rc, c));
        let mut d_qkv = Tensor::scratch([place.rows(), 3 * c]);
        let (attended, log_sums) = (&attended_rc.data, &log_sums.data);
        attention::backward(&place.attention(), qkv.slice(), attended, log_sums, d_attended_rc, &mut d_qkv.data);
        drop((qkv, attended_rc));
        let mut d_projected = Tensor::scratch([place.rows(), c + 2 * place.shape.narrow()]);
        place.rotary.backward(place.shape.groups(), place.batch.length, &d_qkv.data, &mut d_projected.data);
        drop(d_qkv);
        let (d_projected, x_rc) = (SavedActivation::new(place.precision, d_projected), x_rc.widen());
        let normal_rc = place.normalised_again(&x_rc, w(NORM_1), &norm_1);
        side_by_side_backward(place.precision, &normal_rc, &weights[Q..OUT], &d_projected, &mut d_normal_rc, Q, give);
        let mut d_gain = Tensor::scratch([c]);
        let d_normal = &d_normal_rc.data;
        rms_norm::backward(&x_rc.data, w(NORM_1), &norm_1.data, d_normal, &mut d_rc.data, &mut d_gain.data);
        give(NORM_1, d_gain);
    }
}

/// `y += x · wᵀ`
fn onto(precision: Precision, x: MatRef<'_>, w: &[f32], y: &mut Tensor) {
    let (inner, outer) = (x.dim().1, y.shape[1]);
    product_in(precision, x, matrix(w, inner).reversed_axes(), 1.0, matrix_mut(&mut y.data, outer));
}

/// `y = [x · wᵀ for every w]`, side by side.
fn side_by_side(precision: Precision, x: MatRef<'_>, weights: &[Arc<Tensor>], y: &mut Tensor) {
    let ((rows, inner), stride) = (x.dim(), y.shape[1]);
    let mut at = 0;
    for w in weights {
        let outer = w.shape[0];
        let here: MatrixMut<'_> = block_mut(&mut y.data, at, rows, outer, stride);
        product_in(precision, x, matrix(&w.data, inner).reversed_axes(), 0.0, here);
        at += outer;
    }
}

/// From `d_y`, the gradient at the output of [`side_by_side`]: the one at `x` in `d_x`, and gives those of the weights,
/// of which the first has index `first`.
fn side_by_side_backward(
    precision: Precision,
    x: &SavedActivation,
    weights: &[Arc<Tensor>],
    d_y: &SavedActivation,
    d_x: &mut Tensor,
    first: usize,
    give: &mut dyn FnMut(usize, Tensor),
) {
    let ((rows, inner), stride) = (x.matrix().dim(), d_y.matrix().dim().1);
    let mut at = 0;
    for (index, w) in weights.iter().enumerate() {
        let outer = w.shape[0];
        let here = d_y.slice().block(at, rows, outer, stride);
        give(first + index, of_weight(precision, here, x.matrix()));
        let beta = if index == 0 { 0.0 } else { 1.0 };
        product_in(precision, here, matrix(&w.data, inner), beta, matrix_mut(&mut d_x.data, inner));
        at += outer;
    }
}

/// The gradient `d_yᵀ · x` of a weight.
fn of_weight(precision: Precision, d_y: MatRef<'_>, x: MatRef<'_>) -> Tensor {
    let (outer, inner) = (d_y.dim().1, x.dim().1);
    let mut d_w = Tensor::scratch([outer, inner]);
    product_in(precision, d_y.reversed_axes(), x, 0.0, matrix_mut(&mut d_w.data, inner));
    d_w
}

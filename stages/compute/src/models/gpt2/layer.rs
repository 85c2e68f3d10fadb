//! One transformer block of GPT-2, forward and backward.
use super::{Gpt2Shape, spec};
use crate::kernels::attention::{self, Attention};
use crate::kernels::gemm::{MatRef, OutputBlock, matrix, matrix_mut, product_then};
use crate::kernels::{bias, gelu, layer_norm};
use crate::models::saved::{SavedActivation, SavedBuilder};
use contract::{Batch, Init, ParameterSpec, Precision, Tensor};
use std::sync::Arc;

/// Tensors of a layer, in Hugging Face's order.
pub const TENSORS: usize = 12;
pub const NORM_1: usize = 0; // gain, then bias
pub const QKV: usize = 2; // from here on: matrix [in, out], then bias
pub const OUT: usize = 4;
pub const NORM_2: usize = 6;
pub const UP: usize = 8;
pub const DOWN: usize = 10;

/// The parameters of layer `index`: projections onto the residual stream start smaller, by the root of their number.
pub fn specs(index: usize, shape: &Gpt2Shape) -> [ParameterSpec; TENSORS] {
    let (c, f) = (shape.width, shape.feed_forward);
    let projection = Init::Normal(0.02 / (2.0 * shape.layers as f32).sqrt());
    let named = |name: &str, shape: &[usize], init| ParameterSpec {
        hidden: shape.len() > 1,
        ..spec(&format!("transformer.h.{index}.{name}"), shape, init)
    };
    [
        named("ln_1.weight", &[c], Init::Ones),
        named("ln_1.bias", &[c], Init::Zeros),
        named("attn.c_attn.weight", &[c, 3 * c], Init::Normal(0.02)),
        named("attn.c_attn.bias", &[3 * c], Init::Zeros),
        named("attn.c_proj.weight", &[c, c], projection),
        named("attn.c_proj.bias", &[c], Init::Zeros),
        named("ln_2.weight", &[c], Init::Ones),
        named("ln_2.bias", &[c], Init::Zeros),
        named("mlp.c_fc.weight", &[c, f], Init::Normal(0.02)),
        named("mlp.c_fc.bias", &[f], Init::Zeros),
        named("mlp.c_proj.weight", &[f, c], projection),
        named("mlp.c_proj.bias", &[c], Init::Zeros),
    ]
}

/// What all layers share during one batch.
pub struct Place {
    pub batch: Batch,
    pub heads: usize,
    pub width: usize,
    pub feed_forward: usize,
    pub document_mask: bool,
    pub precision: Precision,
    /// What waits for backward is rounded to that.
    pub waiting: Precision,
}

impl Place {
    pub fn rows(&self) -> usize {
        self.batch.sequences * self.batch.length
    }

    /// `c = a · b`.
    fn product<'a, 'b>(&self, a: impl Into<MatRef<'a>>, b: impl Into<MatRef<'b>>, c: &mut Tensor) {
        self.product_then(a, b, c, &mut |_| ());
    }

    /// `c = a · b`, each part handed to `then` while it is in cache.
    fn product_then<'a, 'b>(
        &self,
        a: impl Into<MatRef<'a>>,
        b: impl Into<MatRef<'b>>,
        c: &mut Tensor,
        then: &mut dyn FnMut(&mut OutputBlock),
    ) {
        let columns = c.shape[1];
        product_then(self.precision, 1.0, a.into(), b.into(), 0.0, matrix_mut(&mut c.data, columns), then);
    }

    /// `a · b` after `then` has had each part of it, for products in `kept`.
    fn kept<'a, 'b>(
        &self,
        kept: Precision,
        a: impl Into<MatRef<'a>>,
        b: impl Into<MatRef<'b>>,
        then: impl FnMut(&mut OutputBlock),
    ) -> SavedActivation {
        SavedActivation::product(kept, self.precision, a.into(), b.into(), then)
    }

    /// Of `y = x · w`: gives `dw = xᵀ · dy`, and `dx = dy · wᵀ` in `d_x`.
    fn linear_backward(
        &self,
        x: &SavedActivation,
        d_y: &SavedActivation,
        w: &[f32],
        mut d_w: Tensor,
        d_x: &mut Tensor,
        give: &mut dyn FnMut(Tensor),
    ) {
        let (d_y, outer) = (d_y.matrix(), d_w.shape[1]);
        self.product(x.matrix().reversed_axes(), d_y, &mut d_w);
        give(d_w);
        self.product(d_y, matrix(w, outer).reversed_axes(), d_x);
    }

    /// The output of a normalisation, for products; keeps its `statistics`.
    fn normalised(&self, x_rc: &Tensor, gain_c: &[f32], bias_c: &[f32], statistics: &mut Tensor) -> SavedActivation {
        let c = self.width;
        SavedActivation::computed(self.precision, self.rows(), c, |rows, out| {
            let (x, statistics) =
                (&x_rc.data[rows.start * c..rows.end * c], &mut statistics.data[2 * rows.start..2 * rows.end]);
            layer_norm::forward(x, gain_c, bias_c, out, statistics);
        })
    }

    /// The same once more, from what it has kept.
    fn normalised_again(&self, x_rc: &Tensor, gain_c: &[f32], bias_c: &[f32], statistics: &Tensor) -> SavedActivation {
        let c = self.width;
        SavedActivation::computed(self.precision, self.rows(), c, |rows, out| {
            let (x, statistics) =
                (&x_rc.data[rows.start * c..rows.end * c], &statistics.data[2 * rows.start..2 * rows.end]);
            layer_norm::again(x, gain_c, bias_c, statistics, out);
        })
    }

    fn attention(&self) -> Attention<'_> {
        let Batch { sequences, length, .. } = self.batch;
        let starts = self.document_mask.then_some(&self.batch.document_starts[..]);
        Attention { sequences, length, heads: self.heads, width: self.width, starts, precision: self.precision }
    }
}

/// What a layer keeps for backward. Outputs of its normalisations and of GELU are computed again.
pub struct Layer {
    weights: Vec<Arc<Tensor>>,
    x_rc: SavedActivation,
    /// `[rows, 2]`: see [`layer_norm::forward`].
    norm_1: Tensor,
    /// `[rows, 3 · width]`
    qkv: SavedActivation,
    /// `[sequences, heads, length]`: see [`attention::forward`].
    log_sums: Tensor,
    attended_rc: SavedActivation,
    middle_rc: SavedActivation,
    norm_2: Tensor,
    /// Before bias and GELU.
    up_rf: SavedActivation,
}

impl Layer {
    /// The layer's output, and what backward needs.
    pub fn forward(place: &Place, weights: &[Arc<Tensor>], x_rc: Tensor) -> (Tensor, Layer) {
        let (rows, c, f) = (place.rows(), place.width, place.feed_forward);
        let w = |index: usize| &weights[index].data[..];
        let [mut norm_1, mut norm_2] = [(); 2].map(|()| Tensor::scratch([rows, 2]));
        let [mut attended_rc, mut middle_rc, mut out_rc] = [(); 3].map(|()| Tensor::scratch([rows, c]));

        let normal_rc = place.normalised(&x_rc, w(NORM_1), w(NORM_1 + 1), &mut norm_1);
        let qkv = place.kept(place.waiting, normal_rc.matrix(), matrix(w(QKV), 3 * c), |done| {
            for row in done.rows.clone() {
                bias::add(&w(QKV + 1)[done.columns.clone()], done.row(row));
            }
        });
        drop(normal_rc);
        let mut log_sums = Tensor::scratch([place.batch.sequences, place.heads, place.batch.length]);
        attention::forward(&place.attention(), qkv.slice(), &mut attended_rc.data, &mut log_sums.data);
        let attended_rc = SavedActivation::new(place.waiting, attended_rc);
        let onto = |residual_rc: &Tensor, bias_c: &[f32], done: &mut OutputBlock| {
            for row in done.rows.clone() {
                let columns = done.columns.clone();
                let residual = &residual_rc.data[row * c..][columns.clone()];
                bias::add_with_residual(residual, &bias_c[columns], done.row(row));
            }
        };
        place.product_then(attended_rc.matrix(), matrix(w(OUT), c), &mut middle_rc, &mut |done| {
            onto(&x_rc, w(OUT + 1), done);
        });
        let x_rc = SavedActivation::new(place.waiting, x_rc);

        let normal_rc = place.normalised(&middle_rc, w(NORM_2), w(NORM_2 + 1), &mut norm_2);
        let mut gelu_rf = SavedBuilder::new(place.precision, rows, f);
        let up_rf = place.kept(place.waiting, normal_rc.matrix(), matrix(w(UP), f), |done| {
            for row in done.rows.clone() {
                let (columns, at) = (done.columns.clone(), row * f + done.columns.start);
                let up = done.row(row);
                gelu_rf.write(at..at + columns.len(), |out| gelu::forward(up, &w(UP + 1)[columns], out));
            }
        });
        drop(normal_rc);
        let gelu_rf = gelu_rf.finish();
        place.product_then(gelu_rf.matrix(), matrix(w(DOWN), c), &mut out_rc, &mut |done| {
            onto(&middle_rc, w(DOWN + 1), done);
        });
        let middle_rc = SavedActivation::new(place.waiting, middle_rc);

        let weights = weights.to_vec();
        (out_rc, Layer { weights, x_rc, norm_1, qkv, log_sums, attended_rc, middle_rc, norm_2, up_rf })
    }

    /// Turns `d_rc` from the gradient at the layer's output into the one at its input, and gives the gradient of each
    /// of its tensors, by its index in the layer.
    pub fn backward(self, place: &Place, d_rc: &mut Tensor, give: &mut dyn FnMut(usize, Tensor)) {
        let (c, f, d_rc) = (place.width, place.feed_forward, &mut d_rc.data[..]);
        let Layer { weights, x_rc, norm_1, qkv, log_sums, attended_rc, middle_rc, norm_2, up_rf } = self;
        let w = |index: usize| &weights[index].data[..];
        let gradient = |index: usize| Tensor::scratch(weights[index].shape.clone());
        let mut d_normal_rc = Tensor::scratch([place.rows(), c]);

        // Feed-forward: down, GELU, up, normalisation.
        let mut d_bias = gradient(DOWN + 1);
        bias::column_sums(d_rc, &mut d_bias.data);
        give(DOWN + 1, d_bias);
        let (mut gelu_rf, mut room) = (SavedBuilder::new(place.precision, place.rows(), f), vec![0.0; f]);
        let mut d_bias = gradient(UP + 1);
        d_bias.data.fill(0.0);
        let d_up_rf = place.kept(place.precision, matrix(d_rc, c), matrix(w(DOWN), c).reversed_axes(), |done| {
            for row in done.rows.clone() {
                let (columns, at) = (done.columns.clone(), row * f + done.columns.start);
                let (up, d_up) = (up_rf.part(at..at + columns.len(), &mut room), done.row(row));
                gelu_rf.write(at..at + columns.len(), |gelu| {
                    gelu::backward(up, &w(UP + 1)[columns.clone()], d_up, gelu, &mut d_bias.data[columns]);
                });
            }
        });
        give(UP + 1, d_bias);
        drop(up_rf);
        let gelu_rf = gelu_rf.finish();
        let mut d_down = gradient(DOWN);
        place.product(gelu_rf.matrix().reversed_axes(), matrix(d_rc, c), &mut d_down);
        give(DOWN, d_down);
        drop(gelu_rf);
        let middle_rc = middle_rc.widen();
        let normal_rc = place.normalised_again(&middle_rc, w(NORM_2), w(NORM_2 + 1), &norm_2);
        place.linear_backward(&normal_rc, &d_up_rf, w(UP), gradient(UP), &mut d_normal_rc, &mut |g| give(UP, g));
        let (mut d_gain, mut d_bias) = (gradient(NORM_2), gradient(NORM_2 + 1));
        let (d_gain_c, d_bias_c) = (&mut d_gain.data, &mut d_bias.data);
        layer_norm::backward(&middle_rc.data, w(NORM_2), &norm_2.data, &d_normal_rc.data, d_rc, d_gain_c, d_bias_c);
        give(NORM_2, d_gain);
        give(NORM_2 + 1, d_bias);
        drop((middle_rc, d_up_rf, normal_rc));

        // Attention: out, softmax, queries, keys and values, normalisation.
        let mut d_bias = gradient(OUT + 1);
        bias::column_sums(d_rc, &mut d_bias.data);
        give(OUT + 1, d_bias);
        let mut d_out = gradient(OUT);
        place.product(attended_rc.matrix().reversed_axes(), matrix(d_rc, c), &mut d_out);
        give(OUT, d_out);
        place.product(matrix(d_rc, c), matrix(w(OUT), c).reversed_axes(), &mut d_normal_rc);
        let (d_attended_rc, attended_rc) = (&d_normal_rc.data, attended_rc.widen());
        let mut d_qkv = Tensor::scratch([place.rows(), 3 * c]);
        let (attended, log_sums) = (&attended_rc.data, &log_sums.data);
        attention::backward(&place.attention(), qkv.slice(), attended, log_sums, d_attended_rc, &mut d_qkv.data);
        drop((qkv, attended_rc));
        let mut d_bias = gradient(QKV + 1);
        bias::column_sums(&d_qkv.data, &mut d_bias.data);
        give(QKV + 1, d_bias);
        let (d_qkv, x_rc) = (SavedActivation::new(place.precision, d_qkv), x_rc.widen());
        let normal_rc = place.normalised_again(&x_rc, w(NORM_1), w(NORM_1 + 1), &norm_1);
        place.linear_backward(&normal_rc, &d_qkv, w(QKV), gradient(QKV), &mut d_normal_rc, &mut |g| give(QKV, g));
        let (mut d_gain, mut d_bias) = (gradient(NORM_1), gradient(NORM_1 + 1));
        let (d_gain_c, d_bias_c) = (&mut d_gain.data, &mut d_bias.data);
        layer_norm::backward(&x_rc.data, w(NORM_1), &norm_1.data, &d_normal_rc.data, d_rc, d_gain_c, d_bias_c);
        give(NORM_1, d_gain);
        give(NORM_1 + 1, d_bias);
    }
}

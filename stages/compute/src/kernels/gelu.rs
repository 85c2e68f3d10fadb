//! GELU, the tanh form of GPT-2 (Hendrycks & Gimpel 2016), fused with the bias before it.
//!
//! `gelu(x) = x/2 · (1 + tanh u) = x · sigmoid(2u)` with `u = √(2/π) (x + 0.044715 x³)`: one exponential, and no
//! cancellation where tanh is near -1.
use crate::simd::sigmoid;
use crate::wide;

/// 2 √(2/π)
const TWO_ROOT: f32 = 1.595_769;
const CUBE: f32 = 0.044_715;

/// `(sigmoid(2u), d(2u)/dx)`.
#[inline(always)]
fn gate(x: f32) -> (f32, f32) {
    let square = CUBE * x * x;
    let gate = sigmoid(TWO_ROOT * square.mul_add(x, x));
    (gate, TWO_ROOT * square.mul_add(3.0, 1.0))
}

wide! {
    /// `out_rf = gelu(x_rf + bias_f)`.
    pub fn forward(x_rf: &[f32], bias_f: &[f32], out_rf: &mut [f32]) {
        assert_eq!(x_rf.len(), out_rf.len());
        let width = bias_f.len();
        for (x, out) in x_rf.chunks_exact(width).zip(out_rf.chunks_exact_mut(width)) {
            for ((x, b), out) in x.iter().zip(bias_f).zip(out) {
                let x = x + b;
                *out = x * gate(x).0;
            }
        }
    }
}

wide! {
    /// Recomputes `out_rf` (the weight gradient of the next linear layer needs it), turns `d_rf` from the gradient of
    /// `out_rf` into that of `x_rf`, and *adds* its column sums to `d_bias_f`, the gradient of the bias.
    pub fn backward(x_rf: &[f32], bias_f: &[f32], d_rf: &mut [f32], out_rf: &mut [f32], d_bias_f: &mut [f32]) {
        assert!(x_rf.len() == d_rf.len() && x_rf.len() == out_rf.len() && bias_f.len() == d_bias_f.len());
        let width = bias_f.len();
        let rows = x_rf.chunks_exact(width).zip(d_rf.chunks_exact_mut(width)).zip(out_rf.chunks_exact_mut(width));
        for ((x, d), out) in rows {
            for ((((x, b), d), out), d_bias) in x.iter().zip(bias_f).zip(d).zip(out).zip(&mut *d_bias_f) {
                let x = x + b;
                let (gate, slope) = gate(x);
                let y = x * gate;
                *out = y;
                *d *= (y * slope).mul_add(1.0 - gate, gate);
                *d_bias += *d;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{assert_close, gradient, random, weighted, wide};
    use proptest::prelude::*;

    fn reference(x: &[f64], bias: &[f64]) -> Vec<f64> {
        x.iter()
            .enumerate()
            .map(|(i, x)| {
                let x = x + bias[i % bias.len()];
                let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
                0.5 * x * (1.0 + u.tanh())
            })
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(30))]
        #[test]
        fn agrees_with_the_reference(rows in 1usize..5, width in 1usize..40, spread in 0.1f32..8.0) {
            let x: Vec<f32> = random(1, rows * width).iter().map(|x| x * spread).collect();
            let (bias, d_out) = (random(2, width), random(3, rows * width));
            let (x64, bias64) = (wide(&x), wide(&bias));
            let mut out = vec![0.0; x.len()];
            forward(&x, &bias, &mut out);
            assert_close(&out, &reference(&x64, &bias64), 1e-6);
            let (mut d, mut again, mut d_bias) = (d_out.clone(), vec![0.0; x.len()], vec![0.0; width]);
            backward(&x, &bias, &mut d, &mut again, &mut d_bias);
            prop_assert_eq!(out, again);
            assert_close(&d, &gradient(&x, |x| weighted(&reference(x, &bias64), &d_out)), 1e-5);
            assert_close(&d_bias, &gradient(&bias, |bias| weighted(&reference(&x64, bias), &d_out)), 1e-5);
        }
    }

    #[test]
    fn far_tails_are_exact() {
        let x = [-1e4f32, -50.0, -12.0, 0.0, 12.0, 50.0, 1e4];
        let mut out = [f32::NAN; 7];
        forward(&x, &[0.0; 7], &mut out);
        assert_eq!(out.map(|y| y.max(0.0)), x.map(|x| x.max(0.0)));
        let (mut d, mut d_bias) = ([1.0; 7], [0.0; 7]);
        backward(&x, &[0.0; 7], &mut d, &mut out, &mut d_bias);
        assert_eq!(d, [0.0, 0.0, 0.0, 0.5, 1.0, 1.0, 1.0].map(|d: f32| d));
    }
}

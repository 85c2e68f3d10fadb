//! ReLU² (So et al. 2021, Primer): `max(x, 0)²`, fused with the bias before it.
use crate::wide;

wide! {
    /// `out_rf = max(x_rf + bias_f, 0)²`.
    pub fn forward(x_rf: &[f32], bias_f: &[f32], out_rf: &mut [f32]) {
        assert_eq!(x_rf.len(), out_rf.len());
        let width = bias_f.len();
        for (x, out) in x_rf.chunks_exact(width).zip(out_rf.chunks_exact_mut(width)) {
            for ((x, b), out) in x.iter().zip(bias_f).zip(out) {
                let x = (x + b).max(0.0);
                *out = x * x;
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
                let x = (x + b).max(0.0);
                *out = x * x;
                *d *= 2.0 * x;
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
        x.iter().enumerate().map(|(i, x)| (x + bias[i % bias.len()]).max(0.0).powi(2)).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(30))]
        #[test]
        fn agrees_with_the_reference(rows in 1usize..5, width in 1usize..40, spread in 0.1f32..8.0) {
            let x: Vec<f32> = random(1, rows * width).iter().map(|x| x * spread).collect();
            let (bias, d_out) = (random(2, width), random(3, rows * width));
            let (x64, bias64) = (wide(&x), wide(&bias));
            let mut out = vec![f32::NAN; x.len()];
            forward(&x, &bias, &mut out);
            assert_close(&out, &reference(&x64, &bias64), 1e-6);
            let (mut d, mut again, mut d_bias) = (d_out.clone(), vec![f32::NAN; x.len()], vec![0.0; width]);
            backward(&x, &bias, &mut d, &mut again, &mut d_bias);
            prop_assert_eq!(out, again);
            assert_close(&d, &gradient(&x, |x| weighted(&reference(x, &bias64), &d_out)), 1e-4);
            assert_close(&d_bias, &gradient(&bias, |bias| weighted(&reference(&x64, bias), &d_out)), 1e-4);
        }
    }
}

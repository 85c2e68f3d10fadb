//! Root-mean-square normalisation (Zhang & Sennrich 2019): rows are scaled to mean square 1, then a gain applies.
use crate::simd::{LANES, fold, sum_of_squares};
use crate::wide;

wide! {
    /// `out_rc = x_rc / √(mean of squares + epsilon) · gain_c`. Saves the reciprocal of each row's root in `factors`
    /// `[rows]` for [`recompute`] and [`backward`].
    pub fn forward(x_rc: &[f32], gain_c: &[f32], epsilon: f32, out_rc: &mut [f32], factors: &mut [f32]) {
        let width = gain_c.len();
        assert!(x_rc.len() == out_rc.len() && factors.len() * width == x_rc.len());
        for (x, factor) in x_rc.chunks_exact(width).zip(factors.iter_mut()) {
            *factor = 1.0 / (sum_of_squares(x, 0.0) / width as f32 + epsilon).sqrt();
        }
        normalise(x_rc, gain_c, factors, out_rc);
    }
}

wide! {
    /// Recomputes the output of [`forward`] from its `factors`: cheaper than saving it for backward.
    pub fn recompute(x_rc: &[f32], gain_c: &[f32], factors: &[f32], out_rc: &mut [f32]) {
        assert!(x_rc.len() == out_rc.len() && factors.len() * gain_c.len() == x_rc.len());
        normalise(x_rc, gain_c, factors, out_rc);
    }
}

#[inline(always)]
fn normalise(x_rc: &[f32], gain_c: &[f32], factors: &[f32], out_rc: &mut [f32]) {
    let width = gain_c.len();
    for ((x, out), factor) in x_rc.chunks_exact(width).zip(out_rc.chunks_exact_mut(width)).zip(factors) {
        for ((out, x), gain) in out.iter_mut().zip(x).zip(gain_c) {
            *out = x * factor * gain;
        }
    }
}

wide! {
    /// Takes the gradient of the output in `d_out_rc`. *Adds* the gradient of `x_rc` to `d_x_rc` (which holds the
    /// gradient of the residual connection), and writes that of the gain.
    pub fn backward(
        x_rc: &[f32],
        gain_c: &[f32],
        factors: &[f32],
        d_out_rc: &[f32],
        d_x_rc: &mut [f32],
        d_gain_c: &mut [f32],
    ) {
        let width = gain_c.len();
        assert!(x_rc.len() == d_out_rc.len() && x_rc.len() == d_x_rc.len() && x_rc.len() == factors.len() * width);
        assert!(d_gain_c.len() == width);
        d_gain_c.fill(0.0);
        let rows = x_rc.chunks_exact(width).zip(d_out_rc.chunks_exact(width)).zip(d_x_rc.chunks_exact_mut(width));
        for (((x, d_out), d_x), factor) in rows.zip(factors) {
            let along = along(x, d_out, gain_c, *factor) / width as f32;
            let gains = gain_c.iter().zip(&mut *d_gain_c);
            for (((x, d_out), d_x), (gain, d_gain)) in x.iter().zip(d_out).zip(d_x).zip(gains) {
                let normal = x * factor;
                *d_gain = d_out.mul_add(normal, *d_gain);
                let inner = normal.mul_add(-along, d_out * gain);
                *d_x = factor.mul_add(inner, *d_x);
            }
        }
    }
}

/// `Σ d_out · gain · n` over one row, with `n` the normalised `x`.
#[inline(always)]
fn along(x: &[f32], d_out: &[f32], gain: &[f32], factor: f32) -> f32 {
    let (x, x_rest) = x.as_chunks::<LANES>();
    let (d_out, d_out_rest) = d_out.as_chunks::<LANES>();
    let (gain, gain_rest) = gain.as_chunks::<LANES>();
    let mut lanes = [0.0f32; LANES];
    for ((x, d_out), gain) in x.iter().zip(d_out).zip(gain) {
        for i in 0..LANES {
            lanes[i] = (d_out[i] * gain[i]).mul_add(x[i] * factor, lanes[i]);
        }
    }
    for (i, ((x, d_out), gain)) in x_rest.iter().zip(d_out_rest).zip(gain_rest).enumerate() {
        lanes[i] = (d_out * gain).mul_add(x * factor, lanes[i]);
    }
    fold(lanes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{assert_close, gradient, random, weighted, wide};
    use proptest::prelude::*;

    const EPSILON: f32 = 1e-3;

    fn reference(x: &[f64], gain: &[f64]) -> Vec<f64> {
        let mut out = Vec::new();
        for x in x.chunks(gain.len()) {
            let mean = x.iter().map(|x| x * x).sum::<f64>() / gain.len() as f64;
            out.extend(x.iter().zip(gain).map(|(x, g)| x / (mean + f64::from(EPSILON)).sqrt() * g));
        }
        out
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(30))]
        #[test]
        fn agrees_with_the_reference(rows in 1usize..5, width in 1usize..40) {
            let (x, gain, d_out) = (random(1, rows * width), random(2, width), random(3, rows * width));
            let (x64, gain64) = (wide(&x), wide(&gain));
            let (mut out, mut factors) = (vec![f32::NAN; x.len()], vec![f32::NAN; rows]);
            forward(&x, &gain, EPSILON, &mut out, &mut factors);
            assert_close(&out, &reference(&x64, &gain64), 1e-5);
            let mut same = vec![f32::NAN; x.len()];
            recompute(&x, &gain, &factors, &mut same);
            prop_assert_eq!(out, same);

            let past = random(4, x.len());
            let (mut d_x, mut d_gain) = (past.clone(), vec![f32::NAN; width]);
            backward(&x, &gain, &factors, &d_out, &mut d_x, &mut d_gain);
            let mut expected = gradient(&x, |x| weighted(&reference(x, &gain64), &d_out));
            expected.iter_mut().zip(&past).for_each(|(d, past)| *d += f64::from(*past));
            assert_close(&d_x, &expected, 1e-4);
            assert_close(&d_gain, &gradient(&gain, |g| weighted(&reference(&x64, g), &d_out)), 1e-4);
        }
    }
}

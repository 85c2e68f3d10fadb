//! Layer normalisation (Ba, Kiros & Hinton 2016): rows are scaled to mean 0 and variance 1, then a gain and a bias
//! apply.
use crate::simd::{LANES, fold, sum, sum_of_squares};
use crate::wide;

/// Added to the variance, as in GPT-2.
pub const EPSILON: f32 = 1e-5;

wide! {
    /// `out_rc = (x_rc - mean) / √(variance + EPSILON) · gain_c + bias_c`. Saves each row's mean and the reciprocal of
    /// its standard deviation in `statistics` `[rows, 2]` for [`recompute`] and [`backward`].
    pub fn forward(x_rc: &[f32], gain_c: &[f32], bias_c: &[f32], out_rc: &mut [f32], statistics: &mut [f32]) {
        let width = gain_c.len();
        assert!(x_rc.len() == out_rc.len() && statistics.len() * width == 2 * x_rc.len() && bias_c.len() == width);
        for (x, kept) in x_rc.chunks_exact(width).zip(statistics.chunks_exact_mut(2)) {
            let mean = sum(x) / width as f32;
            let variance = sum_of_squares(x, mean) / width as f32;
            kept[0] = mean;
            kept[1] = 1.0 / (variance + EPSILON).sqrt();
        }
        normalise(x_rc, gain_c, bias_c, statistics, out_rc);
    }
}

wide! {
    /// Recomputes the output of [`forward`] from its `statistics`: cheaper than saving it for backward.
    pub fn recompute(x_rc: &[f32], gain_c: &[f32], bias_c: &[f32], statistics: &[f32], out_rc: &mut [f32]) {
        assert!(x_rc.len() == out_rc.len() && statistics.len() * gain_c.len() == 2 * x_rc.len());
        normalise(x_rc, gain_c, bias_c, statistics, out_rc);
    }
}

#[inline(always)]
fn normalise(x_rc: &[f32], gain_c: &[f32], bias_c: &[f32], statistics: &[f32], out_rc: &mut [f32]) {
    let width = gain_c.len();
    let rows = x_rc.chunks_exact(width).zip(out_rc.chunks_exact_mut(width)).zip(statistics.chunks_exact(2));
    for ((x, out), kept) in rows {
        let (mean, rstd) = (kept[0], kept[1]);
        for (((out, x), g), b) in out.iter_mut().zip(x).zip(gain_c).zip(bias_c) {
            *out = ((x - mean) * rstd).mul_add(*g, *b);
        }
    }
}

wide! {
    /// Takes the gradient of the output in `d_out_rc`. *Adds* the gradient of `x_rc` to `d_x_rc` (which holds the
    /// gradient of the residual connection), and writes those of gain and bias.
    pub fn backward(
        x_rc: &[f32],
        gain_c: &[f32],
        statistics: &[f32],
        d_out_rc: &[f32],
        d_x_rc: &mut [f32],
        d_gain_c: &mut [f32],
        d_bias_c: &mut [f32],
    ) {
        let width = gain_c.len();
        assert!(x_rc.len() == d_out_rc.len() && x_rc.len() == d_x_rc.len() && x_rc.len() * 2 == statistics.len() * width);
        assert!(d_gain_c.len() == width && d_bias_c.len() == width);
        d_gain_c.fill(0.0);
        d_bias_c.fill(0.0);
        let rows = x_rc.chunks_exact(width).zip(d_out_rc.chunks_exact(width)).zip(d_x_rc.chunks_exact_mut(width));
        for (((x, d_out), d_x), kept) in rows.zip(statistics.chunks_exact(2)) {
            let (mean, rstd) = (kept[0], kept[1]);
            let (plain, along) = sums(x, d_out, gain_c, mean, rstd);
            let (plain, along) = (plain / width as f32, along / width as f32);
            let gains = gain_c.iter().zip(&mut *d_gain_c).zip(&mut *d_bias_c);
            for (((x, d_out), d_x), ((gain, d_gain), d_bias)) in x.iter().zip(d_out).zip(d_x).zip(gains) {
                let normal = (x - mean) * rstd;
                *d_gain = d_out.mul_add(normal, *d_gain);
                *d_bias += d_out;
                let inner = normal.mul_add(-along, d_out.mul_add(*gain, -plain));
                *d_x = rstd.mul_add(inner, *d_x);
            }
        }
    }
}

/// `(Σ d, Σ d · n)` over one row, with `n` the normalised `x` and `d = d_out · gain`.
#[inline(always)]
fn sums(x: &[f32], d_out: &[f32], gain: &[f32], mean: f32, rstd: f32) -> (f32, f32) {
    let (x, x_rest) = x.as_chunks::<LANES>();
    let (d_out, d_out_rest) = d_out.as_chunks::<LANES>();
    let (gain, gain_rest) = gain.as_chunks::<LANES>();
    let (mut plain, mut along) = ([0.0f32; LANES], [0.0f32; LANES]);
    for ((x, d_out), gain) in x.iter().zip(d_out).zip(gain) {
        for i in 0..LANES {
            let d = d_out[i] * gain[i];
            plain[i] += d;
            along[i] = d.mul_add((x[i] - mean) * rstd, along[i]);
        }
    }
    for (i, ((x, d_out), gain)) in x_rest.iter().zip(d_out_rest).zip(gain_rest).enumerate() {
        let d = d_out * gain;
        plain[i] += d;
        along[i] = d.mul_add((x - mean) * rstd, along[i]);
    }
    (fold(plain), fold(along))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{assert_close, gradient, random, weighted, wide};
    use proptest::prelude::*;

    fn reference(x: &[f64], gain: &[f64], bias: &[f64]) -> Vec<f64> {
        let width = gain.len();
        let mut out = Vec::new();
        for x in x.chunks(width) {
            let mean = x.iter().sum::<f64>() / width as f64;
            let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / width as f64;
            let rstd = 1.0 / (variance + f64::from(EPSILON)).sqrt();
            out.extend(x.iter().zip(gain).zip(bias).map(|((x, g), b)| (x - mean) * rstd * g + b));
        }
        out
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(30))]
        #[test]
        fn agrees_with_the_reference(rows in 1usize..5, width in 2usize..40, offset in -3.0f32..3.0) {
            let x: Vec<f32> = random(1, rows * width).iter().map(|x| x + offset).collect();
            let (gain, bias, d_out) = (random(2, width), random(3, width), random(4, rows * width));
            let (x64, gain64, bias64) = (wide(&x), wide(&gain), wide(&bias));
            let (mut out, mut statistics) = (vec![0.0; x.len()], vec![0.0; 2 * rows]);
            forward(&x, &gain, &bias, &mut out, &mut statistics);
            assert_close(&out, &reference(&x64, &gain64, &bias64), 1e-5);
            let mut same = vec![0.0; x.len()];
            recompute(&x, &gain, &bias, &statistics, &mut same);
            prop_assert_eq!(out, same);

            let past = random(5, x.len());
            let (mut d_x, mut d_gain, mut d_bias) = (past.clone(), vec![f32::NAN; width], vec![f32::NAN; width]);
            backward(&x, &gain, &statistics, &d_out, &mut d_x, &mut d_gain, &mut d_bias);
            let mut expected = gradient(&x, |x| weighted(&reference(x, &gain64, &bias64), &d_out));
            expected.iter_mut().zip(&past).for_each(|(d, past)| *d += f64::from(*past));
            assert_close(&d_x, &expected, 1e-4);
            assert_close(&d_gain, &gradient(&gain, |g| weighted(&reference(&x64, g, &bias64), &d_out)), 1e-4);
            assert_close(&d_bias, &gradient(&bias, |b| weighted(&reference(&x64, &gain64, b), &d_out)), 1e-4);
        }
    }
}

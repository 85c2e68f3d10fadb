//! Biases: a row added to every row, and its gradient, the sum over rows.
use crate::wide;

wide! {
    /// `out_rc[r] = bias_c`: where a product with `beta = 1` then adds its rows.
    pub fn broadcast(bias_c: &[f32], out_rc: &mut [f32]) {
        for out in out_rc.chunks_exact_mut(bias_c.len()) {
            out.copy_from_slice(bias_c);
        }
    }
}

wide! {
    /// `out_rc = x_rc + bias_c`: a residual stream to which a product with `beta = 1` then adds its rows.
    pub fn add_to_rows(x_rc: &[f32], bias_c: &[f32], out_rc: &mut [f32]) {
        assert_eq!(x_rc.len(), out_rc.len());
        for (out, x) in out_rc.chunks_exact_mut(bias_c.len()).zip(x_rc.chunks_exact(bias_c.len())) {
            for ((out, x), b) in out.iter_mut().zip(x).zip(bias_c) {
                *out = x + b;
            }
        }
    }
}

wide! {
    /// Gradient of a bias: `d_bias_c = Σ_r d_out_rc[r]`.
    pub fn column_sums(d_out_rc: &[f32], d_bias_c: &mut [f32]) {
        let width = d_bias_c.len();
        d_bias_c.fill(0.0);
        let (fours, rest) = d_out_rc.split_at(d_out_rc.len() / (4 * width) * 4 * width);
        for four in fours.chunks_exact(4 * width) {
            let (ab, cd) = four.split_at(2 * width);
            let ((a, b), (c, d)) = (ab.split_at(width), cd.split_at(width));
            for ((((sum, a), b), c), d) in d_bias_c.iter_mut().zip(a).zip(b).zip(c).zip(d) {
                *sum += (a + b) + (c + d);
            }
        }
        for row in rest.chunks_exact(width) {
            for (sum, x) in d_bias_c.iter_mut().zip(row) {
                *sum += x;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{assert_close, random};
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(30))]
        #[test]
        fn rows_and_sums(rows in 1usize..12, width in 1usize..40) {
            let (x, bias) = (random(1, rows * width), random(2, width));
            let mut out = vec![0.0; x.len()];
            broadcast(&bias, &mut out);
            prop_assert!(out.iter().enumerate().all(|(i, o)| *o == bias[i % width]));
            add_to_rows(&x, &bias, &mut out);
            prop_assert!(out.iter().enumerate().all(|(i, o)| *o == x[i] + bias[i % width]));
            let mut sums = vec![f32::NAN; width];
            column_sums(&x, &mut sums);
            let naive: Vec<f64> =
                (0..width).map(|c| (0..rows).map(|r| f64::from(x[r * width + c])).sum()).collect();
            assert_close(&sums, &naive, 1e-6);
        }
    }
}

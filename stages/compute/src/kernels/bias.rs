//! Biases: adding a bias to a row, optionally with a residual connection, and its gradient, the sum over rows.
use crate::wide;

wide! {
    /// `row += bias`.
    pub fn add(bias: &[f32], row: &mut [f32]) {
        assert_eq!(bias.len(), row.len());
        for (x, b) in row.iter_mut().zip(bias) {
            *x += b;
        }
    }
}

wide! {
    /// `row += residual + bias`.
    pub fn add_with_residual(residual: &[f32], bias: &[f32], row: &mut [f32]) {
        assert!(bias.len() == row.len() && residual.len() == row.len());
        for ((x, r), b) in row.iter_mut().zip(residual).zip(bias) {
            *x += r + b;
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
            let (x, bias, residual) = (random(1, rows * width), random(2, width), random(3, width));
            let mut row = x[..width].to_vec();
            add(&bias, &mut row);
            prop_assert!(row.iter().enumerate().all(|(i, y)| *y == x[i] + bias[i]));
            row.copy_from_slice(&x[..width]);
            add_with_residual(&residual, &bias, &mut row);
            prop_assert!(row.iter().enumerate().all(|(i, y)| *y == x[i] + (residual[i] + bias[i])));
            let mut sums = vec![f32::NAN; width];
            column_sums(&x, &mut sums);
            let naive: Vec<f64> =
                (0..width).map(|c| (0..rows).map(|r| f64::from(x[r * width + c])).sum()).collect();
            assert_close(&sums, &naive, 1e-6);
        }
    }
}

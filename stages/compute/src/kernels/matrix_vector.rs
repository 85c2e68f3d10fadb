//! Matrix–vector products, for decoding one token at a time. Each weight is read once, so memory bandwidth limits the
//! speed.
use crate::simd::dot;
use crate::wide;

/// `out_o[o] = weight_oi[o] · x_i` for each of the `out_o.len()` rows, which are `stride` apart. Each result depends
/// only on its own row, so rows may be distributed over threads in any way.
///
/// # Panics
/// If `weight_oi` has fewer rows, or `stride` is less than the length of `x_i`.
pub fn matrix_vector(weight_oi: &[f32], stride: usize, x_i: &[f32], out_o: &mut [f32]) {
    assert!(
        x_i.len() <= stride && weight_oi.len() + stride >= out_o.len() * stride + x_i.len(),
        "the matrix has a row for each output"
    );
    rows(weight_oi, stride, x_i, out_o);
}

wide! {
    fn rows(weight_oi: &[f32], stride: usize, x_i: &[f32], out_o: &mut [f32]) {
        for (row, out) in weight_oi.chunks(stride).zip(out_o) {
            *out = dot(&row[..x_i.len()], x_i);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{assert_close, random};
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn every_row_is_multiplied(rows in 0usize..20, inner in 1usize..70, pad in 0usize..5, short: bool) {
            let stride = inner + pad;
            let mut weight = random(1, rows * stride);
            if short {
                weight.truncate((rows * stride).saturating_sub(pad)); // the last row needs no padding
            }
            let (x, mut out) = (random(2, inner), vec![f32::NAN; rows]);
            matrix_vector(&weight, stride, &x, &mut out);
            let naive: Vec<f64> = (0..rows)
                .map(|r| (0..inner).map(|i| f64::from(weight[r * stride + i]) * f64::from(x[i])).sum())
                .collect();
            assert_close(&out, &naive, 1e-5);
        }
    }
}

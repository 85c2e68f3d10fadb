//! Matrix–vector products, for decoding one token at a time. Each weight is read once, so memory bandwidth limits the
//! speed, and rows are read one after the other: CPUs fetch one stream faster than several. Weights are in f32 or
//! bfloat16; every sum is that of [`dot`](crate::simd::dot), so it has the same bits on every CPU. For weights of eight bits
//! see [`int8_matrix`](super::int8_matrix).
use super::gemm::{Scalar, SliceRef, bf16};
use crate::simd::{LANES, fold};
use crate::wide;

/// `out_o[o] = weight_oi[o] · x_i` for each of the `out_o.len()` rows, which are `stride` apart. Each result depends
/// only on its own row, so rows may be distributed over threads in any way.
///
/// # Panics
/// If `weight_oi` has fewer rows, or `stride` is less than the length of `x_i`.
pub fn matrix_vector<'a>(weight_oi: impl Into<SliceRef<'a>>, stride: usize, x_i: &[f32], out_o: &mut [f32]) {
    let weight_oi = weight_oi.into();
    assert!(
        x_i.len() <= stride && weight_oi.len() + stride >= out_o.len() * stride + x_i.len(),
        "the matrix has a row for each output"
    );
    match weight_oi {
        SliceRef::F32(weight_oi) => of_f32(weight_oi, stride, x_i, out_o),
        SliceRef::Bf16(weight_oi) => of_bf16(weight_oi, stride, x_i, out_o),
    }
}

wide! {
    fn of_f32(weight_oi: &[f32], stride: usize, x_i: &[f32], out_o: &mut [f32]) {
        for (row, out) in weight_oi.chunks(stride).zip(out_o) {
            *out = dot(&row[..x_i.len()], x_i);
        }
    }
}

wide! {
    fn of_bf16(weight_oi: &[bf16], stride: usize, x_i: &[f32], out_o: &mut [f32]) {
        for (row, out) in weight_oi.chunks(stride).zip(out_o) {
            *out = dot(&row[..x_i.len()], x_i);
        }
    }
}

/// The inner product of a row and `x`, which is as long, in the order of [`dot`](crate::simd::dot) of numbers in f32.
#[inline(always)]
fn dot<E: Scalar>(row: &[E], x: &[f32]) -> f32 {
    let ((row, row_rest), (x, x_rest)) = (row.as_chunks::<LANES>(), x.as_chunks::<LANES>());
    let mut lanes = [0.0f32; LANES];
    for (row, x) in row.iter().zip(x) {
        for i in 0..LANES {
            lanes[i] = row[i].widen().mul_add(x[i], lanes[i]);
        }
    }
    for (lane, (weight, x)) in lanes.iter_mut().zip(row_rest.iter().zip(x_rest)) {
        *lane = weight.widen().mul_add(*x, *lane);
    }
    fold(lanes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::gemm::round;
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
            let mut halves = vec![bf16::ZERO; weight.len()];
            round(&weight, &mut halves);
            let rounded: Vec<f32> = halves.iter().map(|x| x.widen()).collect();
            let x = random(2, inner);
            for (weight, stored) in [(&weight, SliceRef::F32(&weight)), (&rounded, SliceRef::Bf16(&halves))] {
                let mut out = vec![f32::NAN; rows];
                matrix_vector(stored, stride, &x, &mut out);
                let row = |r: usize| &weight[r * stride..][..inner];
                let naive = |r: usize| row(r).iter().zip(&x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
                assert_close(&out, &(0..rows).map(naive).collect::<Vec<f64>>(), 1e-5);
                let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                let dots: Vec<f32> = (0..rows).map(|r| crate::simd::dot(row(r), &x)).collect();
                prop_assert_eq!(bits(&out), bits(&dots), "the same bits in f32");
            }
        }
    }
}

//! Sums with `vpdpwssd` of AVX512-VNNI: 32 products at a time.
use super::DEEPEST;
use std::arch::x86_64::*;

/// Integers of a vector in a register. There are two sums, so that one need not wait for the other.
const WIDTH: usize = 32;

pub(super) fn is_available() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vnni")
}

/// See [`Kernel::products`](super::Kernel::products).
///
/// # Safety
/// The CPU must have the features, and the length of `x` must be a multiple of `2 * WIDTH`.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) unsafe fn products(weights: &[i8], x: &[i16], out: &mut [f32]) {
    for (row, out) in weights.chunks_exact(x.len()).zip(out) {
        let mut total = 0;
        for (row, x) in row.chunks(DEEPEST).zip(x.chunks(DEEPEST)) {
            let mut sums = [_mm512_setzero_si512(); 2];
            for at in (0..x.len()).step_by(2 * WIDTH) {
                for (half, sum) in sums.iter_mut().enumerate() {
                    // SAFETY: the caller guarantees that `x` has these integers, and the row is as long.
                    unsafe {
                        let bytes = _mm256_loadu_si256(row.as_ptr().add(at + half * WIDTH).cast());
                        let x = _mm512_loadu_si512(x.as_ptr().add(at + half * WIDTH).cast());
                        *sum = _mm512_dpwssd_epi32(*sum, _mm512_cvtepi8_epi16(bytes), x);
                    }
                }
            }
            let sum = _mm512_add_epi32(sums[0], sums[1]);
            let low = _mm512_cvtepi32_epi64(_mm512_castsi512_si256(sum));
            let high = _mm512_cvtepi32_epi64(_mm512_extracti64x4_epi64::<1>(sum));
            total += _mm512_reduce_add_epi64(_mm512_add_epi64(low, high));
        }
        *out = total as f32;
    }
}

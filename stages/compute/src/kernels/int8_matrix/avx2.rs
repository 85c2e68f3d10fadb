//! Sums with `vpmaddwd` of AVX2: 16 products at a time.
use super::DEEPEST;
use std::arch::x86_64::*;

/// Integers of a vector in a register. There are two sums, so that one need not wait for the other.
const WIDTH: usize = 16;

pub(super) fn is_available() -> bool {
    is_x86_feature_detected!("avx2")
}

/// See [`Kernel::products`](super::Kernel::products).
///
/// # Safety
/// The CPU must have AVX2, and the length of `x` must be a multiple of `2 * WIDTH`.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn products(weights: &[i8], x: &[i16], out: &mut [f32]) {
    for (row, out) in weights.chunks_exact(x.len()).zip(out) {
        let mut total = 0;
        for (row, x) in row.chunks(DEEPEST).zip(x.chunks(DEEPEST)) {
            let mut sums = [_mm256_setzero_si256(); 2];
            for at in (0..x.len()).step_by(2 * WIDTH) {
                for (half, sum) in sums.iter_mut().enumerate() {
                    // SAFETY: the caller guarantees that `x` has these integers, and the row is as long.
                    unsafe {
                        let bytes = _mm_loadu_si128(row.as_ptr().add(at + half * WIDTH).cast());
                        let x = _mm256_loadu_si256(x.as_ptr().add(at + half * WIDTH).cast());
                        *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(_mm256_cvtepi8_epi16(bytes), x));
                    }
                }
            }
            let mut lanes = [0i32; WIDTH / 2];
            // SAFETY: the array has 256 bits.
            unsafe { _mm256_storeu_si256(lanes.as_mut_ptr().cast(), _mm256_add_epi32(sums[0], sums[1])) };
            total += lanes.into_iter().map(i64::from).sum::<i64>();
        }
        *out = total as f32;
    }
}

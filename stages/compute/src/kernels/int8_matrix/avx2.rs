//! Sums with `vpmaddwd` of AVX2: 16 products at a time.
use super::DEEPEST;
use std::arch::x86_64::*;

/// Rows at once, so that their sums do not wait for each other.
const ROWS: usize = 4;
/// Integers of a vector in a register.
const WIDTH: usize = 16;

pub(super) fn is_available() -> bool {
    is_x86_feature_detected!("avx2")
}

/// See [`Kernel::products`](super::Kernel::products).
///
/// # Safety
/// The CPU must have AVX2, and `weights` as many rows as `out` has numbers, each as long as `x`, whose length must be a
/// multiple of [`WIDTH`].
#[target_feature(enable = "avx2")]
pub(super) unsafe fn products(weights: &[i8], x: &[i16], out: &mut [f32]) {
    let (blocks, rest) = out.as_chunks_mut::<ROWS>();
    let mut row = weights.as_ptr();
    for out in blocks {
        // SAFETY: the caller guarantees that there are these rows, also below.
        unsafe {
            *out = rows(row, x);
            row = row.add(ROWS * x.len());
        }
    }
    for out in rest {
        // SAFETY: as above.
        unsafe {
            [*out] = rows(row, x);
            row = row.add(x.len());
        }
    }
}

/// The sums of `N` rows that begin at `weights`.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn rows<const N: usize>(weights: *const i8, x: &[i16]) -> [f32; N] {
    let mut totals = [0i64; N];
    for from in (0..x.len()).step_by(DEEPEST) {
        let mut sums = [_mm256_setzero_si256(); N];
        for at in (from..x.len().min(from + DEEPEST)).step_by(WIDTH) {
            // SAFETY: the caller guarantees that `x` and each row have these integers.
            unsafe {
                let x_at = _mm256_loadu_si256(x.as_ptr().add(at).cast());
                for (row, sum) in sums.iter_mut().enumerate() {
                    let bytes = _mm_loadu_si128(weights.add(row * x.len() + at).cast());
                    *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(_mm256_cvtepi8_epi16(bytes), x_at));
                }
            }
        }
        for (total, sum) in totals.iter_mut().zip(sums) {
            let mut lanes = [0i32; WIDTH / 2];
            // SAFETY: the array has 256 bits.
            unsafe { _mm256_storeu_si256(lanes.as_mut_ptr().cast(), sum) };
            *total += lanes.into_iter().map(i64::from).sum::<i64>();
        }
    }
    totals.map(|total| total as f32)
}

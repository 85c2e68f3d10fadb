//! Sums with `vpdpwssd` of AVX512-VNNI: 32 products at a time.
use super::DEEPEST;
use std::arch::x86_64::*;

/// Rows at once, so that their sums do not wait for each other.
const ROWS: usize = 8;
/// Integers of a vector in a register.
const WIDTH: usize = 32;

pub(super) fn is_available() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vnni")
}

/// See [`Kernel::products`](super::Kernel::products).
///
/// # Safety
/// The CPU must have the features, and `weights` as many rows as `out` has numbers, each as long as `x`, whose length must
/// be a multiple of [`WIDTH`].
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
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
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn rows<const N: usize>(weights: *const i8, x: &[i16]) -> [f32; N] {
    let mut totals = [0i64; N];
    for from in (0..x.len()).step_by(DEEPEST) {
        let mut sums = [_mm512_setzero_si512(); N];
        for at in (from..x.len().min(from + DEEPEST)).step_by(WIDTH) {
            // SAFETY: the caller guarantees that `x` and each row have these integers.
            unsafe {
                let x_at = _mm512_loadu_si512(x.as_ptr().add(at).cast());
                for (row, sum) in sums.iter_mut().enumerate() {
                    let bytes = _mm256_loadu_si256(weights.add(row * x.len() + at).cast());
                    *sum = _mm512_dpwssd_epi32(*sum, _mm512_cvtepi8_epi16(bytes), x_at);
                }
            }
        }
        for (total, sum) in totals.iter_mut().zip(sums) {
            let low = _mm512_cvtepi32_epi64(_mm512_castsi512_si256(sum));
            let high = _mm512_cvtepi32_epi64(_mm512_extracti64x4_epi64::<1>(sum));
            *total += _mm512_reduce_add_epi64(_mm512_add_epi64(low, high));
        }
    }
    totals.map(|total| total as f32)
}

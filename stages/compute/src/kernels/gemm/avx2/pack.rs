//! Packing: copies a block of an operand into panels, transposing it if its rows are not contiguous, and rounding it to
//! bfloat16 if requested.
use super::{ROWS, WIDTH};
use crate::kernels::gemm::load::Load;
use crate::kernels::gemm::matrix::Strided;
use crate::kernels::gemm::tile::LANES;
use std::arch::x86_64::*;

/// Distance of prefetching, in rows.
const AHEAD: usize = 8;

/// Packs `x` `[steps, columns]` into panels of `WIDE` columns. In each, the columns of one step are adjacent, and
/// `AT_ONCE` of them (6 or 8) are moved per register. Panels hold [`ROWS`] rows of `a`, transposed, or columns of `b`;
/// the last panel of `b` is padded with zeros to a multiple of sixteen columns, and an odd number of steps to an even
/// one.
///
/// This function and those it calls use no closures: the compiler would not enable AVX2 in them, and their callees
/// would not be inlined.
#[inline(always)]
pub(super) unsafe fn pack<const ROUNDED: bool, E: Load, const WIDE: usize, const AT_ONCE: usize>(
    x: Strided<E>,
    steps: usize,
    columns: usize,
    out: *mut f32,
) {
    let depth = steps.next_multiple_of(2);
    let all = columns.next_multiple_of(if AT_ONCE == ROWS { ROWS } else { LANES });
    // SAFETY: masks keep loads inside the block; the panels have room for `all` columns.
    unsafe {
        if x.column == 1 {
            for step in 0..depth {
                for column in (0..all).step_by(AT_ONCE) {
                    let from = x.at(step, column).data;
                    _mm_prefetch::<_MM_HINT_T0>(from.wrapping_add(AHEAD * x.row).cast());
                    // Loads eight columns if they exist, even when only six are stored.
                    let there = if step < steps { WIDTH.min(columns.saturating_sub(column)) } else { 0 };
                    let at = place::<WIDE>(depth, all, step, column);
                    put::<AT_ONCE>(out.add(at), load::<ROUNDED, E>(from, there));
                }
            }
        } else {
            for column in (0..all).step_by(AT_ONCE) {
                for step in (0..depth).step_by(WIDTH) {
                    let mut square = [_mm256_setzero_ps(); WIDTH];
                    let there = AT_ONCE.min(columns.saturating_sub(column));
                    for (i, line) in square.iter_mut().enumerate().take(there) {
                        let from = x.at(step, column + i).data;
                        _mm_prefetch::<_MM_HINT_T0>(from.wrapping_add(AT_ONCE * x.column).cast());
                        *line = load::<ROUNDED, E>(from, steps.saturating_sub(step));
                    }
                    transpose(&mut square);
                    for (i, line) in square.into_iter().enumerate().take(depth - step) {
                        put::<AT_ONCE>(out.add(place::<WIDE>(depth, all, step + i, column)), line);
                    }
                }
            }
        }
    }
}

/// Offset in the panels of a step of a column.
#[inline(always)]
fn place<const WIDE: usize>(depth: usize, all: usize, step: usize, column: usize) -> usize {
    let panel = column / WIDE * WIDE;
    panel * depth + step * WIDE.min(all - panel) + column - panel
}

/// Stores all eight lanes, or the first six.
#[inline(always)]
unsafe fn put<const AT_ONCE: usize>(out: *mut f32, lanes: __m256) {
    // SAFETY: guaranteed by the caller.
    unsafe {
        if AT_ONCE == WIDTH {
            return _mm256_storeu_ps(out, lanes);
        }
        _mm_storeu_ps(out, _mm256_castps256_ps128(lanes));
        let rest = _mm_castps_pd(_mm256_extractf128_ps::<1>(lanes));
        _mm_storel_pd(out.add(4).cast(), rest);
    }
}

/// Loads the first `there` of eight numbers, and zeros for the others; rounded to bfloat16 if `ROUNDED`.
#[inline(always)]
pub(super) unsafe fn load<const ROUNDED: bool, E: Load>(from: *const E, there: usize) -> __m256 {
    // SAFETY: the caller guarantees that this many numbers can be read.
    unsafe {
        let x = E::eight(from, there);
        if ROUNDED { round(x) } else { x }
    }
}

/// Rounds to the nearest bfloat16, ties to even; NaN stays NaN.
#[inline(always)]
unsafe fn round(x: __m256) -> __m256 {
    // SAFETY: guaranteed by the caller.
    unsafe {
        let bits = _mm256_castps_si256(x);
        let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
        let rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF)));
        let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x0040_0000));
        let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(x, x));
        let upper = _mm256_set1_epi32(-65536);
        _mm256_castsi256_ps(_mm256_and_si256(_mm256_blendv_epi8(rounded, quiet, nan), upper))
    }
}

/// Transposes an 8 × 8 matrix.
#[inline(always)]
unsafe fn transpose(rows: &mut [__m256; WIDTH]) {
    // SAFETY: guaranteed by the caller.
    unsafe {
        let mut t = [_mm256_setzero_ps(); WIDTH];
        for i in 0..4 {
            t[2 * i] = _mm256_unpacklo_ps(rows[2 * i], rows[2 * i + 1]);
            t[2 * i + 1] = _mm256_unpackhi_ps(rows[2 * i], rows[2 * i + 1]);
        }
        for i in 0..2 {
            for half in 0..2 {
                let (x, y) = (_mm256_castps_pd(t[4 * i + half]), _mm256_castps_pd(t[4 * i + 2 + half]));
                rows[4 * i + 2 * half] = _mm256_castpd_ps(_mm256_unpacklo_pd(x, y));
                rows[4 * i + 2 * half + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(x, y));
            }
        }
        t.copy_from_slice(rows);
        for i in 0..4 {
            rows[i] = _mm256_permute2f128_ps::<0x20>(t[i], t[i + 4]);
            rows[i + 4] = _mm256_permute2f128_ps::<0x31>(t[i], t[i + 4]);
        }
    }
}

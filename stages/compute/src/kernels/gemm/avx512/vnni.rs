//! Products in eight bits with `vpdpbusd` of AVX512-VNNI: 8 × 48 sums in 24 registers, as for the other formats.
use super::quantise::pack;
use crate::kernels::gemm::int8::pack::{LINE, STEPS};
use crate::kernels::gemm::int8::{Kernel, Tile};
use crate::kernels::gemm::load::first;
use crate::kernels::gemm::tile::{LANES, TILE_COLUMNS, TILE_ROWS};
use std::arch::x86_64::*;

/// Lines of a panel between prefetches of some lines of `c`: see [`super::PREFETCH_INTERVAL`].
const PREFETCH_INTERVAL: usize = 16;

/// The kernel, if this CPU has the instruction.
pub(in crate::kernels::gemm) fn kernel() -> Option<Kernel> {
    let available = super::available() && is_x86_feature_detected!("avx512vnni");
    let kernel = Kernel::new("AVX512-VNNI", [TILE_ROWS, TILE_COLUMNS], pack, tile);
    available.then_some(kernel)
}

/// # Safety
/// The CPU must have the features, and the pointers of the tile must be valid for its sizes.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn tile(t: &Tile) {
    macro_rules! by_height {
        ($vectors:literal: $($rows:literal)*) => {
            match t.high {
                // SAFETY: guaranteed by the caller.
                $($rows => unsafe { sums::<$rows, $vectors>(t) },)*
                // SAFETY: guaranteed by the caller.
                _ => unsafe { sums::<TILE_ROWS, $vectors>(t) },
            }
        };
    }
    match t.wide.div_ceil(LANES) {
        1 => by_height!(1: 1 2 3 4 5 6 7),
        2 => by_height!(2: 1 2 3 4 5 6 7),
        _ => by_height!(3: 1 2 3 4 5 6 7),
    }
}

/// A tile of `ROWS` rows and `VECTORS` panels of `b`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn sums<const ROWS: usize, const VECTORS: usize>(t: &Tile) {
    // SAFETY: the caller guarantees panels with that many lines, and results and integer sums of that size; the last
    // vector of the result is masked.
    unsafe {
        let mut sums = [[_mm512_setzero_si512(); VECTORS]; ROWS];
        for (row, sums) in sums.iter_mut().enumerate() {
            let start = _mm512_set1_epi32(t.a.add(row * STEPS).cast::<i32>().read());
            for (vector, sum) in sums.iter_mut().enumerate() {
                *sum = if t.first {
                    start
                } else {
                    let before = _mm512_loadu_si512(t.sums.add(row * t.sums_stride + vector * LANES).cast());
                    _mm512_add_epi32(start, before)
                };
            }
        }
        let (mut a, mut b) = (t.a.add(LINE), t.b);
        let rows_at_once = if t.last { ROWS.div_ceil(t.lines.div_ceil(PREFETCH_INTERVAL).max(1)) } else { 0 };
        for first in (0..t.lines).step_by(PREFETCH_INTERVAL) {
            for row in (first / PREFETCH_INTERVAL * rows_at_once..ROWS).take(rows_at_once) {
                for vector in 0..VECTORS {
                    _mm_prefetch::<_MM_HINT_T0>(t.c.wrapping_add(row * t.stride + vector * LANES).cast());
                }
            }
            for _ in first..t.lines.min(first + PREFETCH_INTERVAL) {
                let mut columns = [_mm512_setzero_si512(); VECTORS];
                for (vector, column) in columns.iter_mut().enumerate() {
                    *column = _mm512_loadu_si512(b.add(vector * t.apart).cast());
                }
                for (row, sums) in sums.iter_mut().enumerate() {
                    let a = _mm512_set1_epi32(a.add(row * STEPS).cast::<i32>().read());
                    for (sum, column) in sums.iter_mut().zip(columns) {
                        *sum = _mm512_dpbusd_epi32(*sum, column, a);
                    }
                }
                (a, b) = (a.add(LINE), b.add(LINE));
            }
        }
        // A loop that is not unrolled would write the registers to memory first.
        macro_rules! put_rows {
            ($($row:literal)*) => {
                $(if let Some(sums) = sums.get($row) {
                    for (vector, sum) in sums.iter().enumerate() {
                        put(t, $row, vector * LANES, *sum);
                    }
                })*
            };
        }
        const { assert!(ROWS <= 8) };
        put_rows!(0 1 2 3 4 5 6 7);
    }
}

/// Writes the sums of sixteen columns of a row, of those that the tile has: as integers if steps of `k` remain, otherwise
/// as elements of the result.
///
/// # Safety
/// The CPU must have AVX-512, which is enabled in the caller, and the pointers of the tile must be valid for its sizes.
#[inline(always)]
pub(in crate::kernels::gemm) unsafe fn put(t: &Tile, row: usize, column: usize, sum: __m512i) {
    // SAFETY: guaranteed by the caller; columns that the tile does not have are masked.
    unsafe {
        if !t.last {
            _mm512_storeu_si512(t.sums.add(row * t.sums_stride + column).cast(), sum);
            return;
        }
        let mask = first(t.wide - column);
        let row_scale = _mm512_set1_ps(t.row_scales.add(row).read());
        let column_scales = _mm512_maskz_loadu_ps(mask, t.column_scales.add(column));
        let value = _mm512_mul_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(sum), row_scale), column_scales);
        let at = t.c.add(row * t.stride + column);
        let value = if t.add { _mm512_add_ps(_mm512_maskz_loadu_ps(mask, at), value) } else { value };
        _mm512_mask_storeu_ps(at, mask, value);
    }
}

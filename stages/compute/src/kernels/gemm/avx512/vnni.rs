//! Products in eight bits with `vpdpbusd` of AVX512-VNNI: 8 × 48 sums in 24 registers, as for the other formats.
use super::quantise::pack;
use crate::kernels::gemm::int8::pack::{LINE, STEPS};
use crate::kernels::gemm::int8::{Kernel, Tile};
use crate::kernels::gemm::load::first;
use crate::kernels::gemm::tile::{LANES, TILE_COLUMNS, TILE_ROWS};
use std::arch::x86_64::*;

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
        for _ in 0..t.lines {
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
        for (row, sums) in sums.into_iter().enumerate() {
            for (vector, sum) in sums.into_iter().enumerate() {
                put(t, row, vector * LANES, sum);
            }
        }
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

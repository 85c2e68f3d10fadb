//! Packing: copies a block of an operand into panels, transposing it if its rows are not contiguous.
use super::format::Format;
use crate::kernels::gemm::load::{Load, first};
use crate::kernels::gemm::matrix::Strided;
use crate::kernels::gemm::tile::{LANES, TILE_COLUMNS, TILE_ROWS};
use std::arch::x86_64::*;

/// Distance of prefetching, in rows.
const AHEAD: usize = 8;

/// The destination of [`pack`]: address, depth in vectors, and number of columns.
#[derive(Clone, Copy)]
struct Packed {
    out: *mut f32,
    depth: usize,
    columns: usize,
}

/// Packs `x` `[steps, columns]` into panels: of rows of `a` if `A` (each as wide as its number of columns, at most 8),
/// otherwise of columns of `b` (whole vectors, at most 3).
///
/// This function and those it calls use no closures: the compiler would not enable AVX-512 in them, and their callees
/// would not be inlined.
#[inline(always)]
pub(super) unsafe fn pack<F: Format, E: Load, const A: bool>(
    x: Strided<E>,
    steps: usize,
    columns: usize,
    out: *mut f32,
) {
    let to = Packed { out, depth: steps.div_ceil(2) * F::VECTORS, columns };
    // SAFETY: masks keep loads inside the block and stores inside the panels.
    unsafe {
        if x.column == 1 {
            let whole = columns / LANES * LANES;
            for step in (0..steps).step_by(2) {
                let (one, two) = (x.at(step, 0).data, x.at(step + 1, 0).data);
                let second = if step + 1 < steps { LANES } else { 0 };
                for column in (0..whole).step_by(LANES) {
                    _mm_prefetch::<_MM_HINT_T0>(one.wrapping_add(AHEAD * x.row + column).cast());
                    _mm_prefetch::<_MM_HINT_T0>(two.wrapping_add(AHEAD * x.row + column).cast());
                    let from = [one.wrapping_add(column), two.wrapping_add(column)];
                    put_pair::<F, E, A>(&to, step, column, from, [LANES, second]);
                }
                if whole < columns {
                    let (from, left) = ([one.wrapping_add(whole), two.wrapping_add(whole)], columns - whole);
                    put_pair::<F, E, A>(&to, step, whole, from, [left, left.min(second)]);
                }
            }
        } else {
            // The steps of a column are adjacent, two of them in a lane if a pair takes one vector.
            let together = 2 * LANES / F::VECTORS;
            for column in (0..columns).step_by(LANES) {
                let there = LANES.min(columns - column);
                for step in (0..steps).step_by(together) {
                    let (from, left, vector) = (x.at(step, column).data, steps - step, step / 2 * F::VECTORS);
                    for i in 0..there {
                        let next = from.wrapping_add((i + LANES) * x.column);
                        _mm_prefetch::<_MM_HINT_T0>(next.cast());
                        if F::VECTORS == 1 {
                            _mm_prefetch::<_MM_HINT_T0>(next.wrapping_add(LANES).cast());
                        }
                    }
                    let mut rows = [_mm512_setzero_ps(); LANES];
                    // The loop is written twice: with constant bounds, the compiler keeps everything in registers.
                    if there == LANES && left >= together {
                        for (i, row) in rows.iter_mut().enumerate() {
                            *row = F::line::<E>(from.add(i * x.column), together);
                        }
                        transpose(&mut rows);
                        for (i, row) in rows.into_iter().enumerate() {
                            put::<A>(&to, vector + i, column, row);
                        }
                    } else {
                        for (i, row) in rows.iter_mut().enumerate().take(there) {
                            *row = F::line::<E>(from.add(i * x.column), left);
                        }
                        transpose(&mut rows);
                        for (i, row) in rows.into_iter().enumerate().take(to.depth - vector) {
                            put::<A>(&to, vector + i, column, row);
                        }
                    }
                }
            }
        }
    }
}

/// Loads and stores sixteen columns of two steps.
#[inline(always)]
unsafe fn put_pair<F: Format, E: Load, const A: bool>(
    to: &Packed,
    step: usize,
    column: usize,
    from: [*const E; 2],
    left: [usize; 2],
) {
    // SAFETY: guaranteed by the caller.
    unsafe {
        let vectors = F::pair::<E>(from, left);
        put::<A>(to, step / 2 * F::VECTORS, column, vectors[0]);
        if F::VECTORS == 2 {
            put::<A>(to, step / 2 * F::VECTORS + 1, column, vectors[1]);
        }
    }
}

/// Stores sixteen columns of one vector.
#[inline(always)]
unsafe fn put<const A: bool>(to: &Packed, vector: usize, column: usize, v: __m512) {
    // SAFETY: guaranteed by the caller.
    unsafe {
        if A {
            let left = to.columns - column;
            if left >= LANES {
                let v = _mm512_castps_pd(v);
                let low = _mm512_castpd512_pd256(v);
                _mm256_storeu_pd(to.out.add(column * to.depth + vector * TILE_ROWS).cast(), low);
                let high = _mm512_extractf64x4_pd::<1>(v);
                _mm256_storeu_pd(to.out.add((column + TILE_ROWS) * to.depth + vector * TILE_ROWS).cast(), high);
            } else {
                let wide = TILE_ROWS.min(left);
                _mm512_mask_storeu_ps(to.out.add(column * to.depth + vector * wide), first(wide), v);
                if left > TILE_ROWS {
                    let (column, wide) = (column + TILE_ROWS, left - TILE_ROWS);
                    let high = _mm512_shuffle_f32x4::<0b01_00_11_10>(v, v);
                    _mm512_mask_storeu_ps(to.out.add(column * to.depth + vector * wide), first(wide), high);
                }
            }
        } else {
            let panel = column / TILE_COLUMNS * TILE_COLUMNS;
            let wide = TILE_COLUMNS.min((to.columns - panel).next_multiple_of(LANES));
            _mm512_storeu_ps(to.out.add(panel * to.depth + vector * wide + column - panel), v);
        }
    }
}

/// Transposes a 16 × 16 matrix.
#[inline(always)]
pub(in crate::kernels::gemm) unsafe fn transpose(rows: &mut [__m512; LANES]) {
    // SAFETY: guaranteed by the caller.
    unsafe {
        let mut t = [_mm512_setzero_ps(); LANES];
        for i in 0..8 {
            t[2 * i] = _mm512_unpacklo_ps(rows[2 * i], rows[2 * i + 1]);
            t[2 * i + 1] = _mm512_unpackhi_ps(rows[2 * i], rows[2 * i + 1]);
        }
        for i in 0..4 {
            for half in 0..2 {
                let (x, y) = (_mm512_castps_pd(t[4 * i + half]), _mm512_castps_pd(t[4 * i + 2 + half]));
                rows[4 * i + 2 * half] = _mm512_castpd_ps(_mm512_unpacklo_pd(x, y));
                rows[4 * i + 2 * half + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(x, y));
            }
        }
        for i in 0..4 {
            for half in [0, 8] {
                t[i + half] = _mm512_shuffle_f32x4::<0x88>(rows[i + half], rows[i + half + 4]);
                t[i + half + 4] = _mm512_shuffle_f32x4::<0xDD>(rows[i + half], rows[i + half + 4]);
            }
        }
        for i in 0..8 {
            rows[i] = _mm512_shuffle_f32x4::<0x88>(t[i], t[i + 8]);
            rows[i + 8] = _mm512_shuffle_f32x4::<0xDD>(t[i], t[i + 8]);
        }
    }
}

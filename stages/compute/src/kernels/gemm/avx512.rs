//! The product for CPUs with AVX-512: operands packed into panels, tiles of `c` in registers.
//!
//! After Goto and van de Geijn (2008): a block of `b` that stays in the second cache is packed into panels of
//! [`TILE_COLUMNS`] columns, and each panel of [`TILE_ROWS`] rows of `a`, which stays in the first, meets all of them.
//! A tile of `c` is 24 registers of sums; what it needs each turn of `k` is three loads and eight broadcasts. Where
//! rows of `a` are contiguous they are read where they are, and the next panel's are fetched ahead.
//!
//! An element of `c` is summed along `k` in blocks of [`DEPTH`] at most, whatever its place in a tile: results do not
//! depend on the size of caches or on how many rows are multiplied at once.
mod format;
mod pack;

use super::Operand;
use super::panels::{LANES, Multiply, TILE_COLUMNS, TILE_ROWS};
use contract::Buffer;
use format::{Format, Pairs, Rounded, Single};
use pack::pack;
pub(super) use pack::transpose;
use std::arch::x86_64::*;

/// Most steps of `k` between two visits to `c`.
const DEPTH: usize = 384;
/// Rows of `c` between two calls of `done`.
const ROWS: usize = 128;

/// One product; see [`super::product_then`].
pub struct Product<'a> {
    pub rows: usize,
    pub columns: usize,
    pub depth: usize,
    pub alpha: f32,
    pub a: Operand,
    pub b: Operand,
    /// Is `c` added to?
    pub add: bool,
    pub c: *mut f32,
    pub stride: usize,
    /// Floats' room for packed `b` that stays in the second cache.
    pub cached: usize,
    /// Called with ranges of rows and columns that are complete and still in cache.
    pub done: &'a mut dyn FnMut(std::ops::Range<usize>, std::ops::Range<usize>),
}

/// # Safety
/// The CPU must have AVX-512F, and the operands and `c` must cover what the sizes say.
#[target_feature(enable = "avx512f")]
pub unsafe fn single(product: &mut Product<'_>) {
    // SAFETY: as promised.
    unsafe {
        // With rows in one piece there is nothing to gain from a copy of them.
        if product.a.column == 1 { run::<Single, true>(product) } else { run::<Single, false>(product) }
    }
}

/// # Safety
/// As [`single`].
#[target_feature(enable = "avx512f")]
pub unsafe fn rounded(product: &mut Product<'_>) {
    // SAFETY: as promised.
    unsafe { run::<Rounded, false>(product) }
}

/// # Safety
/// As [`single`], and the CPU must have AVX512-BF16.
#[target_feature(enable = "avx512f,avx512bf16")]
pub unsafe fn pairs(product: &mut Product<'_>) {
    // SAFETY: as promised.
    unsafe { run::<Pairs, false>(product) }
}

/// # Safety
/// As [`single`].
#[cfg(test)]
#[target_feature(enable = "avx512f")]
pub unsafe fn pairs_in_steps(product: &mut Product<'_>) {
    // SAFETY: as promised.
    unsafe { run::<format::PairsInSteps, false>(product) }
}

/// As [`super::panels::portable_pack`].
///
/// # Safety
/// As [`single`], and `out` must hold the panels.
#[target_feature(enable = "avx512f")]
pub unsafe fn pack_panels(b: Operand, steps: usize, columns: usize, out: *mut f32) {
    // SAFETY: as promised.
    unsafe { pack::<Single, false>(b, steps, columns, out) }
}

/// As [`super::panels::portable_multiply`].
///
/// # Safety
/// As [`single`].
#[target_feature(enable = "avx512f")]
pub unsafe fn multiply_panels(m: &Multiply) {
    for j in (m.columns.start..m.columns.end).step_by(TILE_COLUMNS) {
        let panel = TILE_COLUMNS.min((m.panels - j).next_multiple_of(LANES));
        let wide = TILE_COLUMNS.min(m.columns.end - j);
        for i in (0..m.rows).step_by(TILE_ROWS) {
            let high = TILE_ROWS.min(m.rows - i);
            // SAFETY: as promised.
            unsafe {
                let b = m.b.add(j * m.depth + m.first * panel);
                let c = m.c.add(i * m.stride + j - m.columns.start);
                let to = Tile { c, stride: m.stride, wide, alpha: m.alpha, add: m.add };
                if m.a.column == 1 {
                    tile::<Single, true>(high, m.steps, m.a.at(i, 0), b, panel, &to);
                } else {
                    tile::<Single, false>(high, m.steps, m.a.at(i, 0), b, panel, &to);
                }
            }
        }
    }
}

/// `total` in pieces of at most `most`, all about as long: the length of one, a multiple of `step`.
pub(super) fn even(total: usize, most: usize, step: usize) -> usize {
    total.div_ceil(total.div_ceil(most).max(1)).next_multiple_of(step)
}

#[inline(always)]
unsafe fn run<F: Format, const IN_PLACE: bool>(p: &mut Product<'_>) {
    let depth = even(p.depth, DEPTH, 8);
    let columns = even(p.columns, (p.cached * 2 / F::VECTORS / depth).max(TILE_COLUMNS), TILE_COLUMNS);
    let rows = even(p.rows, ROWS, TILE_ROWS);
    let mut packed_b = Buffer::scratch(depth * columns.min(p.columns.next_multiple_of(LANES)));
    let mut packed_a = Buffer::scratch(if IN_PLACE { 0 } else { depth * rows });
    for column in (0..p.columns).step_by(columns) {
        let width = columns.min(p.columns - column);
        for k in (0..p.depth).step_by(depth) {
            let steps = depth.min(p.depth - k);
            let last = k + steps == p.depth;
            let vectors = steps.div_ceil(2) * F::VECTORS;
            // SAFETY: the block lies in `b`, and the buffer holds its columns, rounded up to whole vectors.
            unsafe { pack::<F, false>(p.b.at(k, column), steps, width, packed_b.as_mut_ptr()) };
            for row in (0..p.rows).step_by(rows) {
                let height = rows.min(p.rows - row);
                if !IN_PLACE {
                    // SAFETY: as above, with rows of `a` for columns.
                    unsafe { pack::<F, true>(p.a.at(row, k).transposed(), steps, height, packed_a.as_mut_ptr()) };
                }
                for i in (0..height).step_by(TILE_ROWS) {
                    let high = TILE_ROWS.min(height - i);
                    for j in (0..width).step_by(TILE_COLUMNS) {
                        let wide = TILE_COLUMNS.min(width - j);
                        // SAFETY: the tile lies in `c`, its panels in their buffers (or in `a`).
                        unsafe {
                            let c = p.c.add((row + i) * p.stride + column + j);
                            let b = packed_b.as_ptr().add(j * vectors);
                            let b_step = wide.next_multiple_of(LANES);
                            let to = Tile { c, stride: p.stride, wide, alpha: p.alpha, add: p.add || k > 0 };
                            if IN_PLACE {
                                let a = p.a.at(row + i, k);
                                if row + i + 2 * TILE_ROWS <= p.rows {
                                    fetch_share(
                                        a.at(TILE_ROWS, 0),
                                        steps,
                                        j / TILE_COLUMNS,
                                        width.div_ceil(TILE_COLUMNS),
                                    );
                                }
                                tile::<F, true>(high, steps, a, b, b_step, &to);
                            } else {
                                let data = packed_a.as_ptr().add(i * vectors);
                                let a = Operand { data, row: 1, column: high };
                                tile::<F, false>(high, vectors, a, b, b_step, &to);
                            }
                        }
                    }
                }
                if last {
                    (p.done)(row..row + height, column..column + width);
                }
            }
        }
    }
}

/// Fetches the `share`-th of `shares` parts of the next panel's rows.
#[inline(always)]
unsafe fn fetch_share(a: Operand, steps: usize, share: usize, shares: usize) {
    let lines = steps.div_ceil(LANES);
    let each = lines.div_ceil(shares);
    for line in (share * each..lines).take(each) {
        for row in 0..TILE_ROWS {
            // SAFETY: a hint, which may point anywhere.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(a.data.wrapping_add(row * a.row + line * LANES).cast()) };
        }
    }
}

/// The first `n` of sixteen lanes.
#[inline(always)]
pub(super) fn first(n: usize) -> __mmask16 {
    ((1u32 << n.min(LANES)) - 1) as __mmask16
}

/// Where a tile's sums go.
struct Tile {
    c: *mut f32,
    stride: usize,
    wide: usize,
    alpha: f32,
    add: bool,
}

#[inline(always)]
unsafe fn tile<F: Format, const ROWS_APART: bool>(
    high: usize,
    steps: usize,
    a: Operand,
    b: *const f32,
    b_step: usize,
    to: &Tile,
) {
    macro_rules! by_height {
        ($vectors:literal: $($rows:literal)*) => {
            match high {
                // SAFETY: the caller's.
                $($rows => unsafe { sums::<F, ROWS_APART, $rows, $vectors>(steps, a, b, b_step, to) },)*
                // SAFETY: the caller's.
                _ => unsafe { sums::<F, ROWS_APART, TILE_ROWS, $vectors>(steps, a, b, b_step, to) },
            }
        };
    }
    match to.wide.div_ceil(LANES) {
        1 => by_height!(1: 1 2 3 4 5 6 7),
        2 => by_height!(2: 1 2 3 4 5 6 7),
        _ => by_height!(3: 1 2 3 4 5 6 7),
    }
}

/// `steps` of `k`. Of `a`, either steps or rows are neighbours; which, is `ROWS_APART`.
#[inline(always)]
unsafe fn sums<F: Format, const ROWS_APART: bool, const ROWS: usize, const VECTORS: usize>(
    steps: usize,
    mut a: Operand,
    mut b: *const f32,
    b_step: usize,
    to: &Tile,
) {
    // SAFETY: the caller's: `steps` vectors in each panel, and a tile inside `c`, whose last vector is masked.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); VECTORS]; ROWS];
        for row in 0..ROWS {
            for vector in 0..VECTORS {
                _mm_prefetch::<_MM_HINT_T0>(to.c.wrapping_add(row * to.stride + vector * LANES).cast());
            }
        }
        for _ in 0..steps {
            let mut columns = [_mm512_setzero_ps(); VECTORS];
            for (vector, column) in columns.iter_mut().enumerate() {
                *column = _mm512_loadu_ps(b.add(vector * LANES));
            }
            for (row, sums) in sums.iter_mut().enumerate() {
                let a = _mm512_set1_ps(*a.data.add(if ROWS_APART { row * a.row } else { row }));
                for (sum, column) in sums.iter_mut().zip(columns) {
                    *sum = F::add(*sum, a, column);
                }
            }
            a.data = a.data.add(if ROWS_APART { 1 } else { a.column });
            b = b.add(b_step);
        }
        let alpha = _mm512_set1_ps(to.alpha);
        for (row, sums) in sums.into_iter().enumerate() {
            for (vector, sum) in sums.into_iter().enumerate() {
                let at = to.c.add(row * to.stride + vector * LANES);
                let mask = first(to.wide - vector * LANES);
                let scaled = if to.add {
                    _mm512_fmadd_ps(sum, alpha, _mm512_maskz_loadu_ps(mask, at))
                } else {
                    _mm512_mul_ps(sum, alpha)
                };
                _mm512_mask_storeu_ps(at, mask, scaled);
            }
        }
    }
}

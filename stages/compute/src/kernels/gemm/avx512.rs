//! The product for CPUs with AVX-512: tiles of 8 × 48 sums in 24 of the 32 registers.
//!
//! Each turn of `k` takes three loads and eight broadcasts. A panel of `a` stays in the first cache, a block of `b` in the
//! second; see [`super::packed`].
mod format;
mod pack;

use super::element::{Element, first};
use super::factor::{AnyOperand, Half, Operand};
use super::packed::{self, Ahead, Kernel, Product, Tile, run};
use super::panels::{LANES, Multiply, TILE_COLUMNS, TILE_ROWS};
use format::{Format, Pairs, Rounded, Single};
use pack::pack;
pub(super) use pack::transpose;
use std::arch::x86_64::*;
use std::marker::PhantomData;

/// Turns of `k` after which some lines of `c` and of what is packed next are fetched: all of them at once would hold up
/// what the next turns load.
const FETCHING_TURNS: usize = 32;

/// In a [`Format`].
struct Packed<F>(PhantomData<F>);

impl<F: Format> Kernel for Packed<F> {
    const ROWS: usize = TILE_ROWS;
    const COLUMNS: usize = TILE_COLUMNS;
    const IN_PLACE: bool = true;
    const AS_THEY_ARE: bool = F::AS_THEY_ARE;
    const B_STAYS: bool = false;
    const DEPTH: usize = 384;
    const BLOCK_ROWS: usize = 128;
    const BLOCK_CACHES: usize = 1;
    const FETCHES_B: Option<usize> = Some(FETCHING_TURNS);
    const VECTORS: usize = F::VECTORS;

    #[inline(always)]
    unsafe fn pack_a(a: AnyOperand, rows: usize, steps: usize, out: *mut f32) {
        // SAFETY: the caller's.
        unsafe {
            match a {
                AnyOperand::Single(a) => pack::<F, f32, true>(a.transposed(), steps, rows, out),
                AnyOperand::Half(a) => pack::<F, Half, true>(a.transposed(), steps, rows, out),
            }
        }
    }

    #[inline(always)]
    unsafe fn round_rows(a: AnyOperand, rows: usize, steps: usize, out: *mut f32, apart: usize) {
        // SAFETY: the caller's.
        unsafe {
            match a {
                AnyOperand::Single(a) => round_rows::<F, f32>(a, rows, steps, out, apart),
                AnyOperand::Half(a) => round_rows::<F, Half>(a, rows, steps, out, apart),
            }
        }
    }

    #[inline(always)]
    unsafe fn panel(packed: *const f32, row: usize, high: usize, vectors: usize) -> Operand {
        Operand { data: packed.wrapping_add(row * vectors), row: 1, column: high }
    }

    #[inline(always)]
    unsafe fn pack_b(b: AnyOperand, steps: usize, columns: usize, out: *mut f32) {
        // SAFETY: the caller's.
        unsafe { pack_b::<F>(b, steps, columns, out) }
    }

    #[inline(always)]
    unsafe fn tile<const ROWS_APART: bool>(
        high: usize,
        vectors: usize,
        a: Operand,
        b: *const f32,
        b_step: usize,
        to: &Tile,
        ahead: &mut Ahead,
    ) {
        // SAFETY: the caller's.
        unsafe { tile::<F, ROWS_APART>(high, vectors, a, b, b_step, to, ahead) }
    }
}

/// As [`Kernel::round_rows`].
#[inline(always)]
unsafe fn round_rows<F: Format, E: Element>(a: Operand<E>, rows: usize, steps: usize, out: *mut f32, apart: usize) {
    let together = 2 * LANES / F::VECTORS;
    for row in 0..rows {
        for step in (0..steps).step_by(together) {
            // SAFETY: the caller's.
            unsafe {
                let line = F::line::<E>(a.at(row, step).data, steps - step);
                _mm512_storeu_ps(out.add(row * apart + step / 2 * F::VECTORS), line);
            }
        }
    }
}

/// As [`Kernel::pack_b`].
#[inline(always)]
unsafe fn pack_b<F: Format>(b: AnyOperand, steps: usize, columns: usize, out: *mut f32) {
    // SAFETY: the caller's.
    unsafe {
        match b {
            AnyOperand::Single(b) => pack::<F, f32, false>(b, steps, columns, out),
            AnyOperand::Half(b) => pack::<F, Half, false>(b, steps, columns, out),
        }
    }
}

/// Has this CPU what [`single`] and [`rounded`] need?
pub fn available() -> bool {
    is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw")
}

/// Has this CPU what [`pairs`] needs?
pub fn multiplies_bf16() -> bool {
    available() && is_x86_feature_detected!("avx512bf16")
}

/// # Safety
/// [`available`], and the operands and `c` must cover what the sizes say.
#[target_feature(enable = "avx512f,avx512bw")]
pub unsafe fn single(product: &mut Product<'_>) {
    // SAFETY: as promised.
    unsafe { run::<Packed<Single>>(product) }
}

/// # Safety
/// As [`single`].
#[target_feature(enable = "avx512f,avx512bw")]
pub unsafe fn rounded(product: &mut Product<'_>) {
    // SAFETY: as promised.
    unsafe { run::<Packed<Rounded>>(product) }
}

/// # Safety
/// As [`single`], and [`multiplies_bf16`].
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub unsafe fn pairs(product: &mut Product<'_>) {
    // SAFETY: as promised.
    unsafe { run::<Packed<Pairs>>(product) }
}

/// # Safety
/// As [`single`].
#[cfg(test)]
#[target_feature(enable = "avx512f,avx512bw")]
pub unsafe fn pairs_in_steps(product: &mut Product<'_>) {
    // SAFETY: as promised.
    unsafe { run::<Packed<format::PairsInSteps>>(product) }
}

/// As [`super::panels::Panels::pack`].
///
/// # Safety
/// As [`single`], and `out` must hold the panels.
#[target_feature(enable = "avx512f,avx512bw")]
pub unsafe fn pack_panels<const ROUNDED: bool>(b: AnyOperand, steps: usize, columns: usize, out: *mut f32) {
    // SAFETY: as promised.
    unsafe {
        if ROUNDED {
            pack_b::<Rounded>(b, steps, columns, out);
        } else {
            pack_b::<Single>(b, steps, columns, out);
        }
    }
}

/// As [`super::panels::Panels::multiply`].
///
/// # Safety
/// As [`single`].
#[target_feature(enable = "avx512f,avx512bw")]
pub unsafe fn multiply_panels<const ROUNDED: bool>(m: &mut Multiply<'_>) {
    // SAFETY: as promised.
    unsafe {
        if ROUNDED {
            packed::multiply_panels::<Packed<Rounded>>(m);
        } else {
            packed::multiply_panels::<Packed<Single>>(m);
        }
    }
}

/// As [`pack_panels`], in pairs.
///
/// # Safety
/// As [`pairs`], and `out` must hold the panels.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub unsafe fn pack_pairs(b: AnyOperand, steps: usize, columns: usize, out: *mut f32) {
    // SAFETY: as promised.
    unsafe { pack_b::<Pairs>(b, steps, columns, out) }
}

/// As [`multiply_panels`], by what [`pack_pairs`] packed.
///
/// # Safety
/// As [`pairs`].
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub unsafe fn multiply_pairs(m: &mut Multiply<'_>) {
    // SAFETY: as promised.
    unsafe { packed::multiply_panels::<Packed<Pairs>>(m) }
}

#[inline(always)]
unsafe fn tile<F: Format, const ROWS_APART: bool>(
    high: usize,
    steps: usize,
    a: Operand,
    b: *const f32,
    b_step: usize,
    to: &Tile,
    ahead: &mut Ahead,
) {
    macro_rules! by_height {
        ($vectors:literal: $($rows:literal)*) => {
            match high {
                // SAFETY: the caller's.
                $($rows => unsafe { sums::<F, ROWS_APART, $rows, $vectors>(steps, a, b, b_step, to, ahead) },)*
                // SAFETY: the caller's.
                _ => unsafe { sums::<F, ROWS_APART, TILE_ROWS, $vectors>(steps, a, b, b_step, to, ahead) },
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
    ahead: &mut Ahead,
) {
    // SAFETY: the caller's: `steps` vectors in each panel, and a tile inside `c`, whose last vector is masked.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); VECTORS]; ROWS];
        let rows_at_once = ROWS.div_ceil(steps.div_ceil(FETCHING_TURNS).max(1));
        for first in (0..steps).step_by(FETCHING_TURNS) {
            ahead.fetch();
            for row in (first / FETCHING_TURNS * rows_at_once..ROWS).take(rows_at_once) {
                for vector in 0..VECTORS {
                    _mm_prefetch::<_MM_HINT_T0>(to.c.wrapping_add(row * to.stride + vector * LANES).cast());
                }
            }
            for _ in first..steps.min(first + FETCHING_TURNS) {
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

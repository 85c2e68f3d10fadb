//! The product for CPUs with AVX2 and FMA: tiles of 6 × 16 sums in twelve of the sixteen registers.
//!
//! Each turn of `k` takes two loads and six broadcasts for twelve multiply-adds (Van Zee and van de Geijn 2015, *BLIS*, has
//! the same tile). A panel of `b`, 16 KB, stays in the first cache, and those of a block of `a`, packed whatever way they
//! lay, pass by it from the second; the block of `b` comes from the third.
mod pack;

use super::element::Element;
use super::factor::{AnyOperand, Half, Operand};
use super::packed::{self, Ahead, Kernel, Product, Tile, run};
use super::panels::{LANES, Multiply, TILE_COLUMNS};
use pack::{load, pack};
use std::arch::x86_64::*;

/// Rows of a tile.
const ROWS: usize = 6;
/// Floats in a register.
const WIDTH: usize = 8;

/// Packed as it is, or rounded to bfloat16.
struct Packed<const ROUNDED: bool>;

impl<const ROUNDED: bool> Kernel for Packed<ROUNDED> {
    const ROWS: usize = ROWS;
    const COLUMNS: usize = LANES;
    const IN_PLACE: bool = false;
    const AS_THEY_ARE: bool = !ROUNDED;
    const B_STAYS: bool = true;
    const DEPTH: usize = 256;
    const BLOCK_ROWS: usize = 144;
    const BLOCK_CACHES: usize = 8;
    const FETCHES_B: Option<usize> = None;

    #[inline(always)]
    unsafe fn pack_a(a: AnyOperand, rows: usize, steps: usize, out: *mut f32) {
        // SAFETY: the caller's.
        unsafe {
            match a {
                AnyOperand::Single(a) => pack::<ROUNDED, f32, ROWS, ROWS>(a.transposed(), steps, rows, out),
                AnyOperand::Half(a) => pack::<ROUNDED, Half, ROWS, ROWS>(a.transposed(), steps, rows, out),
            }
        }
    }

    #[inline(always)]
    unsafe fn round_rows(a: AnyOperand, rows: usize, steps: usize, out: *mut f32, apart: usize) {
        // SAFETY: the caller's.
        unsafe {
            match a {
                AnyOperand::Single(a) => round_rows::<ROUNDED, f32>(a, rows, steps, out, apart),
                AnyOperand::Half(a) => round_rows::<ROUNDED, Half>(a, rows, steps, out, apart),
            }
        }
    }

    #[inline(always)]
    unsafe fn panel(packed: *const f32, row: usize, _high: usize, vectors: usize) -> Operand {
        Operand { data: packed.wrapping_add(row * vectors), row: 1, column: ROWS }
    }

    #[inline(always)]
    unsafe fn pack_b(b: AnyOperand, steps: usize, columns: usize, out: *mut f32) {
        // SAFETY: the caller's.
        unsafe { pack_b::<ROUNDED, LANES>(b, steps, columns, out) }
    }

    #[inline(always)]
    unsafe fn tile<const ROWS_APART: bool>(
        high: usize,
        vectors: usize,
        a: Operand,
        b: *const f32,
        b_step: usize,
        to: &Tile,
        _: &mut Ahead,
    ) {
        // SAFETY: the caller's.
        unsafe {
            match high {
                1 => sums::<1, ROWS_APART>(vectors, a, b, b_step, to),
                2 => sums::<2, ROWS_APART>(vectors, a, b, b_step, to),
                3 => sums::<3, ROWS_APART>(vectors, a, b, b_step, to),
                4 => sums::<4, ROWS_APART>(vectors, a, b, b_step, to),
                5 => sums::<5, ROWS_APART>(vectors, a, b, b_step, to),
                _ => sums::<ROWS, ROWS_APART>(vectors, a, b, b_step, to),
            }
        }
    }
}

/// As [`Kernel::round_rows`].
#[inline(always)]
unsafe fn round_rows<const ROUNDED: bool, E: Element>(
    a: Operand<E>,
    rows: usize,
    steps: usize,
    out: *mut f32,
    apart: usize,
) {
    for row in 0..rows {
        for step in (0..steps).step_by(WIDTH) {
            // SAFETY: the caller's.
            unsafe {
                let line = load::<ROUNDED, E>(a.at(row, step).data, steps - step);
                _mm256_storeu_ps(out.add(row * apart + step), line);
            }
        }
    }
}

/// As [`Kernel::pack_b`], into panels of `WIDE` columns.
#[inline(always)]
unsafe fn pack_b<const ROUNDED: bool, const WIDE: usize>(b: AnyOperand, steps: usize, columns: usize, out: *mut f32) {
    // SAFETY: the caller's.
    unsafe {
        match b {
            AnyOperand::Single(b) => pack::<ROUNDED, f32, WIDE, WIDTH>(b, steps, columns, out),
            AnyOperand::Half(b) => pack::<ROUNDED, Half, WIDE, WIDTH>(b, steps, columns, out),
        }
    }
}

/// Has this CPU AVX2 and FMA?
pub fn available() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}

/// # Safety
/// [`available`], and the operands and `c` must cover what the sizes say.
#[target_feature(enable = "avx2,fma")]
pub unsafe fn single(product: &mut Product<'_>) {
    // SAFETY: as promised.
    unsafe { run::<Packed<false>>(product) }
}

/// Both operands rounded to bfloat16.
///
/// # Safety
/// As [`single`].
#[target_feature(enable = "avx2,fma")]
pub unsafe fn rounded(product: &mut Product<'_>) {
    // SAFETY: as promised.
    unsafe { run::<Packed<true>>(product) }
}

/// As [`super::panels::Panels::pack`].
///
/// # Safety
/// As [`single`], and `out` must hold the panels.
#[target_feature(enable = "avx2,fma")]
pub unsafe fn pack_panels<const ROUNDED: bool>(b: AnyOperand, steps: usize, columns: usize, out: *mut f32) {
    // SAFETY: as promised.
    unsafe { pack_b::<ROUNDED, TILE_COLUMNS>(b, steps, columns, out) }
}

/// As [`super::panels::Panels::multiply`].
///
/// # Safety
/// As [`single`].
#[target_feature(enable = "avx2,fma")]
pub unsafe fn multiply_panels<const ROUNDED: bool>(m: &mut Multiply<'_>) {
    // SAFETY: as promised.
    unsafe { packed::multiply_panels::<Packed<ROUNDED>>(m) }
}

/// One turn of `k` at a time: with more, the compiler runs out of registers.
#[inline(always)]
unsafe fn sums<const HIGH: usize, const ROWS_APART: bool>(
    steps: usize,
    mut a: Operand,
    mut b: *const f32,
    b_step: usize,
    to: &Tile,
) {
    // SAFETY: the caller's: `steps` vectors in each panel, and a tile inside `c`.
    unsafe {
        for row in 0..HIGH {
            _mm_prefetch::<_MM_HINT_T0>(to.c.wrapping_add(row * to.stride).cast());
            _mm_prefetch::<_MM_HINT_T0>(to.c.wrapping_add(row * to.stride + LANES - 1).cast());
        }
        let mut sums = [[_mm256_setzero_ps(); 2]; HIGH];
        for _ in 0..steps {
            let columns = [_mm256_loadu_ps(b), _mm256_loadu_ps(b.add(WIDTH))];
            for (row, sums) in sums.iter_mut().enumerate() {
                let a = _mm256_broadcast_ss(&*a.data.add(if ROWS_APART { row * a.row } else { row }));
                sums[0] = _mm256_fmadd_ps(a, columns[0], sums[0]);
                sums[1] = _mm256_fmadd_ps(a, columns[1], sums[1]);
            }
            a.data = a.data.add(if ROWS_APART { 1 } else { a.column });
            b = b.add(b_step);
        }
        if to.wide == LANES {
            store(&sums, to, to.c, to.stride);
        } else {
            // Stores under a mask are slow, and what lies beside the tile is not ours.
            let mut whole = [[0.0f32; LANES]; HIGH];
            for (row, whole) in whole.iter_mut().enumerate() {
                to.c.add(row * to.stride).copy_to_nonoverlapping(whole.as_mut_ptr(), to.wide);
            }
            store(&sums, to, whole.as_mut_ptr().cast(), LANES);
            for (row, whole) in whole.iter().enumerate() {
                to.c.add(row * to.stride).copy_from_nonoverlapping(whole.as_ptr(), to.wide);
            }
        }
    }
}

/// `c = alpha · sums`, or `+=` if told to, whole rows.
#[inline(always)]
unsafe fn store<const HIGH: usize>(sums: &[[__m256; 2]; HIGH], to: &Tile, c: *mut f32, stride: usize) {
    // SAFETY: the caller's.
    unsafe {
        let alpha = _mm256_set1_ps(to.alpha);
        for (row, sums) in sums.iter().enumerate() {
            for (half, sum) in sums.iter().enumerate() {
                let at = c.add(row * stride + half * WIDTH);
                let scaled =
                    if to.add { _mm256_fmadd_ps(*sum, alpha, _mm256_loadu_ps(at)) } else { _mm256_mul_ps(*sum, alpha) };
                _mm256_storeu_ps(at, scaled);
            }
        }
    }
}

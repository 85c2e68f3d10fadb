//! The backend for CPUs with AVX2 and FMA: tiles of 6 × 16 sums in twelve of the sixteen registers.
//!
//! Each step of `k` takes two loads and six broadcasts for twelve multiply-adds (the tile of BLIS, Van Zee and van de
//! Geijn 2015). A panel of `b`, 16 KB, stays in the L1 cache while all panels of a block of `a`, which is always
//! packed, are read from the L2 cache; the block of `b` is in the L3 cache.
mod pack;
pub(super) mod vnni;

use super::backend::{Backend, Product};
use super::blocking::{self, run};
use super::int8;
use super::load::Load;
use super::matrix::{Operand, Strided, bf16};
use super::tile::{LANES, PanelKernel, PanelProduct, Prefetch, TILE_COLUMNS, Tile, TileKernel};
use contract::Precision;
use pack::{load, pack};
use std::arch::x86_64::*;

/// Rows of a tile.
const ROWS: usize = 6;
/// Floats in a register.
const WIDTH: usize = 8;

/// The backend.
pub(super) struct Avx2;

impl Backend for Avx2 {
    fn name(&self) -> &'static str {
        "avx2"
    }

    fn is_available(&self) -> bool {
        is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
    }

    fn description(&self, precision: Precision) -> String {
        match precision {
            Precision::F32 => "AVX2, f32".into(),
            Precision::Bf16 | Precision::Int8 => "AVX2, rounded to bfloat16".into(),
        }
    }

    fn int8(&self) -> Option<int8::Kernel> {
        vnni::kernel()
    }

    unsafe fn product(&self, precision: Precision, product: &mut Product<'_>) {
        // SAFETY: guaranteed by the caller.
        unsafe {
            match precision {
                Precision::F32 => single(product),
                Precision::Bf16 | Precision::Int8 => rounded(product),
            }
        }
    }

    fn panels(&self, precision: Precision) -> PanelKernel {
        match precision {
            Precision::F32 => PanelKernel { pack: pack_panels::<false>, multiply: multiply_panels::<false> },
            Precision::Bf16 | Precision::Int8 => {
                PanelKernel { pack: pack_panels::<true>, multiply: multiply_panels::<true> }
            }
        }
    }
}

/// The tile kernel for operands packed unchanged, or rounded to bfloat16.
struct Packed<const ROUNDED: bool>;

impl<const ROUNDED: bool> TileKernel for Packed<ROUNDED> {
    const ROWS: usize = ROWS;
    const COLUMNS: usize = LANES;
    const IN_PLACE: bool = false;
    const UNCHANGED: bool = !ROUNDED;
    const B_STAYS: bool = true;
    const DEPTH: usize = 256;
    const BLOCK_ROWS: usize = 144;
    const BLOCK_CACHES: usize = 8;
    const PREFETCH_B: Option<usize> = None;

    #[inline(always)]
    unsafe fn pack_a(a: Operand, rows: usize, steps: usize, out: *mut f32) {
        // SAFETY: guaranteed by the caller.
        unsafe {
            match a {
                Operand::F32(a) => pack::<ROUNDED, f32, ROWS, ROWS>(a.transposed(), steps, rows, out),
                Operand::Bf16(a) => pack::<ROUNDED, bf16, ROWS, ROWS>(a.transposed(), steps, rows, out),
            }
        }
    }

    #[inline(always)]
    unsafe fn round_rows(a: Operand, rows: usize, steps: usize, out: *mut f32, apart: usize) {
        // SAFETY: guaranteed by the caller.
        unsafe {
            match a {
                Operand::F32(a) => round_rows::<ROUNDED, f32>(a, rows, steps, out, apart),
                Operand::Bf16(a) => round_rows::<ROUNDED, bf16>(a, rows, steps, out, apart),
            }
        }
    }

    #[inline(always)]
    unsafe fn panel(packed: *const f32, row: usize, _high: usize, vectors: usize) -> Strided {
        Strided { data: packed.wrapping_add(row * vectors), row: 1, column: ROWS }
    }

    #[inline(always)]
    unsafe fn pack_b(b: Operand, steps: usize, columns: usize, out: *mut f32) {
        // SAFETY: guaranteed by the caller.
        unsafe { pack_b::<ROUNDED, LANES>(b, steps, columns, out) }
    }

    #[inline(always)]
    unsafe fn tile<const ROW_MAJOR: bool>(
        high: usize,
        vectors: usize,
        a: Strided,
        b: *const f32,
        b_step: usize,
        to: &Tile,
        _: &mut Prefetch,
    ) {
        // SAFETY: guaranteed by the caller.
        unsafe {
            match high {
                1 => sums::<1, ROW_MAJOR>(vectors, a, b, b_step, to),
                2 => sums::<2, ROW_MAJOR>(vectors, a, b, b_step, to),
                3 => sums::<3, ROW_MAJOR>(vectors, a, b, b_step, to),
                4 => sums::<4, ROW_MAJOR>(vectors, a, b, b_step, to),
                5 => sums::<5, ROW_MAJOR>(vectors, a, b, b_step, to),
                _ => sums::<ROWS, ROW_MAJOR>(vectors, a, b, b_step, to),
            }
        }
    }
}

/// See [`TileKernel::round_rows`].
#[inline(always)]
unsafe fn round_rows<const ROUNDED: bool, E: Load>(
    a: Strided<E>,
    rows: usize,
    steps: usize,
    out: *mut f32,
    apart: usize,
) {
    for row in 0..rows {
        for step in (0..steps).step_by(WIDTH) {
            // SAFETY: guaranteed by the caller.
            unsafe {
                let line = load::<ROUNDED, E>(a.at(row, step).data, steps - step);
                _mm256_storeu_ps(out.add(row * apart + step), line);
            }
        }
    }
}

/// See [`TileKernel::pack_b`]; panels have `WIDE` columns.
#[inline(always)]
unsafe fn pack_b<const ROUNDED: bool, const WIDE: usize>(b: Operand, steps: usize, columns: usize, out: *mut f32) {
    // SAFETY: guaranteed by the caller.
    unsafe {
        match b {
            Operand::F32(b) => pack::<ROUNDED, f32, WIDE, WIDTH>(b, steps, columns, out),
            Operand::Bf16(b) => pack::<ROUNDED, bf16, WIDE, WIDTH>(b, steps, columns, out),
        }
    }
}

/// # Safety
/// The backend must be available, and the operands and `c` must cover what the sizes say.
#[target_feature(enable = "avx2,fma")]
pub unsafe fn single(product: &mut Product<'_>) {
    // SAFETY: guaranteed by the caller.
    unsafe { run::<Packed<false>>(product) }
}

/// The product with both operands rounded to bfloat16.
///
/// # Safety
/// As [`single`].
#[target_feature(enable = "avx2,fma")]
pub unsafe fn rounded(product: &mut Product<'_>) {
    // SAFETY: guaranteed by the caller.
    unsafe { run::<Packed<true>>(product) }
}

/// See [`PanelKernel::pack`].
///
/// # Safety
/// As [`single`], and `out` must hold the panels.
#[target_feature(enable = "avx2,fma")]
pub unsafe fn pack_panels<const ROUNDED: bool>(b: Operand, steps: usize, columns: usize, out: *mut f32) {
    // SAFETY: guaranteed by the caller.
    unsafe { pack_b::<ROUNDED, TILE_COLUMNS>(b, steps, columns, out) }
}

/// See [`PanelKernel::multiply`].
///
/// # Safety
/// As [`single`].
#[target_feature(enable = "avx2,fma")]
pub unsafe fn multiply_panels<const ROUNDED: bool>(m: &mut PanelProduct<'_>) {
    // SAFETY: guaranteed by the caller.
    unsafe { blocking::multiply_panels::<Packed<ROUNDED>>(m) }
}

/// Sums over `steps` of `k`, one step per iteration: unrolled further, the compiler would run out of registers.
#[inline(always)]
unsafe fn sums<const HIGH: usize, const ROW_MAJOR: bool>(
    steps: usize,
    mut a: Strided,
    mut b: *const f32,
    b_step: usize,
    to: &Tile,
) {
    // SAFETY: the caller guarantees `steps` vectors in each panel and a tile inside `c`.
    unsafe {
        for row in 0..HIGH {
            _mm_prefetch::<_MM_HINT_T0>(to.c.wrapping_add(row * to.stride).cast());
            _mm_prefetch::<_MM_HINT_T0>(to.c.wrapping_add(row * to.stride + LANES - 1).cast());
        }
        let mut sums = [[_mm256_setzero_ps(); 2]; HIGH];
        for _ in 0..steps {
            let columns = [_mm256_loadu_ps(b), _mm256_loadu_ps(b.add(WIDTH))];
            for (row, sums) in sums.iter_mut().enumerate() {
                let a = _mm256_broadcast_ss(&*a.data.add(if ROW_MAJOR { row * a.row } else { row }));
                sums[0] = _mm256_fmadd_ps(a, columns[0], sums[0]);
                sums[1] = _mm256_fmadd_ps(a, columns[1], sums[1]);
            }
            a.data = a.data.add(if ROW_MAJOR { 1 } else { a.column });
            b = b.add(b_step);
        }
        if to.width == LANES {
            store(&sums, to, to.c, to.stride);
        } else {
            // Masked stores are slow, and memory beside the tile must not be written, so go through a copy.
            let mut whole = [[0.0f32; LANES]; HIGH];
            for (row, whole) in whole.iter_mut().enumerate() {
                to.c.add(row * to.stride).copy_to_nonoverlapping(whole.as_mut_ptr(), to.width);
            }
            store(&sums, to, whole.as_mut_ptr().cast(), LANES);
            for (row, whole) in whole.iter().enumerate() {
                to.c.add(row * to.stride).copy_from_nonoverlapping(whole.as_ptr(), to.width);
            }
        }
    }
}

/// `c = alpha · sums`, or `+=` if `to.add`, for whole rows.
#[inline(always)]
unsafe fn store<const HIGH: usize>(sums: &[[__m256; 2]; HIGH], to: &Tile, c: *mut f32, stride: usize) {
    // SAFETY: guaranteed by the caller.
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

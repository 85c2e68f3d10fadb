//! The backend for CPUs with AVX-512: tiles of 8 × 48 sums in 24 of the 32 registers.
//!
//! Each step of `k` takes three loads and eight broadcasts. A panel of `a` stays in the L1 cache, a block of `b` in the
//! L2 cache; see [`super::blocking`].
mod format;
mod pack;
pub(super) mod quantise;
pub(super) mod vnni;

use super::backend::{Backend, Product};
use super::blocking::{self, run};
use super::int8;
use super::load::{Load, first};
use super::matrix::{Operand, Strided, bf16};
use super::tile::{LANES, PanelKernel, PanelProduct, Prefetch, TILE_COLUMNS, TILE_ROWS, Tile, TileKernel};
use contract::Precision;
use format::{Format, Pairs, Rounded, Single};
use pack::pack;
pub(super) use pack::transpose;
use std::arch::x86_64::*;
use std::marker::PhantomData;
use std::sync::OnceLock;

/// Steps of `k` between prefetches of some lines of `c` and of the block that is packed next. Prefetching all of them
/// at once would delay the loads of the next steps.
const PREFETCH_INTERVAL: usize = 32;

/// The backend.
pub(super) struct Avx512;

impl Backend for Avx512 {
    fn name(&self) -> &'static str {
        "avx512"
    }

    fn is_available(&self) -> bool {
        available()
    }

    fn description(&self, precision: Precision) -> String {
        match precision {
            Precision::F32 => "AVX-512, f32".into(),
            Precision::Bf16 | Precision::Int8 if has_fast_bf16() => "AVX512-BF16".into(),
            Precision::Bf16 | Precision::Int8 => "AVX-512, rounded to bfloat16".into(),
        }
    }

    fn has_fast_bf16(&self) -> bool {
        has_fast_bf16()
    }

    fn int8(&self) -> Option<int8::Kernel> {
        vnni::kernel()
    }

    unsafe fn product(&self, precision: Precision, product: &mut Product<'_>) {
        // SAFETY: guaranteed by the caller.
        unsafe {
            match precision {
                Precision::F32 => single(product),
                Precision::Bf16 | Precision::Int8 if has_fast_bf16() => pairs(product),
                Precision::Bf16 | Precision::Int8 => rounded(product),
            }
        }
    }

    fn panels(&self, precision: Precision) -> PanelKernel {
        if precision != Precision::F32 && has_fast_bf16() { PAIRS } else { panels(precision) }
    }
}

/// Panels stored in f32, rounded to bfloat16 or not.
pub(super) fn panels(precision: Precision) -> PanelKernel {
    match precision {
        Precision::F32 => PanelKernel { pack: pack_panels::<false>, multiply: multiply_panels::<false> },
        Precision::Bf16 | Precision::Int8 => {
            PanelKernel { pack: pack_panels::<true>, multiply: multiply_panels::<true> }
        }
    }
}

/// Panels of pairs of bfloat16, multiplied by `vdpbf16ps`; requires [`has_bf16`].
pub(super) const PAIRS: PanelKernel = PanelKernel { pack: pack_pairs, multiply: multiply_pairs };

/// The tile kernel for operands packed in the [`Format`] `F`.
struct Packed<F>(PhantomData<F>);

impl<F: Format> TileKernel for Packed<F> {
    const ROWS: usize = TILE_ROWS;
    const COLUMNS: usize = TILE_COLUMNS;
    const IN_PLACE: bool = true;
    const UNCHANGED: bool = F::UNCHANGED;
    const B_STAYS: bool = false;
    const DEPTH: usize = 384;
    const BLOCK_ROWS: usize = 128;
    const BLOCK_CACHES: usize = 1;
    const PREFETCH_B: Option<usize> = Some(PREFETCH_INTERVAL);
    const VECTORS: usize = F::VECTORS;

    #[inline(always)]
    unsafe fn pack_a(a: Operand, rows: usize, steps: usize, out: *mut f32) {
        // SAFETY: guaranteed by the caller.
        unsafe {
            match a {
                Operand::F32(a) => pack::<F, f32, true>(a.transposed(), steps, rows, out),
                Operand::Bf16(a) => pack::<F, bf16, true>(a.transposed(), steps, rows, out),
            }
        }
    }

    #[inline(always)]
    unsafe fn round_rows(a: Operand, rows: usize, steps: usize, out: *mut f32, apart: usize) {
        // SAFETY: guaranteed by the caller.
        unsafe {
            match a {
                Operand::F32(a) => round_rows::<F, f32>(a, rows, steps, out, apart),
                Operand::Bf16(a) => round_rows::<F, bf16>(a, rows, steps, out, apart),
            }
        }
    }

    #[inline(always)]
    unsafe fn panel(packed: *const f32, row: usize, high: usize, vectors: usize) -> Strided {
        Strided { data: packed.wrapping_add(row * vectors), row: 1, column: high }
    }

    #[inline(always)]
    unsafe fn pack_b(b: Operand, steps: usize, columns: usize, out: *mut f32) {
        // SAFETY: guaranteed by the caller.
        unsafe { pack_b::<F>(b, steps, columns, out) }
    }

    #[inline(always)]
    unsafe fn tile<const ROW_MAJOR: bool>(
        high: usize,
        vectors: usize,
        a: Strided,
        b: *const f32,
        b_step: usize,
        to: &Tile,
        ahead: &mut Prefetch,
    ) {
        // SAFETY: guaranteed by the caller.
        unsafe { tile::<F, ROW_MAJOR>(high, vectors, a, b, b_step, to, ahead) }
    }
}

/// See [`TileKernel::round_rows`].
#[inline(always)]
unsafe fn round_rows<F: Format, E: Load>(a: Strided<E>, rows: usize, steps: usize, out: *mut f32, apart: usize) {
    let together = 2 * LANES / F::VECTORS;
    for row in 0..rows {
        for step in (0..steps).step_by(together) {
            // SAFETY: guaranteed by the caller.
            unsafe {
                let line = F::line::<E>(a.at(row, step).data, steps - step);
                _mm512_storeu_ps(out.add(row * apart + step / 2 * F::VECTORS), line);
            }
        }
    }
}

/// See [`TileKernel::pack_b`].
#[inline(always)]
unsafe fn pack_b<F: Format>(b: Operand, steps: usize, columns: usize, out: *mut f32) {
    // SAFETY: guaranteed by the caller.
    unsafe {
        match b {
            Operand::F32(b) => pack::<F, f32, false>(b, steps, columns, out),
            Operand::Bf16(b) => pack::<F, bf16, false>(b, steps, columns, out),
        }
    }
}

/// Whether this CPU has the features that [`single`] and [`rounded`] need.
pub(super) fn available() -> bool {
    is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw")
}

/// Whether this CPU has the features that [`pairs`] needs.
pub(super) fn has_bf16() -> bool {
    available() && is_x86_feature_detected!("avx512bf16")
}

/// Whether [`pairs`] is the fastest way to multiply bfloat16. Intel's cores run the instruction at half the rate of
/// f32.
fn has_fast_bf16() -> bool {
    static FAST: OnceLock<bool> = OnceLock::new();
    *FAST.get_or_init(|| has_bf16() && !crate::cpu::is_intel())
}

/// # Safety
/// [`available`], and the operands and `c` must cover what the sizes say.
#[target_feature(enable = "avx512f,avx512bw")]
pub unsafe fn single(product: &mut Product<'_>) {
    // SAFETY: guaranteed by the caller.
    unsafe { run::<Packed<Single>>(product) }
}

/// # Safety
/// As [`single`].
#[target_feature(enable = "avx512f,avx512bw")]
pub unsafe fn rounded(product: &mut Product<'_>) {
    // SAFETY: guaranteed by the caller.
    unsafe { run::<Packed<Rounded>>(product) }
}

/// # Safety
/// As [`single`], and [`has_bf16`].
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub unsafe fn pairs(product: &mut Product<'_>) {
    // SAFETY: guaranteed by the caller.
    unsafe { run::<Packed<Pairs>>(product) }
}

/// # Safety
/// As [`single`].
#[cfg(test)]
#[target_feature(enable = "avx512f,avx512bw")]
pub unsafe fn pairs_emulated(product: &mut Product<'_>) {
    // SAFETY: guaranteed by the caller.
    unsafe { run::<Packed<format::PairsEmulated>>(product) }
}

/// See [`PanelKernel::pack`].
///
/// # Safety
/// As [`single`], and `out` must hold the panels.
#[target_feature(enable = "avx512f,avx512bw")]
pub unsafe fn pack_panels<const ROUNDED: bool>(b: Operand, steps: usize, columns: usize, out: *mut f32) {
    // SAFETY: guaranteed by the caller.
    unsafe {
        if ROUNDED {
            pack_b::<Rounded>(b, steps, columns, out);
        } else {
            pack_b::<Single>(b, steps, columns, out);
        }
    }
}

/// See [`PanelKernel::multiply`].
///
/// # Safety
/// As [`single`].
#[target_feature(enable = "avx512f,avx512bw")]
pub unsafe fn multiply_panels<const ROUNDED: bool>(m: &mut PanelProduct<'_>) {
    // SAFETY: guaranteed by the caller.
    unsafe {
        if ROUNDED {
            blocking::multiply_panels::<Packed<Rounded>>(m);
        } else {
            blocking::multiply_panels::<Packed<Single>>(m);
        }
    }
}

/// As [`pack_panels`], in pairs.
///
/// # Safety
/// As [`pairs`], and `out` must hold the panels.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub unsafe fn pack_pairs(b: Operand, steps: usize, columns: usize, out: *mut f32) {
    // SAFETY: guaranteed by the caller.
    unsafe { pack_b::<Pairs>(b, steps, columns, out) }
}

/// As [`multiply_panels`], for panels from [`pack_pairs`].
///
/// # Safety
/// As [`pairs`].
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub unsafe fn multiply_pairs(m: &mut PanelProduct<'_>) {
    // SAFETY: guaranteed by the caller.
    unsafe { blocking::multiply_panels::<Packed<Pairs>>(m) }
}

#[inline(always)]
unsafe fn tile<F: Format, const ROW_MAJOR: bool>(
    high: usize,
    steps: usize,
    a: Strided,
    b: *const f32,
    b_step: usize,
    to: &Tile,
    ahead: &mut Prefetch,
) {
    macro_rules! by_height {
        ($vectors:literal: $($rows:literal)*) => {
            match high {
                // SAFETY: guaranteed by the caller.
                $($rows => unsafe { sums::<F, ROW_MAJOR, $rows, $vectors>(steps, a, b, b_step, to, ahead) },)*
                // SAFETY: guaranteed by the caller.
                _ => unsafe { sums::<F, ROW_MAJOR, TILE_ROWS, $vectors>(steps, a, b, b_step, to, ahead) },
            }
        };
    }
    match to.width.div_ceil(LANES) {
        1 => by_height!(1: 1 2 3 4 5 6 7),
        2 => by_height!(2: 1 2 3 4 5 6 7),
        _ => by_height!(3: 1 2 3 4 5 6 7),
    }
}

/// Sums over `steps` of `k`. In `a`, steps are contiguous if `ROW_MAJOR`, otherwise rows are.
#[inline(always)]
unsafe fn sums<F: Format, const ROW_MAJOR: bool, const ROWS: usize, const VECTORS: usize>(
    steps: usize,
    mut a: Strided,
    mut b: *const f32,
    b_step: usize,
    to: &Tile,
    ahead: &mut Prefetch,
) {
    // SAFETY: the caller guarantees `steps` vectors in each panel and a tile inside `c`; the last vector is masked.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); VECTORS]; ROWS];
        let rows_at_once = ROWS.div_ceil(steps.div_ceil(PREFETCH_INTERVAL).max(1));
        for first in (0..steps).step_by(PREFETCH_INTERVAL) {
            ahead.fetch();
            for row in (first / PREFETCH_INTERVAL * rows_at_once..ROWS).take(rows_at_once) {
                for vector in 0..VECTORS {
                    _mm_prefetch::<_MM_HINT_T0>(to.c.wrapping_add(row * to.stride + vector * LANES).cast());
                }
            }
            for _ in first..steps.min(first + PREFETCH_INTERVAL) {
                let mut columns = [_mm512_setzero_ps(); VECTORS];
                for (vector, column) in columns.iter_mut().enumerate() {
                    *column = _mm512_loadu_ps(b.add(vector * LANES));
                }
                for (row, sums) in sums.iter_mut().enumerate() {
                    let a = _mm512_set1_ps(*a.data.add(if ROW_MAJOR { row * a.row } else { row }));
                    for (sum, column) in sums.iter_mut().zip(columns) {
                        *sum = F::add(*sum, a, column);
                    }
                }
                a.data = a.data.add(if ROW_MAJOR { 1 } else { a.column });
                b = b.add(b_step);
            }
        }
        let alpha = _mm512_set1_ps(to.alpha);
        for (row, sums) in sums.into_iter().enumerate() {
            for (vector, sum) in sums.into_iter().enumerate() {
                let at = to.c.add(row * to.stride + vector * LANES);
                let mask = first(to.width - vector * LANES);
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

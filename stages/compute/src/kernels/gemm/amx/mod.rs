//! The backend for CPUs with AMX: operands are packed as bfloat16 in tiles of 1 KB, and 32 × 32 sums of `c` stay in
//! tile registers. Products in eight bits are in `int8`.
//!
//! `tdpbf16ps` multiplies sixteen rows by sixteen columns over 32 steps of `k` in sixteen cycles, sixteen times the
//! rate of AVX-512's two units in f32. Four tiles of sums, two of `a` and two of `b` fill the eight registers (Intel,
//! *Optimization Reference Manual*, chapter 20). As in [`blocking`](super::blocking), an element is summed along `k` in
//! blocks whose length depends on `k` alone.
//!
//! **Single precision** represents each number exactly as three bfloat16 parts, x = x₀ + x₁ + x₂ (eight bits each; see
//! `pack`), and computes six of the nine products: x₀y₂ + x₁y₁ + x₂y₀, x₀y₁ + x₁y₀, x₀y₀. The omitted terms, x₁y₂ +
//! x₂y₁ and x₂y₂, sum to at most 2⁻²⁴ of |x y|, the rounding error of one product in f32 (Henry, Tang and Heinecke
//! 2019, *Leveraging the bfloat16 Artificial Intelligence Datatype For Higher-Precision Computations*). The error of a
//! sum is about half of that with f32 multiply-adds, and about equal where one product dominates the sum; the test
//! `three_parts_are_as_exact_as_f32` checks this. Two things differ from f32: an operand that is infinite or above
//! 3.39e38 gives NaN, and numbers below 2⁻¹²⁶ (also as parts of larger numbers) count as zero.

pub(super) mod int8;
mod pack;

use super::avx512;
use super::backend::{Backend, Product};
use super::blocking::even;
use super::int8::Kernel;
use super::load::first;
use super::matrix::{Operand, OutputBlock, bf16};
use super::tile::{LANES, PanelKernel};
use contract::{Buffer, Precision};
use pack::pack;
use std::arch::asm;
use std::arch::x86_64::*;
use std::ops::Range;

/// Rows and columns of a tile's sums, and pairs of steps in a tile.
const TILE: usize = 16;
/// Rows of a panel of `a`, and columns of a panel of `b`: two tiles.
const PANEL: usize = 2 * TILE;
/// Steps of `k` in a tile.
const STEPS: usize = 32;
/// Bytes of a tile, and of a row of a tile.
const BYTES: usize = 1024;
const LINE: usize = 64;
/// Columns of `b` that are packed at a time while panels of `a` stay in cache.
const PASSING: usize = 256;
/// Largest number of steps of `k` between two accesses to `c`, times the number of parts.
const DEPTH: usize = 1152;

/// The backend. Its panels are those of AVX-512 without `vdpbf16ps`: tiles are too large for them, and the instruction
/// is slow on CPUs with AMX.
pub(super) struct Amx;

impl Backend for Amx {
    fn name(&self) -> &'static str {
        "amx"
    }

    fn is_available(&self) -> bool {
        crate::cpu::has_amx_bf16()
    }

    fn description(&self, precision: Precision) -> String {
        match precision {
            Precision::F32 => "AMX, f32 in three bfloat16 parts".into(),
            Precision::Bf16 | Precision::Int8 => "AMX, bfloat16".into(),
        }
    }

    fn has_fast_bf16(&self) -> bool {
        true
    }

    fn int8(&self) -> Option<Kernel> {
        int8::kernel().or_else(avx512::vnni::kernel)
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
        avx512::panels(precision)
    }
}

/// The product with both operands rounded to bfloat16.
///
/// # Safety
/// The backend must be available, and the operands and `c` must cover what the sizes say.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub unsafe fn rounded(product: &mut Product<'_>) {
    configure();
    // SAFETY: guaranteed by the caller.
    unsafe { run::<1>(product, tiles_of_one) };
    release();
}

/// The product in single precision.
///
/// # Safety
/// As [`rounded`].
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub unsafe fn single(product: &mut Product<'_>) {
    configure();
    // SAFETY: guaranteed by the caller.
    unsafe { run::<3>(product, tiles_of_three) };
    release();
}

/// As [`rounded`] and [`single`] with the AMX instructions emulated, to test packing and loops on CPUs without AMX.
///
/// # Safety
/// The CPU must have AVX512-BF16, and the operands and `c` must cover what the sizes say.
#[cfg(test)]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub unsafe fn emulated<const PARTS: usize>(product: &mut Product<'_>) {
    // SAFETY: guaranteed by the caller.
    unsafe { run::<PARTS>(product, tiles_emulated::<PARTS>) }
}

/// Multiplies a panel of `a` by a panel of `b`: `(blocks of steps, a, b, c, bytes between rows of c)`.
type Tiles = unsafe fn(usize, *const u8, *const u8, *mut f32, usize);

/// Keeps as many packed panels of one operand as fit in the L2 cache and multiplies them by all panels of the other. Of
/// the two choices it takes the one with less packing.
#[inline(always)]
unsafe fn run<const PARTS: usize>(p: &mut Product<'_>, tiles: Tiles) {
    let depth = even(p.depth, DEPTH / PARTS, STEPS);
    let line_bytes = depth * size_of::<u16>() * PARTS;
    let most = (size_of::<f32>() * p.cached / line_bytes).max(PANEL);
    let times = |lines: usize| lines.div_ceil(most);
    let a_stays = p.rows + p.columns * times(p.rows) < p.columns + p.rows * times(p.columns);
    // Rows of `a` and columns of `b` that are packed at a time.
    let (high, wide) = if a_stays {
        (even(p.rows, most, PANEL), PASSING.min(p.columns))
    } else {
        (PANEL, even(p.columns, most, PANEL))
    };
    let room = |lines: usize| Buffer::scratch(line_bytes * lines.next_multiple_of(PANEL) / size_of::<f32>());
    let (mut packed_a, mut packed_b) = (room(high.min(p.rows)), room(wide.min(p.columns)));
    let mut sums = Buffer::scratch(PANEL * PANEL);
    let mut part = Buffer::scratch(if p.c.is_none() { p.rows * p.columns } else { 0 });
    let (c, stride) = p.c.unwrap_or((part.as_mut_ptr(), p.columns));
    let (outer, inner) =
        if a_stays { ((p.rows, high), (p.columns, wide)) } else { ((p.columns, wide), (p.rows, high)) };
    for outer in pieces(outer) {
        for k in (0..p.depth).step_by(depth) {
            let steps = depth.min(p.depth - k);
            let add = p.add || k > 0;
            for (number, inner) in pieces(inner).enumerate() {
                let (rows, columns) = if a_stays { (outer.clone(), inner) } else { (inner, outer.clone()) };
                if !a_stays || number == 0 {
                    let (a, out) = (p.a.at(rows.start, k), packed_a.as_mut_ptr().cast());
                    // SAFETY: the block is inside `a`, and the buffer has room for its rows, rounded up to whole
                    // panels.
                    unsafe { pack_from::<PARTS, false>(a, rows.len(), steps, out) };
                }
                if a_stays || number == 0 {
                    let (b, out) = (p.b.at(k, columns.start).transposed(), packed_b.as_mut_ptr().cast());
                    // SAFETY: as above, with columns of `b` for rows.
                    unsafe { pack_from::<PARTS, true>(b, columns.len(), steps, out) };
                }
                let panel_bytes = PANEL * steps.next_multiple_of(STEPS) * size_of::<u16>() * PARTS;
                for (i, row) in rows.clone().step_by(PANEL).enumerate() {
                    for (j, column) in columns.clone().step_by(PANEL).enumerate() {
                        let (high, wide) = (PANEL.min(rows.end - row), PANEL.min(columns.end - column));
                        if p.upper && column + wide <= row {
                            continue;
                        }
                        // SAFETY: the panels are inside their buffers; only existing elements of `c` are written.
                        unsafe {
                            let a = packed_a.as_ptr().cast::<u8>().add(i * panel_bytes);
                            let b = packed_b.as_ptr().cast::<u8>().add(j * panel_bytes);
                            let (blocks, c) = (steps.div_ceil(STEPS), c.add(row * stride + column));
                            if high == PANEL && wide == PANEL && !add && p.alpha == 1.0 {
                                tiles(blocks, a, b, c, size_of::<f32>() * stride);
                            } else {
                                tiles(blocks, a, b, sums.as_mut_ptr(), size_of::<f32>() * PANEL);
                                store(sums.as_ptr(), high, wide, p.alpha, add, c, stride);
                            }
                        }
                    }
                    if k + steps == p.depth {
                        let (rows, columns) = (row..rows.end.min(row + PANEL), columns.clone());
                        (p.then)(&mut OutputBlock { rows, columns, c, stride });
                    }
                }
            }
        }
    }
}

/// As [`pack()`].
#[inline(always)]
unsafe fn pack_from<const PARTS: usize, const PAIRS: bool>(x: Operand, lines: usize, steps: usize, out: *mut u8) {
    // SAFETY: guaranteed by the caller.
    unsafe {
        match x {
            Operand::F32(x) => pack::<PARTS, f32, PAIRS>(x, lines, steps, out),
            Operand::Bf16(x) => pack::<PARTS, bf16, PAIRS>(x, lines, steps, out),
        }
    }
}

/// Splits `0..total` into pieces of `size`.
fn pieces((total, size): (usize, usize)) -> impl Iterator<Item = Range<usize>> {
    (0..total).step_by(size).map(move |from| from..total.min(from + size))
}

/// Configures all eight tiles as sixteen rows of 64 bytes.
fn configure() {
    #[repr(C, align(64))]
    struct Configuration {
        palette: u8,
        zeros: [u8; 15],
        row_bytes: [u16; 16],
        rows: [u8; 16],
    }
    let of = |tile: usize, value: u8| if tile < 8 { value } else { 0 };
    let configuration = Configuration {
        palette: 1,
        zeros: [0; 15],
        row_bytes: std::array::from_fn(|tile| u16::from(of(tile, 64))),
        rows: std::array::from_fn(|tile| of(tile, TILE as u8)),
    };
    // SAFETY: the CPU has AMX, and the configuration is valid.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &configuration, options(nostack, readonly)) }
}

fn release() {
    // SAFETY: the CPU has AMX, and no other code uses the tiles.
    unsafe { asm!("tilerelease", options(nostack, nomem)) }
}

/// Loads both tiles of a part of `a`; `load_b` does so for `b`.
macro_rules! load_a {
    ($part:literal) => {
        concat!(
            "tileloadd tmm4, [{a} + {line} + 2048 * ",
            $part,
            "]\n",
            "tileloadd tmm5, [{a} + {line} + 2048 * ",
            $part,
            " + 1024]"
        )
    };
}
macro_rules! load_b {
    ($part:literal) => {
        concat!(
            "tileloadd tmm6, [{b} + {line} + 2048 * ",
            $part,
            "]\n",
            "tileloadd tmm7, [{b} + {line} + 2048 * ",
            $part,
            " + 1024]"
        )
    };
}

/// Adds the products of the loaded tiles to the four tiles of sums.
macro_rules! multiply {
    () => {
        "tdpbf16ps tmm0, tmm4, tmm6
         tdpbf16ps tmm1, tmm4, tmm7
         tdpbf16ps tmm2, tmm5, tmm6
         tdpbf16ps tmm3, tmm5, tmm7"
    };
}

/// Defines a function of type [`Tiles`] that runs `$block` for each block of steps.
macro_rules! tiles {
    ($name:ident, $parts:literal: $($block:expr),*) => {
        unsafe fn $name(blocks: usize, a: *const u8, b: *const u8, c: *mut f32, stride: usize) {
            // SAFETY: the caller guarantees `blocks` blocks of steps in each panel, and room in `c`.
            unsafe {
                asm!(
                    "tilezero tmm0",
                    "tilezero tmm1",
                    "tilezero tmm2",
                    "tilezero tmm3",
                    "2:",
                    $($block,)*
                    "add {a}, {block}",
                    "add {b}, {block}",
                    "dec {blocks}",
                    "jnz 2b",
                    "tilestored [{c} + {stride}], tmm0",
                    "tilestored [{c} + {stride} + 64], tmm1",
                    "tilestored [{lower} + {stride}], tmm2",
                    "tilestored [{lower} + {stride} + 64], tmm3",
                    a = inout(reg) a => _,
                    b = inout(reg) b => _,
                    blocks = inout(reg) blocks => _,
                    block = const 2 * BYTES * $parts,
                    line = in(reg) LINE,
                    c = in(reg) c,
                    lower = in(reg) c.byte_add(TILE * stride),
                    stride = in(reg) stride,
                    options(nostack),
                );
            }
        }
    };
}

tiles!(tiles_of_one, 1: load_a!(0), load_b!(0), multiply!());
// The smallest terms are added first.
tiles!(tiles_of_three, 3:
    load_a!(0), load_b!(2), multiply!(),
    load_b!(1), multiply!(),
    load_a!(1), multiply!(),
    load_b!(0), multiply!(),
    load_a!(2), multiply!(),
    load_a!(0), multiply!());

/// Computes what [`tiles_of_one`] and [`tiles_of_three`] compute, without AMX.
#[cfg(test)]
unsafe fn tiles_emulated<const PARTS: usize>(blocks: usize, a: *const u8, b: *const u8, c: *mut f32, stride: usize) {
    let pairs: &[(usize, usize)] =
        if PARTS == 1 { &[(0, 0)] } else { &[(0, 2), (0, 1), (1, 1), (1, 0), (2, 0), (0, 0)] };
    for row in 0..PANEL {
        for column in 0..PANEL {
            let mut sum = 0.0f32;
            for block in 0..blocks {
                for (of_a, of_b) in pairs {
                    let tile = |part: usize, line: usize| (block * PARTS + part) * 2 * BYTES + line / TILE * BYTES;
                    // The instruction sums the first and the second steps of the pairs separately before it adds both
                    // to `c`.
                    let mut sums = [0.0f32; 2];
                    for step in 0..STEPS {
                        let in_a = row % TILE * LINE + 2 * step;
                        let in_b = step / 2 * LINE + column % TILE * 4 + step % 2 * 2;
                        // SAFETY: the caller guarantees that the tiles are inside their panels.
                        let (x, y) = unsafe {
                            let (x, y) = (a.add(tile(*of_a, row) + in_a), b.add(tile(*of_b, column) + in_b));
                            (x.cast::<bf16>().read(), y.cast::<bf16>().read())
                        };
                        sums[step % 2] += x.to_f32() * y.to_f32();
                    }
                    sum += sums[0] + sums[1];
                }
            }
            // SAFETY: guaranteed by the caller.
            unsafe { *c.byte_add(row * stride).add(column) = sum };
        }
    }
}

/// `c = alpha · sums`, or `+=` if `add`, for the first `high` rows and `wide` columns.
#[inline(always)]
unsafe fn store(sums: *const f32, high: usize, wide: usize, alpha: f32, add: bool, c: *mut f32, stride: usize) {
    // SAFETY: guaranteed by the caller; masks exclude columns from `wide` on.
    unsafe {
        let alpha = _mm512_set1_ps(alpha);
        for row in 0..high {
            for column in (0..wide).step_by(LANES) {
                let (at, mask) = (c.add(row * stride + column), first(wide - column));
                let sum = _mm512_loadu_ps(sums.add(row * PANEL + column));
                let scaled = if add {
                    _mm512_fmadd_ps(sum, alpha, _mm512_maskz_loadu_ps(mask, at))
                } else {
                    _mm512_mul_ps(sum, alpha)
                };
                _mm512_mask_storeu_ps(at, mask, scaled);
            }
        }
    }
}

//! Packing for products in eight bits, with the layout and the bits of [`int8::pack`](crate::kernels::gemm::int8).
//!
//! If steps are contiguous, 64 of them become the bytes of a register, and sixteen such lines are transposed. The two
//! instructions that narrow 32-bit integers to bytes work on quarters of registers: they leave the steps `16 i + 4 j …`
//! in the 32-bit lane `4 j + i`.
//!
//! For tile registers, sixteen lines of a panel of `b` are a tile as they are. Of `a`, 64 steps of a row have to be
//! contiguous there ([`pack_tiles`]).
use super::pack::transpose;
use crate::kernels::gemm::int8::pack::{Block, LINE, OFFSET, STEPS, panel_bytes};
use crate::kernels::gemm::load::{Load, first};
use crate::kernels::gemm::matrix::{Operand, Strided, bf16};
use crate::kernels::gemm::tile::LANES;
use std::arch::x86_64::*;

/// Steps of a line that are packed at once: sixteen 32-bit lanes of four.
const AT_ONCE: usize = STEPS * LANES;
/// Distance of prefetching, in rows.
const AHEAD: usize = 8;
/// The 32-bit lanes of a row in the order of its steps.
const ORDER: [i32; LANES] = [0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15];

/// Packs a block.
///
/// # Safety
/// The CPU must have the features, the operand must cover the block, and `out` have room for its panels.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) unsafe fn pack(block: &Block<'_>, out: *mut u8) {
    // SAFETY: guaranteed by the caller.
    unsafe { pack_operand::<false>(block, out) }
}

/// Packs a block for tile registers: panels are padded with zeros to whole tiles of sixteen lines, and in each tile of
/// `a` the 64 steps of a row are contiguous.
///
/// # Safety
/// As for [`pack`].
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(in crate::kernels::gemm) unsafe fn pack_tiles(block: &Block<'_>, out: *mut u8) {
    // SAFETY: guaranteed by the caller.
    unsafe {
        pack_operand::<true>(block, out);
        // Rows that are contiguous are packed as tiles at once.
        let rows = !block.is_b && block.x.is_row_major();
        for panel in 0..if rows { 0 } else { block.count.div_ceil(LANES) } {
            let first = out.add(panel * panel_bytes(block.steps) + LINE);
            let lines = block.steps.div_ceil(STEPS);
            for line in lines..lines.next_multiple_of(LANES) {
                _mm512_storeu_si512(first.add(line * LINE).cast(), _mm512_setzero_si512());
            }
            for tile in (0..if block.is_b { 0 } else { lines }).step_by(LANES) {
                transpose_tile(first.add(tile * LINE).cast());
            }
        }
    }
}

/// Exchanges rows and groups of four steps of a tile.
#[inline(always)]
unsafe fn transpose_tile(tile: *mut f32) {
    // SAFETY: the caller has the CPU feature, and guarantees that there is a tile.
    unsafe {
        let mut lines = [_mm512_setzero_ps(); LANES];
        for (i, line) in lines.iter_mut().enumerate() {
            *line = _mm512_loadu_ps(tile.add(i * LANES));
        }
        transpose(&mut lines);
        for (i, line) in lines.into_iter().enumerate() {
            _mm512_storeu_ps(tile.add(i * LANES), line);
        }
    }
}

#[inline(always)]
unsafe fn pack_operand<const TILES: bool>(block: &Block<'_>, out: *mut u8) {
    // SAFETY: guaranteed by the caller.
    unsafe {
        match (block.x, block.of.stochastic) {
            (Operand::F32(x), false) => pack_as::<f32, false, TILES>(block, x, out),
            (Operand::F32(x), true) => pack_as::<f32, true, TILES>(block, x, out),
            (Operand::Bf16(x), false) => pack_as::<bf16, false, TILES>(block, x, out),
            (Operand::Bf16(x), true) => pack_as::<bf16, true, TILES>(block, x, out),
        }
    }
}

#[inline(always)]
unsafe fn pack_as<E: Load, const STOCHASTIC: bool, const TILES: bool>(block: &Block<'_>, x: Strided<E>, out: *mut u8) {
    let apart = panel_bytes(block.steps);
    // SAFETY: guaranteed by the caller.
    unsafe {
        if x.column == 1 {
            for line in (0..block.count).step_by(LANES) {
                let panel = out.add(line / LANES * apart);
                if TILES && !block.is_b {
                    by_row::<E, STOCHASTIC>(block, x, line, panel);
                } else {
                    by_line::<E, STOCHASTIC>(block, x, line, panel);
                }
            }
            return;
        }
        for line in (0..block.count).step_by(LANES) {
            _mm512_storeu_si512(out.add(line / LANES * apart).cast(), _mm512_setzero_si512());
        }
        for step in (0..block.steps).step_by(STEPS) {
            for line in (0..block.count).step_by(LANES) {
                by_step::<E, STOCHASTIC>(block, x, step, line, out.add(line / LANES * apart));
            }
        }
    }
}

/// Packs the panel of the lines from `line` on, whose steps are contiguous.
#[inline(always)]
unsafe fn by_line<E: Load, const STOCHASTIC: bool>(block: &Block<'_>, x: Strided<E>, line: usize, panel: *mut u8) {
    let count = LANES.min(block.count - line);
    // SAFETY: masks keep loads inside the operand, and only lines of the panel are written.
    unsafe {
        let (mut sums, offset) = (_mm512_setzero_si512(), _mm512_set1_epi8(if block.is_b { -128 } else { 0 }));
        for step in (0..block.steps).step_by(AT_ONCE) {
            let left = block.steps - step;
            let mut lines = [_mm512_setzero_ps(); LANES];
            for (i, to) in lines.iter_mut().enumerate().take(count) {
                let from = x.at(line + i, step).data;
                let inverse = _mm512_set1_ps(*block.of.inverses.as_ptr().add(block.from + line + i));
                let key = if STOCHASTIC { *block.of.keys.as_ptr().add(block.from + line + i) } else { 0 };
                let key = key.wrapping_add(((block.first + step) / 2) as u32);
                *to = _mm512_castsi512_ps(bytes::<E, STOCHASTIC>(from, left, inverse, key));
            }
            transpose(&mut lines);
            for (lane, four) in lines.into_iter().enumerate() {
                let four = _mm512_castps_si512(four);
                let at = lane % 4 * 4 + lane / 4;
                if at * STEPS < left {
                    sums = _mm512_dpbusd_epi32(sums, _mm512_set1_epi8(1), four);
                    let to = panel.add((1 + step / STEPS + at) * LINE);
                    _mm512_storeu_si512(to.cast(), _mm512_xor_si512(four, offset));
                }
            }
        }
        _mm512_storeu_si512(panel.cast(), _mm512_slli_epi32::<7>(_mm512_sub_epi32(_mm512_setzero_si512(), sums)));
    }
}

/// Packs the panel of the rows of `a` from `line` on, whose steps are contiguous and become rows of tiles.
#[inline(always)]
unsafe fn by_row<E: Load, const STOCHASTIC: bool>(block: &Block<'_>, x: Strided<E>, line: usize, panel: *mut u8) {
    // SAFETY: masks keep loads inside the operand, and only whole tiles of the panel are written; both types of the
    // transmute have 512 bits.
    unsafe {
        let order = std::mem::transmute::<[i32; LANES], __m512i>(ORDER);
        for i in 0..LANES.min(block.count - line) {
            let inverse = _mm512_set1_ps(*block.of.inverses.as_ptr().add(block.from + line + i));
            let key = if STOCHASTIC { *block.of.keys.as_ptr().add(block.from + line + i) } else { 0 };
            let mut sums = _mm512_setzero_si512();
            for step in (0..block.steps).step_by(AT_ONCE) {
                let (from, left) = (x.at(line + i, step).data, block.steps - step);
                let key = key.wrapping_add(((block.first + step) / 2) as u32);
                let row = bytes::<E, STOCHASTIC>(from, left, inverse, key);
                sums = _mm512_dpbusd_epi32(sums, _mm512_set1_epi8(1), row);
                let to = panel.add(LINE + step * LANES + i * LINE);
                _mm512_storeu_si512(to.cast(), _mm512_permutexvar_epi32(order, row));
            }
            panel.cast::<i32>().add(i).write(-i32::from(OFFSET) * _mm512_reduce_add_epi32(sums));
        }
    }
}

/// The first `left` of 64 contiguous steps as integers of 8 bits, in the order that the module describes; zeros for the
/// others.
#[inline(always)]
unsafe fn bytes<E: Load, const STOCHASTIC: bool>(from: *const E, left: usize, inverse: __m512, key: u32) -> __m512i {
    // SAFETY: guaranteed by the caller.
    unsafe {
        let low = words::<E, STOCHASTIC>(from, left, inverse, key);
        let (from, left) = (from.wrapping_add(2 * LANES), left.saturating_sub(2 * LANES));
        let high = words::<E, STOCHASTIC>(from, left, inverse, key.wrapping_add(LANES as u32));
        _mm512_packs_epi16(low, high)
    }
}

/// The first `left` of 32 contiguous steps as integers of 16 bits, sixteen steps in half of each quarter.
#[inline(always)]
unsafe fn words<E: Load, const STOCHASTIC: bool>(from: *const E, left: usize, inverse: __m512, key: u32) -> __m512i {
    // SAFETY: guaranteed by the caller.
    unsafe {
        let [x, y] = [E::sixteen(from, left), E::sixteen(from.wrapping_add(LANES), left.saturating_sub(LANES))];
        let [one, other] = if STOCHASTIC { of_contiguous_steps(key) } else { [_mm512_setzero_ps(); 2] };
        _mm512_packs_epi32(quantise::<STOCHASTIC>(x, inverse, one), quantise::<STOCHASTIC>(y, inverse, other))
    }
}

/// Packs up to four steps of up to sixteen lines, which are contiguous in a step.
#[inline(always)]
unsafe fn by_step<E: Load, const STOCHASTIC: bool>(
    block: &Block<'_>,
    x: Strided<E>,
    step: usize,
    line: usize,
    panel: *mut u8,
) {
    let (count, steps) = (block.count - line, block.steps - step);
    let mask = first(count);
    // SAFETY: masks keep loads inside the operand, and only lines of the panel are written.
    unsafe {
        let inverses = _mm512_maskz_loadu_ps(mask, block.of.inverses.as_ptr().add(block.from + line));
        let keys = _mm512_maskz_loadu_epi32(mask, block.of.keys.as_ptr().add(block.from + line).cast());
        let now = _mm512_set1_epi32(((block.first + step) / 2) as i32);
        let keys = _mm512_add_epi32(keys, now);
        let [a, b] = two_steps::<E, STOCHASTIC>(x.at(line, step), count, steps, inverses, keys);
        let (x, steps) = (x.at(line, step + 2), steps.saturating_sub(2));
        let keys = _mm512_add_epi32(keys, _mm512_set1_epi32(1));
        let [c, d] = two_steps::<E, STOCHASTIC>(x, count, steps, inverses, keys);
        // Each operation keeps the bytes below and takes those from the next number on.
        let packed = select(_mm512_set1_epi32(0xFF), a, _mm512_slli_epi32::<8>(b));
        let packed = select(_mm512_set1_epi32(0xFFFF), packed, _mm512_slli_epi32::<16>(c));
        let packed = select(_mm512_set1_epi32(0xFF_FFFF), packed, _mm512_slli_epi32::<24>(d));
        let sums = _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_set1_epi8(1), packed);
        let start = _mm512_sub_epi32(_mm512_loadu_si512(panel.cast()), _mm512_slli_epi32::<7>(sums));
        _mm512_storeu_si512(panel.cast(), start);
        let offset = _mm512_set1_epi8(if block.is_b { -128 } else { 0 });
        _mm512_storeu_si512(panel.add((1 + step / STEPS) * LINE).cast(), _mm512_xor_si512(packed, offset));
    }
}

/// Up to sixteen lines of up to two steps as integers, of which there are `count` and `left`.
#[inline(always)]
unsafe fn two_steps<E: Load, const STOCHASTIC: bool>(
    x: Strided<E>,
    count: usize,
    left: usize,
    inverses: __m512,
    keys: __m512i,
) -> [__m512i; 2] {
    let (one, two) = (x.data, x.at(0, 1).data);
    // SAFETY: guaranteed by the caller.
    unsafe {
        _mm_prefetch::<_MM_HINT_T0>(one.wrapping_add(AHEAD * x.column).cast());
        _mm_prefetch::<_MM_HINT_T0>(two.wrapping_add(AHEAD * x.column).cast());
        let one = E::sixteen(one, if left > 0 { count } else { 0 });
        let two = E::sixteen(two, if left > 1 { count } else { 0 });
        let zero = _mm512_setzero_ps();
        if !STOCHASTIC {
            return [quantise::<STOCHASTIC>(one, inverses, zero), quantise::<STOCHASTIC>(two, inverses, zero)];
        }
        let hashes = hash(keys);
        let (lower, upper) = (noise(_mm512_slli_epi32::<16>(hashes)), noise(hashes));
        [quantise::<STOCHASTIC>(one, inverses, lower), quantise::<STOCHASTIC>(two, inverses, upper)]
    }
}

/// The bits of `x` where `mask` is set, those of `y` elsewhere.
#[inline(always)]
unsafe fn select(mask: __m512i, x: __m512i, y: __m512i) -> __m512i {
    // SAFETY: the caller has the CPU feature.
    unsafe { _mm512_ternarylogic_epi32::<0xCA>(mask, x, y) }
}

/// The hashes of sixteen sums of key and half a step; see [`noise`](crate::kernels::gemm::int8::quantise::noise).
#[inline(always)]
unsafe fn hash(h: __m512i) -> __m512i {
    // SAFETY: the caller has the CPU feature.
    unsafe {
        let h = _mm512_xor_si512(h, _mm512_srli_epi32::<16>(h));
        let h = _mm512_mullo_epi32(h, _mm512_set1_epi32(0x7FEB_352D));
        let h = _mm512_xor_si512(h, _mm512_srli_epi32::<15>(h));
        let h = _mm512_mullo_epi32(h, _mm512_set1_epi32(0x846C_A68B_u32 as i32));
        _mm512_xor_si512(h, _mm512_srli_epi32::<16>(h))
    }
}

/// The random numbers that the upper halves of hashes stand for.
#[inline(always)]
unsafe fn noise(hashes: __m512i) -> __m512 {
    // SAFETY: the caller has the CPU feature.
    unsafe { scaled(_mm512_srai_epi32::<16>(hashes)) }
}

/// The random numbers of 32 contiguous steps, which begin with the lower half of the hash of `first`.
#[inline(always)]
unsafe fn of_contiguous_steps(first: u32) -> [__m512; 2] {
    // SAFETY: the caller has the CPU feature.
    unsafe {
        let counting = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        let hashes = hash(_mm512_add_epi32(_mm512_set1_epi32(first as i32), counting));
        let halves = [_mm512_castsi512_si256(hashes), _mm512_extracti64x4_epi64::<1>(hashes)];
        [scaled(_mm512_cvtepi16_epi32(halves[0])), scaled(_mm512_cvtepi16_epi32(halves[1]))]
    }
}

#[inline(always)]
unsafe fn scaled(halves: __m512i) -> __m512 {
    // SAFETY: the caller has the CPU feature.
    unsafe {
        let (step, middle) = (_mm512_set1_ps(1.0 / 65_536.0), _mm512_set1_ps(0.5 / 65_536.0));
        _mm512_fmadd_ps(_mm512_cvtepi32_ps(halves), step, middle)
    }
}

/// Sixteen integers, as [`integer`](crate::kernels::gemm::int8::quantise::integer).
#[inline(always)]
unsafe fn quantise<const STOCHASTIC: bool>(x: __m512, inverse: __m512, noise: __m512) -> __m512i {
    // SAFETY: the caller has the CPU feature.
    unsafe {
        if !STOCHASTIC {
            return _mm512_cvtps_epi32(_mm512_mul_ps(x, inverse));
        }
        let y = _mm512_fmadd_ps(x, inverse, noise);
        let y = _mm512_max_ps(_mm512_min_ps(y, _mm512_set1_ps(127.0)), _mm512_set1_ps(-127.0));
        _mm512_cvtps_epi32(y)
    }
}

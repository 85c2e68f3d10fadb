//! Packing: numbers become bfloat16, one or three each, in tiles.
//!
//! A panel is 32 lines, of `a` rows, of `b` columns. For each 32 steps it has tiles of 1 KB, [first part: lines 0 to 15,
//! lines 16 to 31; second part; third part]. A tile of `a` is sixteen rows of 32 steps; one of `b` is sixteen pairs of
//! steps, in each sixteen columns with their two steps side by side. Zeros fill up.
use super::super::avx512::{first, transpose};
use super::{BYTES, LINE, PANEL, STEPS, TILE};
use crate::kernels::gemm::Operand;
use crate::kernels::gemm::panels::LANES;
use std::arch::x86_64::*;

/// Packs the `lines` × `steps` of `x`, whose rows are lines, into panels at `out`; lines become columns of tiles if
/// `PAIRS`, rows if not.
///
/// # Safety
/// The CPU must have AVX-512 BW and BF16, `x` cover the sizes, and `out` hold the panels.
#[inline(always)]
pub(super) unsafe fn pack<const PARTS: usize, const PAIRS: bool>(x: Operand, lines: usize, steps: usize, out: *mut u8) {
    let (panels, blocks) = (lines.div_ceil(PANEL), steps.div_ceil(STEPS));
    let at = |panel: usize, block: usize| (panel * blocks + block) * PARTS * 2 * BYTES;
    // Memory is read in the order in which it lies.
    if x.column == 1 {
        for panel in 0..panels {
            for block in 0..blocks {
                // SAFETY: the tiles lie in `out`.
                unsafe { two_tiles::<PARTS, PAIRS, true>(x, panel, block, lines, steps, out.add(at(panel, block))) }
            }
        }
    } else {
        for block in 0..blocks {
            for panel in 0..panels {
                // SAFETY: the tiles lie in `out`.
                unsafe { two_tiles::<PARTS, PAIRS, false>(x, panel, block, lines, steps, out.add(at(panel, block))) }
            }
        }
    }
}

/// The tiles of a panel's block of steps; `ALONG` if a line's steps are neighbours, not a step's lines.
#[inline(always)]
unsafe fn two_tiles<const PARTS: usize, const PAIRS: bool, const ALONG: bool>(
    x: Operand,
    panel: usize,
    block: usize,
    lines: usize,
    steps: usize,
    out: *mut u8,
) {
    for half in 0..2 {
        let (line, step) = (panel * PANEL + half * TILE, block * STEPS);
        let (lines, steps) = (lines.saturating_sub(line).min(TILE), STEPS.min(steps - step));
        // SAFETY: the caller's.
        unsafe { tile::<PARTS, PAIRS, ALONG>(x.at(line, step), lines, steps, out.add(half * BYTES)) }
    }
}

/// One tile of each part, 2 KB apart.
#[inline(always)]
unsafe fn tile<const PARTS: usize, const PAIRS: bool, const ALONG: bool>(
    x: Operand,
    lines: usize,
    steps: usize,
    out: *mut u8,
) {
    // SAFETY: masks keep loads inside `x`.
    unsafe {
        let mut parts = [[_mm512_setzero_ps(); TILE]; PARTS];
        for i in 0..TILE {
            // Sixteen steps of a line and the next sixteen, or two steps of all lines.
            let [mut one, mut two] = if ALONG {
                let there = if i < lines { steps } else { 0 };
                masked(x.data.wrapping_add(i * x.row), LANES, [there, there.saturating_sub(LANES)])
            } else {
                let there = |step: usize| if step < steps { lines } else { 0 };
                masked(x.data.wrapping_add(2 * i * x.column), x.column, [there(2 * i), there(2 * i + 1)])
            };
            for part in 0..PARTS {
                let rounded = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(two, one));
                let row = _mm512_castsi512_ps(if ALONG { rounded } else { interleave(rounded) });
                if ALONG == PAIRS {
                    parts[part][i] = row;
                } else {
                    _mm512_store_ps(out.add(part * 2 * BYTES + i * LINE).cast(), row);
                }
                if part + 1 < PARTS {
                    one = _mm512_sub_ps(one, widen(_mm512_castsi512_si256(rounded)));
                    two = _mm512_sub_ps(two, widen(_mm512_extracti64x4_epi64::<1>(rounded)));
                }
            }
        }
        if ALONG == PAIRS {
            for (part, rows) in parts.iter_mut().enumerate() {
                transpose(rows);
                for (i, row) in rows.iter().enumerate() {
                    _mm512_store_ps(out.add(part * 2 * BYTES + i * LINE).cast(), *row);
                }
            }
        }
    }
}

/// Two vectors, `apart` from each other, as many of their lanes as said.
#[inline(always)]
unsafe fn masked(from: *const f32, apart: usize, lanes: [usize; 2]) -> [__m512; 2] {
    // SAFETY: the caller's.
    unsafe {
        [_mm512_maskz_loadu_ps(first(lanes[0]), from), _mm512_maskz_loadu_ps(first(lanes[1]), from.wrapping_add(apart))]
    }
}

/// Sixteen bfloat16 as f32.
#[inline(always)]
unsafe fn widen(x: __m256i) -> __m512 {
    // SAFETY: the caller's.
    unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(x))) }
}

/// The first sixteen of 32 go to the lower halves of lanes, the others to the upper.
#[inline(always)]
unsafe fn interleave(x: __m512i) -> __m512i {
    const ORDER: [u16; 32] = {
        let mut order = [0; 32];
        let mut lane = 0;
        while lane < 16 {
            order[2 * lane] = lane as u16;
            order[2 * lane + 1] = lane as u16 + 16;
            lane += 1;
        }
        order
    };
    // SAFETY: the caller's; 512 bits are 512 bits.
    unsafe {
        let order: __m512i = std::mem::transmute(ORDER);
        _mm512_permutexvar_epi16(order, x)
    }
}

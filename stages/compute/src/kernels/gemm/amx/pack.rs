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
/// `PAIRS`, rows if not. Memory is read in the order in which it lies, as few rows of it at a time as can be.
///
/// # Safety
/// The CPU must have AVX-512 BW and BF16, `x` cover the sizes, and `out` hold the panels.
#[inline(always)]
pub(super) unsafe fn pack<const PARTS: usize, const PAIRS: bool>(x: Operand, lines: usize, steps: usize, out: *mut u8) {
    // SAFETY: as promised.
    unsafe {
        match (x.column == 1, PAIRS) {
            (true, false) => {
                for line in 0..lines.next_multiple_of(PANEL) {
                    for step in (0..steps).step_by(STEPS) {
                        let out = out.add(tile_at::<PARTS>(line, step, steps) + line % TILE * LINE);
                        put(out, split::<PARTS, true>(load::<true>(x, line, step, lines, steps)));
                    }
                }
            }
            (false, true) => {
                for step in (0..steps.next_multiple_of(STEPS)).step_by(2) {
                    for line in (0..lines.next_multiple_of(PANEL)).step_by(TILE) {
                        let out = out.add(tile_at::<PARTS>(line, step, steps) + step % STEPS / 2 * LINE);
                        put(out, split::<PARTS, false>(load::<false>(x, line, step, lines, steps)));
                    }
                }
            }
            (true, true) => {
                for line in (0..lines.next_multiple_of(PANEL)).step_by(TILE) {
                    for step in (0..steps).step_by(STEPS) {
                        let out = out.add(tile_at::<PARTS>(line, step, steps));
                        transposed::<PARTS, true>(x, line, step, lines, steps, out);
                    }
                }
            }
            (false, false) => {
                for step in (0..steps).step_by(STEPS) {
                    for line in (0..lines.next_multiple_of(PANEL)).step_by(TILE) {
                        let out = out.add(tile_at::<PARTS>(line, step, steps));
                        transposed::<PARTS, false>(x, line, step, lines, steps, out);
                    }
                }
            }
        }
    }
}

/// Where the tile of the first part is that holds a line's step.
#[inline(always)]
fn tile_at<const PARTS: usize>(line: usize, step: usize, steps: usize) -> usize {
    ((line / PANEL * steps.div_ceil(STEPS) + step / STEPS) * PARTS * 2 + line % PANEL / TILE) * BYTES
}

/// Of the tile that begins with `line` and `step`: if `ALONG`, sixteen steps of that line and the next sixteen; if not,
/// that step of sixteen lines and the next one. Zeros for what is not there.
#[inline(always)]
unsafe fn load<const ALONG: bool>(x: Operand, line: usize, step: usize, lines: usize, steps: usize) -> [__m512; 2] {
    let from = x.at(line, step).data;
    let next = from.wrapping_add(if ALONG { LANES } else { x.column });
    let (lines, steps) = (lines.saturating_sub(line), steps.saturating_sub(step));
    // SAFETY: the caller's; masks keep loads inside `x`.
    unsafe {
        if lines >= if ALONG { 1 } else { TILE } && steps >= if ALONG { STEPS } else { 2 } {
            return [_mm512_loadu_ps(from), _mm512_loadu_ps(next)];
        }
        let there = if ALONG {
            if lines > 0 { [steps, steps.saturating_sub(LANES)] } else { [0; 2] }
        } else {
            [if steps > 0 { lines } else { 0 }, if steps > 1 { lines } else { 0 }]
        };
        [_mm512_maskz_loadu_ps(first(there[0]), from), _mm512_maskz_loadu_ps(first(there[1]), next)]
    }
}

/// The parts of 32 numbers as bfloat16, as `ALONG` has them in a row of a tile: those of the first vector before those of
/// the second, or else side by side. One part is what is nearest to a number, ties to even. Of three, the first is what
/// is nearest to the number, the second what is nearest to the rest, the third the rest of that, which has eight bits.
#[inline(always)]
unsafe fn split<const PARTS: usize, const ALONG: bool>([mut one, mut two]: [__m512; 2]) -> [__m512i; PARTS] {
    // SAFETY: the caller's: the CPU has it; 512 bits are 512 bits.
    unsafe {
        let mut parts = [_mm512_setzero_si512(); PARTS];
        if PARTS == 1 {
            let rounded = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(two, one));
            parts[0] = if ALONG { rounded } else { interleave(rounded) };
            return parts;
        }
        let (upper, half) = (_mm512_set1_epi32(UPPER), _mm512_set1_epi32(0x8000));
        for (number, part) in parts.iter_mut().enumerate() {
            let bits =
                [_mm512_add_epi32(_mm512_castps_si512(one), half), _mm512_add_epi32(_mm512_castps_si512(two), half)];
            *part = if ALONG {
                _mm512_permutex2var_epi16(bits[0], std::mem::transmute::<[u16; 32], __m512i>(UPPER_HALVES), bits[1])
            } else {
                // The upper half of the second above that of the first.
                _mm512_ternarylogic_epi32::<0xE4>(bits[1], _mm512_srli_epi32::<16>(bits[0]), upper)
            };
            if number + 1 < PARTS {
                one = _mm512_sub_ps(one, _mm512_castsi512_ps(_mm512_and_si512(bits[0], upper)));
                two = _mm512_sub_ps(two, _mm512_castsi512_ps(_mm512_and_si512(bits[1], upper)));
            }
        }
        parts
    }
}

/// The upper half of 32 bits.
const UPPER: i32 = -65536;
/// The upper halves of sixteen numbers, and of sixteen more.
const UPPER_HALVES: [u16; 32] = {
    let mut halves = [0; 32];
    let mut i = 0;
    while i < 32 {
        halves[i] = 2 * i as u16 + 1;
        i += 1;
    }
    halves
};

/// Stores a row of a tile of each part.
#[inline(always)]
unsafe fn put<const PARTS: usize>(out: *mut u8, parts: [__m512i; PARTS]) {
    for (number, part) in parts.into_iter().enumerate() {
        // SAFETY: the caller's.
        unsafe { _mm512_store_si512(out.add(number * 2 * BYTES).cast(), part) };
    }
}

/// The tile of each part where memory runs the other way than rows of the tile do.
#[inline(always)]
unsafe fn transposed<const PARTS: usize, const ALONG: bool>(
    x: Operand,
    line: usize,
    step: usize,
    lines: usize,
    steps: usize,
    out: *mut u8,
) {
    // SAFETY: the caller's.
    unsafe {
        let mut tiles = [[_mm512_setzero_ps(); TILE]; PARTS];
        for i in 0..TILE {
            let (line, step) = if ALONG { (line + i, step) } else { (line, step + 2 * i) };
            let parts = split::<PARTS, ALONG>(load::<ALONG>(x, line, step, lines, steps));
            for (tile, part) in tiles.iter_mut().zip(parts) {
                tile[i] = _mm512_castsi512_ps(part);
            }
        }
        for (part, rows) in tiles.iter_mut().enumerate() {
            transpose(rows);
            for (i, row) in rows.iter().enumerate() {
                _mm512_store_ps(out.add(part * 2 * BYTES + i * LINE).cast(), *row);
            }
        }
    }
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

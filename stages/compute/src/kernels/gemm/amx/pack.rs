//! Packing: each number is converted to one or three bfloat16 parts and stored in tiles.
//!
//! A panel has 32 lines, which are rows of `a` or columns of `b`. For each 32 steps of `k` it contains tiles of 1 KB:
//! [first part: lines 0 to 15, lines 16 to 31; second part; third part]. A tile of `a` is sixteen rows of 32 steps. A
//! tile of `b` is sixteen pairs of steps, each pair being sixteen columns with their two steps side by side. Incomplete
//! tiles are padded with zeros.
use super::{BYTES, LINE, PANEL, STEPS, TILE};
use crate::kernels::gemm::avx512::transpose;
use crate::kernels::gemm::load::{Load, interleave};
use crate::kernels::gemm::matrix::Strided;
use crate::kernels::gemm::tile::LANES;
use std::arch::x86_64::*;

/// Packs `x` `[lines, steps]` into panels at `out`; lines become columns of tiles if `PAIRS`, rows if not. Memory is
/// read in order, from as few rows at a time as possible.
///
/// # Safety
/// The CPU must have AVX-512 BW and BF16, `x` cover the sizes, and `out` hold the panels.
#[inline(always)]
pub(super) unsafe fn pack<const PARTS: usize, E: Load, const PAIRS: bool>(
    x: Strided<E>,
    lines: usize,
    steps: usize,
    out: *mut u8,
) {
    // SAFETY: guaranteed by the caller.
    unsafe {
        match (x.column == 1, PAIRS) {
            (true, false) => {
                for line in 0..lines.next_multiple_of(PANEL) {
                    for step in (0..steps).step_by(STEPS) {
                        let out = out.add(tile_at::<PARTS>(line, step, steps) + line % TILE * LINE);
                        put(out, load::<PARTS, E, true>(x, line, step, lines, steps));
                    }
                }
            }
            (false, true) => {
                for step in (0..steps.next_multiple_of(STEPS)).step_by(2) {
                    for line in (0..lines.next_multiple_of(PANEL)).step_by(TILE) {
                        let out = out.add(tile_at::<PARTS>(line, step, steps) + step % STEPS / 2 * LINE);
                        put(out, load::<PARTS, E, false>(x, line, step, lines, steps));
                    }
                }
            }
            (true, true) => {
                for line in (0..lines.next_multiple_of(PANEL)).step_by(TILE) {
                    for step in (0..steps).step_by(STEPS) {
                        let out = out.add(tile_at::<PARTS>(line, step, steps));
                        transposed::<PARTS, E, true>(x, line, step, lines, steps, out);
                    }
                }
            }
            (false, false) => {
                for step in (0..steps).step_by(STEPS) {
                    for line in (0..lines.next_multiple_of(PANEL)).step_by(TILE) {
                        let out = out.add(tile_at::<PARTS>(line, step, steps));
                        transposed::<PARTS, E, false>(x, line, step, lines, steps, out);
                    }
                }
            }
        }
    }
}

/// Byte offset of the first part's tile that contains `step` of `line`.
#[inline(always)]
fn tile_at<const PARTS: usize>(line: usize, step: usize, steps: usize) -> usize {
    ((line / PANEL * steps.div_ceil(STEPS) + step / STEPS) * PARTS * 2 + line % PANEL / TILE) * BYTES
}

/// Loads 32 numbers, starting at `line` and `step`, as bfloat16 parts. If `ALONG`, they are 32 consecutive steps of
/// `line`; if not, two consecutive steps of sixteen lines, the two steps of a line side by side. Numbers outside `x`
/// are zeros.
///
/// A single part is the number rounded to the nearest bfloat16, ties to even. Of three parts, the first is the number
/// rounded to nearest, the second the remainder rounded to nearest, the third what then remains, which fits in eight
/// bits.
#[inline(always)]
unsafe fn load<const PARTS: usize, E: Load, const ALONG: bool>(
    x: Strided<E>,
    line: usize,
    step: usize,
    lines: usize,
    steps: usize,
) -> [__m512i; PARTS] {
    let from = x.at(line, step).data;
    let from = [from, from.wrapping_add(if ALONG { LANES } else { x.column })];
    let (lines, steps) = (lines.saturating_sub(line), steps.saturating_sub(step));
    let left = match (ALONG, lines > 0 && steps > 0) {
        (_, false) => [0; 2],
        (true, true) => [steps, steps.saturating_sub(LANES)],
        (false, true) => [lines, if steps > 1 { lines } else { 0 }],
    };
    // SAFETY: guaranteed by the caller; `left` keeps loads inside `x`.
    unsafe {
        if PARTS == 1 {
            let halves = E::halves(from, left);
            return [if ALONG { halves } else { interleave(halves) }; PARTS];
        }
        split::<PARTS, ALONG>(E::sixteen(from[0], left[0]), E::sixteen(from[1], left[1]))
    }
}

/// Splits 32 numbers into parts, in the layout that [`load`] returns.
#[inline(always)]
unsafe fn split<const PARTS: usize, const ALONG: bool>(mut one: __m512, mut two: __m512) -> [__m512i; PARTS] {
    // SAFETY: the caller guarantees the CPU features; both types of the transmute have 512 bits.
    unsafe {
        let mut parts = [_mm512_setzero_si512(); PARTS];
        let (upper, half) = (_mm512_set1_epi32(UPPER), _mm512_set1_epi32(0x8000));
        for (number, part) in parts.iter_mut().enumerate() {
            let bits =
                [_mm512_add_epi32(_mm512_castps_si512(one), half), _mm512_add_epi32(_mm512_castps_si512(two), half)];
            *part = if ALONG {
                _mm512_permutex2var_epi16(bits[0], std::mem::transmute::<[u16; 32], __m512i>(UPPER_HALVES), bits[1])
            } else {
                // The upper half of the second number, with that of the first number below it.
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

/// Mask of the upper half of 32 bits.
const UPPER: i32 = -65536;
/// Permutation that selects the upper halves of sixteen numbers, then those of sixteen more.
const UPPER_HALVES: [u16; 32] = {
    let mut halves = [0; 32];
    let mut i = 0;
    while i < 32 {
        halves[i] = 2 * i as u16 + 1;
        i += 1;
    }
    halves
};

/// Stores one row of the tile of each part.
#[inline(always)]
unsafe fn put<const PARTS: usize>(out: *mut u8, parts: [__m512i; PARTS]) {
    for (number, part) in parts.into_iter().enumerate() {
        // SAFETY: guaranteed by the caller.
        unsafe { _mm512_store_si512(out.add(number * 2 * BYTES).cast(), part) };
    }
}

/// Packs the tile of each part where contiguous memory becomes columns of the tile.
#[inline(always)]
unsafe fn transposed<const PARTS: usize, E: Load, const ALONG: bool>(
    x: Strided<E>,
    line: usize,
    step: usize,
    lines: usize,
    steps: usize,
    out: *mut u8,
) {
    // SAFETY: guaranteed by the caller.
    unsafe {
        let mut tiles = [[_mm512_setzero_ps(); TILE]; PARTS];
        for i in 0..TILE {
            let (line, step) = if ALONG { (line + i, step) } else { (line, step + 2 * i) };
            let parts = load::<PARTS, E, ALONG>(x, line, step, lines, steps);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::gemm::bf16;
    use crate::kernels::testing::random;
    use contract::Buffer;
    use proptest::prelude::*;

    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn packed<E: Load>(x: &[E], row: usize, column: usize, lines: usize, steps: usize, pairs: bool) -> Buffer {
        let x = Strided { data: x.as_ptr(), row, column };
        let mut out = Buffer::scratch(lines.next_multiple_of(PANEL) * steps.next_multiple_of(STEPS) / 2);
        // SAFETY: the matrix has that many lines and steps, the buffer room for the panels.
        unsafe {
            if pairs {
                pack::<1, E, true>(x, lines, steps, out.as_mut_ptr().cast());
            } else {
                pack::<1, E, false>(x, lines, steps, out.as_mut_ptr().cast());
            }
        }
        out
    }

    proptest! {
        /// Every number is stored where the instruction reads it, for every layout of the operand. Needs no AMX.
        #[test]
        fn packed_tiles_contain_the_operand(lines in 1usize..70, steps in 1usize..70, pad in 0usize..3, along: bool, pairs: bool) {
            if !crate::kernels::gemm::avx512::has_bf16() {
                println!("skipped: this CPU has no AVX512-BF16");
                return Ok(());
            }
            let (row, column) = if along { (steps + pad, 1) } else { (1, lines + pad) };
            let halves: Vec<bf16> =
                random(1, (lines + pad) * (steps + pad)).iter().map(|x| bf16::from_f32(*x)).collect();
            let singles: Vec<f32> = halves.iter().map(|x| x.to_f32()).collect();
            // SAFETY: the CPU has it, and the matrix covers its lines and steps.
            let (of_halves, of_singles) = unsafe {
                (packed(&halves, row, column, lines, steps, pairs), packed(&singles, row, column, lines, steps, pairs))
            };
            prop_assert_eq!(&of_halves[..], &of_singles[..]);
            let tiles: &[bf16] = bytemuck::cast_slice(&of_halves);
            for line in 0..lines.next_multiple_of(PANEL) {
                for step in 0..steps.next_multiple_of(STEPS) {
                    let tile = tile_at::<1>(line, step, steps) / size_of::<bf16>();
                    let (line_in, step_in) = (line % TILE, step % STEPS);
                    let at = if pairs {
                        step_in / 2 * STEPS + 2 * line_in + step_in % 2
                    } else {
                        line_in * STEPS + step_in
                    };
                    let there = line < lines && step < steps;
                    let expected = if there { halves[line * row + step * column] } else { bf16::ZERO };
                    prop_assert_eq!(tiles[tile + at], expected, "line {} step {}", line, step);
                }
            }
        }
    }
}

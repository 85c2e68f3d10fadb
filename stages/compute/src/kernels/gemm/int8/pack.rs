//! Packing: quantises a block of an operand into panels; see [`Tile`](super::Tile).
use super::quantise::{Lines, integer};
use crate::kernels::gemm::matrix::{Operand, Scalar, Strided, bf16};
use crate::kernels::gemm::tile::LANES;
use crate::wide;

/// Bytes of a line of a panel: four steps of sixteen rows or columns.
pub const LINE: usize = 64;
/// Steps of `k` in a line.
pub const STEPS: usize = 4;
/// Steps that are quantised at once if they are contiguous.
const CHUNK: usize = 256;
/// What an element of `b` is increased by.
pub const OFFSET: u8 = 128;

/// Bytes of a panel with so many steps, rounded up to a multiple of sixteen lines.
pub const fn panel_bytes(steps: usize) -> usize {
    (steps.div_ceil(STEPS).next_multiple_of(LANES) + 1) * LINE
}

/// What is packed: the rows of `a` or the columns of `b`, some steps of them.
pub struct Block<'a> {
    pub x: Operand,
    /// Rows of `a` or columns of `b`, and the index of the first among `of`.
    pub count: usize,
    pub from: usize,
    pub steps: usize,
    /// The operand's step at which the block starts.
    pub first: usize,
    pub of: &'a Lines,
    /// Whether it is a block of `b`.
    pub is_b: bool,
}

wide! {
    /// Packs a block.
    ///
    /// # Safety
    /// The operand must cover the block, and `out` have room for its panels.
    pub unsafe fn pack(block: &Block<'_>, out: *mut u8) {
        // SAFETY: guaranteed by the caller.
        unsafe {
            match (block.x, block.of.stochastic) {
                (Operand::F32(x), false) => pack_as::<f32, false>(block, x, out),
                (Operand::F32(x), true) => pack_as::<f32, true>(block, x, out),
                (Operand::Bf16(x), false) => pack_as::<bf16, false>(block, x, out),
                (Operand::Bf16(x), true) => pack_as::<bf16, true>(block, x, out),
            }
        }
    }
}

#[inline(always)]
unsafe fn pack_as<E: Scalar, const STOCHASTIC: bool>(block: &Block<'_>, x: Strided<E>, out: *mut u8) {
    // SAFETY: guaranteed by the caller.
    unsafe {
        if x.column == 1 {
            for line in 0..block.count {
                let to = out.add(line / LANES * panel_bytes(block.steps) + line % LANES * STEPS);
                pack_line::<E, STOCHASTIC>(block, x, line, to);
            }
        } else {
            for panel in 0..block.count.div_ceil(LANES) {
                let sums = out.add(panel * panel_bytes(block.steps)).cast::<[i32; LANES]>();
                sums.write([0; LANES]);
            }
            for step in (0..block.steps).step_by(STEPS) {
                for panel in 0..block.count.div_ceil(LANES) {
                    let to = out.add(panel * panel_bytes(block.steps));
                    pack_steps::<E, STOCHASTIC>(block, x, step, panel * LANES, to);
                }
            }
        }
    }
}

/// Packs a line whose steps are contiguous; `to` is its place in the first line of its panel.
#[inline(always)]
unsafe fn pack_line<E: Scalar, const STOCHASTIC: bool>(block: &Block<'_>, x: Strided<E>, line: usize, to: *mut u8) {
    let (inverse, key) = (block.of.inverses[block.from + line], block.of.keys[block.from + line]);
    let offset = if block.is_b { OFFSET } else { 0 };
    let mut sum = 0i32;
    for from in (0..block.steps).step_by(CHUNK) {
        let count = CHUNK.min(block.steps - from);
        let mut bytes = [0u8; CHUNK];
        // SAFETY: the caller guarantees that the line has that many steps.
        let values = unsafe { std::slice::from_raw_parts(x.at(line, from).data, count) };
        let first = (block.first + from) as u32;
        if let Ok(values) = <&[E; CHUNK]>::try_from(values) {
            for i in 0..CHUNK {
                let q = integer::<STOCHASTIC>(values[i].widen(), inverse, key, first + i as u32) as i8;
                sum += i32::from(q);
                bytes[i] = q as u8 ^ offset;
            }
        } else {
            for (i, value) in values.iter().enumerate() {
                let q = integer::<STOCHASTIC>(value.widen(), inverse, key, first + i as u32) as i8;
                sum += i32::from(q);
                bytes[i] = q as u8 ^ offset;
            }
        }
        for (i, four) in bytes.as_chunks::<STEPS>().0.iter().enumerate().take(count.div_ceil(STEPS)) {
            // SAFETY: the caller guarantees that the panel has a line for these steps.
            unsafe { to.add((1 + from / STEPS + i) * LINE).cast::<[u8; STEPS]>().write(*four) };
        }
    }
    // SAFETY: as above.
    unsafe { to.cast::<i32>().write(-i32::from(OFFSET) * sum) };
}

/// Packs up to four steps of up to sixteen lines, which are contiguous in a step, into the panel at `to`.
#[inline(always)]
unsafe fn pack_steps<E: Scalar, const STOCHASTIC: bool>(
    block: &Block<'_>,
    x: Strided<E>,
    step: usize,
    line: usize,
    to: *mut u8,
) {
    let count = LANES.min(block.count - line);
    let (mut inverses, mut keys) = ([0.0f32; LANES], [0u32; LANES]);
    let from = block.from + line;
    inverses[..count].copy_from_slice(&block.of.inverses[from..from + count]);
    if STOCHASTIC {
        keys[..count].copy_from_slice(&block.of.keys[from..from + count]);
    }
    let (mut packed, mut sums) = ([0u32; LANES], [0i32; LANES]);
    for i in 0..STEPS.min(block.steps - step) {
        let mut values = [0.0f32; LANES];
        // SAFETY: the caller guarantees that the operand has these steps and lines.
        unsafe {
            let at = x.at(line, step + i).data;
            if count == LANES {
                let some = at.cast::<[E; LANES]>().read();
                for lane in 0..LANES {
                    values[lane] = some[lane].widen();
                }
            } else {
                for (lane, value) in values.iter_mut().enumerate().take(count) {
                    *value = (*at.add(lane)).widen();
                }
            }
        }
        let now = (block.first + step + i) as u32;
        for lane in 0..LANES {
            let q = integer::<STOCHASTIC>(values[lane], inverses[lane], keys[lane], now) as i8;
            sums[lane] += i32::from(q);
            packed[lane] |= u32::from(q as u8) << (8 * i);
        }
    }
    let offset = if block.is_b { u32::from_ne_bytes([OFFSET; STEPS]) } else { 0 };
    for packed in &mut packed {
        *packed ^= offset;
    }
    // SAFETY: the caller guarantees that the panel has a line for these steps, and panels are aligned.
    unsafe {
        to.add((1 + step / STEPS) * LINE).cast::<[u32; LANES]>().write(packed);
        let start = to.cast::<[i32; LANES]>();
        let mut before = start.read();
        for lane in 0..LANES {
            before[lane] -= i32::from(OFFSET) * sums[lane];
        }
        start.write(before);
    }
}

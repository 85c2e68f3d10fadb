//! Panels on any CPU: as [`panels`](super::panels) describe them, numbers rounded to bfloat16 in single precision.
use super::bf16;
use super::factor::{AnyOperand, Number, Operand};
use super::panels::{LANES, Multiply, TILE_COLUMNS};
use crate::wide;

/// As [`super::panels::Panels::pack`]: panels of [`TILE_COLUMNS`] columns, the last of as many whole vectors as it needs, one
/// after the other; in each, its columns of one step side by side. Steps are a multiple of two, columns of [`LANES`]: zeros
/// fill up.
///
/// # Safety
/// `b` must have that many steps and columns, and `out` hold the panels.
pub unsafe fn pack_panels<const ROUNDED: bool>(b: AnyOperand, steps: usize, columns: usize, out: *mut f32) {
    // SAFETY: as promised.
    unsafe {
        match b {
            AnyOperand::Single(b) => pack::<ROUNDED, f32>(b, steps, columns, out),
            AnyOperand::Half(b) => pack::<ROUNDED, _>(b, steps, columns, out),
        }
    }
}

unsafe fn pack<const ROUNDED: bool, N: Number>(b: Operand<N>, steps: usize, columns: usize, out: *mut f32) {
    let depth = steps.next_multiple_of(2);
    for panel in (0..columns).step_by(TILE_COLUMNS) {
        let wide = TILE_COLUMNS.min((columns - panel).next_multiple_of(LANES));
        for step in 0..depth {
            for column in 0..wide {
                let inside = step < steps && panel + column < columns;
                // SAFETY: the element lies in the matrix that the operand was made of, its place in the panels.
                unsafe {
                    let x = if inside { (*b.at(step, panel + column).data).single() } else { 0.0 };
                    *out.add(panel * depth + step * wide + column) = if ROUNDED { bf16(x) } else { x };
                }
            }
        }
    }
}

/// As [`super::panels::Panels::multiply`].
///
/// # Safety
/// Steps, rows and columns must lie inside.
pub unsafe fn multiply_panels<const ROUNDED: bool>(m: &mut Multiply<'_>) {
    // SAFETY: as promised.
    unsafe {
        match m.a {
            AnyOperand::Single(a) => multiply(m, a, ROUNDED),
            AnyOperand::Half(a) => multiply(m, a, ROUNDED),
        }
    }
}

wide! {
    unsafe fn multiply<N: Number>(m: &Multiply<'_>, a: Operand<N>, rounded: bool) {
        for j in (m.columns.start..m.columns.end).step_by(LANES) {
            let panel = j / TILE_COLUMNS * TILE_COLUMNS;
            let across = TILE_COLUMNS.min((m.panels - panel).next_multiple_of(LANES));
            let wide = LANES.min(m.columns.end - j);
            for i in (0..m.rows).step_by(4) {
                let high = 4.min(m.rows - i);
                let mut sums = [[0.0f32; LANES]; 4];
                for step in 0..m.steps {
                    // SAFETY: the caller's; sums of rows that are not there are made of the last one.
                    unsafe {
                        let b = m.b.add(panel * m.depth + (m.first + step) * across + j - panel).cast::<[f32; LANES]>();
                        for (row, sums) in sums.iter_mut().enumerate() {
                            let a = (*a.at(i + row.min(high - 1), step).data).single();
                            let a = if rounded { bf16(a) } else { a };
                            for (sum, b) in sums.iter_mut().zip(*b) {
                                *sum = a.mul_add(b, *sum);
                            }
                        }
                    }
                }
                for (row, sums) in sums.iter().enumerate().take(high) {
                    // SAFETY: the caller's.
                    let c = unsafe {
                        std::slice::from_raw_parts_mut(m.c.add((i + row) * m.stride + j - m.columns.start), wide)
                    };
                    for (c, sum) in c.iter_mut().zip(sums) {
                        *c = if m.add { sum.mul_add(m.alpha, *c) } else { sum * m.alpha };
                    }
                }
            }
        }
    }
}

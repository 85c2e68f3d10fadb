//! The portable backend: plain Rust, compiled for each instruction set and selected at run time. Numbers rounded to
//! bfloat16 are stored as f32. It is the reference for the other backends, and OpenBLAS uses its panels.
use super::backend::{Backend, Product};
use super::matrix::{Operand, OutputBlock, Scalar, Strided};
use super::round::round_to_bf16;
use super::tile::{LANES, PanelKernel, PanelProduct, TILE_COLUMNS};
use crate::wide;
use contract::{Buffer, Precision};

/// Steps of `k` between two accesses to `c`; even.
const DEPTH: usize = 256;
/// Rows of `c` per block that is passed to the callback.
const BLOCK_ROWS: usize = 64;

/// The backend.
pub(super) struct Portable;

impl Backend for Portable {
    fn name(&self) -> &'static str {
        "portable"
    }

    fn is_available(&self) -> bool {
        true
    }

    fn description(&self, precision: Precision) -> String {
        match precision {
            Precision::F32 => "portable, f32".into(),
            Precision::Bf16 | Precision::Int8 => "portable, rounded to bfloat16".into(),
        }
    }

    unsafe fn product(&self, precision: Precision, p: &mut Product<'_>) {
        let kernel = panels(precision);
        let mut packed = Buffer::scratch(p.depth.min(DEPTH).next_multiple_of(2) * TILE_COLUMNS);
        let mut part = Buffer::scratch(if p.c.is_none() { p.rows * TILE_COLUMNS } else { 0 });
        for column in (0..p.columns).step_by(TILE_COLUMNS) {
            let width = TILE_COLUMNS.min(p.columns - column);
            let (c, stride) = p.c.unwrap_or((part.as_mut_ptr().wrapping_sub(column), TILE_COLUMNS));
            for k in (0..p.depth).step_by(DEPTH) {
                let steps = DEPTH.min(p.depth - k);
                let mut multiply = PanelProduct {
                    rows: if p.upper { p.rows.min(column + width) } else { p.rows },
                    columns: 0..width,
                    first: 0,
                    steps,
                    alpha: p.alpha,
                    a: p.a.at(0, k),
                    b: packed.as_ptr(),
                    depth: steps.next_multiple_of(2),
                    panels: width,
                    left: &mut [],
                    add: p.add || k > 0,
                    c: c.wrapping_add(column),
                    stride,
                };
                // SAFETY: steps and columns are inside `a`, `b` and `c`, and the buffer has room for a panel.
                unsafe {
                    (kernel.pack)(p.b.at(k, column), steps, width, packed.as_mut_ptr());
                    (kernel.multiply)(&mut multiply);
                }
            }
            for row in (0..p.rows).step_by(BLOCK_ROWS) {
                let rows = row..p.rows.min(row + BLOCK_ROWS);
                (p.then)(&mut OutputBlock { rows, columns: column..column + width, c, stride });
            }
        }
    }

    fn panels(&self, precision: Precision) -> PanelKernel {
        panels(precision)
    }
}

/// The portable panels.
pub(super) fn panels(precision: Precision) -> PanelKernel {
    match precision {
        Precision::F32 => PanelKernel { pack: pack_panels::<false>, multiply: multiply_panels::<false> },
        Precision::Bf16 | Precision::Int8 => {
            PanelKernel { pack: pack_panels::<true>, multiply: multiply_panels::<true> }
        }
    }
}

/// See [`PanelKernel::pack`].
unsafe fn pack_panels<const ROUNDED: bool>(b: Operand, steps: usize, columns: usize, out: *mut f32) {
    // SAFETY: guaranteed by the caller.
    unsafe {
        match b {
            Operand::F32(b) => pack::<ROUNDED, f32>(b, steps, columns, out),
            Operand::Bf16(b) => pack::<ROUNDED, _>(b, steps, columns, out),
        }
    }
}

unsafe fn pack<const ROUNDED: bool, N: Scalar>(b: Strided<N>, steps: usize, columns: usize, out: *mut f32) {
    let depth = steps.next_multiple_of(2);
    for panel in (0..columns).step_by(TILE_COLUMNS) {
        let width = TILE_COLUMNS.min((columns - panel).next_multiple_of(LANES));
        for step in 0..depth {
            for column in 0..width {
                let inside = step < steps && panel + column < columns;
                // SAFETY: the caller guarantees that the element is inside the matrix, and its destination inside the
                // panels.
                unsafe {
                    let x = if inside { (*b.at(step, panel + column).data).widen() } else { 0.0 };
                    *out.add(panel * depth + step * width + column) = if ROUNDED { round_to_bf16(x) } else { x };
                }
            }
        }
    }
}

/// See [`PanelKernel::multiply`].
unsafe fn multiply_panels<const ROUNDED: bool>(m: &mut PanelProduct<'_>) {
    // SAFETY: guaranteed by the caller.
    unsafe {
        match m.a {
            Operand::F32(a) => multiply(m, a, ROUNDED),
            Operand::Bf16(a) => multiply(m, a, ROUNDED),
        }
    }
}

wide! {
    unsafe fn multiply<N: Scalar>(m: &PanelProduct<'_>, a: Strided<N>, rounded: bool) {
        for j in (m.columns.start..m.columns.end).step_by(LANES) {
            let panel = j / TILE_COLUMNS * TILE_COLUMNS;
            let across = TILE_COLUMNS.min((m.panels - panel).next_multiple_of(LANES));
            let width = LANES.min(m.columns.end - j);
            for i in (0..m.rows).step_by(4) {
                let height = 4.min(m.rows - i);
                let mut sums = [[0.0f32; LANES]; 4];
                for step in 0..m.steps {
                    // SAFETY: guaranteed by the caller; rows that do not exist repeat the last one.
                    unsafe {
                        let b = m.b.add(panel * m.depth + (m.first + step) * across + j - panel).cast::<[f32; LANES]>();
                        for (row, sums) in sums.iter_mut().enumerate() {
                            let a = (*a.at(i + row.min(height - 1), step).data).widen();
                            let a = if rounded { round_to_bf16(a) } else { a };
                            for (sum, b) in sums.iter_mut().zip(*b) {
                                *sum = a.mul_add(b, *sum);
                            }
                        }
                    }
                }
                for (row, sums) in sums.iter().enumerate().take(height) {
                    // SAFETY: guaranteed by the caller.
                    let c = unsafe {
                        std::slice::from_raw_parts_mut(m.c.add((i + row) * m.stride + j - m.columns.start), width)
                    };
                    for (c, sum) in c.iter_mut().zip(sums) {
                        *c = if m.add { sum.mul_add(m.alpha, *c) } else { sum * m.alpha };
                    }
                }
            }
        }
    }
}

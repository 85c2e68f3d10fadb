//! Products in eight bits on CPUs without an instruction for them: the integers are multiplied in bfloat16 by the
//! backend. They are exact in bfloat16, and so are sums of up to [`EXACT`] products in f32.
use super::Keys;
use super::quantise::{Lines, integers};
use crate::kernels::gemm::backend::{Backend, Product};
use crate::kernels::gemm::matrix::OutputBlock;
use crate::wide;
use contract::{Buffer, Precision};

/// Number of products whose sum is below 2²⁴: each is at most 127².
const EXACT: usize = 1024;
/// Columns of the result that are computed at once.
const COLUMNS: usize = 512;

/// Computes a product.
///
/// # Safety
/// As for [`Backend::product`]; the depth must be at most [`DEEPEST`](super::DEEPEST).
pub(super) unsafe fn run(backend: &dyn Backend, keys: Keys, p: &mut Product<'_>) {
    let (rows, b) = (p.rows, p.b.transposed());
    // SAFETY: the caller guarantees that the operands have these sizes, also below.
    let of_a = unsafe { Lines::of(p.a, [rows, p.depth], 0, keys[0], p.alpha) };
    let width = COLUMNS.min(p.columns);
    let (mut part, mut sums) = (Buffer::scratch(rows * width), vec![0; rows * width]);
    let mut blocks = Buffer::scratch(if p.c.is_none() { rows * width } else { 0 });
    for column in (0..p.columns).step_by(width) {
        let wide = width.min(p.columns - column);
        // SAFETY: as above.
        let of_b = unsafe { Lines::of(b.at(column, 0), [wide, p.depth], column, keys[1], 1.0) };
        sums.fill(0);
        for k in (0..p.depth).step_by(EXACT) {
            let steps = EXACT.min(p.depth - k);
            // SAFETY: as above; `part` has room for the result.
            unsafe {
                let a = integers(p.a.at(0, k), [rows, steps], k, &of_a);
                let b = integers(b.at(column, k), [wide, steps], k, &of_b);
                backend.product(
                    Precision::Bf16,
                    &mut Product {
                        rows,
                        columns: wide,
                        depth: steps,
                        alpha: 1.0,
                        a: a.operand(),
                        b: b.operand().transposed(),
                        add: false,
                        upper: false,
                        c: Some((part.as_mut_ptr(), width)),
                        cached: p.cached,
                        then: &mut |_| (),
                    },
                );
            }
            add(&part, &mut sums);
        }
        let (c, stride) = p.c.unwrap_or((blocks.as_mut_ptr().wrapping_sub(column), width));
        let mut done = OutputBlock { rows: 0..rows, columns: column..column + wide, c, stride };
        for (row, sums) in sums.chunks_exact(width).enumerate() {
            scale(sums, of_a.scales[row], &of_b.scales, p.add, done.row(row));
        }
        (p.then)(&mut done);
    }
}

wide! {
    fn add(part: &[f32], sums: &mut [i32]) {
        for (sum, part) in sums.iter_mut().zip(part) {
            *sum = sum.wrapping_add(*part as i32);
        }
    }
}

wide! {
    /// A row of the result.
    fn scale(sums: &[i32], row_scale: f32, column_scales: &[f32], add: bool, c: &mut [f32]) {
        for ((c, sum), column_scale) in c.iter_mut().zip(sums).zip(column_scales) {
            let value = *sum as f32 * row_scale * column_scale;
            *c = if add { *c + value } else { value };
        }
    }
}

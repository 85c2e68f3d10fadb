//! Products in eight bits on CPUs without an instruction for them: the integers are multiplied in bfloat16 by the
//! backend. They are exact in bfloat16, and so are sums of up to [`EXACT`] products in f32.
use super::Keys;
use super::quantise::{Integers, Lines, integers};
use crate::kernels::gemm::backend::{Backend, Product};
use crate::kernels::gemm::matrix::OutputBlock;
use crate::wide;
use contract::{Buffer, Precision};
use std::ops::Range;

/// Number of products whose sum is below 2²⁴: each is at most 127².
const EXACT: usize = 1024;
/// Columns of the result that are computed at once.
const COLUMNS: usize = 512;

/// An operand: the integers of some lines and steps, and the scale of each line.
pub(super) struct Side<'a> {
    pub integers: &'a dyn Fn(Range<usize>, Range<usize>) -> Integers,
    pub scales: &'a [f32],
}

/// Where a product goes; see the fields of the same names of [`Product`].
pub(super) struct Target<'a> {
    pub add: bool,
    pub c: Option<(*mut f32, usize)>,
    pub then: &'a mut dyn FnMut(&mut OutputBlock),
}

/// Computes a product.
///
/// # Safety
/// As for [`Backend::product`]; the depth must be at most [`DEEPEST`](super::DEEPEST).
pub(super) unsafe fn run(backend: &dyn Backend, keys: Keys, p: &mut Product<'_>) {
    let (a, b, sizes) = (p.a, p.b.transposed(), [p.rows, p.columns, p.depth]);
    // SAFETY: the caller guarantees that the operands have these sizes, also below.
    let of_a = unsafe { Lines::of(a, [p.rows, p.depth], p.largest[0], 0, keys[0], p.alpha) };
    // SAFETY: as above.
    let of_b = unsafe { Lines::of(b, [p.columns, p.depth], p.largest[1], 0, keys[1], 1.0) };
    // SAFETY: as above.
    let of_a_part = |lines: Range<usize>, steps: Range<usize>| unsafe { integers(a, lines, steps, &of_a) };
    // SAFETY: as above.
    let of_b_part = |lines: Range<usize>, steps: Range<usize>| unsafe { integers(b, lines, steps, &of_b) };
    let a = Side { integers: &of_a_part, scales: &of_a.scales };
    let b = Side { integers: &of_b_part, scales: &of_b.scales };
    // SAFETY: as above.
    unsafe { multiply(backend, &a, &b, sizes, &mut Target { add: p.add, c: p.c, then: &mut *p.then }) }
}

/// Computes the product of `[rows, depth]` and `[depth, columns]` integers.
///
/// # Safety
/// As for [`run`]; the operands must have these sizes.
pub(super) unsafe fn multiply(
    backend: &dyn Backend,
    a: &Side<'_>,
    b: &Side<'_>,
    [rows, columns, depth]: [usize; 3],
    to: &mut Target<'_>,
) {
    let width = COLUMNS.min(columns);
    let (mut part, mut sums) = (Buffer::scratch(rows * width), vec![0; rows * width]);
    let mut blocks = Buffer::scratch(if to.c.is_none() { rows * width } else { 0 });
    for column in (0..columns).step_by(width) {
        let wide = column..columns.min(column + width);
        sums.fill(0);
        for k in (0..depth).step_by(EXACT) {
            let steps = k..depth.min(k + EXACT);
            let (a, b) = ((a.integers)(0..rows, steps.clone()), (b.integers)(wide.clone(), steps.clone()));
            let mut product = Product {
                rows,
                columns: wide.len(),
                depth: steps.len(),
                alpha: 1.0,
                a: a.operand(),
                b: b.operand().transposed(),
                add: false,
                upper: false,
                c: Some((part.as_mut_ptr(), width)),
                cached: Product::cached(),
                largest: [None; 2],
                then: &mut |_| (),
            };
            // SAFETY: guaranteed by the caller; `part` has room for the result.
            unsafe { backend.product(Precision::Bf16, &mut product) };
            add(&part, &mut sums);
        }
        let (c, stride) = to.c.unwrap_or((blocks.as_mut_ptr().wrapping_sub(column), width));
        let mut done = OutputBlock { rows: 0..rows, columns: wide.clone(), c, stride };
        for (row, sums) in sums.chunks_exact(width).enumerate() {
            scale(sums, a.scales[row], &b.scales[wide.clone()], to.add, done.row(row));
        }
        (to.then)(&mut done);
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

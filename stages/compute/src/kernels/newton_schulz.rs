//! Approximate orthogonalisation for Muon (Jordan et al. 2024): brings the singular values of a matrix close to 1.
//!
//! Five steps of the quintic Newton–Schulz iteration `x ← p x`, `p = a + b g + c g²`, `g = x xᵀ`, starting from `x /
//! ‖x‖`. The coefficients are Jordan's: small singular values grow quickly, and all end between about 0.7 and 1.2.
//!
//! Most of the work is done on symmetric matrices of the smaller side of `x`, whose products take half the operations
//! ([`symmetric_product`]). A step only computes the next `g`, which is `p g p`, and the product `q` of all `p` so far;
//! `x ← q x` is computed once after several steps ("Gram Newton–Schulz"). All these matrices are polynomials in the
//! first `g`, so they commute. For a matrix four times as long as wide, five steps take a third of the operations of the
//! iteration as it is written above, and half of them for a square one.
//!
//! In bfloat16, `x` and `g` are computed anew after two steps. Otherwise `g` would no longer be that of `x`: its rounding
//! errors add up, and some of them are negative eigenvalues, which grow by a factor of 12 a step. With two steps, the
//! result is as accurate as that of Jordan's iteration, which stores `x` in bfloat16, and more accurate where `x` has
//! small singular values: only operands of products are rounded here, and `x` itself stays in f32.
use crate::kernels::gemm::{Matrix, block, matrix, matrix_mut, product_then, symmetric_product};
use crate::simd::sum_of_squares;
use crate::wide;
use contract::{Buffer, Precision};
use ndarray::ArrayView1;
use std::ops::Range;

/// `[a, b, c]` of a step.
type Step = [f32; 3];

const STEPS: [Step; 5] = [[3.4445, -4.7750, 2.0315]; 5];
/// Added to the norm before the division.
const EPSILON: f64 = 1e-7;

/// The steps, grouped by computations of `x`.
fn phases(precision: Precision) -> Vec<&'static [Step]> {
    match precision {
        Precision::F32 => vec![&STEPS],
        Precision::Bf16 => vec![&STEPS[..2], &STEPS[2..4], &STEPS[4..]],
    }
}

/// Multiply-adds of [`orthogonalised`] for a matrix `[rows, columns]`, approximately.
pub fn operations(rows: usize, columns: usize) -> u64 {
    let (side, long) = (rows.min(columns) as u64, rows.max(columns) as u64);
    // In bfloat16, with three computations of `g` and of `x`: eleven symmetric products of squares, three with `x`, and
    // three whole products with it.
    side * side * (11 * side + 9 * long) / 2
}

/// The orthogonalised columns `columns` of `x` `[rows, width]`, as a matrix of their own. Operands of products are rounded
/// to `precision`. The rank is preserved; a zero matrix stays zero.
///
/// # Panics
/// If `x` has no such columns.
pub fn orthogonalised(precision: Precision, x: &[f32], width: usize, columns: Range<usize>) -> Buffer {
    let rows = x.len() / width.max(1);
    assert!(columns.end <= width && x.len() == rows * width, "the columns are inside the matrix");
    let (columns, at) = (columns.len(), columns.start);
    let mut result = Buffer::scratch(rows * columns);
    if result.is_empty() {
        return result;
    }
    let mut squares = Squares::new(rows.min(columns));
    let x = block(x, at, rows, columns, width);
    let scale = 1.0 / (norm(x) + EPSILON);
    for (number, steps) in phases(precision).into_iter().enumerate() {
        if number == 0 {
            squares.apply(precision, scale as f32, x, steps, &mut result);
        } else {
            let before = std::mem::replace(&mut result, Buffer::scratch(rows * columns));
            squares.apply(precision, 1.0, matrix(&before, columns), steps, &mut result);
        }
    }
    result
}

/// The Frobenius norm.
fn norm(x: Matrix<'_>) -> f64 {
    let squares = |row: ArrayView1<'_, f32>| squares(row.as_slice().expect("rows are contiguous"));
    x.rows().into_iter().map(squares).sum::<f64>().sqrt()
}

wide! {
    fn squares(x: &[f32]) -> f64 {
        f64::from(sum_of_squares(x, 0.0))
    }
}

wide! {
    /// `y = factor · x + y`.
    fn add_scaled(factor: f32, x: &[f32], y: &mut [f32]) {
        for (x, y) in x.iter().zip(y) {
            *y = factor.mul_add(*x, *y);
        }
    }
}

/// The symmetric matrices of the iteration, `[side, side]`. They are polynomials in `g`; those of `p` and `q` are stored
/// without their constant terms, which are added in f32.
struct Squares {
    side: usize,
    g: Buffer,
    p: Buffer,
    pg: Buffer,
    q: Buffer,
    next_q: Buffer,
}

impl Squares {
    fn new(side: usize) -> Self {
        let [g, p, pg, q, next_q] = [(); 5].map(|()| Buffer::scratch(side * side));
        Self { side, g, p, pg, q, next_q }
    }

    /// `out = q x` of the steps from `x`, which is multiplied by `scale` first.
    fn apply(&mut self, precision: Precision, scale: f32, x: Matrix<'_>, steps: &[Step], out: &mut [f32]) {
        let constant = scale * self.polynomial(precision, scale, x, steps);
        let q = matrix(&self.q, self.side);
        let (left, right) = if x.nrows() == self.side { (q, x) } else { (x, q) };
        let out = matrix_mut(out, x.ncols());
        product_then(precision, scale, left.into(), right.into(), 0.0, out, &mut |done| {
            for row in done.rows.clone() {
                let x = x.row(row).to_slice().expect("rows are contiguous");
                add_scaled(constant, &x[done.columns.clone()], done.row(row));
            }
        });
    }

    /// The product `q` of the polynomials of `steps`, from `scale · x`: returns its constant term, and leaves the rest in
    /// [`Self::q`].
    fn polynomial(&mut self, precision: Precision, scale: f32, x: Matrix<'_>, steps: &[Step]) -> f32 {
        let Self { side, g, p, pg, q, next_q } = self;
        let times = |factor: f32, a: &[f32], b: &[f32], terms: &[(f32, &[f32])], c: &mut [f32]| {
            symmetric_product(precision, factor, matrix(a, *side), matrix(b, *side), terms, c);
        };
        let (left, right) = if x.nrows() == *side { (x, x.reversed_axes()) } else { (x.reversed_axes(), x) };
        symmetric_product(precision, scale * scale, left, right, &[], g);
        let mut constant = 1.0;
        for (number, [a, b, c]) in steps.iter().enumerate() {
            times(*c, g, g, &[(*b, g)], p);
            if number + 1 < steps.len() {
                times(1.0, g, p, &[(*a, g)], pg);
                times(1.0, pg, p, &[(*a, pg)], g);
            }
            if number == 0 {
                std::mem::swap(q, p);
            } else {
                times(1.0, q, p, &[(*a, q), (constant, p)], next_q);
                std::mem::swap(q, next_q);
            }
            constant *= a;
        }
        constant
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::gemm::{available, with_backend};
    use crate::kernels::testing::{assert_close, random, wide};
    use proptest::prelude::*;

    /// The iteration as defined above, in f64.
    fn naive(x: &[f64], rows: usize, columns: usize) -> Vec<f64> {
        let times = |a: &[f64], b: &[f64], inner: usize| -> Vec<f64> {
            let n = b.len() / inner;
            let element = |i: usize| (0..inner).map(|k| a[i / n * inner + k] * b[k * n + i % n]).sum();
            (0..a.len() / inner * n).map(element).collect()
        };
        let norm = x.iter().map(|x| x * x).sum::<f64>().sqrt() + EPSILON;
        let mut x: Vec<f64> = x.iter().map(|x| x / norm).collect();
        for [a, b, c] in STEPS.map(|step| step.map(f64::from)) {
            let turned: Vec<f64> = (0..x.len()).map(|i| x[i % rows * columns + i / rows]).collect();
            let gram = times(&x, &turned, columns);
            let square = times(&gram, &gram, rows);
            let inner: Vec<f64> = gram.iter().zip(&square).map(|(g, s)| b * g + c * s).collect();
            let more = times(&inner, &x, rows);
            x = x.iter().zip(more).map(|(x, more)| a * x + more).collect();
        }
        x
    }

    /// Root of the sum of squared errors, relative to the expected matrix.
    fn error(actual: &[f32], expected: &[f64]) -> f64 {
        let sum = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>();
        let errors = sum(&mut actual.iter().zip(expected).map(|(a, e)| f64::from(*a) - e));
        (errors / sum(&mut expected.iter().copied()).max(1e-12)).sqrt()
    }

    /// The largest [`error`]. In bfloat16, that of Jordan's own iteration is 0.03 for large random matrices and up to 0.15
    /// with a few singular values, because the iteration magnifies errors of those near 1.
    fn tolerance(precision: Precision, side: usize) -> f64 {
        match precision {
            Precision::F32 => 2e-3,
            Precision::Bf16 if side < 50 => 0.3,
            Precision::Bf16 => 0.06,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20))]
        #[test]
        fn agrees_with_the_iteration(
            rows in 1usize..40, columns in 1usize..40, rank in 1usize..40, scale in 0.01f32..100.0, bf16: bool,
        ) {
            let precision = if bf16 { Precision::Bf16 } else { Precision::F32 };
            let (left, right) = (random(1, rows * rank), random(2, rank * columns));
            let dot = |i: usize, j: usize| -> f32 {
                (0..rank).map(|k| scale * left[i * rank + k] * right[k * columns + j] / (k + 1) as f32).sum()
            };
            let x: Vec<f32> = (0..rows * columns).map(|i| dot(i / columns, i % columns)).collect();
            let expected = naive(&wide(&x), rows, columns);
            let x = orthogonalised(precision, &x, columns, 0..columns);
            prop_assert!(error(&x, &expected) < tolerance(precision, rows.min(columns)), "{}", error(&x, &expected));
        }
    }

    /// Large enough for several blocks of each backend, and long enough for the second phase.
    #[test]
    fn agrees_with_the_iteration_on_every_backend() {
        for (rows, columns) in [(96, 144), (144, 96)] {
            let x = random(3, rows * columns);
            let expected = naive(&wide(&x), rows, columns);
            for (backend, precision) in
                available().into_iter().flat_map(|name| [Precision::F32, Precision::Bf16].map(|p| (name, p)))
            {
                let y = with_backend(backend, || orthogonalised(precision, &x, columns, 0..columns)).unwrap();
                let error = error(&y, &expected);
                assert!(error < tolerance(precision, 96), "{backend} {precision:?}: {error}");
            }
        }
    }

    /// The singular values of a diagonal matrix are its entries, for which the iteration is one of numbers.
    #[test]
    fn singular_values_follow_the_polynomial() {
        let sizes = [5.0f32, 1.0, 0.3, 0.05];
        let norm = sizes.iter().map(|x| x * x).sum::<f32>().sqrt();
        let expected = sizes.map(|size| {
            STEPS.iter().fold(f64::from(size / norm), |x, [a, b, c]| {
                x * (f64::from(*a) + f64::from(*b) * x.powi(2) + f64::from(*c) * x.powi(4))
            })
        });
        assert!(expected.iter().all(|x| (0.65..1.25).contains(x)), "{expected:?}");
        for (precision, tolerance) in [(Precision::F32, 1e-4), (Precision::Bf16, 0.3)] {
            let mut x = vec![0.0; 4 * 6];
            sizes.iter().enumerate().for_each(|(i, size)| x[i * 6 + i] = *size);
            let x = orthogonalised(precision, &x, 6, 0..6);
            let all: Vec<f64> = (0..24).map(|at| if at % 6 == at / 6 { expected[at / 6] } else { 0.0 }).collect();
            assert_close(&x, &all, tolerance);
        }
        assert_eq!(orthogonalised(Precision::F32, &[0.0; 6], 2, 0..2)[..], [0.0; 6]);
    }

    /// Columns are orthogonalised as if they were a matrix of their own, with the same bits.
    #[test]
    fn columns_are_a_matrix_of_their_own() {
        let (rows, width, columns) = (24, 60, 20..52);
        let x = random(4, rows * width);
        let alone: Vec<f32> = x.chunks(width).flat_map(|row| &row[columns.clone()]).copied().collect();
        for precision in [Precision::F32, Precision::Bf16] {
            let of_part = orthogonalised(precision, &x, width, columns.clone());
            assert_eq!(of_part[..], orthogonalised(precision, &alone, columns.len(), 0..columns.len())[..]);
        }
        assert!(orthogonalised(Precision::F32, &x, width, 7..7).is_empty());
    }
}

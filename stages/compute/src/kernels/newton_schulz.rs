//! Approximate orthogonalisation for Muon (Jordan et al. 2024): brings the singular values of a matrix close to 1.
//!
//! Three steps of a quintic Newton–Schulz iteration `x ← p x`, `p = a + b g + c g²`, `g = x xᵀ`. Each step has the
//! coefficients that are optimal for the interval in which the previous one leaves the singular values (Polar Express:
//! Amsel, Persson, Musco and Gower 2025, arXiv 2505.16932, algorithm 1). Singular values between 0.01 and 1 end between
//! 0.71 and 1.27, smaller ones grow by a factor of 76. Jordan's five steps reach 0.68 to 1.2.
//!
//! Fewer steps suffice because the iteration starts from `x / (Σ σ⁴)^¼`, with the singular values σ, instead of `x /
//! ‖x‖`. This norm is also an upper bound of the largest σ, but a closer one: at most 1.32 times as large for the momentum
//! of a small model, where the other was up to 3.3 times as large. It costs next to nothing, since it is the root of the
//! Frobenius norm of `g`.
//!
//! Most of the work is done on symmetric matrices of the smaller side of `x`, whose products take half the operations
//! ([`symmetric_product`]). A step only computes the next `g`, which is `p g p`, and the product `q` of all `p` so far;
//! `q x` is computed once at the end ("Gram Newton–Schulz"). All these matrices are polynomials in the first `g`, so they
//! commute.
//!
//! In bfloat16, only operands of products are rounded; sums and `x` itself stay in f32. Rounding errors of `g` are partly
//! negative eigenvalues, which grow by a factor of up to 64 in the first step and 13 in the second, so a fourth step would
//! need a new `g`. For the momentum of whole matrices of small models, the error of the result is 1 to 6 % of it. Where
//! `x` has only a few singular values that are not tiny, the rounding errors in the other directions grow most: so
//! matrices with a side below [`SMALL`], which take little time, are always multiplied in f32.
use crate::kernels::gemm::{Matrix, matrix, matrix_mut, product_then, symmetric_product};
use crate::simd::sum_of_squares;
use crate::wide;
use contract::{Buffer, Precision};
use ndarray::ArrayView1;

/// `[a, b, c]` of a step.
type Step = [f32; 3];

/// The optimal steps for singular values between 0.01 and 1. The argument of the first two is divided by 1.01 as in the
/// paper, so that rounding errors do not take a singular value out of a step's interval.
const STEPS: [Step; 3] = [[8.0132, -22.926, 16.599], [3.6006, -2.6419, 0.51051], [2.6613, -1.9772, 0.45262]];
/// A matrix with fewer rows or columns is multiplied in f32.
const SMALL: usize = 64;
/// Added to the norm before the division, and the least norm of `g`.
const EPSILON: f64 = 1e-7;

/// The precision of the products of [`orthogonalised`] for a matrix `[rows, columns]`, if it may be `precision`.
pub fn precision_of_products(precision: Precision, rows: usize, columns: usize) -> Precision {
    if rows.min(columns) < SMALL { Precision::F32 } else { precision }
}

/// Multiply-adds of [`orthogonalised`] for a matrix `[rows, columns]`.
pub fn operations(rows: usize, columns: usize) -> u64 {
    let (side, long) = (rows.min(columns) as u64, rows.max(columns) as u64);
    // Nine symmetric products of squares, a symmetric one with `x`, and a whole one with it.
    side * side * (9 * side + 3 * long) / 2
}

/// The orthogonalised `x`. Operands of products are rounded to `precision`, unless the matrix is small. The rank is
/// preserved; a zero matrix stays zero.
///
/// # Panics
/// If the elements of a row are not next to each other in memory.
pub fn orthogonalised(precision: Precision, x: Matrix<'_>) -> Buffer {
    let (rows, columns) = x.dim();
    let mut result = Buffer::scratch(rows * columns);
    if result.is_empty() {
        return result;
    }
    let side = rows.min(columns);
    let precision = precision_of_products(precision, rows, columns);
    let scale = (1.0 / (norm(x) + EPSILON)) as f32;
    let (constant, q) = polynomial(precision, scale, x, side);
    let (constant, q) = (scale * constant, matrix(&q, side));
    let (left, right) = if rows == side { (q, x) } else { (x, q) };
    let out = matrix_mut(&mut result, columns);
    product_then(precision, scale, left.into(), right.into(), 0.0, out, &mut |done| {
        for row in done.rows.clone() {
            let x = x.row(row).to_slice().expect("rows are contiguous");
            add_scaled(constant, &x[done.columns.clone()], done.row(row));
        }
    });
    result
}

/// The polynomial `q` in `g` with which the steps multiply `scale · x`: its constant term, and the other terms as a matrix
/// `[side, side]`, where `side` is the smaller side of `x`.
fn polynomial(precision: Precision, scale: f32, x: Matrix<'_>, side: usize) -> (f32, Buffer) {
    let times = |factor: f32, a: &[f32], b: &[f32], terms: &[(f32, &[f32])], c: &mut [f32]| {
        symmetric_product(precision, factor, matrix(a, side), matrix(b, side), terms, c);
    };
    // As `q`, `p` is stored without its constant term, which is added in f32.
    let [mut g, mut p, mut pg, mut q, mut next_q] = [(); 5].map(|()| Buffer::scratch(side * side));
    let (left, right) = if x.nrows() == side { (x, x.reversed_axes()) } else { (x.reversed_axes(), x) };
    symmetric_product(precision, scale * scale, left, right, &[], &mut g);
    let mut constant = 1.0;
    for (number, [a, b, c]) in scaled_steps(norm(matrix(&g, side))).into_iter().enumerate() {
        times(c, &g, &g, &[(b, &g)], &mut p);
        if number + 1 < STEPS.len() {
            times(1.0, &g, &p, &[(a, &g)], &mut pg);
            times(1.0, &pg, &p, &[(a, &pg)], &mut g);
        }
        if number == 0 {
            std::mem::swap(&mut q, &mut p);
        } else {
            times(1.0, &q, &p, &[(a, &q), (constant, &p)], &mut next_q);
            std::mem::swap(&mut q, &mut next_q);
        }
        constant *= a;
    }
    (constant, q)
}

/// The steps for an `x` whose `x xᵀ` has the Frobenius norm `norm`: the first one also divides `x` by the root of it.
fn scaled_steps(norm: f64) -> [Step; STEPS.len()] {
    let scale = norm.max(EPSILON).sqrt().recip() as f32;
    let mut steps = STEPS;
    let [a, b, c] = STEPS[0];
    steps[0] = [a * scale, b * scale.powi(3), c * scale.powi(5)];
    steps
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::gemm::{available, block, with_backend};
    use crate::kernels::testing::{assert_close, random, wide};
    use proptest::prelude::*;

    /// The iteration as defined above, in f64.
    fn naive(x: &[f64], rows: usize, columns: usize) -> Vec<f64> {
        let times = |a: &[f64], b: &[f64], inner: usize| -> Vec<f64> {
            let n = b.len() / inner;
            let element = |i: usize| (0..inner).map(|k| a[i / n * inner + k] * b[k * n + i % n]).sum();
            (0..a.len() / inner * n).map(element).collect()
        };
        let transposed = |x: &[f64]| -> Vec<f64> { (0..x.len()).map(|i| x[i % rows * columns + i / rows]).collect() };
        let gram = times(x, &transposed(x), columns);
        let norm = gram.iter().map(|g| g * g).sum::<f64>().powf(0.25).max(EPSILON);
        let mut x: Vec<f64> = x.iter().map(|x| x / norm).collect();
        for [a, b, c] in STEPS.map(|step| step.map(f64::from)) {
            let gram = times(&x, &transposed(&x), columns);
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

    /// The largest [`error`].
    fn tolerance(precision: Precision, side: usize) -> f64 {
        if precision_of_products(precision, side, side) == Precision::Bf16 { 0.1 } else { 1e-3 }
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
            let x = orthogonalised(precision, matrix(&x, columns));
            prop_assert!(error(&x, &expected) < tolerance(precision, rows.min(columns)), "{}", error(&x, &expected));
        }
    }

    /// Large enough for several blocks of each backend.
    #[test]
    fn agrees_with_the_iteration_on_every_backend() {
        for (rows, columns) in [(96, 144), (144, 96)] {
            let x = random(3, rows * columns);
            let expected = naive(&wide(&x), rows, columns);
            for (backend, precision) in
                available().into_iter().flat_map(|name| [Precision::F32, Precision::Bf16].map(|p| (name, p)))
            {
                let y = with_backend(backend, || orthogonalised(precision, matrix(&x, columns))).unwrap();
                let error = error(&y, &expected);
                assert!(error < tolerance(precision, 96), "{backend} {precision:?}: {error}");
            }
        }
    }

    /// Singular values of at least 0.01 end where they should, and smaller ones grow.
    #[test]
    fn steps_bring_singular_values_close_to_1() {
        for number in 1..=1000 {
            let singular_value = f64::from(number) / 1000.0;
            let result = after_steps(singular_value);
            assert!(if number < 10 { result > 60.0 * singular_value } else { result > 0.7 }, "{number}: {result}");
            assert!(result < 1.28, "{number}: {result}");
        }
    }

    /// The iteration for a matrix `[1, 1]`.
    fn after_steps(x: f64) -> f64 {
        STEPS.iter().fold(x, |x, step| {
            let [a, b, c] = step.map(f64::from);
            x * (a + b * x.powi(2) + c * x.powi(4))
        })
    }

    /// The singular values of a diagonal matrix are its entries.
    #[test]
    fn singular_values_follow_the_polynomial() {
        let sizes = [5.0f32, 1.0, 0.3, 0.05];
        let norm = sizes.iter().map(|x| f64::from(*x).powi(4)).sum::<f64>().powf(0.25);
        let expected = sizes.map(|size| after_steps(f64::from(size) / norm));
        for precision in [Precision::F32, Precision::Bf16] {
            let mut x = vec![0.0; 4 * 6];
            sizes.iter().enumerate().for_each(|(i, size)| x[i * 6 + i] = *size);
            let x = orthogonalised(precision, matrix(&x, 6));
            let all: Vec<f64> = (0..24).map(|at| if at % 6 == at / 6 { expected[at / 6] } else { 0.0 }).collect();
            assert_close(&x, &all, 1e-4);
        }
        assert_eq!(orthogonalised(Precision::F32, matrix(&[0.0; 6], 2))[..], [0.0; 6]);
    }

    /// As for momentum: a few singular values far above the others, which decay over two orders of magnitude.
    #[test]
    fn agrees_with_the_iteration_for_a_spectrum_that_decays() {
        let (rows, columns) = (96, 160);
        let (left, right) = (random(5, rows * rows), random(6, rows * columns));
        let dot = |i: usize, j: usize| -> f32 {
            let decay = |k: usize| 30.0 * (-(k as f32)).exp() + (-3.0 * k as f32 / rows as f32).exp();
            (0..rows).map(|k| decay(k) * left[i * rows + k] * right[k * columns + j]).sum()
        };
        let x: Vec<f32> = (0..rows * columns).map(|i| dot(i / columns, i % columns)).collect();
        let expected = naive(&wide(&x), rows, columns);
        for (precision, tolerance) in [(Precision::F32, 1e-3), (Precision::Bf16, 0.1)] {
            let error = error(&orthogonalised(precision, matrix(&x, columns)), &expected);
            assert!(error < tolerance, "{precision:?}: {error}");
        }
    }

    /// A part of a matrix is orthogonalised as if it were a matrix of its own, with the same bits.
    #[test]
    fn a_block_is_a_matrix_of_its_own() {
        let (rows, width) = (80, 200);
        let x = random(4, rows * width);
        let part = block(&x, 3 * width + 20, 72, 100, width);
        let alone: Vec<f32> = part.iter().copied().collect();
        for precision in [Precision::F32, Precision::Bf16] {
            let of_part = orthogonalised(precision, part);
            assert_eq!(of_part[..], orthogonalised(precision, matrix(&alone, 100))[..]);
        }
        assert!(orthogonalised(Precision::F32, block(&x, 0, rows, 0, width)).is_empty());
    }
}

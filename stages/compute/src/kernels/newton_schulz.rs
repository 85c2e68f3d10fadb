//! Approximate orthogonalisation for Muon (Jordan et al. 2024): brings the singular values of a matrix close to 1.
//!
//! Five steps of the quintic Newton–Schulz iteration `x ← a x + (b x xᵀ + c (x xᵀ)²) x`, starting from `x / ‖x‖`. The
//! coefficients are Jordan's: small singular values grow quickly, and all end between about 0.7 and 1.2.
use crate::kernels::gemm::{Matrix, matrix, matrix_mut, product};
use contract::Tensor;

const STEPS: usize = 5;
const A: f32 = 3.4445;
const B: f32 = -4.7750;
const C: f32 = 2.0315;
/// Added to the norm before the division.
const EPSILON: f64 = 1e-7;

/// Orthogonalises `x` `[rows, columns]` in place. The rank is preserved; a zero matrix stays zero.
///
/// # Panics
/// If `x` is not a matrix.
pub fn orthogonalise(x: &mut Tensor) {
    let [rows, columns] = x.shape[..] else { panic!("expected a matrix, got shape {:?}", x.shape) };
    let norm = x.data.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    let factor = (1.0 / (norm + EPSILON)) as f32;
    x.data.iter_mut().for_each(|x| *x *= factor);
    // x xᵀ if there are fewer rows than columns, else xᵀ x: the same iteration with the smaller square matrix.
    let wide = rows <= columns;
    let side = rows.min(columns);
    let [mut gram, mut square] = [(); 2].map(|()| Tensor::scratch([side, side]));
    let mut next = Tensor::scratch(x.shape.clone());
    for _ in 0..STEPS {
        let m: Matrix<'_> = matrix(&x.data, columns);
        let (left, right) = if wide { (m, m.reversed_axes()) } else { (m.reversed_axes(), m) };
        product(1.0, left, right, 0.0, matrix_mut(&mut gram.data, side));
        square.data.copy_from_slice(&gram.data);
        product(C, matrix(&gram.data, side), matrix(&gram.data, side), B, matrix_mut(&mut square.data, side));
        next.data.copy_from_slice(&x.data);
        let s = matrix(&square.data, side);
        let (left, right) = if wide { (s, m) } else { (m, s) };
        product(1.0, left, right, A, matrix_mut(&mut next.data, columns));
        std::mem::swap(x, &mut next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
        for _ in 0..STEPS {
            let turned: Vec<f64> = (0..x.len()).map(|i| x[i % rows * columns + i / rows]).collect();
            let gram = times(&x, &turned, columns);
            let square = times(&gram, &gram, rows);
            let inner: Vec<f64> = gram.iter().zip(&square).map(|(g, s)| f64::from(B) * g + f64::from(C) * s).collect();
            let more = times(&inner, &x, rows);
            x = x.iter().zip(more).map(|(x, more)| f64::from(A) * x + more).collect();
        }
        x
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20))]
        #[test]
        fn agrees_with_the_iteration(rows in 1usize..12, columns in 1usize..12, scale in 0.01f32..100.0) {
            let values: Vec<f32> = random(1, rows * columns).iter().map(|x| x * scale).collect();
            let mut x = Tensor::from_values([rows, columns], &values);
            orthogonalise(&mut x);
            assert_close(&x.data, &naive(&wide(&values), rows, columns), 1e-3);
        }
    }

    #[test]
    fn singular_values_come_close_to_one() {
        // A diagonal matrix, whose singular values are its entries.
        let sizes = [5.0f32, 1.0, 0.3, 0.05];
        let mut x = Tensor::zeros([4, 6]);
        sizes.iter().enumerate().for_each(|(i, size)| x.data[i * 6 + i] = *size);
        orthogonalise(&mut x);
        for (at, value) in x.data.iter().enumerate() {
            let expected = if at % 6 == at / 6 { 0.65..1.25 } else { -1e-6..1e-6 };
            assert!(expected.contains(value), "{at}: {value}");
        }
        let mut zeros = Tensor::zeros([3, 2]);
        orthogonalise(&mut zeros);
        assert!(zeros.data.iter().all(|x| *x == 0.0));
    }
}

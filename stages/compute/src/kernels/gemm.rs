//! Matrix products: the one place that calls BLAS (through ndarray).
//!
//! ndarray hands a product to `cblas_sgemm` whenever each operand has a unit stride in one direction; transposes and
//! column blocks of a wider matrix are such views, so nothing is ever copied to be multiplied.
use blas_src as _;
use ndarray::{ArrayView2, ArrayViewMut2, ShapeBuilder, linalg::general_mat_mul};
use std::sync::Once;

/// A matrix that is read: any view with a unit stride in one direction.
pub type Matrix<'a> = ArrayView2<'a, f32>;
/// A matrix that is written.
pub type MatrixMut<'a> = ArrayViewMut2<'a, f32>;

/// The whole of `data` as a `[data.len() / columns, columns]` matrix.
pub fn matrix(data: &[f32], columns: usize) -> Matrix<'_> {
    block(data, 0, data.len() / columns, columns, columns)
}

/// The whole of `data` as a `[data.len() / columns, columns]` matrix, to write.
pub fn matrix_mut(data: &mut [f32], columns: usize) -> MatrixMut<'_> {
    let rows = data.len() / columns;
    block_mut(data, 0, rows, columns, columns)
}

/// `[rows, columns]` out of a matrix whose rows are `stride` apart, its first element at `offset`.
pub fn block(data: &[f32], offset: usize, rows: usize, columns: usize, stride: usize) -> Matrix<'_> {
    Matrix::from_shape((rows, columns).strides((stride, 1)), &data[offset..]).expect("the block lies inside")
}

/// `[rows, columns]` out of a matrix whose rows are `stride` apart, its first element at `offset`, to write.
pub fn block_mut(data: &mut [f32], offset: usize, rows: usize, columns: usize, stride: usize) -> MatrixMut<'_> {
    MatrixMut::from_shape((rows, columns).strides((stride, 1)), &mut data[offset..]).expect("the block lies inside")
}

/// `c = alpha · a · b + beta · c` on the calling thread. With `beta` 0, `c` may hold anything.
///
/// # Panics
/// If the shapes do not fit.
pub fn product(alpha: f32, a: Matrix<'_>, b: Matrix<'_>, beta: f32, mut c: MatrixMut<'_>) {
    static SINGLE_THREADED: Once = Once::new();
    SINGLE_THREADED.call_once(crate::machine::single_threaded_blas);
    if beta == 0.0 && a.ncols() == 0 {
        return c.fill(0.0);
    }
    general_mat_mul(alpha, &a, &b, beta, &mut c);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{assert_close, random};
    use proptest::prelude::*;

    fn naive(alpha: f64, a: Matrix<'_>, b: Matrix<'_>, beta: f64, c: &[f32]) -> Vec<f64> {
        let columns = b.ncols();
        (0..a.nrows() * columns)
            .map(|i| {
                let (row, column) = (i / columns, i % columns);
                let inner: f64 = (0..a.ncols()).map(|k| f64::from(a[(row, k)]) * f64::from(b[(k, column)])).sum();
                alpha * inner + if beta == 0.0 { 0.0 } else { beta * f64::from(c[i]) }
            })
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]
        #[test]
        fn every_layout_multiplies(m in 1usize..40, n in 1usize..40, k in 1usize..40, pad in 0usize..5,
                                   a_t: bool, b_t: bool, beta in prop::sample::select(vec![0.0f32, 1.0])) {
            let (a_rows, a_columns) = if a_t { (k, m) } else { (m, k) };
            let (b_rows, b_columns) = if b_t { (n, k) } else { (k, n) };
            let a = random(1, (a_rows + 1) * (a_columns + pad));
            let b = random(2, (b_rows + 1) * (b_columns + pad));
            let mut c = if beta == 0.0 { vec![f32::NAN; m * n] } else { random(3, m * n) };
            let a = block(&a, pad, a_rows, a_columns, a_columns + pad);
            let b = block(&b, pad, b_rows, b_columns, b_columns + pad);
            let (a, b) = (if a_t { a.reversed_axes() } else { a }, if b_t { b.reversed_axes() } else { b });
            let expected = naive(0.5, a, b, f64::from(beta), &c);
            product(0.5, a, b, beta, matrix_mut(&mut c, n));
            assert_close(&c, &expected, 1e-5);
        }
    }
}

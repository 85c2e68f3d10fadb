//! Matrix products on the selected backend.
use super::backend::Product;
use super::backends::backend;
use super::matrix::{MatRef, Matrix, MatrixMut, OutputBlock};
use contract::Precision;

/// `c = alpha · a · b + beta · c` in f32, on the calling thread. `beta` is 0, with which the previous content of `c` is
/// ignored, or 1.
///
/// # Panics
/// If the shapes do not match, or `beta` is another number.
pub fn product(alpha: f32, a: Matrix<'_>, b: Matrix<'_>, beta: f32, c: MatrixMut<'_>) {
    product_then(Precision::F32, alpha, a.into(), b.into(), beta, c, &mut |_| ());
}

/// `c = a · b + beta · c`, operands rounded to `precision`, on the calling thread. `beta` is 0, with which the previous
/// content of `c` is ignored, or 1.
///
/// # Panics
/// If the shapes do not match, or `beta` is another number.
pub fn product_in<'a, 'b>(
    precision: Precision,
    a: impl Into<MatRef<'a>>,
    b: impl Into<MatRef<'b>>,
    beta: f32,
    c: MatrixMut<'_>,
) {
    product_then(precision, 1.0, a.into(), b.into(), beta, c, &mut |_| ());
}

/// `c = alpha · a · b + beta · c`, operands rounded to `precision`. Each block of `c` is passed to `then` once, as soon
/// as it is complete and while it is in cache.
///
/// # Panics
/// If the shapes do not match, or `beta` is neither 0 nor 1.
pub fn product_then(
    precision: Precision,
    alpha: f32,
    a: MatRef<'_>,
    b: MatRef<'_>,
    beta: f32,
    mut c: MatrixMut<'_>,
    then: &mut dyn FnMut(&mut OutputBlock),
) {
    let ((rows, columns), depth) = (c.dim(), a.dim().1);
    assert!(beta == 0.0 || beta == 1.0, "the result is overwritten or added to");
    assert!(a.dim().0 == rows && b.dim() == (depth, columns), "the shapes of the operands match");
    let stride = if rows > 1 { c.strides()[0] } else { columns as isize };
    assert!((columns <= 1 || c.strides()[1] == 1) && stride >= columns as isize, "results are row-major");
    let (base, stride) = (c.as_mut_ptr(), stride as usize);
    if rows == 0 || columns == 0 {
        return;
    }
    if depth > 0 {
        let mut product = Product::new(alpha, &a, &b, beta == 1.0, Some((base, stride)), then);
        // SAFETY: the backend is available, the shapes match, and no size is 0.
        return unsafe { backend().product(precision, &mut product) };
    }
    if beta == 0.0 {
        c.fill(0.0);
    }
    then(&mut OutputBlock { rows: 0..rows, columns: 0..columns, c: base, stride });
}

/// `a · b`, operands rounded to `precision`, passed to `then` block by block as in [`product_then`]. The whole result
/// is never stored: a block may overwrite the previous one.
///
/// # Panics
/// If the shapes do not match.
pub fn product_in_blocks(precision: Precision, a: MatRef<'_>, b: MatRef<'_>, then: &mut dyn FnMut(&mut OutputBlock)) {
    let ((rows, depth), columns) = (a.dim(), b.dim().1);
    assert!(b.dim().0 == depth, "the shapes of the operands match");
    if rows == 0 || columns == 0 {
        return;
    }
    if depth == 0 {
        let mut zeros = vec![0.0; rows * columns];
        return then(&mut OutputBlock { rows: 0..rows, columns: 0..columns, c: zeros.as_mut_ptr(), stride: columns });
    }
    let mut product = Product::new(1.0, &a, &b, false, None, then);
    // SAFETY: the backend is available, the shapes match, and no size is 0.
    unsafe { backend().product(precision, &mut product) }
}

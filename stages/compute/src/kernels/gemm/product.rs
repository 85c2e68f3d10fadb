//! Matrix products on the selected backend.
use super::backend::Product;
use super::backends::backend;
use super::int8;
use super::matrix::{MatRef, Matrix, MatrixMut, OutputBlock};
use contract::Precision;

/// How a product rounds its operands.
#[derive(Clone, Copy, Debug)]
pub struct Rounding {
    /// What they are rounded to.
    pub precision: Precision,
    /// In eight bits: the operands that are rounded stochastically, because they are gradients, each with a key that
    /// its random numbers depend on. All others are rounded to the nearest number.
    pub keys: [Option<u64>; 2],
}

impl From<Precision> for Rounding {
    fn from(precision: Precision) -> Self {
        Self { precision, keys: [None; 2] }
    }
}

impl Rounding {
    /// For a gradient times something else.
    pub fn of_left_gradient(precision: Precision, key: u64) -> Self {
        Self { precision, keys: [Some(key), None] }
    }

    /// For something else times a gradient.
    pub fn of_right_gradient(precision: Precision, key: u64) -> Self {
        Self { precision, keys: [None, Some(key)] }
    }

    /// # Safety
    /// As for [`Backend::product`](super::backend::Backend::product); the backend is that of this thread.
    unsafe fn multiply(self, product: &mut Product<'_>) {
        // SAFETY: guaranteed by the caller.
        unsafe {
            match self.precision {
                Precision::Int8 => int8::product(backend(), self.keys, product),
                float => backend().product(float, product),
            }
        }
    }
}

/// `c = alpha · a · b + beta · c` in f32, on the calling thread. `beta` is 0, with which the previous content of `c` is
/// ignored, or 1.
///
/// # Panics
/// If the shapes do not match, or `beta` is another number.
pub fn product(alpha: f32, a: Matrix<'_>, b: Matrix<'_>, beta: f32, c: MatrixMut<'_>) {
    product_then(Precision::F32, alpha, a.into(), b.into(), beta, c, &mut |_| ());
}

/// `c = a · b + beta · c`, operands rounded as `rounding` says, on the calling thread. `beta` is 0, with which the
/// previous content of `c` is ignored, or 1.
///
/// # Panics
/// If the shapes do not match, or `beta` is another number.
pub fn product_in<'a, 'b>(
    rounding: impl Into<Rounding>,
    a: impl Into<MatRef<'a>>,
    b: impl Into<MatRef<'b>>,
    beta: f32,
    c: MatrixMut<'_>,
) {
    product_then(rounding, 1.0, a.into(), b.into(), beta, c, &mut |_| ());
}

/// `c = alpha · a · b + beta · c`, operands rounded as `rounding` says. Each block of `c` is passed to `then` once, as
/// soon as it is complete and while it is in cache.
///
/// # Panics
/// If the shapes do not match, or `beta` is neither 0 nor 1.
pub fn product_then(
    rounding: impl Into<Rounding>,
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
        return unsafe { Rounding::multiply(rounding.into(), &mut product) };
    }
    if beta == 0.0 {
        c.fill(0.0);
    }
    then(&mut OutputBlock { rows: 0..rows, columns: 0..columns, c: base, stride });
}

/// `a · b`, operands rounded as `rounding` says, passed to `then` block by block as in [`product_then`]. The whole
/// result is never stored: a block may overwrite the previous one.
///
/// # Panics
/// If the shapes do not match.
pub fn product_in_blocks(
    rounding: impl Into<Rounding>,
    a: MatRef<'_>,
    b: MatRef<'_>,
    then: &mut dyn FnMut(&mut OutputBlock),
) {
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
    unsafe { Rounding::multiply(rounding.into(), &mut product) }
}

//! The product on OpenBLAS, through ndarray: for CPUs that have no kernel here, and for any `beta`.
use super::{Factor, Half, Matrix, MatrixMut, Number, bf16, matrix};
use blas_src as _;
use contract::{Buffer, Precision};
use ndarray::ArrayView2;
use ndarray::linalg::general_mat_mul;
use std::sync::Once;

/// `c = alpha · a · b + beta · c` on the calling thread, the operands rounded to `precision`. With `beta` 0, `c` may hold
/// anything.
///
/// # Panics
/// If the shapes do not fit.
pub fn product(precision: Precision, alpha: f32, a: Factor<'_>, b: Factor<'_>, beta: f32, mut c: MatrixMut<'_>) {
    static SINGLE_THREADED: Once = Once::new();
    SINGLE_THREADED.call_once(crate::machine::single_threaded_blas);
    if let (Precision::F32, Factor::Single(a), Factor::Single(b)) = (precision, a, b) {
        return general_mat_mul(alpha, &a, &b, beta, &mut c);
    }
    let (a, b) = (Single::of(precision, a), Single::of(precision, b));
    general_mat_mul(alpha, &a.matrix(), &b.matrix(), beta, &mut c);
}

/// A matrix in single precision, laid out as it was: neighbours stay neighbours.
struct Single {
    data: Buffer,
    shape: (usize, usize),
    by_column: bool,
}

impl Single {
    fn of(precision: Precision, factor: Factor<'_>) -> Self {
        match (factor, precision) {
            (Factor::Single(x), Precision::F32) => Self::new(x, |x| x),
            (Factor::Single(x), Precision::Bf16) => Self::new(x, bf16),
            (Factor::Half(x), _) => Self::new(x, Half::single),
        }
    }

    fn new<E: Copy>(matrix: ArrayView2<'_, E>, number: impl Fn(E) -> f32) -> Self {
        let (shape, by_column) = (matrix.dim(), matrix.ncols() > 1 && matrix.strides()[1] != 1);
        let lines = if by_column { matrix.reversed_axes() } else { matrix };
        let mut data = Buffer::scratch(lines.len());
        for (line, out) in lines.rows().into_iter().zip(data.chunks_exact_mut(lines.ncols())) {
            match line.as_slice() {
                Some(line) => line.iter().zip(out).for_each(|(x, out)| *out = number(*x)),
                None => line.iter().zip(out).for_each(|(x, out)| *out = number(*x)),
            }
        }
        Self { data, shape, by_column }
    }

    fn matrix(&self) -> Matrix<'_> {
        let (rows, columns) = self.shape;
        if self.by_column { matrix(&self.data, rows).reversed_axes() } else { matrix(&self.data, columns) }
    }
}

//! Matrix products: the one place that multiplies matrices.
//!
//! On CPUs with AMX products run on tiles of bfloat16 packed here ([`amx`]), single precision in three parts; on CPUs
//! with AVX-512 or AVX2 on panels ([`packed`]); elsewhere, and for what those do not take, on OpenBLAS through ndarray.
//! Transposes and column blocks of a wider matrix are views with a unit stride in one direction, so nothing is ever
//! copied by who wants a product.
//!
//! In [`Precision::Bf16`] both operands are rounded to bfloat16 (to nearest, ties to even) on their way into a product,
//! if they do not lie in memory as such, and sums are single precision, on every path: with the CPU's own instruction where
//! it has a fast one, otherwise by multiplying the rounded numbers in single precision.
#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod element;
mod factor;
pub mod openblas;
#[cfg(target_arch = "x86_64")]
mod packed;
pub mod panels;
mod path;
mod portable;
mod round;

use contract::{Buffer, Precision};
pub use factor::{Factor, Half, Matrix, Number, Numbers, block, matrix};
use ndarray::{ArrayViewMut2, ShapeBuilder};
#[cfg(target_arch = "x86_64")]
use path::Path;
use path::path;
pub use path::{kernel, on_amx, on_blas};
pub use round::{round, round_in_place};
use std::ops::Range;
#[cfg(target_arch = "x86_64")]
use std::sync::OnceLock;

/// A matrix that is written.
pub type MatrixMut<'a> = ArrayViewMut2<'a, f32>;

/// The whole of `data` as a `[data.len() / columns, columns]` matrix, to write.
pub fn matrix_mut(data: &mut [f32], columns: usize) -> MatrixMut<'_> {
    let rows = data.len() / columns;
    block_mut(data, 0, rows, columns, columns)
}

/// `[rows, columns]` out of a matrix whose rows are `stride` apart, its first element at `offset`, to write.
pub fn block_mut(data: &mut [f32], offset: usize, rows: usize, columns: usize, stride: usize) -> MatrixMut<'_> {
    MatrixMut::from_shape((rows, columns).strides((stride, 1)), &mut data[offset..]).expect("the block lies inside")
}

/// `c = alpha · a · b + beta · c` on the calling thread. With `beta` 0, `c` may hold anything.
///
/// # Panics
/// If the shapes do not fit.
pub fn product(alpha: f32, a: Matrix<'_>, b: Matrix<'_>, beta: f32, c: MatrixMut<'_>) {
    product_then(Precision::F32, alpha, a.into(), b.into(), beta, c, &mut |_| ());
}

/// Part of a result that is complete.
pub struct Done {
    /// Rows of `c`.
    pub rows: Range<usize>,
    /// Columns of `c`.
    pub columns: Range<usize>,
    c: *mut f32,
    stride: usize,
}

impl Done {
    /// The complete part of one of [`Self::rows`].
    ///
    /// # Panics
    /// If `row` is none of them.
    pub fn row(&mut self, row: usize) -> &mut [f32] {
        assert!(self.rows.contains(&row), "the row is complete");
        // SAFETY: rows and columns lie inside `c`, or what there is of it, for as long as the product runs; `&mut self` keeps
        // two rows from being borrowed at once, and `product_then` makes no two of these at once.
        unsafe {
            let row = self.c.wrapping_add(row * self.stride + self.columns.start);
            std::slice::from_raw_parts_mut(row, self.columns.len())
        }
    }
}

/// `c = a · b + beta · c`, the operands rounded to `precision`.
///
/// # Panics
/// If the shapes do not fit.
pub fn product_in<'a, 'b>(
    precision: Precision,
    a: impl Into<Factor<'a>>,
    b: impl Into<Factor<'b>>,
    beta: f32,
    c: MatrixMut<'_>,
) {
    product_then(precision, 1.0, a.into(), b.into(), beta, c, &mut |_| ());
}

/// [`product`] in `precision`, handing each part of `c` to `then` as soon as it is complete, while it is in cache: once
/// for each element of `c`, in blocks of rows and columns.
///
/// # Panics
/// If the shapes do not fit.
pub fn product_then(
    precision: Precision,
    alpha: f32,
    a: Factor<'_>,
    b: Factor<'_>,
    beta: f32,
    mut c: MatrixMut<'_>,
    then: &mut dyn FnMut(&mut Done),
) {
    let ((rows, columns), depth) = (c.dim(), a.dim().1);
    assert!(a.dim().0 == rows && b.dim() == (depth, columns), "the shapes of a product fit");
    let stride = if rows > 1 { c.strides()[0] } else { columns as isize };
    assert!((columns <= 1 || c.strides()[1] == 1) && stride >= columns as isize, "results are row-major");
    let (base, stride) = (c.as_mut_ptr(), stride as usize);
    if rows == 0 || columns == 0 {
        return;
    }
    if depth > 0
        && (beta == 0.0 || beta == 1.0)
        && by_kernel(precision, alpha, a, b, beta == 1.0, Some((base, stride)), then)
    {
        return;
    }
    if depth > 0 {
        openblas::product(precision, alpha, a, b, beta, c);
    } else if beta == 0.0 {
        c.fill(0.0);
    }
    then(&mut Done { rows: 0..rows, columns: 0..columns, c: base, stride });
}

/// `a · b`, the operands rounded to `precision`, for `then` alone, as [`product_then`] hands parts to it. The result exists
/// in parts only: where one was the next one lies.
///
/// # Panics
/// If the shapes do not fit.
pub fn product_in_parts(precision: Precision, a: Factor<'_>, b: Factor<'_>, then: &mut dyn FnMut(&mut Done)) {
    let ((rows, depth), columns) = (a.dim(), b.dim().1);
    assert!(b.dim().0 == depth, "the shapes of a product fit");
    if rows == 0 || columns == 0 {
        return;
    }
    if depth == 0 || !by_kernel(precision, 1.0, a, b, false, None, then) {
        let mut c = Buffer::scratch(rows * columns);
        product_then(precision, 1.0, a, b, 0.0, block_mut(&mut c, 0, rows, columns, columns), then);
    }
}

/// On panels or tiles, if the CPU has a kernel for them. `c`, if it is wanted whole: where it lies, and floats between two
/// of its rows.
#[cfg_attr(not(target_arch = "x86_64"), allow(unused_variables))]
fn by_kernel(
    precision: Precision,
    alpha: f32,
    a: Factor<'_>,
    b: Factor<'_>,
    add: bool,
    c: Option<(*mut f32, usize)>,
    then: &mut dyn FnMut(&mut Done),
) -> bool {
    #[cfg(target_arch = "x86_64")]
    if let Some(mut product) = packed::Product::of(alpha, &a, &b, add, c, cached(), then) {
        // SAFETY: the CPU has what the path stands for, and the shapes fit.
        unsafe {
            match (precision, path()) {
                (_, Path::Blas) => return false,
                (Precision::F32, Path::Amx) => amx::single(&mut product),
                (Precision::Bf16, Path::Amx) => amx::rounded(&mut product),
                (Precision::F32, Path::Avx2) => avx2::single(&mut product),
                (Precision::Bf16, Path::Avx2) => avx2::rounded(&mut product),
                (Precision::F32, _) => avx512::single(&mut product),
                (Precision::Bf16, Path::Avx512Bf16) => avx512::pairs(&mut product),
                (Precision::Bf16, _) => avx512::rounded(&mut product),
            }
        }
        return true;
    }
    false
}

/// To the nearest bfloat16, ties to even; NaN stays NaN.
#[inline(always)]
pub fn bf16(x: f32) -> f32 {
    let bits = x.to_bits();
    let rounded = if x.is_nan() { bits | 0x0040_0000 } else { bits.wrapping_add(0x7FFF + (bits >> 16 & 1)) };
    f32::from_bits(rounded & 0xFFFF_0000)
}

/// Floats that may stay in the second cache during a product: somewhat under half of it.
#[cfg(target_arch = "x86_64")]
fn cached() -> usize {
    static CACHED: OnceLock<usize> = OnceLock::new();
    *CACHED.get_or_init(|| crate::machine::second_cache() / size_of::<f32>() * 4 / 9)
}

#[cfg(test)]
mod tests;

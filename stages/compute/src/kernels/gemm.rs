//! Matrix products: the one place that multiplies matrices.
//!
//! On CPUs with AMX products run on tiles of bfloat16 packed here ([`amx`]), single precision in three parts; on CPUs
//! with AVX-512 or AVX2 on panels ([`packed`]); elsewhere, and for what those do not take, on OpenBLAS through ndarray.
//! Transposes and column blocks of a wider matrix are views with a unit stride in one direction, so nothing is ever
//! copied by who wants a product.
//!
//! In [`Precision::Bf16`] both operands are rounded to bfloat16 (to nearest, ties to even) on their way into a product
//! and sums are single precision, on every path: with the CPU's own instruction where it has a fast one, otherwise by
//! multiplying the rounded numbers in single precision.
#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub mod openblas;
#[cfg(target_arch = "x86_64")]
mod packed;
pub mod panels;
mod path;

use contract::Precision;
use ndarray::{ArrayView2, ArrayViewMut2, ShapeBuilder};
#[cfg(target_arch = "x86_64")]
use path::Path;
use path::path;
pub use path::{kernel, on_amx, on_blas};
use std::ops::Range;
#[cfg(target_arch = "x86_64")]
use std::sync::OnceLock;

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
pub fn product(alpha: f32, a: Matrix<'_>, b: Matrix<'_>, beta: f32, c: MatrixMut<'_>) {
    product_then(Precision::F32, alpha, a, b, beta, c, &mut |_| ());
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
        // SAFETY: rows and columns lie inside `c`, which is borrowed for as long as the product runs; `&mut self` keeps
        // two rows from being borrowed at once, and `product_then` makes no two of these at once.
        unsafe {
            std::slice::from_raw_parts_mut(self.c.add(row * self.stride + self.columns.start), self.columns.len())
        }
    }
}

/// `c = a · b + beta · c`, the operands rounded to `precision`.
///
/// # Panics
/// If the shapes do not fit.
pub fn product_in(precision: Precision, a: Matrix<'_>, b: Matrix<'_>, beta: f32, c: MatrixMut<'_>) {
    product_then(precision, 1.0, a, b, beta, c, &mut |_| ());
}

/// [`product`] in `precision`, handing each part of `c` to `then` as soon as it is complete, while it is in cache: once
/// for each element of `c`, in blocks of rows and columns.
///
/// # Panics
/// If the shapes do not fit.
pub fn product_then(
    precision: Precision,
    alpha: f32,
    a: Matrix<'_>,
    b: Matrix<'_>,
    beta: f32,
    mut c: MatrixMut<'_>,
    then: &mut dyn FnMut(&mut Done),
) {
    let ((rows, columns), depth) = (c.dim(), a.ncols());
    assert!(a.nrows() == rows && b.nrows() == depth && b.ncols() == columns, "the shapes of a product fit");
    let stride = if rows > 1 { c.strides()[0] } else { columns as isize };
    assert!((columns <= 1 || c.strides()[1] == 1) && stride >= columns as isize, "results are row-major");
    let (base, stride) = (c.as_mut_ptr(), stride as usize);
    let mut done = |rows, columns| then(&mut Done { rows, columns, c: base, stride });
    if depth == 0 {
        if beta == 0.0 {
            c.fill(0.0);
        }
        return done(0..rows, 0..columns);
    }
    #[cfg(target_arch = "x86_64")]
    if path() != Path::Blas
        && (beta == 0.0 || beta == 1.0)
        && let (Some(a), Some(b)) = (Operand::of(&a), Operand::of(&b))
    {
        let mut product = packed::Product {
            rows,
            columns,
            depth,
            alpha,
            a,
            b,
            add: beta == 1.0,
            c: base,
            stride,
            cached: cached(),
            done: &mut done,
        };
        // SAFETY: the CPU has what the path stands for, and the shapes fit.
        unsafe {
            match (precision, path()) {
                (Precision::F32, Path::Amx) => amx::single(&mut product),
                (Precision::Bf16, Path::Amx) => amx::rounded(&mut product),
                (Precision::F32, Path::Avx2) => avx2::single(&mut product),
                (Precision::Bf16, Path::Avx2) => avx2::rounded(&mut product),
                (Precision::F32, _) => avx512::single(&mut product),
                (Precision::Bf16, Path::Avx512Bf16) => avx512::pairs(&mut product),
                (Precision::Bf16, _) => avx512::rounded(&mut product),
            }
        }
        return;
    }
    openblas::product(precision, alpha, a, b, beta, c);
    done(0..rows, 0..columns);
}

/// To the nearest bfloat16, ties to even; NaN stays NaN.
#[inline(always)]
pub fn bf16(x: f32) -> f32 {
    let bits = x.to_bits();
    let rounded = if x.is_nan() { bits | 0x0040_0000 } else { bits.wrapping_add(0x7FFF + (bits >> 16 & 1)) };
    f32::from_bits(rounded & 0xFFFF_0000)
}

/// Where a matrix lies: elements between neighbours in a column (`row`) and in a row (`column`), one of which is 1.
#[derive(Clone, Copy)]
struct Operand {
    data: *const f32,
    row: usize,
    column: usize,
}

impl Operand {
    fn of(matrix: &Matrix<'_>) -> Option<Self> {
        let ((rows, columns), strides) = (matrix.dim(), matrix.strides());
        // A stride along which there is but one element says nothing.
        let column = if columns > 1 { strides[1] } else { 1 };
        let row = if rows > 1 {
            strides[0]
        } else if column == 1 {
            columns as isize
        } else {
            1
        };
        let fits = row >= 0 && column >= 0 && (row == 1 || column == 1);
        fits.then(|| Self { data: matrix.as_ptr(), row: row as usize, column: column as usize })
    }

    fn at(self, row: usize, column: usize) -> Self {
        Self { data: self.data.wrapping_add(row * self.row + column * self.column), ..self }
    }

    fn transposed(self) -> Self {
        Self { row: self.column, column: self.row, ..self }
    }
}

/// Floats that may stay in the second cache during a product: somewhat under half of it.
#[cfg(target_arch = "x86_64")]
fn cached() -> usize {
    static CACHED: OnceLock<usize> = OnceLock::new();
    *CACHED.get_or_init(|| crate::machine::second_cache() / size_of::<f32>() * 4 / 9)
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

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        /// Several blocks of rows, columns and depth; every element is handed on once, complete; bfloat16 is what
        /// rounding both operands first would give.
        #[test]
        fn blocks_are_handed_on_and_operands_rounded(m in 100usize..300, n in 1usize..130, k in 300usize..900,
                                                     a_t: bool, b_t: bool, rounded: bool, cut in 1usize..4) {
            let precision = if rounded { Precision::Bf16 } else { Precision::F32 };
            let (a, b) = (random(1, m * k), random(2, k * n));
            let (a, b) = (matrix(&a, if a_t { m } else { k }), matrix(&b, if b_t { k } else { n }));
            let (a, b) = (if a_t { a.reversed_axes() } else { a }, if b_t { b.reversed_axes() } else { b });
            let mut c = vec![f32::NAN; m * n];
            let mut handed = vec![f32::NAN; m * n];
            product_then(precision, 1.0, a, b, 0.0, matrix_mut(&mut c, n), &mut |done| {
                for row in done.rows.clone() {
                    let out = &mut handed[row * n..][done.columns.clone()];
                    assert!(out.iter().all(|x| x.is_nan()), "once");
                    out.copy_from_slice(done.row(row));
                }
            });
            prop_assert_eq!(&handed, &c);
            let to = |x: &f32| if rounded { bf16(*x) } else { *x };
            assert_close(&c, &naive(1.0, a.map(to).view(), b.map(to).view(), 0.0, &c), 1e-5);
            // An element's bits do not depend on how many rows and columns are multiplied with it.
            let (rows, columns) = (m.div_ceil(cut), n.div_ceil(cut));
            let (a, b) = (a.slice_move(ndarray::s![..rows, ..]), b.slice_move(ndarray::s![.., ..columns]));
            let mut part = vec![f32::NAN; rows * columns];
            product_then(precision, 1.0, a, b, 0.0, matrix_mut(&mut part, columns), &mut |_| ());
            if !on_blas() {
                for (row, part) in part.chunks(columns).enumerate() {
                    prop_assert_eq!(part, &c[row * n..][..columns]);
                }
            }
        }

        /// What other CPUs would do, as far as this one can: each kernel with an edge on every side of its blocks.
        #[cfg(target_arch = "x86_64")]
        #[test]
        fn every_kernel_multiplies(m in 1usize..70, n in 1usize..120, k in 1usize..500, a_t: bool, b_t: bool, add: bool) {
            let (a, b) = (random(1, m * k), random(2, k * n));
            let (a, b) = (matrix(&a, if a_t { m } else { k }), matrix(&b, if b_t { k } else { n }));
            let (a, b) = (if a_t { a.reversed_axes() } else { a }, if b_t { b.reversed_axes() } else { b });
            let before = if add { random(3, m * n) } else { vec![f32::NAN; m * n] };
            let beta = f64::from(u8::from(add));
            let exact = naive(0.5, a, b, beta, &before);
            let rounded = naive(0.5, a.map(|x| bf16(*x)).view(), b.map(|x| bf16(*x)).view(), beta, &before);
            for (precision, kernel) in kernels() {
                let mut c = before.clone();
                run(kernel, 0.5, a, b, add, &mut c);
                assert_close(&c, if precision == Precision::F32 { &exact } else { &rounded }, 1e-5);
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    type Kernel = unsafe fn(&mut packed::Product<'_>);

    /// All that run on this CPU.
    #[cfg(target_arch = "x86_64")]
    fn kernels() -> Vec<(Precision, Kernel)> {
        let mut kernels: Vec<(Precision, Kernel)> = Vec::new();
        if avx2::available() {
            kernels.push((Precision::F32, avx2::single));
            kernels.push((Precision::Bf16, avx2::rounded));
        }
        if is_x86_feature_detected!("avx512f") {
            kernels.push((Precision::F32, avx512::single));
            kernels.push((Precision::Bf16, avx512::rounded));
            kernels.push((Precision::Bf16, avx512::pairs_in_steps));
        }
        if avx512::multiplies_bf16() {
            kernels.push((Precision::Bf16, avx512::pairs));
        }
        if amx::available() {
            kernels.push((Precision::F32, amx::single));
            kernels.push((Precision::Bf16, amx::rounded));
        }
        kernels
    }

    #[cfg(target_arch = "x86_64")]
    fn run(kernel: Kernel, alpha: f32, a: Matrix<'_>, b: Matrix<'_>, add: bool, c: &mut [f32]) {
        let (rows, depth, columns) = (a.nrows(), a.ncols(), b.ncols());
        let mut product = packed::Product {
            rows,
            columns,
            depth,
            alpha,
            a: Operand::of(&a).unwrap(),
            b: Operand::of(&b).unwrap(),
            add,
            c: c.as_mut_ptr(),
            stride: columns,
            cached: 10_000,
            done: &mut |_, _| (),
        };
        // SAFETY: `kernels` gives what the CPU has, and the shapes fit.
        unsafe { kernel(&mut product) };
    }

    /// Several blocks each way, so that what stays packed of `a` is met again.
    #[cfg(target_arch = "x86_64")]
    #[test]
    fn every_kernel_multiplies_in_blocks() {
        let (m, n, k) = (301, 1500, 411);
        let (a, b) = (random(1, m * k), random(2, k * n));
        let rounded = [&a, &b].map(|x| x.iter().map(|x| bf16(*x)).collect::<Vec<_>>());
        let exact = naive(1.0, matrix(&a, k), matrix(&b, n), 0.0, &[]);
        let of_rounded = naive(1.0, matrix(&rounded[0], k), matrix(&rounded[1], n), 0.0, &[]);
        for (precision, kernel) in kernels() {
            let mut c = vec![f32::NAN; m * n];
            run(kernel, 1.0, matrix(&a, k), matrix(&b, n), false, &mut c);
            assert_close(&c, if precision == Precision::F32 { &exact } else { &of_rounded }, 1e-5);
        }
    }

    /// Against f64, relative to the sum of the magnitudes: errors of AMX's single precision are smaller than those of f32
    /// multiply-adds, in root mean square and at worst; about as large where exponents are so far apart that one product
    /// makes the sum.
    #[cfg(target_arch = "x86_64")]
    #[test]
    fn three_parts_are_as_exact_as_f32() {
        if !amx::available() {
            println!("skipped: this CPU has no AMX");
            return;
        }
        for (m, n, k, range, factor) in
            [(64, 64, 40, 0, 1.0), (64, 64, 1000, 0, 1.0), (64, 64, 300, 20, 1.25), (32, 32, 5000, 60, 1.25)]
        {
            let number = |seed: u64, len: usize| -> Vec<f32> {
                let scales = random(seed + 10, len);
                random(seed, len).iter().zip(scales).map(|(x, s)| x * (range as f32 * s).exp2()).collect()
            };
            let (a, b) = (number(1, m * k), number(2, k * n));
            let (a, b) = (matrix(&a, k), matrix(&b, n));
            let exact = naive(1.0, a, b, 0.0, &[]);
            let sizes = naive(1.0, a.map(|x| x.abs()).view(), b.map(|x| x.abs()).view(), 0.0, &[]);
            let [f32, parts] = [avx512::single as Kernel, amx::single].map(|kernel| {
                let mut c = vec![f32::NAN; m * n];
                run(kernel, 1.0, a, b, false, &mut c);
                let errors = c.iter().zip(&exact).zip(&sizes).map(|((c, e), size)| (f64::from(*c) - e).abs() / size);
                let (worst, squares) = errors.fold((0.0f64, 0.0), |(w, s), e| (w.max(e), s + e * e));
                (worst, (squares / c.len() as f64).sqrt())
            });
            assert!(parts.1 <= factor * f32.1 && parts.0 <= factor * f32.0, "{m} {n} {k} {range}: {parts:?} {f32:?}");
        }
    }

    #[test]
    fn rounding_is_to_nearest_even() {
        for (x, bits) in
            [(1.0f32, 0x3F80), (1.003_906_2, 0x3F80), (1.003_907, 0x3F81), (1.011_718_8, 0x3F82), (f32::MAX, 0x7F80)]
        {
            assert_eq!(bf16(x).to_bits() >> 16, bits, "{x}");
            assert_eq!(bf16(-x).to_bits() >> 16, bits | 0x8000, "{x}");
        }
        assert!(bf16(f32::NAN).is_nan() && bf16(f32::from_bits(0x7F80_0001)).is_nan());
    }
}

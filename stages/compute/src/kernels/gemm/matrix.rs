//! The operands and results of products: views of matrices in f32 or bfloat16.
use super::int8::magnitudes::Magnitudes;
use contract::Tensor;
pub use half::bf16;
use ndarray::{ArrayView2, ArrayViewMut2, ShapeBuilder};
use std::ops::Range;

/// A number as it is stored in memory.
pub trait Scalar: Copy {
    /// The number in f32, without rounding. (Unlike [`bf16::to_f32`] it does not quiet a signalling NaN, so it is a
    /// single shift and vectorises.)
    fn widen(self) -> f32;
}

impl Scalar for f32 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }
}

impl Scalar for bf16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
}

/// A matrix in f32: a view with a unit stride along rows or columns.
pub type Matrix<'a> = ArrayView2<'a, f32>;

/// A mutable matrix: row-major, with any row stride.
pub type MatrixMut<'a> = ArrayViewMut2<'a, f32>;

/// An operand of a product, in either precision: a view with a unit stride along rows or columns.
#[derive(Clone, Copy)]
pub struct MatRef<'a> {
    pub(super) values: Values<'a>,
    /// The bits of the largest magnitudes of all rows and of all columns, if they are known.
    pub(super) largest: [Option<&'a [u32]>; 2],
}

/// The elements of a [`MatRef`].
#[derive(Clone, Copy)]
pub(super) enum Values<'a> {
    /// Stored in f32; rounded by products in bfloat16.
    F32(Matrix<'a>),
    /// Stored in bfloat16; widened by products in f32, which is exact.
    Bf16(ArrayView2<'a, bf16>),
}

impl<'a> From<Matrix<'a>> for MatRef<'a> {
    fn from(matrix: Matrix<'a>) -> Self {
        Self { values: Values::F32(matrix), largest: [None; 2] }
    }
}

impl<'a> From<ArrayView2<'a, bf16>> for MatRef<'a> {
    fn from(matrix: ArrayView2<'a, bf16>) -> Self {
        Self { values: Values::Bf16(matrix), largest: [None; 2] }
    }
}

impl<'a> MatRef<'a> {
    /// This operand together with its largest magnitudes, so that products in eight bits need not search for them. They
    /// must be those of its values; otherwise, results are wrong.
    ///
    /// # Panics
    /// If they are those of a matrix of another shape.
    #[must_use]
    pub fn with_magnitudes(self, magnitudes: Option<&'a Magnitudes>) -> Self {
        let Some(Magnitudes { rows, columns }) = magnitudes else { return self };
        assert_eq!((rows.len(), columns.len()), self.dim(), "a magnitude for each row and for each column");
        Self { largest: [Some(rows), Some(columns)], ..self }
    }

    /// This operand, whose largest magnitudes have to be searched for.
    #[cfg(test)]
    pub fn without_magnitudes(self) -> Self {
        Self { largest: [None; 2], ..self }
    }

    /// `(rows, columns)`.
    pub fn dim(&self) -> (usize, usize) {
        match self.values {
            Values::F32(x) => x.dim(),
            Values::Bf16(x) => x.dim(),
        }
    }

    /// A block of rows. Their magnitudes remain known; those of columns only if the block has all rows.
    pub fn rows(self, rows: Range<usize>) -> Self {
        if rows == (0..self.dim().0) {
            return self;
        }
        let largest = [self.largest[0].map(|largest| &largest[rows.clone()]), None];
        let values = match self.values {
            Values::F32(x) => Values::F32(x.slice_move(ndarray::s![rows, ..])),
            Values::Bf16(x) => Values::Bf16(x.slice_move(ndarray::s![rows, ..])),
        };
        Self { values, largest }
    }

    /// A block of columns; see [`rows`](Self::rows).
    pub fn columns(self, columns: Range<usize>) -> Self {
        self.reversed_axes().rows(columns).reversed_axes()
    }

    /// The transpose.
    #[must_use]
    pub fn reversed_axes(self) -> Self {
        let [rows, columns] = self.largest;
        let values = match self.values {
            Values::F32(x) => Values::F32(x.reversed_axes()),
            Values::Bf16(x) => Values::Bf16(x.reversed_axes()),
        };
        Self { values, largest: [columns, rows] }
    }
}

/// A slice in either precision.
#[derive(Clone, Copy)]
pub enum SliceRef<'a> {
    /// In f32.
    F32(&'a [f32]),
    /// In bfloat16.
    Bf16(&'a [bf16]),
}

impl<'a> From<&'a [f32]> for SliceRef<'a> {
    fn from(values: &'a [f32]) -> Self {
        Self::F32(values)
    }
}

impl<'a> From<&'a [bf16]> for SliceRef<'a> {
    fn from(values: &'a [bf16]) -> Self {
        Self::Bf16(values)
    }
}

impl<'a> From<&'a Tensor> for SliceRef<'a> {
    fn from(tensor: &'a Tensor) -> Self {
        Self::F32(&tensor.data)
    }
}

impl<'a> SliceRef<'a> {
    /// Number of elements.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        match self {
            Self::F32(x) => x.len(),
            Self::Bf16(x) => x.len(),
        }
    }

    /// The whole slice as a `[len / columns, columns]` matrix.
    pub fn matrix(self, columns: usize) -> MatRef<'a> {
        self.block(0, self.len() / columns, columns, columns)
    }

    /// See [`block`].
    pub fn block(self, offset: usize, rows: usize, columns: usize, stride: usize) -> MatRef<'a> {
        match self {
            Self::F32(x) => block(x, offset, rows, columns, stride).into(),
            Self::Bf16(x) => block(x, offset, rows, columns, stride).into(),
        }
    }
}

/// All of `data` as a `[data.len() / columns, columns]` matrix.
pub fn matrix(data: &[f32], columns: usize) -> Matrix<'_> {
    block(data, 0, data.len() / columns, columns, columns)
}

/// The `[rows, columns]` block that starts at element `offset` of a matrix whose rows are `stride` elements apart.
///
/// # Panics
/// If the block is not inside `data`.
pub fn block<E>(data: &[E], offset: usize, rows: usize, columns: usize, stride: usize) -> ArrayView2<'_, E> {
    ArrayView2::from_shape((rows, columns).strides((stride, 1)), &data[offset..])
        .expect("the block is inside the matrix")
}

/// All of `data` as a mutable `[data.len() / columns, columns]` matrix.
pub fn matrix_mut(data: &mut [f32], columns: usize) -> MatrixMut<'_> {
    let rows = data.len() / columns;
    block_mut(data, 0, rows, columns, columns)
}

/// As [`block`], mutable.
///
/// # Panics
/// If the block is not inside `data`.
pub fn block_mut(data: &mut [f32], offset: usize, rows: usize, columns: usize, stride: usize) -> MatrixMut<'_> {
    MatrixMut::from_shape((rows, columns).strides((stride, 1)), &mut data[offset..])
        .expect("the block is inside the matrix")
}

/// A completed block of a product's result.
pub struct OutputBlock {
    /// Rows of `c`.
    pub rows: Range<usize>,
    /// Columns of `c`.
    pub columns: Range<usize>,
    /// The result, or the part of it that is stored, and the number of floats between two of its rows.
    pub(super) c: *mut f32,
    pub(super) stride: usize,
}

impl OutputBlock {
    /// The block's part of row `row` of `c`.
    ///
    /// # Panics
    /// If `row` is not one of [`Self::rows`].
    pub fn row(&mut self, row: usize) -> &mut [f32] {
        assert!(self.rows.contains(&row), "the row belongs to the block");
        // SAFETY: rows and columns are inside `c`, or the part of it that is stored, while the product runs. `&mut
        // self` prevents two rows from being borrowed at once, and a product passes one block at a time.
        unsafe {
            let row = self.c.wrapping_add(row * self.stride + self.columns.start);
            std::slice::from_raw_parts_mut(row, self.columns.len())
        }
    }
}

/// Pointer and strides of a matrix, without its size: the number of elements between rows (`row`) and between columns
/// (`column`), one of which is 1.
#[derive(Clone, Copy)]
pub(super) struct Strided<E = f32> {
    pub data: *const E,
    pub row: usize,
    pub column: usize,
}

impl<E> Strided<E> {
    fn of(matrix: &ArrayView2<'_, E>) -> Option<Self> {
        let ((rows, columns), strides) = (matrix.dim(), matrix.strides());
        // The stride of an axis with a single element is meaningless.
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

    pub fn at(self, row: usize, column: usize) -> Self {
        Self { data: self.data.wrapping_add(row * self.row + column * self.column), ..self }
    }

    pub fn transposed(self) -> Self {
        Self { row: self.column, column: self.row, ..self }
    }

    /// # Safety
    /// The matrix must have that many rows and columns and outlive the view.
    pub unsafe fn view<'a>(self, rows: usize, columns: usize) -> ArrayView2<'a, E> {
        // SAFETY: guaranteed by the caller.
        unsafe { ArrayView2::from_shape_ptr((rows, columns).strides((self.row, self.column)), self.data) }
    }
}

/// Pointer and strides of a matrix in either precision.
#[derive(Clone, Copy)]
pub(super) enum Operand {
    F32(Strided),
    Bf16(Strided<bf16>),
}

impl Operand {
    /// # Panics
    /// If neither stride is 1.
    pub fn of(matrix: &MatRef<'_>) -> Self {
        let operand = match &matrix.values {
            Values::F32(x) => Strided::of(x).map(Self::F32),
            Values::Bf16(x) => Strided::of(x).map(Self::Bf16),
        };
        operand.expect("operands have a unit stride in one direction")
    }

    pub fn at(self, row: usize, column: usize) -> Self {
        match self {
            Self::F32(x) => Self::F32(x.at(row, column)),
            Self::Bf16(x) => Self::Bf16(x.at(row, column)),
        }
    }

    pub fn transposed(self) -> Self {
        match self {
            Self::F32(x) => Self::F32(x.transposed()),
            Self::Bf16(x) => Self::Bf16(x.transposed()),
        }
    }

    /// Whether the elements of a row are contiguous.
    pub fn is_row_major(self) -> bool {
        match self {
            Self::F32(x) => x.column == 1,
            Self::Bf16(x) => x.column == 1,
        }
    }
}

#[cfg(target_arch = "x86_64")]
impl Operand {
    /// Whether rows of `steps` elements can be read as pairs in 32-bit lanes, see [`lanes`](Self::lanes).
    pub fn in_pairs(self, steps: usize) -> bool {
        match self {
            Self::F32(_) => false,
            Self::Bf16(x) => {
                let aligned = x.data.cast::<f32>().is_aligned() && x.row.is_multiple_of(2);
                x.column == 1 && aligned && steps.is_multiple_of(2)
            }
        }
    }

    /// The matrix as 32-bit lanes: f32 numbers, or pairs of neighbouring bfloat16 numbers in a row, which requires
    /// [`in_pairs`](Self::in_pairs).
    pub fn lanes(self) -> Strided {
        match self {
            Self::F32(x) => x,
            Self::Bf16(x) => Strided { data: x.data.cast(), row: x.row / 2, column: x.column },
        }
    }
}

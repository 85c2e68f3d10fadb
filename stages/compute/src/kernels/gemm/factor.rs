//! What a product reads: matrices in single precision, or as bfloat16.
use contract::Tensor;
use ndarray::{ArrayView2, ShapeBuilder};

/// A number in bfloat16.
pub use half::bf16 as Half;

/// A number as it lies in memory.
pub trait Number: Copy {
    /// In single precision.
    fn single(self) -> f32;
}

impl Number for f32 {
    #[inline(always)]
    fn single(self) -> f32 {
        self
    }
}

impl Number for Half {
    #[inline(always)]
    fn single(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
}

/// A matrix in single precision: any view with a unit stride in one direction.
pub type Matrix<'a> = ArrayView2<'a, f32>;

/// A factor of a product: any view with a unit stride in one direction.
#[derive(Clone, Copy)]
pub enum Factor<'a> {
    /// In single precision; a product in bfloat16 rounds it.
    Single(Matrix<'a>),
    /// Already rounded; a product in single precision takes it as it is.
    Half(ArrayView2<'a, Half>),
}

impl<'a> From<Matrix<'a>> for Factor<'a> {
    fn from(matrix: Matrix<'a>) -> Self {
        Self::Single(matrix)
    }
}

impl<'a> From<ArrayView2<'a, Half>> for Factor<'a> {
    fn from(matrix: ArrayView2<'a, Half>) -> Self {
        Self::Half(matrix)
    }
}

impl Factor<'_> {
    /// Rows and columns.
    pub fn dim(&self) -> (usize, usize) {
        match self {
            Self::Single(x) => x.dim(),
            Self::Half(x) => x.dim(),
        }
    }

    /// Some columns.
    #[cfg(test)]
    pub fn columns(self, columns: std::ops::Range<usize>) -> Self {
        match self {
            Self::Single(x) => Self::Single(x.slice_move(ndarray::s![.., columns])),
            Self::Half(x) => Self::Half(x.slice_move(ndarray::s![.., columns])),
        }
    }

    /// The transpose.
    #[must_use]
    pub fn reversed_axes(self) -> Self {
        match self {
            Self::Single(x) => Self::Single(x.reversed_axes()),
            Self::Half(x) => Self::Half(x.reversed_axes()),
        }
    }
}

/// Numbers in either precision, one after the other.
#[derive(Clone, Copy)]
pub enum Numbers<'a> {
    /// In single precision.
    Single(&'a [f32]),
    /// Rounded.
    Half(&'a [Half]),
}

impl<'a> From<&'a [f32]> for Numbers<'a> {
    fn from(numbers: &'a [f32]) -> Self {
        Self::Single(numbers)
    }
}

impl<'a> From<&'a Tensor> for Numbers<'a> {
    fn from(tensor: &'a Tensor) -> Self {
        Self::Single(&tensor.data)
    }
}

impl<'a> Numbers<'a> {
    /// How many there are.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        match self {
            Self::Single(x) => x.len(),
            Self::Half(x) => x.len(),
        }
    }

    /// All of them as a matrix of that many columns.
    pub fn matrix(self, columns: usize) -> Factor<'a> {
        self.block(0, self.len() / columns, columns, columns)
    }

    /// As [`block`].
    pub fn block(self, offset: usize, rows: usize, columns: usize, stride: usize) -> Factor<'a> {
        match self {
            Self::Single(x) => Factor::Single(block(x, offset, rows, columns, stride)),
            Self::Half(x) => Factor::Half(block(x, offset, rows, columns, stride)),
        }
    }
}

/// The whole of `data` as a `[data.len() / columns, columns]` matrix.
pub fn matrix(data: &[f32], columns: usize) -> Matrix<'_> {
    block(data, 0, data.len() / columns, columns, columns)
}

/// `[rows, columns]` out of a matrix whose rows are `stride` apart, its first element at `offset`.
pub fn block<E>(data: &[E], offset: usize, rows: usize, columns: usize, stride: usize) -> ArrayView2<'_, E> {
    ArrayView2::from_shape((rows, columns).strides((stride, 1)), &data[offset..]).expect("the block lies inside")
}

/// Where a matrix lies: elements between neighbours in a column (`row`) and in a row (`column`), one of which is 1.
#[derive(Clone, Copy)]
pub(super) struct Operand<E = f32> {
    pub data: *const E,
    pub row: usize,
    pub column: usize,
}

impl<E> Operand<E> {
    fn of(matrix: &ArrayView2<'_, E>) -> Option<Self> {
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

    pub fn at(self, row: usize, column: usize) -> Self {
        Self { data: self.data.wrapping_add(row * self.row + column * self.column), ..self }
    }

    pub fn transposed(self) -> Self {
        Self { row: self.column, column: self.row, ..self }
    }
}

/// Where a factor lies.
#[derive(Clone, Copy)]
pub(super) enum AnyOperand {
    Single(Operand),
    Half(Operand<Half>),
}

impl AnyOperand {
    pub fn of(factor: &Factor<'_>) -> Option<Self> {
        match factor {
            Factor::Single(x) => Operand::of(x).map(Self::Single),
            Factor::Half(x) => Operand::of(x).map(Self::Half),
        }
    }
}

#[cfg(target_arch = "x86_64")]
impl AnyOperand {
    pub fn at(self, row: usize, column: usize) -> Self {
        match self {
            Self::Single(x) => Self::Single(x.at(row, column)),
            Self::Half(x) => Self::Half(x.at(row, column)),
        }
    }

    pub fn transposed(self) -> Self {
        match self {
            Self::Single(x) => Self::Single(x.transposed()),
            Self::Half(x) => Self::Half(x.transposed()),
        }
    }

    /// Are the elements of a row neighbours?
    pub fn by_rows(self) -> bool {
        match self {
            Self::Single(x) => x.column == 1,
            Self::Half(x) => x.column == 1,
        }
    }

    /// May rows of `steps` elements be read in pairs, as [`lanes`](Self::lanes) gives them?
    pub fn in_pairs(self, steps: usize) -> bool {
        match self {
            Self::Single(_) => false,
            Self::Half(x) => {
                let aligned = x.data.cast::<f32>().is_aligned() && x.row.is_multiple_of(2);
                x.column == 1 && aligned && steps.is_multiple_of(2)
            }
        }
    }

    /// As lanes of 32 bits: numbers in single precision, or pairs of neighbours in a row, which lie
    /// [as such](Self::in_pairs).
    pub fn lanes(self) -> Operand {
        match self {
            Self::Single(x) => x,
            Self::Half(x) => Operand { data: x.data.cast(), row: x.row / 2, column: x.column },
        }
    }
}

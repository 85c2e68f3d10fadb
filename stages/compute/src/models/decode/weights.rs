//! Matrices of weights as they are stored for decoding, and their products.
use crate::kernels::gemm::{bf16, block, matrix, matrix_mut, product, product_in, round, round_to_bf16};
use crate::kernels::int8_matrix::{Int8Matrix, Int16Vectors};
use crate::kernels::matrix_vector::matrix_vector;
use contract::{Buffer, Precision, Tensor};
use rayon::prelude::*;
use std::borrow::Cow;
use std::sync::Arc;

/// Most rows of input for which weights in bfloat16 and in eight bits are multiplied with one row after the other. From
/// here on, a product of matrices is faster.
const FEW: usize = 4;
/// Numbers that a task rounds when weights are loaded.
const ROUNDED_AT_ONCE: usize = 1 << 16;

/// `[out, in]`: a thread that computes some of the outputs reads one contiguous part of it.
pub enum Weights {
    /// In single precision.
    F32(Arc<Tensor>),
    /// In bfloat16.
    Bf16 {
        /// Two numbers in each float.
        values: Buffer,
        rows: usize,
        columns: usize,
    },
    /// In eight bits, with a scale for each output.
    Int8(Int8Matrix),
}

/// What weights are multiplied with.
pub enum Input<'a> {
    /// Rows of numbers, which are multiplied one after the other.
    Rows(Cow<'a, [f32]>),
    /// The same as integers.
    Integers(Int16Vectors),
    /// A matrix, which is multiplied as a whole.
    Matrix(&'a [f32]),
}

impl Weights {
    /// The matrix `[out, in]` in `precision`.
    pub fn new(matrix: Arc<Tensor>, precision: Precision) -> Self {
        let (rows, columns) = (matrix.shape[0], matrix.shape[1]);
        match precision {
            Precision::F32 => Self::F32(matrix),
            Precision::Bf16 => {
                let mut values = Buffer::scratch((rows * columns).div_ceil(2));
                let halves = &mut bytemuck::cast_slice_mut(&mut values)[..rows * columns];
                let parts = halves.par_chunks_mut(ROUNDED_AT_ONCE).zip(matrix.data.par_chunks(ROUNDED_AT_ONCE));
                parts.for_each(|(halves, x)| round(x, halves));
                Self::Bf16 { values, rows, columns }
            }
            Precision::Int8 => Self::Int8(Int8Matrix::new(&matrix.data, columns)),
        }
    }

    /// Outputs.
    pub fn rows(&self) -> usize {
        match self {
            Self::F32(matrix) => matrix.shape[0],
            Self::Bf16 { rows, .. } => *rows,
            Self::Int8(matrix) => matrix.rows(),
        }
    }

    /// Inputs.
    pub fn columns(&self) -> usize {
        match self {
            Self::F32(matrix) => matrix.shape[1],
            Self::Bf16 { columns, .. } => *columns,
            Self::Int8(matrix) => matrix.columns(),
        }
    }

    /// Bytes of the matrix.
    pub fn bytes(&self) -> usize {
        match self {
            Self::F32(matrix) => size_of_val(&matrix.data[..]),
            Self::Bf16 { rows, columns, .. } => rows * columns * size_of::<bf16>(),
            Self::Int8(matrix) => matrix.bytes(),
        }
    }

    /// Writes a row in f32.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        match self {
            Self::F32(matrix) => out.copy_from_slice(&matrix.data[row * matrix.shape[1]..][..matrix.shape[1]]),
            Self::Bf16 { values, columns, .. } => {
                let halves = &bytemuck::cast_slice::<f32, bf16>(values)[row * columns..][..*columns];
                out.iter_mut().zip(halves).for_each(|(out, half)| *out = half.to_f32());
            }
            Self::Int8(matrix) => matrix.row(row, out),
        }
    }

    /// Prepares `x` `[rows, in]` to be multiplied.
    pub fn input<'a>(&self, x: &'a [f32]) -> Input<'a> {
        let rows = x.len() / self.columns();
        match self {
            Self::F32(_) if rows == 1 => Input::Rows(x.into()),
            Self::Bf16 { .. } if rows <= FEW => Input::Rows(x.iter().map(|x| round_to_bf16(*x)).collect()),
            Self::Int8(_) if rows <= FEW => Input::Integers(Int16Vectors::new(x, self.columns())),
            _ => Input::Matrix(x),
        }
    }

    /// Writes the outputs from `first` on of each row of `input`, as many as `out` `[rows, outputs]` has columns. On the
    /// calling thread.
    pub fn multiply(&self, input: &Input, first: usize, outputs: usize, out: &mut [f32]) {
        match input {
            Input::Rows(x) => {
                for (x, out) in x.chunks_exact(self.columns()).zip(out.chunks_exact_mut(outputs)) {
                    self.multiply_row(x, first, out);
                }
            }
            Input::Integers(x) => {
                let Self::Int8(matrix) = self else { unreachable!("only integers are multiplied with integers") };
                for (row, out) in out.chunks_exact_mut(outputs).enumerate() {
                    matrix.multiply(first, x, row, out);
                }
            }
            Input::Matrix(x) => self.multiply_matrix(x, first, outputs, out),
        }
    }

    fn multiply_row(&self, x: &[f32], first: usize, out: &mut [f32]) {
        let columns = self.columns();
        let part = first * columns..(first + out.len()) * columns;
        match self {
            Self::F32(weights) => matrix_vector(&weights.data[part], columns, x, out),
            Self::Bf16 { values, .. } => {
                matrix_vector(&bytemuck::cast_slice::<f32, bf16>(values)[part], columns, x, out);
            }
            Self::Int8(_) => unreachable!("integers are multiplied with integers"),
        }
    }

    /// In bfloat16, `x` is rounded too. So it is in eight bits: integers are exact in bfloat16, and scales are applied to
    /// the sums.
    fn multiply_matrix(&self, x: &[f32], first: usize, outputs: usize, out: &mut [f32]) {
        let columns = self.columns();
        let (x, from) = (matrix(x, columns), first * columns);
        match self {
            Self::F32(weights) => {
                let w = block(&weights.data, from, outputs, columns, columns);
                product(1.0, x, w.reversed_axes(), 0.0, matrix_mut(out, outputs));
            }
            Self::Bf16 { values, .. } => {
                let w = block(bytemuck::cast_slice::<f32, bf16>(values), from, outputs, columns, columns);
                product_in(Precision::Bf16, x, w.reversed_axes(), 0.0, matrix_mut(out, outputs));
            }
            Self::Int8(weights) => {
                let mut integers = Buffer::scratch((outputs * columns).div_ceil(2));
                let integers = &mut bytemuck::cast_slice_mut(&mut integers)[..outputs * columns];
                weights.integers(first, integers);
                let w = block(&*integers, 0, outputs, columns, columns);
                product_in(Precision::Bf16, x, w.reversed_axes(), 0.0, matrix_mut(out, outputs));
                for row in out.chunks_exact_mut(outputs) {
                    row.iter_mut().zip(&weights.scales()[first..]).for_each(|(out, scale)| *out *= scale);
                }
            }
        }
    }
}

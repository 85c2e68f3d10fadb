//! Activations that are operands of matrix products or are saved for backward.
use crate::kernels::gemm::{
    MatRef, OutputBlock, Rounding, Scalar, SliceRef, bf16, matrix_mut, product_in_blocks, product_then, round,
};
use crate::wide;
use contract::{Buffer, Precision, Tensor};
use std::ops::Range;

/// A tensor that a matrix product or the backward pass reads: in f32 or, with [`Precision::Bf16`] and
/// [`Precision::Int8`], rounded to bfloat16 in half the memory. Rounding does not change products, since they round their operands anyway; backward of
/// normalisations and activation functions starts from rounded values, as in automatic mixed precision (Micikevicius et
/// al. 2018).
pub enum SavedActivation {
    /// In f32.
    F32(Tensor),
    /// In bfloat16.
    Bf16 {
        /// The tensor's shape.
        shape: Vec<usize>,
        /// The bfloat16 numbers, two in the memory of each f32.
        data: Buffer,
    },
}

/// Number of rows that are computed in f32 before they are rounded: few enough to stay in cache.
const ROWS: usize = 16;

impl SavedActivation {
    /// Saves `x` in `precision`.
    pub fn new(precision: Precision, x: Tensor) -> Self {
        match precision {
            Precision::F32 => Self::F32(x),
            Precision::Bf16 | Precision::Int8 => {
                let mut data = Buffer::scratch(floats(precision, x.data.len()));
                round(&x.data, &mut bytemuck::cast_slice_mut(&mut data)[..x.data.len()]);
                Self::Bf16 { shape: x.shape, data }
            }
        }
    }

    /// Computes `a · b`, applies `then` to each block, and saves the result in the precision `saved`.
    pub fn product(
        saved: Precision,
        rounding: impl Into<Rounding>,
        a: MatRef<'_>,
        b: MatRef<'_>,
        mut then: impl FnMut(&mut OutputBlock),
    ) -> Self {
        let (rows, columns) = (a.dim().0, b.dim().1);
        match saved {
            Precision::F32 => {
                let mut c = Tensor::scratch([rows, columns]);
                product_then(rounding, 1.0, a, b, 0.0, matrix_mut(&mut c.data, columns), &mut then);
                Self::F32(c)
            }
            Precision::Bf16 | Precision::Int8 => {
                let mut data = Buffer::scratch(floats(saved, rows * columns));
                product_in_blocks(rounding, a, b, &mut |done| {
                    then(done);
                    for row in done.rows.clone() {
                        let (at, part) = (row * columns + done.columns.start, done.row(row));
                        round(part, &mut bytemuck::cast_slice_mut(&mut data)[at..at + part.len()]);
                    }
                });
                Self::Bf16 { shape: vec![rows, columns], data }
            }
        }
    }

    /// A `[rows, columns]` matrix saved in `precision`; `compute` is called with ranges of rows and writes them.
    pub fn computed(
        precision: Precision,
        rows: usize,
        columns: usize,
        mut compute: impl FnMut(Range<usize>, &mut [f32]),
    ) -> Self {
        let mut builder = SavedBuilder::new(precision, rows, columns);
        let most = if precision == Precision::F32 { rows } else { ROWS };
        for from in (0..rows).step_by(most.max(1)) {
            let some = from..rows.min(from + most);
            builder.write(some.start * columns..some.end * columns, |out| compute(some.clone(), out));
        }
        builder.finish()
    }

    /// Calls `change` on ranges of a few rows, which it modifies in place in f32.
    pub fn change(&mut self, mut change: impl FnMut(Range<usize>, &mut [f32])) {
        match self {
            Self::F32(x) => change(0..x.shape[0], &mut x.data),
            Self::Bf16 { shape, data } => {
                let (rows, columns) = (shape[0], shape[1..].iter().product::<usize>());
                let mut scratch = vec![0.0; ROWS.min(rows) * columns];
                for from in (0..rows).step_by(ROWS) {
                    let some = from..rows.min(from + ROWS);
                    let scratch = &mut scratch[..some.len() * columns];
                    let data = &mut bytemuck::cast_slice_mut(data)[from * columns..some.end * columns];
                    widen_all(data, scratch);
                    change(some, scratch);
                    round(scratch, data);
                }
            }
        }
    }

    /// The tensor's shape.
    pub fn shape(&self) -> &[usize] {
        let (Self::F32(Tensor { shape, .. }) | Self::Bf16 { shape, .. }) = self;
        shape
    }

    /// All elements as a slice.
    pub fn slice(&self) -> SliceRef<'_> {
        match self {
            Self::F32(x) => SliceRef::F32(&x.data),
            Self::Bf16 { shape, data } => SliceRef::Bf16(elements(data, shape)),
        }
    }

    /// All elements as a matrix whose rows have the length of the last axis.
    pub fn matrix(&self) -> MatRef<'_> {
        let shape = self.shape();
        self.slice().matrix(shape[shape.len() - 1])
    }

    /// The tensor in f32.
    pub fn widen(self) -> Tensor {
        match self {
            Self::F32(x) => x,
            Self::Bf16 { shape, data } => {
                let mut x = Tensor::scratch(shape);
                widen_all(elements(&data, &x.shape), &mut x.data);
                x
            }
        }
    }

    /// Some elements in f32: borrowed from the tensor, or widened into `scratch`.
    ///
    /// # Panics
    /// If the range is outside the tensor, or `scratch` is too small.
    pub fn part<'a>(&'a self, range: Range<usize>, scratch: &'a mut [f32]) -> &'a [f32] {
        match self {
            Self::F32(x) => &x.data[range],
            Self::Bf16 { shape, data } => {
                let scratch = &mut scratch[..range.len()];
                widen_all(&elements(data, shape)[range], scratch);
                scratch
            }
        }
    }
}

/// The elements of a tensor with this shape.
fn elements<'a>(data: &'a Buffer, shape: &[usize]) -> &'a [bf16] {
    &bytemuck::cast_slice(data)[..shape.iter().product()]
}

/// Builds a [`SavedActivation`] of a matrix part by part: in bfloat16, the whole matrix is never stored in f32.
pub enum SavedBuilder {
    /// In f32.
    F32(Tensor),
    /// In bfloat16.
    Bf16 {
        /// Rows and columns.
        shape: [usize; 2],
        /// The bfloat16 numbers, two in the memory of each f32.
        data: Buffer,
        /// Scratch memory for a part before it is rounded.
        scratch: Vec<f32>,
    },
}

impl SavedBuilder {
    /// A builder for a `[rows, columns]` matrix.
    pub fn new(precision: Precision, rows: usize, columns: usize) -> Self {
        match precision {
            Precision::F32 => Self::F32(Tensor::scratch([rows, columns])),
            Precision::Bf16 | Precision::Int8 => {
                let data = Buffer::scratch(floats(precision, rows * columns));
                Self::Bf16 { shape: [rows, columns], data, scratch: Vec::new() }
            }
        }
    }

    /// Calls `write` with a slice for `elements`, which it must fill.
    ///
    /// # Panics
    /// If the range is outside the matrix.
    pub fn write(&mut self, elements: Range<usize>, write: impl FnOnce(&mut [f32])) {
        match self {
            Self::F32(x) => write(&mut x.data[elements]),
            Self::Bf16 { data, scratch, .. } => {
                if scratch.len() < elements.len() {
                    scratch.resize(elements.len(), 0.0);
                }
                let scratch = &mut scratch[..elements.len()];
                write(scratch);
                round(scratch, &mut bytemuck::cast_slice_mut(data)[elements]);
            }
        }
    }

    /// The matrix, once all of it has been written.
    pub fn finish(self) -> SavedActivation {
        match self {
            Self::F32(x) => SavedActivation::F32(x),
            Self::Bf16 { shape, data, .. } => SavedActivation::Bf16 { shape: shape.to_vec(), data },
        }
    }
}

/// Number of f32 that `elements` elements of a [`SavedActivation`] occupy.
pub fn floats(precision: Precision, elements: usize) -> usize {
    match precision {
        Precision::F32 => elements,
        Precision::Bf16 | Precision::Int8 => elements.div_ceil(2),
    }
}

/// Number of floats by which the parameter gradients of a layer exceed the activations that it has freed, if there is
/// another layer. They count because they are reduced only after the backward pass of the next layer.
pub fn waiting_gradients(layers: usize, saved: usize, gradients: usize) -> usize {
    if layers > 1 { gradients.saturating_sub(saved) } else { 0 }
}

wide! {
    fn widen_all(x: &[bf16], out: &mut [f32]) {
        for (out, x) in out.iter_mut().zip(x) {
            *out = x.widen();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::gemm::round_to_bf16;
    use crate::kernels::testing::random;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn saved_activations_can_be_read(rows in 0usize..40, columns in 1usize..60, from in 0usize..99, to in 0usize..99) {
            let values = random(1, rows * columns);
            let part = from.min(to).min(values.len())..from.max(to).min(values.len());
            for (precision, expected) in [
                (Precision::F32, values.clone()),
                (Precision::Bf16, values.iter().map(|x| round_to_bf16(*x)).collect()),
            ] {
                let saved = SavedActivation::new(precision, Tensor::from_values([rows, columns], &values));
                let computed = SavedActivation::computed(precision, rows, columns, |rows, out| {
                    out.copy_from_slice(&values[rows.start * columns..rows.end * columns]);
                });
                prop_assert_eq!(&computed.widen().data[..], &expected[..]);
                let mut changed = SavedActivation::new(precision, Tensor::from_values([rows, columns], &values));
                changed.change(|rows, part| {
                    assert_eq!(part.len(), rows.len() * columns);
                    part.iter_mut().for_each(|x| *x *= -2.0);
                });
                prop_assert_eq!(changed.widen().data.to_vec(), expected.iter().map(|x| -2.0 * x).collect::<Vec<_>>());
                let mut scratch = [0.0; 99];
                prop_assert_eq!(saved.part(part.clone(), &mut scratch), &expected[part.clone()]);
                let whole = saved.widen();
                prop_assert_eq!((&whole.shape[..], &whole.data[..]), (&[rows, columns][..], &expected[..]));
            }
        }
    }
}

//! Activations that products read or that wait for backward.
use crate::kernels::gemm::{Done, Factor, Half, Number, Numbers, matrix_mut, product_in_parts, product_then, round};
use crate::wide;
use contract::{Buffer, Precision, Tensor};
use std::ops::Range;

/// A tensor that products or backward read: as it is or, in [`Precision::Bf16`], as bfloat16, in half the memory. That costs
/// factors of products nothing; normalisations and activation functions go back from what is rounded, as they do under
/// automatic mixed precision elsewhere (Micikevicius et al. 2018).
pub enum Kept {
    /// As it is.
    Whole(Tensor),
    /// Rounded.
    Halves {
        /// The tensor's shape.
        shape: Vec<usize>,
        /// Two numbers in the room of one.
        halves: Buffer,
    },
}

/// Rows that are made before they are rounded: few enough to stay in cache.
const ROWS: usize = 16;

impl Kept {
    /// Keeps `x` for products in `precision`.
    pub fn new(precision: Precision, x: Tensor) -> Self {
        match precision {
            Precision::F32 => Self::Whole(x),
            Precision::Bf16 => {
                let mut halves = Buffer::scratch(floats(precision, x.data.len()));
                round(&x.data, &mut bytemuck::cast_slice_mut(&mut halves)[..x.data.len()]);
                Self::Halves { shape: x.shape, halves }
            }
        }
    }

    /// `a · b` in `precision`, after `then` has had each part of it, for products in `kept`.
    pub fn product(
        kept: Precision,
        precision: Precision,
        a: Factor<'_>,
        b: Factor<'_>,
        mut then: impl FnMut(&mut Done),
    ) -> Self {
        let (rows, columns) = (a.dim().0, b.dim().1);
        match kept {
            Precision::F32 => {
                let mut c = Tensor::scratch([rows, columns]);
                product_then(precision, 1.0, a, b, 0.0, matrix_mut(&mut c.data, columns), &mut then);
                Self::Whole(c)
            }
            Precision::Bf16 => {
                let mut halves = Buffer::scratch(floats(kept, rows * columns));
                product_in_parts(precision, a, b, &mut |done| {
                    then(done);
                    for row in done.rows.clone() {
                        let (at, part) = (row * columns + done.columns.start, done.row(row));
                        round(part, &mut bytemuck::cast_slice_mut(&mut halves)[at..at + part.len()]);
                    }
                });
                Self::Halves { shape: vec![rows, columns], halves }
            }
        }
    }

    /// `[rows, columns]` for products in `precision`, of which `make` writes the rows that it is told to.
    pub fn made(
        precision: Precision,
        rows: usize,
        columns: usize,
        mut make: impl FnMut(Range<usize>, &mut [f32]),
    ) -> Self {
        let mut maker = Maker::new(precision, rows, columns);
        let most = if precision == Precision::F32 { rows } else { ROWS };
        for from in (0..rows).step_by(most.max(1)) {
            let some = from..rows.min(from + most);
            maker.write(some.start * columns..some.end * columns, |out| make(some.clone(), out));
        }
        maker.keep()
    }

    /// Has `change` turn its rows into others, some at a time.
    pub fn change(&mut self, mut change: impl FnMut(Range<usize>, &mut [f32])) {
        match self {
            Self::Whole(x) => change(0..x.shape[0], &mut x.data),
            Self::Halves { shape, halves } => {
                let (rows, columns) = (shape[0], shape[1..].iter().product::<usize>());
                let mut room = vec![0.0; ROWS.min(rows) * columns];
                for from in (0..rows).step_by(ROWS) {
                    let some = from..rows.min(from + ROWS);
                    let room = &mut room[..some.len() * columns];
                    let halves = &mut bytemuck::cast_slice_mut(halves)[from * columns..some.end * columns];
                    widen(halves, room);
                    change(some, room);
                    round(room, halves);
                }
            }
        }
    }

    /// All of it.
    pub fn numbers(&self) -> Numbers<'_> {
        match self {
            Self::Whole(x) => Numbers::Single(&x.data),
            Self::Halves { shape, halves } => Numbers::Half(numbers(halves, shape)),
        }
    }

    /// All of it, rows as long as the last axis.
    pub fn matrix(&self) -> Factor<'_> {
        let (Self::Whole(Tensor { shape, .. }) | Self::Halves { shape, .. }) = self;
        self.numbers().matrix(shape[shape.len() - 1])
    }

    /// All of it, in single precision.
    pub fn whole(self) -> Tensor {
        match self {
            Self::Whole(x) => x,
            Self::Halves { shape, halves } => {
                let mut x = Tensor::scratch(shape);
                widen(numbers(&halves, &x.shape), &mut x.data);
                x
            }
        }
    }

    /// Some of it, in single precision: where it lies or, if it has to be widened, in `room`.
    ///
    /// # Panics
    /// If it has no such elements, or `room` is too small for them.
    pub fn part<'a>(&'a self, elements: Range<usize>, room: &'a mut [f32]) -> &'a [f32] {
        match self {
            Self::Whole(x) => &x.data[elements],
            Self::Halves { shape, halves } => {
                let room = &mut room[..elements.len()];
                widen(&numbers(halves, shape)[elements], room);
                room
            }
        }
    }
}

/// What `halves` of a tensor of that shape hold.
fn numbers<'a>(halves: &'a Buffer, shape: &[usize]) -> &'a [Half] {
    &bytemuck::cast_slice(halves)[..shape.iter().product()]
}

/// Makes a [`Kept`] of a matrix, part by part: what is rounded never lies in memory whole in single precision.
pub enum Maker {
    /// As it is.
    Whole(Tensor),
    /// Rounded.
    Halves {
        /// Rows and columns.
        shape: [usize; 2],
        /// Two numbers in the room of one.
        halves: Buffer,
        /// Where a part is before it is rounded.
        room: Vec<f32>,
    },
}

impl Maker {
    /// For a matrix of that many rows and columns.
    pub fn new(precision: Precision, rows: usize, columns: usize) -> Self {
        match precision {
            Precision::F32 => Self::Whole(Tensor::scratch([rows, columns])),
            Precision::Bf16 => {
                let halves = Buffer::scratch(floats(precision, rows * columns));
                Self::Halves { shape: [rows, columns], halves, room: Vec::new() }
            }
        }
    }

    /// Has `write` write `elements`, all of them.
    ///
    /// # Panics
    /// If the matrix has no such elements.
    pub fn write(&mut self, elements: Range<usize>, write: impl FnOnce(&mut [f32])) {
        match self {
            Self::Whole(x) => write(&mut x.data[elements]),
            Self::Halves { halves, room, .. } => {
                if room.len() < elements.len() {
                    room.resize(elements.len(), 0.0);
                }
                let room = &mut room[..elements.len()];
                write(room);
                round(room, &mut bytemuck::cast_slice_mut(halves)[elements]);
            }
        }
    }

    /// The matrix, all of which has been written.
    pub fn keep(self) -> Kept {
        match self {
            Self::Whole(x) => Kept::Whole(x),
            Self::Halves { shape, halves, .. } => Kept::Halves { shape: shape.to_vec(), halves },
        }
    }
}

/// Floats' room that `elements` of a [`Kept`] take.
pub fn floats(precision: Precision, elements: usize) -> usize {
    match precision {
        Precision::F32 => elements,
        Precision::Bf16 => elements.div_ceil(2),
    }
}

/// What is more where the gradients of a layer, all that it has, still wait while the next of several is worked on: they
/// are added up when its turn is over, and what the layer kept has gone.
pub fn before(layers: usize, kept: usize, gradients: usize) -> usize {
    if layers > 1 { gradients.saturating_sub(kept) } else { 0 }
}

wide! {
    fn widen(x: &[Half], out: &mut [f32]) {
        for (out, x) in out.iter_mut().zip(x) {
            *out = x.single();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::gemm::bf16;
    use crate::kernels::testing::random;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_kept_comes_back(rows in 0usize..40, columns in 1usize..60, from in 0usize..99, to in 0usize..99) {
            let values = random(1, rows * columns);
            let part = from.min(to).min(values.len())..from.max(to).min(values.len());
            for (precision, expected) in [
                (Precision::F32, values.clone()),
                (Precision::Bf16, values.iter().map(|x| bf16(*x)).collect()),
            ] {
                let kept = Kept::new(precision, Tensor::from_values([rows, columns], &values));
                let made = Kept::made(precision, rows, columns, |rows, out| {
                    out.copy_from_slice(&values[rows.start * columns..rows.end * columns]);
                });
                prop_assert_eq!(&made.whole().data[..], &expected[..]);
                let mut changed = Kept::new(precision, Tensor::from_values([rows, columns], &values));
                changed.change(|rows, part| {
                    assert_eq!(part.len(), rows.len() * columns);
                    part.iter_mut().for_each(|x| *x *= -2.0);
                });
                prop_assert_eq!(changed.whole().data.to_vec(), expected.iter().map(|x| -2.0 * x).collect::<Vec<_>>());
                let mut room = [0.0; 99];
                prop_assert_eq!(kept.part(part.clone(), &mut room), &expected[part.clone()]);
                let whole = kept.whole();
                prop_assert_eq!((&whole.shape[..], &whole.data[..]), (&[rows, columns][..], &expected[..]));
            }
        }
    }
}

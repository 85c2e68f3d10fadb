//! Activations that products read or that wait for backward.
use crate::kernels::gemm::{Factor, Half, Numbers, round};
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
        let mut keeper = Keeper::new(precision, x.data.len());
        keeper.put(0, &x.data);
        keeper.keep(x)
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

/// Makes a [`Kept`] of what lies elsewhere part by part, while it is in cache.
pub struct Keeper(Option<Buffer>);

impl Keeper {
    /// For a tensor of that many elements.
    pub fn new(precision: Precision, elements: usize) -> Self {
        Self((precision == Precision::Bf16).then(|| Buffer::scratch(floats(precision, elements))))
    }

    /// `part` is what the tensor has from element `at` on.
    pub fn put(&mut self, at: usize, part: &[f32]) {
        if let Some(halves) = &mut self.0 {
            round(part, &mut bytemuck::cast_slice_mut(halves)[at..][..part.len()]);
        }
    }

    /// Keeps `x`, all of whose parts have been [put](Self::put).
    pub fn keep(self, x: Tensor) -> Kept {
        match self.0 {
            None => Kept::Whole(x),
            Some(halves) => Kept::Halves { shape: x.shape, halves },
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
            *out = f32::from_bits(u32::from(x.to_bits()) << 16);
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
                let mut room = [0.0; 99];
                prop_assert_eq!(kept.part(part.clone(), &mut room), &expected[part.clone()]);
                let whole = kept.whole();
                prop_assert_eq!((&whole.shape[..], &whole.data[..]), (&[rows, columns][..], &expected[..]));
            }
        }
    }
}

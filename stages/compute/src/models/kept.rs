//! Activations that wait for backward.
use crate::kernels::gemm::bf16;
use crate::wide;
use contract::{Buffer, Precision, Tensor};
use std::ops::Range;

/// A tensor that backward reads: as it is or, in [`Precision::Bf16`], as bfloat16, in half the memory. That costs operands
/// of products nothing; normalisations and activation functions go back from what is rounded, as they do under automatic
/// mixed precision elsewhere (Micikevicius et al. 2018).
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

impl Kept {
    /// Keeps `x` for products in `precision`.
    pub fn new(precision: Precision, x: Tensor) -> Self {
        let mut keeper = Keeper::new(precision, x.data.len());
        keeper.put(0, &x.data);
        keeper.keep(x)
    }

    /// All of it, in single precision.
    pub fn whole(self) -> Tensor {
        match self {
            Self::Whole(x) => x,
            Self::Halves { shape, halves } => {
                let mut x = Tensor::scratch(shape);
                widen(bytemuck::cast_slice(&halves), &mut x.data);
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
            Self::Halves { halves, .. } => {
                let room = &mut room[..elements.len()];
                widen(&bytemuck::cast_slice(halves)[elements], room);
                room
            }
        }
    }
}

/// Makes a [`Kept`] part by part, while they are in cache.
pub struct Keeper(Option<Buffer>);

impl Keeper {
    /// For a tensor of that many elements.
    pub fn new(precision: Precision, elements: usize) -> Self {
        Self((precision == Precision::Bf16).then(|| Buffer::scratch(floats(precision, elements))))
    }

    /// `part` is what the tensor has from element `at` on.
    pub fn put(&mut self, at: usize, part: &[f32]) {
        if let Some(halves) = &mut self.0 {
            narrow(part, &mut bytemuck::cast_slice_mut(halves)[at..][..part.len()]);
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
    /// The upper halves of what is rounded to bfloat16.
    fn narrow(x: &[f32], out: &mut [u16]) {
        for (out, x) in out.iter_mut().zip(x) {
            *out = (bf16(*x).to_bits() >> 16) as u16;
        }
    }
}

wide! {
    fn widen(x: &[u16], out: &mut [f32]) {
        for (out, x) in out.iter_mut().zip(x) {
            *out = f32::from_bits(u32::from(*x) << 16);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
                let mut room = [0.0; 99];
                prop_assert_eq!(kept.part(part.clone(), &mut room), &expected[part.clone()]);
                let whole = kept.whole();
                prop_assert_eq!((&whole.shape[..], &whole.data[..]), (&[rows, columns][..], &expected[..]));
            }
        }
    }
}

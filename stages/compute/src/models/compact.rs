//! Activations that are saved for backward in as little memory as their precision allows.
use super::saved::{self, SavedActivation};
use crate::wide;
use contract::{Buffer, Precision, Tensor};
use std::ops::Range;

/// Elements that share a scale.
const GROUP: usize = 128;
/// Elements that are widened at once before they are rounded: whole groups that stay in cache.
const PART: usize = 16 * GROUP;
/// Largest integer.
const LARGEST: f32 = 127.0;
/// Bits of the magnitude of an infinity. Those of NaN are larger, those of other numbers smaller.
const INFINITE: u32 = 0x7F80_0000;
/// 1.5 × 2²³: added to a small number it leaves the nearest integer, ties to even, in the low bits of the sum.
const TO_INTEGER: f32 = 12_582_912.0;
/// Groups without a larger number than this count as zero; the reciprocal of their scale could be infinite.
const NOTHING: f32 = 1e-30;

/// A tensor that only the backward pass reads. With [`Precision::Int8`] it is rounded to integers of eight bits, to
/// nearest, with a scale for every 128 consecutive elements (as in Jetfire, Xi et al. 2024, whose blocks are squares). A
/// group with an infinity or a NaN becomes NaN.
pub enum CompactActivation {
    /// As an operand of products.
    Float(SavedActivation),
    /// In eight bits.
    Int8 {
        /// The tensor's shape.
        shape: Vec<usize>,
        /// The integers, four in the memory of each f32.
        integers: Buffer,
        /// What those of each group are multiplied by.
        scales: Buffer,
    },
}

impl CompactActivation {
    /// Saves `x` in `precision`.
    pub fn new(precision: Precision, x: Tensor) -> Self {
        if precision != Precision::Int8 {
            return Self::Float(SavedActivation::new(precision, x));
        }
        let (mut integers, mut scales) = buffers(x.data.len());
        quantise(&x.data, &mut bytemuck::cast_slice_mut(&mut integers)[..x.data.len()], &mut scales);
        Self::Int8 { shape: x.shape, integers, scales }
    }

    /// Saves `x`, which was an operand of products, in `precision`.
    pub fn of_operand(precision: Precision, x: SavedActivation) -> Self {
        let len = x.slice().len();
        if precision != Precision::Int8 {
            return Self::Float(x);
        }
        let (mut integers, mut scales) = buffers(len);
        let bytes: &mut [i8] = bytemuck::cast_slice_mut(&mut integers);
        let mut scratch = [0.0; PART];
        for from in (0..len).step_by(PART) {
            let part = from..len.min(from + PART);
            let of_groups = from / GROUP..part.end.div_ceil(GROUP);
            quantise(x.part(part.clone(), &mut scratch), &mut bytes[part], &mut scales[of_groups]);
        }
        let shape = x.shape().to_vec();
        Self::Int8 { shape, integers, scales }
    }

    /// The tensor in f32.
    pub fn widen(self) -> Tensor {
        match self {
            Self::Float(x) => x.widen(),
            Self::Int8 { shape, integers, scales } => {
                let mut x = Tensor::scratch(shape);
                dequantise(&bytemuck::cast_slice(&integers)[..x.data.len()], 0, &scales, &mut x.data);
                x
            }
        }
    }

    /// The tensor as an operand of products that are computed in `precision`.
    pub fn operand(self, precision: Precision) -> SavedActivation {
        match self {
            Self::Float(x) => x,
            integers => integers.changed(precision, |_, _| ()),
        }
    }

    /// Some elements in f32: borrowed from the tensor, or widened into `scratch`.
    ///
    /// # Panics
    /// If the range is outside the tensor, or `scratch` is too small.
    pub fn part<'a>(&'a self, range: Range<usize>, scratch: &'a mut [f32]) -> &'a [f32] {
        match self {
            Self::Float(x) => x.part(range, scratch),
            Self::Int8 { integers, scales, .. } => {
                let scratch = &mut scratch[..range.len()];
                let bytes: &[i8] = bytemuck::cast_slice(integers);
                dequantise(&bytes[range.clone()], range.start, scales, scratch);
                scratch
            }
        }
    }

    /// Calls `change` on ranges of a few rows, which it modifies in place in f32, and returns the result as an operand of
    /// products that are computed in `precision`.
    pub fn changed(self, precision: Precision, mut change: impl FnMut(Range<usize>, &mut [f32])) -> SavedActivation {
        let (shape, integers, scales) = match self {
            Self::Float(mut x) => {
                x.change(change);
                return x;
            }
            Self::Int8 { shape, integers, scales } => (shape, integers, scales),
        };
        let columns = shape[1..].iter().product();
        let bytes: &[i8] = bytemuck::cast_slice(&integers);
        SavedActivation::computed(precision, shape[0], columns, |rows, out| {
            let part = rows.start * columns..rows.end * columns;
            dequantise(&bytes[part.clone()], part.start, &scales, out);
            change(rows, out);
        })
    }
}

/// Memory for the integers of so many elements, and for their scales.
fn buffers(elements: usize) -> (Buffer, Buffer) {
    (Buffer::scratch(elements.div_ceil(4)), Buffer::scratch(elements.div_ceil(GROUP)))
}

/// Number of f32 that `elements` elements of a [`CompactActivation`] occupy.
pub fn floats(precision: Precision, elements: usize) -> usize {
    match precision {
        Precision::Int8 => elements.div_ceil(4) + elements.div_ceil(GROUP),
        float => saved::floats(float, elements),
    }
}

wide! {
    /// Rounds `x`, which starts with a whole group, into as many integers.
    fn quantise(x: &[f32], out: &mut [i8], scales: &mut [f32]) {
        assert!(x.len() == out.len() && x.len().div_ceil(GROUP) == scales.len());
        let ((groups, rest), (outs, out_rest)) = (x.as_chunks::<GROUP>(), out.as_chunks_mut::<GROUP>());
        for ((x, out), scale) in groups.iter().zip(outs).zip(&mut *scales) {
            *scale = quantise_group(x, out);
        }
        if let Some(scale) = scales.get_mut(groups.len()) {
            *scale = quantise_group(rest, out_rest);
        }
    }
}

/// Rounds a group; returns its scale.
#[inline(always)]
fn quantise_group(x: &[f32], out: &mut [i8]) -> f32 {
    let mut largest = 0;
    for x in x {
        largest = largest.max(x.to_bits() & 0x7FFF_FFFF);
    }
    let (scale, inverse) = match f32::from_bits(largest) {
        _ if largest >= INFINITE => (f32::NAN, 0.0),
        nothing if nothing <= NOTHING => (0.0, 0.0),
        most => (most / LARGEST, LARGEST / most),
    };
    for (out, x) in out.iter_mut().zip(x) {
        *out = (x * inverse + TO_INTEGER).to_bits().wrapping_sub(TO_INTEGER.to_bits()) as i8;
    }
    scale
}

wide! {
    /// The numbers that `integers` stand for, of which the first is the tensor's element `first`.
    fn dequantise(integers: &[i8], first: usize, scales: &[f32], out: &mut [f32]) {
        assert_eq!(integers.len(), out.len());
        let mut at = 0;
        while at < out.len() {
            let left = GROUP - (first + at) % GROUP;
            let end = out.len().min(at + left);
            let scale = scales[(first + at) / GROUP];
            for (out, integer) in out[at..end].iter_mut().zip(&integers[at..end]) {
                *out = f32::from(*integer) * scale;
            }
            at = end;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::gemm::round_to_bf16;
    use crate::kernels::testing::random;
    use proptest::prelude::*;

    /// The definition.
    fn rounded(values: &[f32]) -> Vec<f32> {
        let of_group = |group: &[f32]| {
            let largest = group.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
            let finite = group.iter().all(|x| x.is_finite());
            let round = move |x: &f32| match largest {
                _ if !finite => f32::NAN,
                _ if largest <= NOTHING => 0.0,
                _ => (x * (127.0 / largest)).round_ties_even() * (largest / 127.0),
            };
            group.iter().map(round).collect::<Vec<_>>()
        };
        values.chunks(GROUP).flat_map(of_group).collect()
    }

    /// Bits, with one value for all kinds of NaN and for both zeros.
    fn bits(x: &[f32]) -> Vec<u32> {
        x.iter().map(|x| if x.is_nan() { u32::MAX } else { (x + 0.0).to_bits() }).collect()
    }

    proptest! {
        /// Odd sizes, unusual numbers, and every way to read them.
        #[test]
        fn numbers_are_rounded_by_group(
            rows in 1usize..40, columns in 1usize..60, from in 0usize..2000, length in 0usize..400,
            unusual in prop::collection::vec((any::<u16>(), prop::sample::select(vec![
                0.0, -0.0, 1e30, -3e38, 1e-40, 2e-30, f32::INFINITY, f32::NEG_INFINITY, f32::NAN,
            ])), 0..4), zeros: bool,
        ) {
            let mut values = random(1, rows * columns);
            if zeros { values[..(rows * columns).min(300)].fill(0.0); }
            for (at, number) in unusual {
                values[at as usize % (rows * columns)] = number;
            }
            let expected = rounded(&values);
            let tensor = || Tensor::from_values([rows, columns], &values);
            let compact = || CompactActivation::new(Precision::Int8, tensor());
            let whole = compact().widen();
            prop_assert_eq!(&whole.shape, &[rows, columns]);
            prop_assert_eq!(bits(&whole.data), bits(&expected));
            let operand: Vec<f32> = expected.iter().map(|x| round_to_bf16(*x)).collect();
            prop_assert_eq!(bits(&compact().operand(Precision::Int8).widen().data), bits(&operand));
            let halved = compact().changed(Precision::Bf16, |rows, part| {
                assert_eq!(part.len(), rows.len() * columns);
                part.iter_mut().for_each(|x| *x *= 0.5);
            });
            let half: Vec<f32> = expected.iter().map(|x| round_to_bf16(0.5 * x)).collect();
            prop_assert_eq!(bits(&halved.widen().data), bits(&half));
            let part = from.min(values.len())..(from + length).min(values.len());
            let mut scratch = [0.0; 400];
            prop_assert_eq!(bits(compact().part(part.clone(), &mut scratch)), bits(&expected[part]));
            // Of an operand, rounding starts from bfloat16.
            let of_operand = SavedActivation::new(Precision::Int8, tensor());
            let of_operand = CompactActivation::of_operand(Precision::Int8, of_operand).widen();
            let halves: Vec<f32> = values.iter().map(|x| round_to_bf16(*x)).collect();
            prop_assert_eq!(bits(&of_operand.data), bits(&rounded(&halves)));
        }
    }

    #[test]
    fn other_precisions_are_kept() {
        let values = random(1, 300);
        for precision in [Precision::F32, Precision::Bf16] {
            let operand = || SavedActivation::new(precision, Tensor::from_values([3, 100], &values));
            let compact = CompactActivation::of_operand(precision, operand());
            assert_eq!(compact.widen().data[..], operand().widen().data[..]);
        }
    }
}

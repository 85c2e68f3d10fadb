//! Matrices of integers of eight bits with a scale for each row, times vectors: for decoding one token at a time, which
//! reads each weight once, so a quarter of the bytes of f32 are read.
//!
//! The vector becomes integers of sixteen bits with one scale, so nearly all of the error is that of the weights. Sums of
//! integers are exact, and each is converted to f32 and multiplied by the two scales in a fixed order. So results have the
//! same bits on every CPU, and depend only on their own row.
//!
//! Rows are read one after the other: CPUs fetch one stream from memory faster than several.
//!
//! - `avx512`, `avx2`, `portable`: the sums, on different CPUs
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

#[cfg(test)]
mod tests;

use super::gemm::bf16;
use crate::wide;
use contract::Buffer;
use rayon::prelude::*;

/// Rows and vectors are padded with zeros to a multiple of this many integers.
const PADDING: usize = 64;
/// Integers whose products are summed in lanes of 32 bits before these are added up in 64 bits. A lane of eight gets 512
/// products of magnitudes up to 127 · 32767, whose sum is below 2³¹.
const DEEPEST: usize = 4096;
/// Largest integer of a row, and of a vector.
const LARGEST: f32 = 127.0;
const LARGEST_OF_VECTOR: f32 = 32_767.0;
/// Numbers that are not larger count as zero: the reciprocal of their scale could be infinite. (As in products of
/// training, see [`gemm`](super::gemm).)
const NOTHING: f32 = 1e-30;
/// 1.5 × 2²³: added to a small number it leaves the nearest integer, ties to even, in the low bits of the sum.
const TO_INTEGER: f32 = 12_582_912.0;

/// A matrix of integers of eight bits with a scale for each row.
pub struct Int8Matrix {
    /// `[rows, stride]`, bytes.
    values: Buffer,
    columns: usize,
    stride: usize,
    /// NaN for rows that are not finite.
    scales: Vec<f32>,
}

impl Int8Matrix {
    /// The matrix of integers next to `weight_oi`, whose rows have `columns` numbers, on the threads of the current rayon
    /// pool. Row `o` is the integers times `largest / 127`, where `largest` is its largest magnitude.
    ///
    /// # Panics
    /// If there are no columns, or no whole rows.
    pub fn new(weight_oi: &[f32], columns: usize) -> Self {
        assert!(columns > 0 && weight_oi.len().is_multiple_of(columns), "the matrix has whole rows");
        let (rows, stride) = (weight_oi.len() / columns, columns.next_multiple_of(PADDING));
        let mut values = Buffer::scratch(rows * stride / size_of::<f32>());
        let integers: &mut [i8] = bytemuck::cast_slice_mut(&mut values);
        let scales = integers.par_chunks_mut(stride).zip(weight_oi.par_chunks(columns));
        let scales = scales.map(|(integers, row)| eight_bits(row, integers)).collect();
        Self { values, columns, stride, scales }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.scales.len()
    }

    /// Numbers of a row.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Bytes of all integers and scales.
    pub fn bytes(&self) -> usize {
        size_of_val(&self.values[..]) + size_of_val(&self.scales[..])
    }

    /// What the integers of each row are multiplied by.
    pub fn scales(&self) -> &[f32] {
        &self.scales
    }

    /// Writes the numbers of a row.
    ///
    /// # Panics
    /// If there is no such row, or `out` has another number of columns.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        assert_eq!(out.len(), self.columns, "a number for each column");
        let scale = self.scales[row];
        for (out, integer) in out.iter_mut().zip(self.integers_of(row)) {
            *out = f32::from(*integer) * scale;
        }
    }

    /// Writes the integers of the rows from `first` on in bfloat16, which is exact.
    ///
    /// # Panics
    /// If there are no such rows, or `out` has no whole rows.
    pub fn integers(&self, first: usize, out: &mut [bf16]) {
        assert!(out.len().is_multiple_of(self.columns), "whole rows");
        for (row, out) in (first..).zip(out.chunks_exact_mut(self.columns)) {
            widen(self.integers_of(row), out);
        }
    }

    fn integers_of(&self, row: usize) -> &[i8] {
        &self.all()[row * self.stride..][..self.columns]
    }

    fn all(&self) -> &[i8] {
        bytemuck::cast_slice(&self.values)
    }

    /// The products of the rows from `first` on, as many as `out_o` has numbers, with row `row` of `x`. On the calling
    /// thread.
    ///
    /// # Panics
    /// If there are no such rows, or the length of the vectors is not that of the rows.
    pub fn multiply(&self, first: usize, x: &Int16Vectors, row: usize, out_o: &mut [f32]) {
        assert_eq!(self.columns, x.columns, "vectors as long as rows");
        let weights = &self.all()[first * self.stride..][..out_o.len() * self.stride];
        kernel().products(weights, x.integers(row), out_o);
        let of_vector = x.scales[row];
        for (out, scale) in out_o.iter_mut().zip(&self.scales[first..]) {
            *out = *out * of_vector * scale;
        }
    }
}

/// Vectors of integers of sixteen bits, each with a scale.
pub struct Int16Vectors {
    /// `[vectors, stride]`, of two bytes.
    values: Buffer,
    columns: usize,
    stride: usize,
    /// NaN for vectors that are not finite.
    scales: Vec<f32>,
}

impl Int16Vectors {
    /// The vectors of integers next to the rows of `x_ri`, which have `columns` numbers: vector `r` is the integers times
    /// `largest / 32767`, where `largest` is its largest magnitude.
    ///
    /// # Panics
    /// If there are no columns, or no whole rows.
    pub fn new(x_ri: &[f32], columns: usize) -> Self {
        assert!(columns > 0 && x_ri.len().is_multiple_of(columns), "whole rows");
        let (rows, stride) = (x_ri.len() / columns, columns.next_multiple_of(PADDING));
        let mut values = Buffer::scratch(rows * stride / 2);
        let integers: &mut [i16] = bytemuck::cast_slice_mut(&mut values);
        let scales = integers.chunks_exact_mut(stride).zip(x_ri.chunks_exact(columns));
        let scales = scales.map(|(integers, x)| sixteen_bits(x, integers)).collect();
        Self { values, columns, stride, scales }
    }

    /// With the padding.
    fn integers(&self, row: usize) -> &[i16] {
        &bytemuck::cast_slice::<f32, i16>(&self.values)[row * self.stride..][..self.stride]
    }
}

wide! {
    /// Writes the integers of eight bits next to `x`, and zeros after them; returns their scale.
    fn eight_bits(x: &[f32], out: &mut [i8]) -> f32 {
        let (scale, inverse) = scale_and_inverse(x, LARGEST);
        for (out, x) in out.iter_mut().zip(x) {
            *out = nearest(*x * inverse) as i8;
        }
        out[x.len()..].fill(0);
        scale
    }
}

wide! {
    /// Writes the integers of sixteen bits next to `x`, and zeros after them; returns their scale.
    fn sixteen_bits(x: &[f32], out: &mut [i16]) -> f32 {
        let (scale, inverse) = scale_and_inverse(x, LARGEST_OF_VECTOR);
        for (out, x) in out.iter_mut().zip(x) {
            *out = nearest(*x * inverse) as i16;
        }
        out[x.len()..].fill(0);
        scale
    }
}

/// What integers up to `most` are multiplied by to become the numbers `x`, and the numbers to become integers.
#[inline(always)]
fn scale_and_inverse(x: &[f32], most: f32) -> (f32, f32) {
    // The bits of magnitudes order as they do; those of infinities and NaN are the largest.
    let largest = x.iter().fold(0, |largest, x| largest.max(x.to_bits() & 0x7FFF_FFFF));
    match f32::from_bits(largest) {
        largest if !largest.is_finite() => (f32::NAN, 0.0),
        largest if largest <= NOTHING => (0.0, 0.0),
        largest => (largest / most, most / largest),
    }
}

#[inline(always)]
fn nearest(x: f32) -> i32 {
    ((x + TO_INTEGER).to_bits() as i32).wrapping_sub(TO_INTEGER.to_bits() as i32)
}

wide! {
    fn widen(integers: &[i8], out: &mut [bf16]) {
        for (out, integer) in out.iter_mut().zip(integers) {
            *out = bf16::from_bits((f32::from(*integer).to_bits() >> 16) as u16);
        }
    }
}

/// How this CPU computes sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kernel {
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Portable,
}

/// The fastest that this CPU has.
fn kernel() -> Kernel {
    #[cfg(target_arch = "x86_64")]
    if avx512::is_available() {
        return Kernel::Avx512Vnni;
    } else if avx2::is_available() {
        return Kernel::Avx2;
    }
    Kernel::Portable
}

/// The instructions with which products are computed, for messages.
pub fn description() -> &'static str {
    match kernel() {
        #[cfg(target_arch = "x86_64")]
        Kernel::Avx512Vnni => "AVX512-VNNI",
        #[cfg(target_arch = "x86_64")]
        Kernel::Avx2 => "AVX2",
        Kernel::Portable => "portable",
    }
}

impl Kernel {
    /// Writes the sum of products with `x` of each row of `weights`, without scales. Rows are as long as `x`, a multiple
    /// of [`PADDING`].
    fn products(self, weights: &[i8], x: &[i16], out: &mut [f32]) {
        assert!(x.len().is_multiple_of(PADDING) && weights.len() == out.len() * x.len(), "whole rows");
        match self {
            // SAFETY: `kernel` returns this only if the CPU has the instructions, and the length of `x` was checked.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni => unsafe { avx512::products(weights, x, out) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => unsafe { avx2::products(weights, x, out) },
            Self::Portable => portable::products(weights, x, out),
        }
    }
}

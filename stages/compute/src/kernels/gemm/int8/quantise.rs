//! How numbers become integers: `q = round(x · 127 / largest)`, where `largest` is the largest magnitude of a *line*,
//! which is a row of `a` or a column of `b`.
//!
//! Gradients are rounded stochastically: up or down with probabilities that make the expected value exact. Their random
//! numbers are a hash of the operand's key, the index of the line and the step of `k`. So they depend neither on the
//! order in which numbers are rounded nor on how operands are stored.
use crate::kernels::gemm::matrix::{Operand, Scalar, Strided, bf16};
use crate::wide;
use contract::Buffer;
use contract::parameters::splitmix64;
use std::ops::Range;

/// Largest integer.
const LARGEST: f32 = 127.0;
/// Lines without a larger number than this count as zero; the reciprocal of their scale could be infinite.
const NOTHING: f32 = 1e-30;
/// Bits of the magnitude of an infinity. Those of NaN are larger, those of other numbers smaller.
const INFINITE: u32 = 0x7F80_0000;
/// 1.5 × 2²³: added to a small number it leaves the nearest integer, ties to even, in the low bits of the sum.
const TO_INTEGER: f32 = 12_582_912.0;
/// Lines whose largest numbers are searched for at once if the steps of a line are not contiguous: few enough for the
/// L1 cache.
const LINES: usize = 1024;

/// The lines of an operand, or of a block of them.
pub struct Lines {
    /// What integers are multiplied by; NaN if the line is not finite.
    pub scales: Vec<f32>,
    /// What numbers are multiplied by to become integers; 0 if the line is zero or not finite.
    pub inverses: Vec<f32>,
    /// What the hash of random numbers starts with.
    pub keys: Vec<u32>,
    /// Whether rounding is stochastic.
    pub stochastic: bool,
}

impl Lines {
    /// Of `x` `[lines, steps]`, which start at the operand's line `first`; `largest` has the bits of their largest
    /// magnitudes, if they are known. Scales are multiplied by `alpha`.
    ///
    /// # Safety
    /// `x` must have that many lines and steps.
    pub unsafe fn of(
        x: Operand,
        [lines, steps]: [usize; 2],
        largest: Option<&[u32]>,
        first: usize,
        key: Option<u64>,
        alpha: f32,
    ) -> Self {
        if let Some(largest) = largest {
            assert_eq!(largest.len(), lines, "a magnitude for each line");
            return Self::known(largest, first, key, alpha);
        }
        let mut largest = vec![0; lines];
        // SAFETY: guaranteed by the caller.
        unsafe { largest_magnitudes(x, steps, &mut largest) };
        Self::known(&largest, first, key, alpha)
    }

    /// Of lines with these bits of their largest magnitudes.
    fn known(largest: &[u32], first: usize, key: Option<u64>, alpha: f32) -> Self {
        let of = |bits: &u32| match f32::from_bits(*bits) {
            _ if *bits >= INFINITE => (f32::NAN, 0.0),
            largest if largest <= NOTHING => (0.0, 0.0),
            largest => (alpha * (largest / LARGEST), LARGEST / largest),
        };
        let (scales, inverses) = largest.iter().map(of).unzip();
        let hash = |line: usize| key.map_or(0, |key| (splitmix64(key, line as u64) >> 32) as u32);
        Self { scales, inverses, keys: (first..first + largest.len()).map(hash).collect(), stochastic: key.is_some() }
    }
}

/// `x` as an integer, as its low byte. If the line is not finite, any byte.
#[inline(always)]
pub fn integer<const STOCHASTIC: bool>(x: f32, inverse: f32, key: u32, step: u32) -> i32 {
    let y = if STOCHASTIC {
        let y = x.mul_add(inverse, noise(key, step));
        let y = if y > LARGEST { LARGEST } else { y };
        if y < -LARGEST { -LARGEST } else { y }
    } else {
        x * inverse
    };
    ((y + TO_INTEGER).to_bits() as i32).wrapping_sub(TO_INTEGER.to_bits() as i32)
}

/// A random number between -½ and ½, of 16 bits. Two steps share the halves of a hash, which is `lowbias32` (Wellons
/// 2018, *Prospecting for Hash Functions*).
#[inline(always)]
pub fn noise(key: u32, step: u32) -> f32 {
    let h = (step / 2).wrapping_add(key);
    let h = (h ^ (h >> 16)).wrapping_mul(0x7FEB_352D);
    let h = (h ^ (h >> 15)).wrapping_mul(0x846C_A68B);
    let h = h ^ (h >> 16);
    let half = if step.is_multiple_of(2) { h as i16 } else { (h >> 16) as i16 };
    f32::from(half) * (1.0 / 65_536.0) + 0.5 / 65_536.0
}

wide! {
    /// Writes the bits of the largest magnitude of each line of `x`.
    ///
    /// # Safety
    /// `x` must have that many steps, and as many lines as `out`.
    unsafe fn largest_magnitudes(x: Operand, steps: usize, out: &mut [u32]) {
        // SAFETY: guaranteed by the caller.
        unsafe {
            match x {
                Operand::F32(x) => largest_of(x, steps, out),
                Operand::Bf16(x) => largest_of(x, steps, out),
            }
        }
    }
}

#[inline(always)]
unsafe fn largest_of<E: Scalar>(x: Strided<E>, steps: usize, out: &mut [u32]) {
    if x.column == 1 {
        for (line, out) in out.iter_mut().enumerate() {
            // SAFETY: the caller guarantees that the line has that many steps.
            *out = largest_of_slice(unsafe { std::slice::from_raw_parts(x.at(line, 0).data, steps) });
        }
        return;
    }
    for (block, out) in out.chunks_mut(LINES).enumerate() {
        for step in 0..steps {
            // SAFETY: the caller guarantees that there are that many lines, and they are contiguous.
            let values = unsafe { std::slice::from_raw_parts(x.at(block * LINES, step).data, out.len()) };
            for (out, value) in out.iter_mut().zip(values) {
                *out = (*out).max(magnitude(*value));
            }
        }
    }
}

#[inline(always)]
fn largest_of_slice<E: Scalar>(values: &[E]) -> u32 {
    const AT_ONCE: usize = 64;
    let (chunks, rest) = values.as_chunks::<AT_ONCE>();
    let mut largest = [0u32; AT_ONCE];
    for chunk in chunks {
        for i in 0..AT_ONCE {
            largest[i] = largest[i].max(magnitude(chunk[i]));
        }
    }
    let mut all = 0;
    for largest in largest {
        all = all.max(largest);
    }
    for value in rest {
        all = all.max(magnitude(*value));
    }
    all
}

/// Bits of the magnitude, which order as magnitudes do.
#[inline(always)]
pub(super) fn magnitude<E: Scalar>(x: E) -> u32 {
    x.widen().to_bits() & 0x7FFF_FFFF
}

/// The integers of some lines and steps of the operand `x`, in bfloat16, which is exact. They are stored in the order of
/// `x`, without gaps.
///
/// # Safety
/// `x` must have these lines and steps, and `of` must be its lines.
pub(super) unsafe fn integers(x: Operand, lines: Range<usize>, steps: Range<usize>, of: &Lines) -> Integers {
    let by_line = x.is_row_major();
    let mut data = Buffer::scratch((lines.len() * steps.len()).div_ceil(2));
    let size = [lines.len(), steps.len()];
    let (x, first) = (x.at(lines.start, steps.start), [lines.start, steps.start]);
    // SAFETY: guaranteed by the caller; the buffer has room for all numbers.
    unsafe { write_integers(x, size, first, of, bytemuck::cast_slice_mut(&mut data)) };
    Integers { data, stride: if by_line { steps.len() } else { lines.len() }, by_line }
}

/// See [`integers`].
pub(super) struct Integers {
    data: Buffer,
    stride: usize,
    by_line: bool,
}

impl Integers {
    /// Those of lines of so many steps in `data`, which holds bfloat16 numbers without gaps.
    pub fn of_lines(data: Buffer, steps: usize) -> Self {
        Self { data, stride: steps, by_line: true }
    }

    /// The matrix `[lines, steps]`.
    pub fn operand(&self) -> Operand {
        let (row, column) = if self.by_line { (self.stride, 1) } else { (1, self.stride) };
        Operand::Bf16(Strided { data: self.data.as_ptr().cast(), row, column })
    }
}

wide! {
    /// See [`integers`].
    ///
    /// # Safety
    /// As for [`integers`].
    unsafe fn write_integers(x: Operand, size: [usize; 2], first: [usize; 2], of: &Lines, out: &mut [bf16]) {
        // SAFETY: guaranteed by the caller.
        unsafe {
            match (x, of.stochastic) {
                (Operand::F32(x), false) => write::<f32, false>(x, size, first, of, out),
                (Operand::F32(x), true) => write::<f32, true>(x, size, first, of, out),
                (Operand::Bf16(x), false) => write::<bf16, false>(x, size, first, of, out),
                (Operand::Bf16(x), true) => write::<bf16, true>(x, size, first, of, out),
            }
        }
    }
}

#[inline(always)]
unsafe fn write<E: Scalar, const STOCHASTIC: bool>(
    x: Strided<E>,
    [lines, steps]: [usize; 2],
    [first_line, first]: [usize; 2],
    of: &Lines,
    out: &mut [bf16],
) {
    let (inverses, keys, first) = (&of.inverses[first_line..], &of.keys[first_line..], first as u32);
    if x.column == 1 {
        for (line, out) in out.chunks_exact_mut(steps).take(lines).enumerate() {
            let (inverse, key) = (inverses[line], keys[line]);
            // SAFETY: the caller guarantees that the line has that many steps.
            let values = unsafe { std::slice::from_raw_parts(x.at(line, 0).data, steps) };
            for (step, (out, value)) in (first..).zip(out.iter_mut().zip(values)) {
                *out = to_bf16(integer::<STOCHASTIC>(value.widen(), inverse, key, step));
            }
        }
        return;
    }
    for (step, out) in out.chunks_exact_mut(lines).take(steps).enumerate() {
        // SAFETY: the caller guarantees that there are that many lines, and they are contiguous.
        let values = unsafe { std::slice::from_raw_parts(x.at(0, step).data, lines) };
        for (line, (out, value)) in out.iter_mut().zip(values).enumerate() {
            let (inverse, key) = (inverses[line], keys[line]);
            *out = to_bf16(integer::<STOCHASTIC>(value.widen(), inverse, key, first + step as u32));
        }
    }
}

/// The low byte as a number.
#[inline(always)]
fn to_bf16(integer: i32) -> bf16 {
    bf16::from_bits((f32::from(integer as i8).to_bits() >> 16) as u16)
}

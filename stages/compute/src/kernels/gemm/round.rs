//! Rounding to bfloat16.
use super::matrix::bf16;
use crate::simd::LANES;
use crate::wide;

/// Rounds to the nearest bfloat16, ties to even; NaN stays NaN.
#[inline(always)]
pub fn round_to_bf16(x: f32) -> f32 {
    let bits = x.to_bits();
    let rounded = if x.is_nan() { bits | 0x0040_0000 } else { bits.wrapping_add(0x7FFF + (bits >> 16 & 1)) };
    f32::from_bits(rounded & 0xFFFF_0000)
}

/// Rounds `x` as [`round_to_bf16`] does.
///
/// # Panics
/// If the lengths of `x` and `out` differ.
pub fn round(x: &[f32], out: &mut [bf16]) {
    assert_eq!(x.len(), out.len(), "input and output have the same length");
    // SAFETY: both slices have this length and do not overlap.
    unsafe { upwards(x.as_ptr(), out.as_mut_ptr(), x.len()) }
}

/// Rounds `x` as [`round`] does, and stores the result in the first half of the memory of `x`.
pub fn round_in_place(x: &mut [f32]) {
    let from = x.as_mut_ptr();
    // SAFETY: writes stay below the numbers that have not been read yet.
    unsafe { upwards(from, from.cast(), x.len()) }
}

const AT_ONCE: usize = 2 * LANES;

wide! {
    /// Rounds `count` numbers, 32 at a time. Each group is read before anything at or above its address is written.
    ///
    /// # Safety
    /// Both must have `count` numbers. `out` must either not overlap `x` or start at the same address.
    unsafe fn upwards(x: *const f32, out: *mut bf16, count: usize) {
        let whole = count / AT_ONCE * AT_ONCE;
        // SAFETY: guaranteed by the caller.
        unsafe {
            for at in (0..whole).step_by(AT_ONCE) {
                some(x.add(at), out.add(at), AT_ONCE);
            }
            // Rows often end with half a group, and a constant count is copied without a function call.
            match count - whole {
                0 => (),
                LANES => some(x.add(whole), out.add(whole), LANES),
                rest => some(x.add(whole), out.add(whole), rest),
            }
        }
    }
}

#[inline(always)]
unsafe fn some(x: *const f32, out: *mut bf16, count: usize) {
    let (mut read, mut halves) = ([0.0f32; AT_ONCE], [bf16::ZERO; AT_ONCE]);
    // SAFETY: guaranteed by the caller.
    unsafe { x.copy_to_nonoverlapping(read.as_mut_ptr(), count) };
    for (half, x) in halves.iter_mut().zip(read) {
        *half = bf16::from_bits((round_to_bf16(x).to_bits() >> 16) as u16);
    }
    // SAFETY: as above.
    unsafe { out.copy_from_nonoverlapping(halves.as_ptr(), count) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn rounding_into_another_buffer_and_in_place_agree(mut x in prop::collection::vec(prop::num::f32::ANY, 0..200)) {
            let expected: Vec<u32> = x.iter().map(|x| round_to_bf16(*x).to_bits() >> 16).collect();
            let bits = |halves: &[bf16]| halves.iter().map(|x| u32::from(x.to_bits())).collect::<Vec<_>>();
            let mut out = vec![bf16::ONE; x.len()];
            round(&x, &mut out);
            prop_assert_eq!(bits(&out), &expected[..]);
            let count = x.len();
            round_in_place(&mut x);
            prop_assert_eq!(bits(&bytemuck::cast_slice(&x)[..count]), expected);
        }
    }
}

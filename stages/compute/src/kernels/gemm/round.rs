//! Rounding to bfloat16, from memory to memory.
use super::{Half, bf16};
use crate::simd::LANES;
use crate::wide;

/// Rounds `x`, to nearest, ties to even; NaN stays NaN. Where the CPU has an instruction for it, numbers too small to be
/// normal become zero, which they are in its products.
///
/// # Panics
/// If `out` has not as many numbers.
pub fn round(x: &[f32], out: &mut [Half]) {
    assert_eq!(x.len(), out.len(), "as many rounded as not");
    // SAFETY: both have that many, and do not overlap.
    unsafe { upwards(x.as_ptr(), out.as_mut_ptr(), x.len()) }
}

/// Rounds all of `x` as [`round`] does, into the first half of its room.
pub fn round_in_place(x: &mut [f32]) {
    let from = x.as_mut_ptr();
    // SAFETY: what is written lies below what has not been read yet.
    unsafe { upwards(from, from.cast(), x.len()) }
}

/// Rounds `count` numbers, 32 at a time: those are read before anything at or above them is written.
///
/// # Safety
/// Both must have that many, and `out` lie outside of `x` or begin where it does.
unsafe fn upwards(x: *const f32, out: *mut Half, count: usize) {
    // SAFETY: the caller's, and the CPU has what is asked for.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        if super::avx512::multiplies_bf16() {
            return by_instruction(x, out, count);
        }
        by_arithmetic(x, out, count);
    }
}

const AT_ONCE: usize = 2 * LANES;

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn by_instruction(x: *const f32, out: *mut Half, count: usize) {
    use super::element::Element;
    use std::arch::x86_64::{_mm512_mask_storeu_epi16, _mm512_storeu_si512};
    for at in (0..count).step_by(AT_ONCE) {
        let left = count - at;
        // SAFETY: the caller's; what is left keeps to what is there.
        unsafe {
            let (from, out) = ([x.add(at), x.wrapping_add(at + LANES)], out.add(at));
            let halves = f32::halves(from, [left, left.saturating_sub(LANES)]);
            if left >= AT_ONCE {
                _mm512_storeu_si512(out.cast(), halves);
            } else {
                _mm512_mask_storeu_epi16(out.cast(), (1 << left) - 1, halves);
            }
        }
    }
}

wide! {
    unsafe fn by_arithmetic(x: *const f32, out: *mut Half, count: usize) {
        let whole = count / AT_ONCE * AT_ONCE;
        // SAFETY: the caller's.
        unsafe {
            for at in (0..whole).step_by(AT_ONCE) {
                some_by_arithmetic(x.add(at), out.add(at), AT_ONCE);
            }
            some_by_arithmetic(x.add(whole), out.add(whole), count - whole);
        }
    }
}

#[inline(always)]
unsafe fn some_by_arithmetic(x: *const f32, out: *mut Half, count: usize) {
    let (mut some, mut halves) = ([0.0f32; AT_ONCE], [Half::ZERO; AT_ONCE]);
    // SAFETY: the caller's.
    unsafe { x.copy_to_nonoverlapping(some.as_mut_ptr(), count) };
    for (half, x) in halves.iter_mut().zip(some) {
        *half = Half::from_bits((bf16(x).to_bits() >> 16) as u16);
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
        fn numbers_are_rounded_wherever_they_go(mut x in prop::collection::vec(any::<f32>(), 0..200)) {
            for x in x.iter_mut().filter(|x| x.is_subnormal()) {
                *x = 0.0;
            }
            let bits = |x: f32| if x.is_nan() { u16::MAX } else { (x.to_bits() >> 16) as u16 };
            let expected: Vec<u16> = x.iter().map(|x| bits(bf16(*x))).collect();
            let mut out = vec![Half::ONE; x.len()];
            round(&x, &mut out);
            prop_assert_eq!(out.iter().map(|x| bits(x.to_f32())).collect::<Vec<_>>(), &expected[..]);
            // SAFETY: both have as many.
            unsafe { by_arithmetic(x.as_ptr(), out.as_mut_ptr(), x.len()) };
            prop_assert_eq!(out.iter().map(|x| bits(x.to_f32())).collect::<Vec<_>>(), &expected[..]);
            let count = x.len();
            round_in_place(&mut x);
            let halves: &[Half] = bytemuck::cast_slice(&x);
            prop_assert_eq!(halves[..count].iter().map(|x| bits(x.to_f32())).collect::<Vec<_>>(), expected);
        }
    }
}

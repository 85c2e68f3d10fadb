//! In what form operands lie in panels: as they are, or as bfloat16.
use super::first;
use crate::kernels::gemm::panels::LANES;
use std::arch::x86_64::*;

/// In what form packed operands lie, and how two of them are multiplied and added: a *pair* is two steps of `k`.
pub(super) trait Format {
    /// Vectors that a pair of steps takes: one a step, if not told otherwise.
    const VECTORS: usize = 2;
    /// See [`Kernel::AS_THEY_ARE`](crate::kernels::gemm::packed::Kernel::AS_THEY_ARE).
    const AS_THEY_ARE: bool = false;
    /// A pair of steps of sixteen columns: [`Self::VECTORS`] vectors.
    unsafe fn pair(first: __m512, second: __m512) -> [__m512; 2];
    /// One vector of the first `left` steps of a column, which lie side by side: sixteen of them, or sixteen pairs.
    unsafe fn line(from: *const f32, left: usize) -> __m512;
    /// `sum + a · b`, for each lane of one packed vector: single precision, if not told otherwise.
    #[inline(always)]
    unsafe fn add(sum: __m512, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the caller's.
        unsafe { _mm512_fmadd_ps(a, b, sum) }
    }
}

/// As it is.
pub(super) struct Single;
/// Rounded to bfloat16, multiplied in single precision: for CPUs that cannot multiply bfloat16, or not faster.
pub(super) struct Rounded;
/// Two steps of `k` side by side in each lane, as bfloat16, multiplied by `vdpbf16ps`.
pub(super) struct Pairs;

impl Format for Single {
    const AS_THEY_ARE: bool = true;
    #[inline(always)]
    unsafe fn pair(first: __m512, second: __m512) -> [__m512; 2] {
        [first, second]
    }
    #[inline(always)]
    unsafe fn line(from: *const f32, left: usize) -> __m512 {
        // SAFETY: the caller's.
        unsafe { load(from, left) }
    }
}

impl Format for Rounded {
    #[inline(always)]
    unsafe fn pair(first: __m512, second: __m512) -> [__m512; 2] {
        // SAFETY: the caller's.
        unsafe { [round(first), round(second)] }
    }
    #[inline(always)]
    unsafe fn line(from: *const f32, left: usize) -> __m512 {
        // SAFETY: the caller's.
        unsafe { round(load(from, left)) }
    }
}

impl Format for Pairs {
    const VECTORS: usize = 1;
    #[inline(always)]
    unsafe fn pair(first: __m512, second: __m512) -> [__m512; 2] {
        // SAFETY: the caller's.
        unsafe { [interleave(both(first, second)), _mm512_setzero_ps()] }
    }
    #[inline(always)]
    unsafe fn line(from: *const f32, left: usize) -> __m512 {
        // SAFETY: the caller's.
        unsafe { both(load(from, left), load(from.wrapping_add(LANES), left.saturating_sub(LANES))) }
    }
    #[inline(always)]
    unsafe fn add(sum: __m512, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the caller's; 512 bits are 512 bits.
        unsafe {
            _mm512_dpbf16_ps(
                sum,
                std::mem::transmute::<__m512, __m512bh>(a),
                std::mem::transmute::<__m512, __m512bh>(b),
            )
        }
    }
}

/// The first `left` of sixteen floats, zeros for the others.
#[inline(always)]
unsafe fn load(from: *const f32, left: usize) -> __m512 {
    // SAFETY: the caller's: that many may be read.
    unsafe { if left >= LANES { _mm512_loadu_ps(from) } else { _mm512_maskz_loadu_ps(first(left), from) } }
}

/// Both rounded: those of the first, then those of the second. Numbers too small to be normal become zero, as in the
/// products that they are meant for.
#[inline(always)]
unsafe fn both(first: __m512, second: __m512) -> __m512 {
    // SAFETY: the caller's; 512 bits are 512 bits.
    unsafe { std::mem::transmute::<__m512bh, __m512>(_mm512_cvtne2ps_pbh(second, first)) }
}

/// From all firsts before all seconds to pairs.
#[inline(always)]
unsafe fn interleave(x: __m512) -> __m512 {
    const PAIRS: [u16; 2 * LANES] = {
        let mut from = [0; 2 * LANES];
        let mut i = 0;
        while i < 2 * LANES {
            from[i] = (i / 2 + i % 2 * LANES) as u16;
            i += 1;
        }
        from
    };
    // SAFETY: the caller's; an unaligned load of 64 bytes.
    unsafe {
        let from = _mm512_loadu_epi16(PAIRS.as_ptr().cast());
        _mm512_castsi512_ps(_mm512_permutexvar_epi16(from, _mm512_castps_si512(x)))
    }
}

/// [`Pairs`] without the instruction, so that packing and loops can be tested where the CPU lacks it.
#[cfg(test)]
pub(super) struct PairsInSteps;

#[cfg(test)]
impl Format for PairsInSteps {
    const VECTORS: usize = 1;
    #[inline(always)]
    unsafe fn pair(first: __m512, second: __m512) -> [__m512; 2] {
        // SAFETY: the caller's.
        unsafe { [join(first, second), _mm512_setzero_ps()] }
    }
    #[inline(always)]
    unsafe fn line(from: *const f32, left: usize) -> __m512 {
        // SAFETY: the caller's.
        unsafe {
            let [low, high] = [load(from, left), load(from.wrapping_add(LANES), left.saturating_sub(LANES))]
                .map(|x| _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(_mm512_castps_si512(round(x)))));
            _mm512_castsi512_ps(_mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high))
        }
    }
    #[inline(always)]
    unsafe fn add(sum: __m512, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the caller's.
        unsafe {
            let (a, b, upper) = (_mm512_castps_si512(a), _mm512_castps_si512(b), _mm512_set1_epi32(UPPER));
            let high = [_mm512_and_si512(a, upper), _mm512_and_si512(b, upper)].map(|x| _mm512_castsi512_ps(x));
            let low = [_mm512_slli_epi32::<16>(a), _mm512_slli_epi32::<16>(b)].map(|x| _mm512_castsi512_ps(x));
            _mm512_fmadd_ps(low[0], low[1], _mm512_fmadd_ps(high[0], high[1], sum))
        }
    }
}

/// The upper half of 32 bits.
const UPPER: i32 = -65536;

/// To the nearest bfloat16, ties to even; NaN stays NaN.
#[inline(always)]
unsafe fn round(x: __m512) -> __m512 {
    // SAFETY: the caller's.
    unsafe {
        let bits = _mm512_castps_si512(x);
        let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
        let rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF)));
        let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x);
        let quiet = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x0040_0000));
        _mm512_castsi512_ps(_mm512_and_si512(quiet, _mm512_set1_epi32(UPPER)))
    }
}

/// Rounds both: the first into the lower halves, the second into the upper.
#[cfg(test)]
#[inline(always)]
unsafe fn join(first: __m512, second: __m512) -> __m512 {
    // SAFETY: the caller's.
    unsafe {
        let lower = _mm512_srli_epi32::<16>(_mm512_castps_si512(round(first)));
        _mm512_castsi512_ps(_mm512_or_si512(lower, _mm512_castps_si512(round(second))))
    }
}

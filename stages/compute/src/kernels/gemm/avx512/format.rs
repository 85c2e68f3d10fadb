//! The number formats of packed operands: unchanged, or as bfloat16.
use crate::kernels::gemm::load::{Load, interleave};
use crate::kernels::gemm::tile::LANES;
use std::arch::x86_64::*;

/// The format of packed operands, and how two of them are multiplied and added. A *pair* is two steps of `k`.
pub(super) trait Format {
    /// Vectors per pair of steps; by default one per step.
    const VECTORS: usize = 2;
    /// See [`TileKernel::UNCHANGED`](crate::kernels::gemm::tile::TileKernel::UNCHANGED).
    const UNCHANGED: bool = false;
    /// Loads a pair of steps of sixteen columns, the first `left` of which exist, as [`Self::VECTORS`] vectors.
    unsafe fn pair<E: Load>(from: [*const E; 2], left: [usize; 2]) -> [__m512; 2];
    /// Loads one vector of the first `left` steps of a column, which are contiguous: sixteen steps, or sixteen pairs.
    unsafe fn line<E: Load>(from: *const E, left: usize) -> __m512;
    /// `sum + a · b` for each lane of a packed vector; by default in single precision.
    #[inline(always)]
    unsafe fn add(sum: __m512, a: __m512, b: __m512) -> __m512 {
        // SAFETY: guaranteed by the caller.
        unsafe { _mm512_fmadd_ps(a, b, sum) }
    }
}

/// Unchanged single precision.
pub(super) struct Single;
/// Rounded to bfloat16, multiplied in single precision: for CPUs without a fast instruction for bfloat16.
pub(super) struct Rounded;
/// Two adjacent steps of `k` in each lane, as bfloat16, multiplied by `vdpbf16ps`.
pub(super) struct Pairs;

impl Format for Single {
    const UNCHANGED: bool = true;
    #[inline(always)]
    unsafe fn pair<E: Load>(from: [*const E; 2], left: [usize; 2]) -> [__m512; 2] {
        // SAFETY: guaranteed by the caller.
        unsafe { [E::sixteen(from[0], left[0]), E::sixteen(from[1], left[1])] }
    }
    #[inline(always)]
    unsafe fn line<E: Load>(from: *const E, left: usize) -> __m512 {
        // SAFETY: guaranteed by the caller.
        unsafe { E::sixteen(from, left) }
    }
}

impl Format for Rounded {
    #[inline(always)]
    unsafe fn pair<E: Load>(from: [*const E; 2], left: [usize; 2]) -> [__m512; 2] {
        // SAFETY: guaranteed by the caller.
        unsafe { [round(E::sixteen(from[0], left[0])), round(E::sixteen(from[1], left[1]))] }
    }
    #[inline(always)]
    unsafe fn line<E: Load>(from: *const E, left: usize) -> __m512 {
        // SAFETY: guaranteed by the caller.
        unsafe { round(E::sixteen(from, left)) }
    }
}

impl Format for Pairs {
    const VECTORS: usize = 1;
    #[inline(always)]
    unsafe fn pair<E: Load>(from: [*const E; 2], left: [usize; 2]) -> [__m512; 2] {
        // SAFETY: guaranteed by the caller.
        unsafe { [_mm512_castsi512_ps(interleave(E::halves(from, left))), _mm512_setzero_ps()] }
    }
    #[inline(always)]
    unsafe fn line<E: Load>(from: *const E, left: usize) -> __m512 {
        let (from, left) = ([from, from.wrapping_add(LANES)], [left, left.saturating_sub(LANES)]);
        // SAFETY: guaranteed by the caller.
        unsafe { _mm512_castsi512_ps(E::halves(from, left)) }
    }
    #[inline(always)]
    unsafe fn add(sum: __m512, a: __m512, b: __m512) -> __m512 {
        // SAFETY: guaranteed by the caller; both types of the transmute have 512 bits.
        unsafe {
            _mm512_dpbf16_ps(
                sum,
                std::mem::transmute::<__m512, __m512bh>(a),
                std::mem::transmute::<__m512, __m512bh>(b),
            )
        }
    }
}

/// [`Pairs`] with the instruction emulated, to test packing and loops on CPUs without it.
#[cfg(test)]
pub(super) struct PairsEmulated;

#[cfg(test)]
impl Format for PairsEmulated {
    const VECTORS: usize = 1;
    #[inline(always)]
    unsafe fn pair<E: Load>(from: [*const E; 2], left: [usize; 2]) -> [__m512; 2] {
        // SAFETY: guaranteed by the caller.
        unsafe { [_mm512_castsi512_ps(interleave(both(from, left))), _mm512_setzero_ps()] }
    }
    #[inline(always)]
    unsafe fn line<E: Load>(from: *const E, left: usize) -> __m512 {
        let (from, left) = ([from, from.wrapping_add(LANES)], [left, left.saturating_sub(LANES)]);
        // SAFETY: guaranteed by the caller.
        unsafe { _mm512_castsi512_ps(both(from, left)) }
    }
    #[inline(always)]
    unsafe fn add(sum: __m512, a: __m512, b: __m512) -> __m512 {
        // SAFETY: guaranteed by the caller.
        unsafe {
            let (a, b, upper) = (_mm512_castps_si512(a), _mm512_castps_si512(b), _mm512_set1_epi32(UPPER));
            let high = [_mm512_and_si512(a, upper), _mm512_and_si512(b, upper)].map(|x| _mm512_castsi512_ps(x));
            let low = [_mm512_slli_epi32::<16>(a), _mm512_slli_epi32::<16>(b)].map(|x| _mm512_castsi512_ps(x));
            _mm512_fmadd_ps(low[0], low[1], _mm512_fmadd_ps(high[0], high[1], sum))
        }
    }
}

/// Mask of the upper half of 32 bits.
const UPPER: i32 = -65536;

/// Rounds to the nearest bfloat16, ties to even; NaN stays NaN.
#[inline(always)]
unsafe fn round(x: __m512) -> __m512 {
    // SAFETY: guaranteed by the caller.
    unsafe {
        let bits = _mm512_castps_si512(x);
        let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
        let rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF)));
        let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x);
        let quiet = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x0040_0000));
        _mm512_castsi512_ps(_mm512_and_si512(quiet, _mm512_set1_epi32(UPPER)))
    }
}

/// As [`Load::halves`].
#[cfg(test)]
#[inline(always)]
unsafe fn both<E: Load>(from: [*const E; 2], left: [usize; 2]) -> __m512i {
    // SAFETY: guaranteed by the caller.
    unsafe {
        let [one, two] = [E::sixteen(from[0], left[0]), E::sixteen(from[1], left[1])]
            .map(|x| _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(_mm512_castps_si512(round(x)))));
        _mm512_inserti64x4::<1>(_mm512_castsi256_si512(one), two)
    }
}

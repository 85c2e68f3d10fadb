//! Loads of numbers into SIMD vectors, from memory in f32 or bfloat16.
use super::matrix::bf16;
use super::tile::LANES;
use std::arch::x86_64::*;

/// Callers must have the CPU features enabled (all methods with 512-bit vectors also need AVX-512 BW), since these
/// methods are inlined into them, and must guarantee that `left` numbers can be read.
pub(super) trait Load: Copy {
    /// Loads the first `left` of eight numbers in single precision, zeros for the others. Needs AVX2.
    unsafe fn eight(from: *const Self, left: usize) -> __m256;
    /// Loads the first `left` of sixteen numbers in single precision, zeros for the others. Needs AVX-512.
    unsafe fn sixteen(from: *const Self, left: usize) -> __m512;
    /// Loads sixteen numbers from each of two addresses as bfloat16: the first `left` of each, zeros for the others.
    /// Subnormal numbers may become zero, as products in bfloat16 treat them as zero anyway. From f32 this needs
    /// AVX512-BF16.
    unsafe fn halves(from: [*const Self; 2], left: [usize; 2]) -> __m512i;
}

impl Load for f32 {
    #[inline(always)]
    unsafe fn eight(from: *const Self, left: usize) -> __m256 {
        // SAFETY: guaranteed by the caller.
        unsafe {
            if left >= LANES / 2 {
                return _mm256_loadu_ps(from);
            }
            let lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            _mm256_maskload_ps(from, _mm256_cmpgt_epi32(_mm256_set1_epi32(left as i32), lane))
        }
    }

    #[inline(always)]
    unsafe fn sixteen(from: *const Self, left: usize) -> __m512 {
        // SAFETY: guaranteed by the caller.
        unsafe { if left >= LANES { _mm512_loadu_ps(from) } else { _mm512_maskz_loadu_ps(first(left), from) } }
    }

    #[inline(always)]
    unsafe fn halves(from: [*const Self; 2], left: [usize; 2]) -> __m512i {
        // SAFETY: guaranteed by the caller; both types of the transmute have 512 bits.
        unsafe {
            let (one, two) = (Self::sixteen(from[0], left[0]), Self::sixteen(from[1], left[1]));
            std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(two, one))
        }
    }
}

impl Load for bf16 {
    #[inline(always)]
    unsafe fn eight(from: *const Self, left: usize) -> __m256 {
        // SAFETY: guaranteed by the caller.
        unsafe {
            let halves = if left >= LANES / 2 {
                _mm_loadu_si128(from.cast())
            } else {
                let mut there = [bf16::ZERO; LANES / 2];
                from.copy_to_nonoverlapping(there.as_mut_ptr(), left);
                _mm_loadu_si128(there.as_ptr().cast())
            };
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(halves)))
        }
    }

    #[inline(always)]
    unsafe fn sixteen(from: *const Self, left: usize) -> __m512 {
        // SAFETY: guaranteed by the caller.
        unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(half_of_line(from, left)))) }
    }

    #[inline(always)]
    unsafe fn halves(from: [*const Self; 2], left: [usize; 2]) -> __m512i {
        // SAFETY: guaranteed by the caller.
        unsafe {
            let (one, two) = (half_of_line(from[0], left[0]), half_of_line(from[1], left[1]));
            _mm512_inserti64x4::<1>(_mm512_castsi256_si512(one), two)
        }
    }
}

/// Loads the first `left` of sixteen bfloat16 numbers, zeros for the others.
#[inline(always)]
unsafe fn half_of_line(from: *const bf16, left: usize) -> __m256i {
    // SAFETY: guaranteed by the caller.
    unsafe {
        if left >= LANES {
            _mm256_loadu_si256(from.cast())
        } else {
            _mm512_castsi512_si256(_mm512_maskz_loadu_epi16(u32::from(first(left)), from.cast()))
        }
    }
}

/// Mask of the first `n` of sixteen lanes.
#[inline(always)]
pub(super) fn first(n: usize) -> __mmask16 {
    ((1u32 << n.min(LANES)) - 1) as __mmask16
}

/// Interleaves the lower and the upper half: `[x0 … x15, y0 … y15]` becomes `[x0, y0, x1, y1, …]`.
#[inline(always)]
pub(super) unsafe fn interleave(x: __m512i) -> __m512i {
    const PAIRS: [u16; 2 * LANES] = {
        let mut from = [0; 2 * LANES];
        let mut i = 0;
        while i < 2 * LANES {
            from[i] = (i / 2 + i % 2 * LANES) as u16;
            i += 1;
        }
        from
    };
    // SAFETY: the caller guarantees the CPU features; the load is unaligned and the array has 64 bytes.
    unsafe { _mm512_permutexvar_epi16(_mm512_loadu_epi16(PAIRS.as_ptr().cast()), x) }
}

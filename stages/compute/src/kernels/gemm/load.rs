//! Loading numbers into vectors, in whichever precision they lie in memory.
use super::matrix::bf16;
use super::tile::LANES;
use std::arch::x86_64::*;

/// Whoever calls these has the CPU's features (all of AVX-512's ways need its byte and word instructions too), and may
/// read what `left` says; they are inlined, so that they have them too.
pub(super) trait Load: Copy {
    /// The first `left` of eight in single precision, zeros for the others. Needs AVX2.
    unsafe fn eight(from: *const Self, left: usize) -> __m256;
    /// The first `left` of sixteen in single precision, zeros for the others. Needs AVX-512.
    unsafe fn sixteen(from: *const Self, left: usize) -> __m512;
    /// Sixteen from the one place before sixteen from the other, as bfloat16: the first `left` of each, zeros for the others.
    /// Numbers too small to be normal may become zero, which they are in products of bfloat16. Of numbers in single
    /// precision this needs AVX512-BF16.
    unsafe fn halves(from: [*const Self; 2], left: [usize; 2]) -> __m512i;
}

impl Load for f32 {
    #[inline(always)]
    unsafe fn eight(from: *const Self, left: usize) -> __m256 {
        // SAFETY: the caller's.
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
        // SAFETY: the caller's.
        unsafe { if left >= LANES { _mm512_loadu_ps(from) } else { _mm512_maskz_loadu_ps(first(left), from) } }
    }

    #[inline(always)]
    unsafe fn halves(from: [*const Self; 2], left: [usize; 2]) -> __m512i {
        // SAFETY: the caller's; 512 bits are 512 bits.
        unsafe {
            let (one, two) = (Self::sixteen(from[0], left[0]), Self::sixteen(from[1], left[1]));
            std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(two, one))
        }
    }
}

impl Load for bf16 {
    #[inline(always)]
    unsafe fn eight(from: *const Self, left: usize) -> __m256 {
        // SAFETY: the caller's.
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
        // SAFETY: the caller's.
        unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(half_of_line(from, left)))) }
    }

    #[inline(always)]
    unsafe fn halves(from: [*const Self; 2], left: [usize; 2]) -> __m512i {
        // SAFETY: the caller's.
        unsafe {
            let (one, two) = (half_of_line(from[0], left[0]), half_of_line(from[1], left[1]));
            _mm512_inserti64x4::<1>(_mm512_castsi256_si512(one), two)
        }
    }
}

/// The first `left` of sixteen, zeros for the others.
#[inline(always)]
unsafe fn half_of_line(from: *const bf16, left: usize) -> __m256i {
    // SAFETY: the caller's.
    unsafe {
        if left >= LANES {
            _mm256_loadu_si256(from.cast())
        } else {
            _mm512_castsi512_si256(_mm512_maskz_loadu_epi16(u32::from(first(left)), from.cast()))
        }
    }
}

/// The first `n` of sixteen lanes.
#[inline(always)]
pub(super) fn first(n: usize) -> __mmask16 {
    ((1u32 << n.min(LANES)) - 1) as __mmask16
}

/// From all firsts before all seconds to pairs.
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
    // SAFETY: the caller's; an unaligned load of 64 bytes.
    unsafe { _mm512_permutexvar_epi16(_mm512_loadu_epi16(PAIRS.as_ptr().cast()), x) }
}

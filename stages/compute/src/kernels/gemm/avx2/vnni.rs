//! Products in eight bits with `vpdpbusd` of AVX-VNNI: 6 × 16 sums in twelve registers, as for the other formats.
use crate::kernels::gemm::int8::pack::{LINE, STEPS, pack};
use crate::kernels::gemm::int8::{Kernel, Tile};
use crate::kernels::gemm::tile::LANES;
use std::arch::x86_64::*;

/// Rows of a tile, and vectors of its sums in a row.
const ROWS: usize = 6;
const VECTORS: usize = 2;
/// Integers in a register.
const WIDTH: usize = LANES / VECTORS;

/// The kernel, if this CPU has the instruction.
pub(super) fn kernel() -> Option<Kernel> {
    let available = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("avxvnni");
    available.then_some(Kernel::new("AVX-VNNI", [ROWS, LANES], pack, tile))
}

/// The kernel with the instruction emulated, to test it on CPUs without it.
#[cfg(test)]
pub(in crate::kernels::gemm) fn emulated() -> Kernel {
    Kernel::new("AVX-VNNI, emulated", [ROWS, LANES], pack, tile_emulated)
}

/// The instruction. Callers must have the CPU feature enabled, since methods are inlined into them.
trait Dot {
    /// Adds the products of four unsigned bytes of `b` and four signed bytes of `a` to each sum, modulo 2³².
    unsafe fn add(sum: __m256i, b: __m256i, a: __m256i) -> __m256i;
}

struct Vnni;

impl Dot for Vnni {
    #[inline(always)]
    unsafe fn add(sum: __m256i, b: __m256i, a: __m256i) -> __m256i {
        // SAFETY: guaranteed by the caller.
        unsafe { _mm256_dpbusd_avx_epi32(sum, b, a) }
    }
}

#[cfg(test)]
struct Emulated;

#[cfg(test)]
impl Dot for Emulated {
    #[inline(always)]
    unsafe fn add(sum: __m256i, b: __m256i, a: __m256i) -> __m256i {
        // SAFETY: guaranteed by the caller.
        unsafe {
            let even_a = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(a));
            let even = _mm256_madd_epi16(_mm256_and_si256(b, _mm256_set1_epi16(0xFF)), even_a);
            let odd = _mm256_madd_epi16(_mm256_srli_epi16::<8>(b), _mm256_srai_epi16::<8>(a));
            _mm256_add_epi32(sum, _mm256_add_epi32(even, odd))
        }
    }
}

/// # Safety
/// The CPU must have the features, and the pointers of the tile must be valid for its sizes.
#[target_feature(enable = "avx2,avxvnni")]
unsafe fn tile(t: &Tile) {
    // SAFETY: guaranteed by the caller.
    unsafe { by_height::<Vnni>(t) }
}

/// # Safety
/// As [`tile`], but for the instruction.
#[cfg(test)]
#[target_feature(enable = "avx2")]
unsafe fn tile_emulated(t: &Tile) {
    // SAFETY: guaranteed by the caller.
    unsafe { by_height::<Emulated>(t) }
}

#[inline(always)]
unsafe fn by_height<D: Dot>(t: &Tile) {
    // SAFETY: guaranteed by the caller.
    unsafe {
        match t.high {
            1 => sums::<D, 1>(t),
            2 => sums::<D, 2>(t),
            3 => sums::<D, 3>(t),
            4 => sums::<D, 4>(t),
            5 => sums::<D, 5>(t),
            _ => sums::<D, ROWS>(t),
        }
    }
}

/// A tile of `HIGH` rows and one panel of `b`.
#[inline(always)]
unsafe fn sums<D: Dot, const HIGH: usize>(t: &Tile) {
    // SAFETY: the caller guarantees panels with that many lines, and results and integer sums of that size.
    unsafe {
        let mut sums = [[_mm256_setzero_si256(); VECTORS]; HIGH];
        for (row, sums) in sums.iter_mut().enumerate() {
            let start = _mm256_set1_epi32(t.a.add(row * STEPS).cast::<i32>().read());
            for (vector, sum) in sums.iter_mut().enumerate() {
                *sum = if t.first {
                    start
                } else {
                    let before = t.sums.add(row * t.sums_stride + vector * WIDTH);
                    _mm256_add_epi32(start, _mm256_loadu_si256(before.cast()))
                };
            }
        }
        let (mut a, mut b) = (t.a.add(LINE), t.b);
        for _ in 0..t.lines {
            let columns = [_mm256_loadu_si256(b.cast()), _mm256_loadu_si256(b.add(LINE / 2).cast())];
            for (row, sums) in sums.iter_mut().enumerate() {
                let a = _mm256_set1_epi32(a.add(row * STEPS).cast::<i32>().read());
                for (sum, column) in sums.iter_mut().zip(columns) {
                    *sum = D::add(*sum, column, a);
                }
            }
            (a, b) = (a.add(LINE), b.add(LINE));
        }
        for (row, sums) in sums.into_iter().enumerate() {
            if t.last {
                scale(t, row, sums);
                continue;
            }
            for (vector, sum) in sums.into_iter().enumerate() {
                _mm256_storeu_si256(t.sums.add(row * t.sums_stride + vector * WIDTH).cast(), sum);
            }
        }
    }
}

/// Writes a row of the result.
#[inline(always)]
unsafe fn scale(t: &Tile, row: usize, sums: [__m256i; VECTORS]) {
    // SAFETY: guaranteed by the caller.
    unsafe {
        let row_scale = _mm256_set1_ps(t.row_scales.add(row).read());
        let mut values = [0.0f32; LANES];
        for (vector, sum) in sums.into_iter().enumerate() {
            let value = _mm256_mul_ps(_mm256_cvtepi32_ps(sum), row_scale);
            _mm256_storeu_ps(values.as_mut_ptr().add(vector * WIDTH), value);
        }
        for (column, value) in values.into_iter().enumerate().take(t.wide) {
            let (at, value) = (t.c.add(row * t.stride + column), value * t.column_scales.add(column).read());
            at.write(if t.add { at.read() + value } else { value });
        }
    }
}

//! Products whose result is symmetric, at half the work: only the elements on and above the diagonal are computed, in
//! the blocks of the backend, and mirrored.
#[cfg(target_arch = "x86_64")]
use super::avx512;
use super::backend::Product;
use super::backends::backend;
#[cfg(target_arch = "x86_64")]
use super::load::first;
use super::matrix::MatRef;
use crate::simd::LANES;
use crate::wide;
use contract::Precision;
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// `c = alpha · a · b + Σ factor · term`, operands rounded to `precision`, on the calling thread. `c` and the terms are
/// symmetric `[side, side]`, and `a · b` must be: then the result has the bits that [`product`](fn@super::product) gives on
/// and above the diagonal. (With OpenBLAS the last bits may differ.)
///
/// # Panics
/// If the shapes do not match, or there is nothing to sum.
pub fn symmetric_product<'a, 'b>(
    precision: Precision,
    alpha: f32,
    a: impl Into<MatRef<'a>>,
    b: impl Into<MatRef<'b>>,
    terms: &[(f32, &[f32])],
    c: &mut [f32],
) {
    let (a, b) = (a.into(), b.into());
    let (side, depth) = a.dim();
    assert!(b.dim() == (depth, side) && depth > 0, "the operands have the shapes of a symmetric product");
    assert!(c.len() == side * side && terms.iter().all(|(_, term)| term.len() == c.len()), "square matrices");
    if side == 0 {
        return;
    }
    let then = &mut |_: &mut super::OutputBlock| ();
    let mut product = Product::new(1.0, &a, &b, false, Some((c.as_mut_ptr(), side)), then);
    product.upper = true;
    // SAFETY: the backend is available, the shapes match, and no size is 0.
    unsafe { backend().product(precision, &mut product) };
    combine(side, alpha, terms, c);
}

/// `c = alpha · c + Σ factor · term` on and above the diagonal, mirrored to the elements below it. All versions give the
/// same bits.
fn combine(side: usize, alpha: f32, terms: &[(f32, &[f32])], c: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if avx512::available() {
        // SAFETY: the CPU has AVX-512, and `c` and the terms are `[side, side]`.
        return unsafe { combine_avx512(side, alpha, terms, c.as_mut_ptr()) };
    }
    combine_tiles(side, alpha, terms, c);
}

/// [`combine`] by tiles of 16 × 16 elements, which are transposed in registers.
///
/// # Safety
/// The CPU must have AVX-512, and `c` and the terms `[side, side]` elements.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn combine_avx512(side: usize, alpha: f32, terms: &[(f32, &[f32])], c: *mut f32) {
    let alpha = _mm512_set1_ps(alpha);
    for row in (0..side).step_by(LANES) {
        for column in (row..side).step_by(LANES) {
            let (high, wide) = (LANES.min(side - row), LANES.min(side - column));
            let (across, down) = (first(wide), first(high));
            let mut tile = [_mm512_setzero_ps(); LANES];
            // SAFETY: guaranteed by the caller; masks exclude elements outside the matrices.
            unsafe {
                for (i, line) in tile.iter_mut().enumerate().take(high) {
                    let at = (row + i) * side + column;
                    *line = _mm512_mul_ps(alpha, _mm512_maskz_loadu_ps(across, c.add(at)));
                    for (factor, term) in terms {
                        let term = _mm512_maskz_loadu_ps(across, term.as_ptr().add(at));
                        *line = _mm512_fmadd_ps(_mm512_set1_ps(*factor), term, *line);
                    }
                }
                let mut turned = tile;
                avx512::transpose(&mut turned);
                for (i, (line, turned)) in tile.iter().zip(&turned).enumerate().take(high) {
                    // On the diagonal, elements before it are those above it.
                    let below = if row == column { first(i) } else { 0 };
                    let line = _mm512_mask_blend_ps(below, *line, *turned);
                    _mm512_mask_storeu_ps(c.add((row + i) * side + column), across, line);
                }
                if row < column {
                    for (i, line) in turned.iter().enumerate().take(wide) {
                        _mm512_mask_storeu_ps(c.add((column + i) * side + row), down, *line);
                    }
                }
            }
        }
    }
}

wide! {
    /// [`combine`] by tiles of 16 × 16 elements, which stay in the L1 cache.
    fn combine_tiles(side: usize, alpha: f32, terms: &[(f32, &[f32])], c: &mut [f32]) {
        for row in (0..side).step_by(LANES) {
            for column in (row..side).step_by(LANES) {
                let (high, wide) = (LANES.min(side - row), LANES.min(side - column));
                let mut tile = [[0.0; LANES]; LANES];
                for (i, line) in tile.iter_mut().enumerate().take(high) {
                    let at = (row + i) * side + column;
                    let line = &mut line[..wide];
                    line.iter_mut().zip(&c[at..]).for_each(|(x, c)| *x = alpha * c);
                    for (factor, term) in terms {
                        line.iter_mut().zip(&term[at..]).for_each(|(x, term)| *x = factor.mul_add(*term, *x));
                    }
                    c[at..at + wide].copy_from_slice(line);
                }
                for j in 0..wide {
                    // On the diagonal, only elements before it.
                    let (at, count) = ((column + j) * side + row, if row == column { j } else { high });
                    c[at..at + count].iter_mut().zip(&tile).for_each(|(x, line)| *x = line[j]);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::gemm::{available, matrix, matrix_mut, product_in, round_to_bf16, with_backend};
    use crate::kernels::testing::{assert_close, random};
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        /// `x · xᵀ` and a sum of symmetric matrices on every backend, against f64 and against the whole product.
        #[test]
        fn equals_the_whole_product(side in 1usize..300, depth in 1usize..200, turned: bool, rounded: bool) {
            let precision = if rounded { Precision::Bf16 } else { Precision::F32 };
            let x = random(1, side * depth);
            let x = if turned { matrix(&x, side).reversed_axes() } else { matrix(&x, depth) };
            let term: Vec<f32> = (0..side * side).map(|i| (i / side).abs_diff(i % side) as f32 / side as f32).collect();
            let to = |x: f32| f64::from(if rounded { round_to_bf16(x) } else { x });
            let dot = |i: usize, j: usize| x.row(i).iter().zip(x.row(j)).map(|(x, y)| to(*x) * to(*y)).sum::<f64>();
            let expected: Vec<f64> =
                (0..side * side).map(|i| 0.5 * dot(i / side, i % side) - 2.0 * f64::from(term[i])).collect();
            for backend in available() {
                let (mut half, mut whole) = (vec![f32::NAN; side * side], vec![f32::NAN; side * side]);
                with_backend(backend, || {
                    symmetric_product(precision, 0.5, x, x.reversed_axes(), &[(-2.0, &term)], &mut half);
                    product_in(precision, x, x.reversed_axes(), 0.0, matrix_mut(&mut whole, side));
                }).unwrap();
                assert_close(&half, &expected, 1e-5);
                for i in 0..side {
                    for j in i..side {
                        prop_assert_eq!(half[i * side + j], half[j * side + i]);
                        let sum = (-2.0f32).mul_add(term[i * side + j], 0.5 * whole[i * side + j]);
                        prop_assert!(backend == "openblas" || sum == half[i * side + j], "{backend} {i} {j}");
                    }
                }
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn tiles_give_the_bits_of_avx512() {
        if !avx512::available() {
            return println!("skipped: this CPU has no AVX-512");
        }
        for side in [1, 15, 16, 37, 64] {
            let (c, term) = (random(1, side * side), random(2, side * side));
            let terms: &[(f32, &[f32])] = &[(0.3, &term), (-1.7, &c)];
            let (mut tiles, mut registers) = (c.clone(), c.clone());
            combine_tiles(side, 0.7, terms, &mut tiles);
            combine(side, 0.7, terms, &mut registers);
            assert_eq!(tiles, registers, "{side}");
        }
    }
}

//! SIMD: [`wide!`](crate::wide) compiles a function for AVX-512, AVX2 + FMA, NEON and the portable baseline, and picks
//! a version at run time. Functions called from it must be `#[inline(always)]`.
//!
//! Sums run over [`LANES`] interleaved accumulators and multiply-adds are fused ([`f32::mul_add`]) on every path, so
//! all of them give the same bits.

/// Interleaved accumulators of a reduction: one AVX-512 register, two of AVX2, four of NEON.
pub const LANES: usize = 16;

/// Compiles a function once per supported instruction set and dispatches at run time.
#[doc(hidden)]
#[macro_export]
macro_rules! wide {
    ($($function:tt)*) => {
        #[multiversion::multiversion(targets(
            "x86_64+avx+avx2+fma+avx512f+avx512bw+avx512cd+avx512dq+avx512vl",
            "x86_64+avx+avx2+fma",
            "aarch64+neon",
        ))]
        $($function)*
    };
}

/// Sums the lanes pairwise.
#[inline(always)]
pub fn fold(lanes: [f32; LANES]) -> f32 {
    reduce(lanes, |a, b| a + b)
}

/// Combines the lanes pairwise.
#[inline(always)]
pub fn reduce(mut lanes: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] = f(lanes[i], lanes[i + half]);
        }
        half /= 2;
    }
    lanes[0]
}

/// Sum of `x`.
#[inline(always)]
pub fn sum(x: &[f32]) -> f32 {
    let (chunks, rest) = x.as_chunks::<LANES>();
    let mut lanes = [0.0; LANES];
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] += chunk[i];
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane += x;
    }
    fold(lanes)
}

/// Sum of `(x - center)²`.
#[inline(always)]
pub fn sum_of_squares(x: &[f32], center: f32) -> f32 {
    let (chunks, rest) = x.as_chunks::<LANES>();
    let mut lanes = [0.0f32; LANES];
    for chunk in chunks {
        for i in 0..LANES {
            let d = chunk[i] - center;
            lanes[i] = d.mul_add(d, lanes[i]);
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        let d = x - center;
        *lane = d.mul_add(d, *lane);
    }
    fold(lanes)
}

/// Inner product of two slices of equal length.
#[inline(always)]
pub fn dot(x: &[f32], y: &[f32]) -> f32 {
    let ((x, x_rest), (y, y_rest)) = (x.as_chunks::<LANES>(), y.as_chunks::<LANES>());
    let mut lanes = [0.0f32; LANES];
    for (x, y) in x.iter().zip(y) {
        for i in 0..LANES {
            lanes[i] = x[i].mul_add(y[i], lanes[i]);
        }
    }
    for (lane, (x, y)) in lanes.iter_mut().zip(x_rest.iter().zip(y_rest)) {
        *lane = x.mul_add(*y, *lane);
    }
    fold(lanes)
}

/// Largest element; negative infinity if the slice is empty. NaN is not propagated reliably.
#[inline(always)]
pub fn max(x: &[f32]) -> f32 {
    let (chunks, rest) = x.as_chunks::<LANES>();
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] = larger(lanes[i], chunk[i]);
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane = larger(*lane, *x);
    }
    reduce(lanes, larger)
}

/// Below this [`exp`] gives 0 (the true value is under 1.2e-38, where f32 loses precision).
pub const EXP_LOWEST: f32 = -87.33;
/// Above this [`exp`] gives infinity (the largest finite f32 result is at 88.72).
pub const EXP_HIGHEST: f32 = 88.37;

/// e^x with a relative error of at most 2e-7 between [`EXP_LOWEST`] and [`EXP_HIGHEST`]; NaN stays NaN.
///
/// Cody–Waite reduction to |r| ≤ ln 2 / 2 and the polynomial of Cephes' `expf` (Moshier 1989), evaluated with fused
/// multiply-adds. It has no branches, so loops that call it vectorise.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    /// 1.5 × 2²³: added to a small number it leaves the nearest integer in the low bits of the sum.
    const ROUND: f32 = 12_582_912.0;
    let clamped = if x > EXP_HIGHEST { EXP_HIGHEST } else { x };
    let clamped = if clamped < EXP_LOWEST { EXP_LOWEST } else { clamped };
    let shifted = clamped.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-0.693_359_4, clamped);
    let r = n.mul_add(2.121_944_4e-4, r);
    let p = 1.987_569_1e-4f32;
    let p = p.mul_add(r, 1.398_199_9e-3);
    let p = p.mul_add(r, 8.333_452e-3);
    let p = p.mul_add(r, 4.166_579_6e-2);
    let p = p.mul_add(r, 1.666_666_5e-1);
    let p = p.mul_add(r, 0.5);
    let p = p.mul_add(r * r, r) + 1.0;
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
    let y = p * power;
    let y = if x < EXP_LOWEST { 0.0 } else { y };
    if x > EXP_HIGHEST { f32::INFINITY } else { y }
}

/// 1 / (1 + e^-x) with a relative error of at most 3e-7 for x above [`EXP_LOWEST`]. tanh(x) is 2 · sigmoid(2x) - 1.
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

#[cfg(test)]
mod tests {
    use super::*;

    wide! {
        fn map_exp(x: &[f32], y: &mut [f32]) {
            for (y, x) in y.iter_mut().zip(x) {
                *y = exp(*x);
            }
        }
    }

    fn sweep() -> Vec<f32> {
        // Every 1,009th f32 of both signs, and the limits.
        let mut all: Vec<f32> = (0..=u32::MAX).step_by(1009).map(f32::from_bits).collect();
        all.extend([0.0, -0.0, 1.0, -1.0, EXP_LOWEST, EXP_HIGHEST, f32::MAX, f32::MIN, f32::MIN_POSITIVE]);
        all
    }

    #[test]
    fn exp_stays_within_its_error_bound_over_all_of_f32() {
        let x = sweep();
        let mut y = vec![0.0; x.len()];
        map_exp(&x, &mut y);
        for (x, y) in x.into_iter().zip(y) {
            let truth = f64::from(x).exp();
            if x.is_nan() {
                assert!(y.is_nan());
            } else if x < EXP_LOWEST {
                assert_eq!(y, 0.0, "{x}");
            } else if x > EXP_HIGHEST {
                assert_eq!(y, f32::INFINITY, "{x}");
            } else {
                assert!((f64::from(y) - truth).abs() <= 2e-7 * truth, "{x}: {y} {truth}");
            }
            assert!(y.to_bits() == exp(x).to_bits() || y.is_nan(), "the same bits for every vector width: {x}");
        }
    }

    #[test]
    fn sigmoid_and_tanh_stay_within_their_error_bounds() {
        for x in sweep().into_iter().filter(|x| *x > EXP_LOWEST) {
            let truth = 1.0 / (1.0 + f64::from(-x).exp());
            assert!((f64::from(sigmoid(x)) - truth).abs() <= 3e-7 * truth, "{x}");
            let tanh = 2.0 * sigmoid(2.0 * x) - 1.0;
            assert!((f64::from(tanh) - f64::from(x).tanh()).abs() <= 3e-7, "{x}");
        }
    }

    #[test]
    fn reductions_are_correct_for_every_length() {
        for n in 0..50 {
            let x: Vec<f32> = (0..n).map(|i| (i * i % 17) as f32 - 5.0).collect();
            assert_eq!(sum(&x), x.iter().sum::<f32>());
            assert_eq!(dot(&x, &x), x.iter().map(|x| x * x).sum::<f32>());
            assert_eq!(sum_of_squares(&x, 1.0), x.iter().map(|x| (x - 1.0) * (x - 1.0)).sum::<f32>());
            assert_eq!(max(&x), x.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        }
    }
}

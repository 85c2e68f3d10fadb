//! Helpers for the tests of kernels: pseudorandom inputs, and gradients by finite differences.

/// Pseudorandom values in about [-1, 1]; the same for the same seed.
pub fn random(seed: u64, len: usize) -> Vec<f32> {
    let unit = |i: usize| (contract::parameters::splitmix64(seed, i as u64) >> 40) as f32 / (1u64 << 24) as f32;
    (0..len).map(|i| 2.0 * unit(i) - 1.0).collect()
}

/// The same numbers in f64.
pub fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|x| f64::from(*x)).collect()
}

/// Asserts that each value is within `tolerance` × the largest expected magnitude (at least 1e-3).
#[track_caller]
pub fn assert_close(actual: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(actual.len(), expected.len());
    let scale = expected.iter().fold(1e-3, |m: f64, x| m.max(x.abs()));
    for (i, (a, e)) in actual.iter().zip(expected).enumerate() {
        assert!((f64::from(*a) - e).abs() <= tolerance * scale, "at {i}: {a}, expected {e} (scale {scale})");
    }
}

/// Gradient of `f` at `x` by central differences in f64.
pub fn gradient(x: &[f32], mut f: impl FnMut(&[f64]) -> f64) -> Vec<f64> {
    let mut x = wide(x);
    (0..x.len())
        .map(|i| {
            let (at, step) = (x[i], 1e-5);
            x[i] = at + step;
            let above = f(&x);
            x[i] = at - step;
            let below = f(&x);
            x[i] = at;
            (above - below) / (2.0 * step)
        })
        .collect()
}

/// Inner product in f64: the scalar function whose gradients the tests compare.
pub fn weighted(y: &[f64], weights: &[f32]) -> f64 {
    assert_eq!(y.len(), weights.len());
    y.iter().zip(weights).map(|(y, w)| y * f64::from(*w)).sum()
}

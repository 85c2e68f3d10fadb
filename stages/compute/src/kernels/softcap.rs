//! The soft cap of logits (Gemma Team 2024): `cap · tanh(x / cap)`, which keeps them between `-cap` and `cap`.
use crate::simd::sigmoid;
use crate::wide;

wide! {
    /// Replaces every `x` by `cap · tanh(x / cap)`, computed as `cap · (2 · sigmoid(2x / cap) - 1)`: the error is a few
    /// units in the last place of `cap`.
    pub fn forward(cap: f32, x: &mut [f32]) {
        let scale = 2.0 / cap;
        for x in x {
            *x = (2.0 * cap).mul_add(sigmoid(scale * *x), -cap);
        }
    }
}

wide! {
    /// Takes the outputs `y` of [`forward`], and turns `d` from their gradient into that of the inputs.
    pub fn backward(cap: f32, y: &[f32], d: &mut [f32]) {
        assert_eq!(y.len(), d.len());
        let scale = 1.0 / cap;
        for (d, y) in d.iter_mut().zip(y) {
            let tanh = scale * y;
            *d *= tanh.mul_add(-tanh, 1.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{assert_close, gradient, random, weighted, wide};
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(30))]
        #[test]
        fn agrees_with_the_reference(size in 1usize..60, cap in 0.5f32..40.0, spread in 0.1f32..90.0) {
            let x: Vec<f32> = random(1, size).iter().map(|x| x * spread).collect();
            let d_out = random(2, size);
            let reference = |x: &[f64]| -> Vec<f64> {
                x.iter().map(|x| f64::from(cap) * (x / f64::from(cap)).tanh()).collect()
            };
            let mut y = x.clone();
            forward(cap, &mut y);
            for (y, expected) in y.iter().zip(reference(&wide(&x))) {
                prop_assert!((f64::from(*y) - expected).abs() <= 1e-6 * f64::from(cap), "{} {}", y, expected);
            }
            let mut d = d_out.clone();
            backward(cap, &y, &mut d);
            assert_close(&d, &gradient(&x, |x| weighted(&reference(x), &d_out)), 1e-4);
        }
    }

    #[test]
    fn far_values_reach_the_cap() {
        let mut x = [-1e9f32, 0.0, 1e9];
        forward(15.0, &mut x);
        assert_eq!(x, [-15.0, 0.0, 15.0]);
        let mut d = [1.0f32; 3];
        backward(15.0, &x, &mut d);
        assert_eq!(d, [0.0, 1.0, 0.0]);
    }
}

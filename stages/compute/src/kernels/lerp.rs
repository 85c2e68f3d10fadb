//! Linear interpolation, with which a moving average follows the values that it averages.
use crate::wide;

/// `x = x + weight · (target − x)`, as `torch.Tensor.lerp_`.
///
/// # Panics
/// If the lengths differ.
pub fn lerp(weight: f32, x: &mut [f32], target: &[f32]) {
    assert_eq!(x.len(), target.len(), "slices of equal length");
    interpolate(weight, x, target);
}

wide! {
    fn interpolate(weight: f32, x: &mut [f32], target: &[f32]) {
        for (x, target) in x.iter_mut().zip(target) {
            *x = weight.mul_add(target - *x, *x);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{assert_close, random, wide};

    #[test]
    fn equals_the_formula() {
        let (mut x, target) = (random(1, 37), random(2, 37));
        let expected: Vec<f64> =
            wide(&x).iter().zip(wide(&target)).map(|(x, target)| 0.75 * x + 0.25 * target).collect();
        lerp(0.25, &mut x, &target);
        assert_close(&x, &expected, 1e-6);
        lerp(0.0, &mut x, &target);
        assert_close(&x, &expected, 1e-6);
    }
}

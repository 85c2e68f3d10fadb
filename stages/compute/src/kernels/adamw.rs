//! AdamW (Loshchilov & Hutter 2019): Adam with decoupled weight decay, in one pass.
use crate::wide;

/// The hyperparameters of one update of one tensor.
#[derive(Clone, Debug)]
pub struct AdamW {
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the square root of the second moment.
    pub epsilon: f32,
    /// Weight decay; 0 for tensors without it.
    pub decay: f32,
    /// Learning rate.
    pub rate: f32,
    /// `1 - beta1^t`, `t` counted from 1.
    pub bias1: f32,
    /// `1 - beta2^t`.
    pub bias2: f32,
    /// Factor that gradients are multiplied by first: the clipping factor divided by the number of targets.
    pub scale: f32,
}

/// One update, as in `torch.optim.AdamW`: the parameter is multiplied by `1 - rate · decay`, then
/// `rate · m̂ / (√v̂ + epsilon)` is subtracted. All slices have the tensor's length.
pub fn adamw(s: &AdamW, parameter: &mut [f32], m: &mut [f32], v: &mut [f32], gradient: &[f32]) {
    let n = parameter.len();
    assert!(m.len() == n && v.len() == n && gradient.len() == n, "slices of equal length");
    update(s, parameter, m, v, gradient);
}

wide! {
    fn update(s: &AdamW, parameter: &mut [f32], m: &mut [f32], v: &mut [f32], gradient: &[f32]) {
        let keep = 1.0 - s.rate * s.decay;
        let step = s.rate / s.bias1;
        let root = 1.0 / s.bias2.sqrt();
        let (new1, new2) = (1.0 - s.beta1, 1.0 - s.beta2);
        for (((p, m), v), g) in parameter.iter_mut().zip(m).zip(v).zip(gradient) {
            let g = g * s.scale;
            *m = s.beta1.mul_add(*m, new1 * g);
            *v = s.beta2.mul_add(*v, new2 * g * g);
            let denominator = v.sqrt().mul_add(root, s.epsilon);
            *p = (-step).mul_add(*m / denominator, *p * keep);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{assert_close, random, wide};

    #[test]
    fn equals_the_formula_over_several_steps() {
        let n = 37;
        let (mut p, mut m, mut v) = (random(1, n), vec![0.0; n], vec![0.0; n]);
        let (mut p64, mut m64, mut v64) = (wide(&p), vec![0.0; n], vec![0.0; n]);
        let (beta1, beta2, epsilon, decay, rate, scale) = (0.9, 0.95, 1e-8, 0.1, 1e-2, 0.25);
        for t in 1..=5 {
            let g = random(10 + t as u64, n);
            let (bias1, bias2) = (1.0 - f64::powi(beta1, t), 1.0 - f64::powi(beta2, t));
            for i in 0..n {
                let g = f64::from(g[i]) * scale;
                m64[i] = beta1 * m64[i] + (1.0 - beta1) * g;
                v64[i] = beta2 * v64[i] + (1.0 - beta2) * g * g;
                p64[i] *= 1.0 - rate * decay;
                p64[i] -= rate * (m64[i] / bias1) / ((v64[i] / bias2).sqrt() + epsilon);
            }
            let s = AdamW {
                beta1: beta1 as f32,
                beta2: beta2 as f32,
                epsilon: epsilon as f32,
                decay: decay as f32,
                rate: rate as f32,
                bias1: bias1 as f32,
                bias2: bias2 as f32,
                scale: scale as f32,
            };
            adamw(&s, &mut p, &mut m, &mut v, &g);
            assert_close(&p, &p64, 1e-6);
            assert_close(&m, &m64, 1e-6);
            assert_close(&v, &v64, 1e-6);
        }
    }
}

//! The optimizer `lion` (Chen et al. 2023, algorithm 2): updates by the sign of a running mean of gradients.
use contract::{ParameterSpec, StageKeys, Tensor};
use serde::{Deserialize, Serialize};
use train::optimize::{Optimizer, UpdateScalars};

/// Lion.
#[derive(Clone, Serialize, Deserialize, StageKeys)]
#[serde(default)]
pub struct Lion {
    /// Weight of the momentum in the direction of an update; 0 to 1.
    #[key(default = 0.9, min = 0, max = 1)]
    beta1: f32,
    /// Decay of the momentum; 0 to 1.
    #[key(default = 0.99, min = 0, max = 1)]
    beta2: f32,
    /// Decoupled weight decay, of matrices and embeddings only.
    #[key(default = 0.1, min = 0)]
    weight_decay: f32,
}

impl Optimizer for Lion {
    const SUMMARY: &'static str = "Lion (Chen et al. 2023): updates by the sign of the momentum";
    const EXAMPLE: &'static str = "type = \"lion\"\nlearning_rate = 3e-4\nwarmup_steps = 100\n";

    fn is_elementwise(&self, _spec: &ParameterSpec) -> bool {
        true
    }

    fn state(&self, _spec: &ParameterSpec) -> &'static [&'static str] {
        &["momentum"]
    }

    fn update(
        &self,
        scalars: &UpdateScalars,
        spec: &ParameterSpec,
        parameter: &mut Tensor,
        state: &mut [&mut Tensor],
        gradient: Tensor,
    ) {
        let [momentum] = state else { return };
        let (rate, decay) = (scalars.learning_rate as f32, if spec.decays() { self.weight_decay } else { 0.0 });
        let values = parameter.data.iter_mut().zip(momentum.data.iter_mut()).zip(gradient.data.iter());
        for ((p, m), gradient) in values {
            let g = gradient * scalars.gradient_scale as f32;
            let direction = self.beta1 * *m + (1.0 - self.beta1) * g;
            let sign = if direction == 0.0 { 0.0 } else { direction.signum() };
            *p -= rate * (sign + decay * *p);
            *m = self.beta2 * *m + (1.0 - self.beta2) * g;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::{Group, Init};

    #[test]
    fn an_update_is_the_papers() {
        let spec =
            ParameterSpec { name: "w".into(), shape: vec![1, 3], group: Group::Matrix([1, 3]), init: Init::Zeros };
        let tensor = |values: &[f32]| Tensor::from_values([1, 3], values);
        let (mut w, mut m) = (tensor(&[1.0, -2.0, 0.5]), tensor(&[0.0, 1.0, 0.0]));
        let lion = Lion { beta1: 0.9, beta2: 0.99, weight_decay: 0.5 };
        let scalars = UpdateScalars { learning_rate: 0.1, rate_fraction: 1.0, number: 1.0, gradient_scale: 0.5 };
        lion.update(&scalars, &spec, &mut w, &mut [&mut m], tensor(&[-4.0, 2.0, 0.0]));
        // Gradients -2, 1, 0; directions -0.2, 1, 0.
        for (value, expected) in w.data.iter().zip([1.0 + 0.1 - 0.05, -2.0 - 0.1 + 0.1, 0.5 - 0.025]) {
            assert!((value - expected).abs() < 1e-6, "{value} is not {expected}");
        }
        for (value, expected) in m.data.iter().zip([-0.02, 1.0, 0.0]) {
            assert!((value - expected).abs() < 1e-6, "{value} is not {expected}");
        }
    }
}

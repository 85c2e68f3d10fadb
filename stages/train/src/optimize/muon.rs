//! The optimizer `muon` (Jordan et al. 2024): orthogonalised momentum for the matrices inside blocks, AdamW for all
//! other parameters. Its updates are scaled to the size of AdamW's (Liu et al. 2025), so both share learning rate and
//! weight decay.
use crate::optimize::adamw::AdamW;
use crate::optimize::{Optimizer, UpdateScalars};
use compute::kernels::newton_schulz::orthogonalise;
use contract::{ParameterSpec, StageKeys, Tensor};
use serde::{Deserialize, Serialize};

/// Root mean square of AdamW's updates, as a fraction of the learning rate.
const STEP: f64 = 0.2;

/// The member `muon`.
#[derive(Clone, Debug, Serialize, Deserialize, StageKeys)]
#[serde(default)]
pub struct Muon {
    /// Muon: decay of the sum of gradients.
    #[key(default = 0.95, min = 0, max = 0.999_999)]
    pub momentum: f64,
    /// What updates all else.
    #[serde(flatten)]
    pub others: AdamW,
}

impl Optimizer for Muon {
    const SUMMARY: &'static str =
        "Muon (Jordan et al. 2024) for matrices inside blocks, AdamW for the other parameters";
    const EXAMPLE: &'static str = "type = \"muon\"\nlearning_rate = 1e-3\nwarmup_steps = 100\nmomentum = 0.95\n";

    fn state(&self, spec: &ParameterSpec) -> &'static [&'static str] {
        if spec.hidden { &["momentum"] } else { self.others.state(spec) }
    }

    fn update(
        &self,
        scalars: &UpdateScalars,
        spec: &ParameterSpec,
        parameter: &mut Tensor,
        state: &mut [&mut Tensor],
        mut gradient: Tensor,
    ) {
        let [momentum] = state else { return self.others.update(scalars, spec, parameter, state, gradient) };
        let (keep, scale) = (self.momentum as f32, scalars.gradient_scale as f32);
        // Nesterov momentum.
        for (g, m) in gradient.data.iter_mut().zip(momentum.data.iter_mut()) {
            let fresh = *g * scale;
            *m = keep.mul_add(*m, fresh);
            *g = keep.mul_add(*m, fresh);
        }
        orthogonalise(&mut gradient);
        let longest = spec.shape.iter().copied().max().unwrap_or_default() as f64;
        let step = -(scalars.learning_rate * STEP * longest.sqrt()) as f32;
        let shrink = (1.0 - scalars.learning_rate * self.others.decay(spec)) as f32;
        for (p, direction) in parameter.data.iter_mut().zip(&gradient.data[..]) {
            *p = step.mul_add(*direction, *p * shrink);
        }
    }
}

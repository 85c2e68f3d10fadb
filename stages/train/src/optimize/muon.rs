//! `optimize` with `type = "muon"` (Jordan et al. 2024): orthogonalised momentum for the matrices inside blocks, AdamW
//! for all else. Its step has the size that AdamW's has (Liu et al. 2025), so both share learning rate and weight decay.
use crate::optimize::schedule::Decay;
use crate::optimize::{AdamWRule, Common, Now, Rule, adamw_problems, build};
use anyhow::Result;
use compute::kernels::newton_schulz::orthogonalise;
use contract::{Built, Env, Kind, Memory, ParameterSpec, Port, Problem, Settings, StageKeys, StageSettings, Tensor};
use serde::{Deserialize, Serialize};

/// The size of AdamW's steps, root mean square, as a fraction of the learning rate.
const STEP: f64 = 0.2;

/// Settings of `type = "muon"`.
#[derive(Clone, Debug, Serialize, Deserialize, StageKeys)]
#[serde(default, deny_unknown_fields)]
pub struct MuonOptimize {
    /// Peak learning rate, of Muon and AdamW.
    pub learning_rate: f64,
    /// Updates of the linear warmup to the peak.
    pub warmup_steps: u64,
    /// The learning rate after warmup: "constant", "linear" or "cosine".
    pub schedule: Decay,
    /// Last learning rate as a fraction of the peak; 0 to 1.
    pub final_fraction: f64,
    /// Muon: decay of the sum of gradients; 0 to 1.
    pub momentum: f64,
    /// AdamW: decay of the mean of gradients; 0 to 1.
    pub beta1: f64,
    /// AdamW: decay of the mean of squared gradients; 0 to 1.
    pub beta2: f64,
    /// AdamW: added to the root of the mean square.
    pub epsilon: f64,
    /// Decoupled weight decay, of matrices and embeddings only.
    pub weight_decay: f64,
    /// Largest global norm of the gradient; 0: no clipping.
    pub clip_norm: f64,
}

impl Default for MuonOptimize {
    fn default() -> Self {
        Self {
            learning_rate: 1e-3,
            warmup_steps: 50,
            schedule: Decay::Cosine,
            final_fraction: 0.1,
            momentum: 0.95,
            beta1: 0.9,
            beta2: 0.95,
            epsilon: 1e-8,
            weight_decay: 0.1,
            clip_norm: 1.0,
        }
    }
}

impl StageSettings for MuonOptimize {
    const SUMMARY: &'static str = "Muon (Jordan et al. 2024) for matrices inside blocks, AdamW for all else";
    const EXAMPLE: &'static str = "type = \"muon\"\nlearning_rate = 1e-3\nwarmup_steps = 100\nmomentum = 0.95\n";
}

impl MuonOptimize {
    fn common(&self) -> Common {
        Common {
            learning_rate: self.learning_rate,
            warmup_steps: self.warmup_steps,
            schedule: self.schedule,
            final_fraction: self.final_fraction,
            clip_norm: self.clip_norm,
        }
    }

    fn others(&self) -> AdamWRule {
        let &Self { beta1, beta2, epsilon, weight_decay, .. } = self;
        AdamWRule { beta1, beta2, epsilon, weight_decay }
    }
}

impl Settings for MuonOptimize {
    fn takes(&self) -> Vec<Port> {
        crate::optimize::takes()
    }

    fn gives(&self) -> Vec<Kind> {
        crate::optimize::gives()
    }

    fn check(&self) -> Vec<Problem> {
        let mut problems = self.common().check();
        problems.extend(adamw_problems(&self.others()));
        if !(0.0..1.0).contains(&self.momentum) {
            let message = format!("`momentum` is {}: it must be from 0 to below 1", self.momentum);
            problems.push(Problem::at("momentum", message));
        }
        problems
    }

    fn build(&self, env: &Env) -> Result<Built> {
        build(env, self.common(), Box::new(MuonRule { momentum: self.momentum, others: self.others() }))
    }

    fn memory(&self, env: &Env) -> Memory {
        crate::optimize::memory(env)
    }
}

struct MuonRule {
    momentum: f64,
    others: AdamWRule,
}

impl Rule for MuonRule {
    fn state(&self, spec: &ParameterSpec) -> &'static [&'static str] {
        if spec.hidden { &["momentum"] } else { self.others.state(spec) }
    }

    fn update(
        &self,
        now: &Now,
        spec: &ParameterSpec,
        parameter: &mut Tensor,
        state: &mut [&mut Tensor],
        mut gradient: Tensor,
    ) {
        let [momentum] = state else { return self.others.update(now, spec, parameter, state, gradient) };
        let (keep, scale) = (self.momentum as f32, now.scale as f32);
        // Nesterov's: the direction looks one step ahead.
        for (g, m) in gradient.data.iter_mut().zip(momentum.data.iter_mut()) {
            let fresh = *g * scale;
            *m = keep.mul_add(*m, fresh);
            *g = keep.mul_add(*m, fresh);
        }
        orthogonalise(&mut gradient);
        let longest = spec.shape.iter().copied().max().unwrap_or_default() as f64;
        let step = -(now.rate * STEP * longest.sqrt()) as f32;
        let shrink = (1.0 - now.rate * self.others.decay(spec)) as f32;
        for (p, direction) in parameter.data.iter_mut().zip(&gradient.data[..]) {
            *p = step.mul_add(*direction, *p * shrink);
        }
    }
}

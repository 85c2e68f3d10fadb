//! Cross-entropy with z-regularisation (Chowdhery et al. 2022): `weight · log²Σe^x` keeps logits from drifting.
use anyhow::Result;
use compute::kernels::cross_entropy::{log_sum_exp, softmax};
use compute::kernels::head::{RowLoss, RowLossValue};
use contract::{Built, Env, Kind, Port, Problem, Settings, StageKeys, StageSettings};
use serde::{Deserialize, Serialize};
use train::loss::{gives, loss_stage, takes};

/// Settings of `type = "z_loss"`.
#[derive(Clone, Debug, Serialize, Deserialize, StageKeys)]
#[serde(default, deny_unknown_fields)]
pub struct ZLoss {
    /// Weight of the squared log-sum-exp of the logits; 0: plain cross-entropy.
    pub weight: f32,
}

impl Default for ZLoss {
    fn default() -> Self {
        Self { weight: 1e-4 }
    }
}

impl StageSettings for ZLoss {
    const SUMMARY: &'static str = "cross-entropy with z-regularisation";
    const EXAMPLE: &'static str = "type = \"z_loss\"\nweight = 1e-4\n";
}

impl Settings for ZLoss {
    fn takes(&self) -> Vec<Port> {
        takes()
    }

    fn gives(&self) -> Vec<Kind> {
        gives()
    }

    fn check(&self) -> Vec<Problem> {
        let wrong = !self.weight.is_finite() || self.weight < 0.0;
        wrong.then(|| Problem::at("weight", "`weight` must be 0 or more")).into_iter().collect()
    }

    fn build(&self, _env: &Env) -> Result<Built> {
        Ok(loss_stage(WithZ(self.weight)))
    }
}

/// The loss of one row, and its gradient in place of the logits.
struct WithZ(f32);

impl RowLoss for WithZ {
    fn row(&self, logits: &mut [f32], target: u32, gradient: bool) -> RowLossValue {
        let log_sum = log_sum_exp(logits);
        let cross_entropy = log_sum - logits[target as usize];
        if gradient {
            softmax(logits, log_sum, 1.0 + 2.0 * self.0 * log_sum);
            logits[target as usize] -= 1.0;
        }
        RowLossValue { trained: cross_entropy + self.0 * log_sum * log_sum, cross_entropy }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gradient_is_the_slope_of_the_trained_loss() {
        let (logits, loss, target) = ([0.3f32, -1.2, 2.0, 0.7], WithZ(0.1), 1);
        let trained = |logits: &[f32]| loss.row(&mut logits.to_vec(), target, false).trained;
        let mut gradient = logits;
        loss.row(&mut gradient, target, true);
        for i in 0..logits.len() {
            let (mut above, mut below) = (logits, logits);
            above[i] += 1e-2;
            below[i] -= 1e-2;
            let slope = (trained(&above) - trained(&below)) / 2e-2;
            assert!((slope - gradient[i]).abs() < 1e-3, "logit {i}: slope {slope}, gradient {}", gradient[i]);
        }
    }
}

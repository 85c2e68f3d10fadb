//! The loss `z_loss` (Chowdhery et al. 2022): cross-entropy plus `weight · log²Σe^x`, which keeps logits from drifting.
use contract::StageKeys;
use serde::{Deserialize, Serialize};
use train::loss::{Loss, RowLossValue, log_sum_exp, softmax};

/// Cross-entropy with z-regularisation.
#[derive(Clone, Serialize, Deserialize, StageKeys)]
#[serde(default)]
pub struct ZLoss {
    /// Weight of the squared log-sum-exp of the logits; 0: plain cross-entropy.
    #[key(default = 1e-4, min = 0)]
    weight: f32,
}

impl Loss for ZLoss {
    const SUMMARY: &'static str = "cross-entropy with z-regularisation";
    const EXAMPLE: &'static str = "type = \"z_loss\"\nweight = 1e-4\n";

    fn row(&self, logits: &mut [f32], target: u32, gradient: bool) -> RowLossValue {
        let log_sum = log_sum_exp(logits);
        let cross_entropy = log_sum - logits[target as usize];
        if gradient {
            softmax(logits, log_sum, 1.0 + 2.0 * self.weight * log_sum);
            logits[target as usize] -= 1.0;
        }
        RowLossValue { trained: cross_entropy + self.weight * log_sum * log_sum, cross_entropy }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gradient_is_the_slope_of_the_trained_loss() {
        let (logits, loss, target) = ([0.3f32, -1.2, 2.0, 0.7], ZLoss { weight: 0.1 }, 1);
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

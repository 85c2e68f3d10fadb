//! Cross-entropy of one row of logits, and two functions to write custom losses with.
//!
//! With z-regularisation (Chowdhery et al. 2022), for example, the trained loss is `l - x[target] + z l²` with
//! `l = log_sum_exp(x)`, and its gradient is `softmax(x) (1 + 2 z l)`, minus 1 at the target:
//!
//! ```
//! # use millrace_compute::kernels::{cross_entropy::{log_sum_exp, softmax}, head::{RowLoss, RowLossValue}};
//! struct WithZ(f32);
//! impl RowLoss for WithZ {
//!     fn row(&self, logits: &mut [f32], target: u32, gradient: bool) -> RowLossValue {
//!         let l = log_sum_exp(logits);
//!         let cross_entropy = l - logits[target as usize];
//!         if gradient {
//!             softmax(logits, l, 1.0 + 2.0 * self.0 * l);
//!             logits[target as usize] -= 1.0;
//!         }
//!         RowLossValue { trained: cross_entropy + self.0 * l * l, cross_entropy }
//!     }
//! }
//! ```
use crate::kernels::head::{RowLoss, RowLossValue};
use crate::simd::{LANES, exp, fold, max};
use crate::wide;

/// `-log softmax(logits)[target]`, in nats.
#[derive(Clone, Copy, Debug, Default)]
pub struct CrossEntropy;

impl RowLoss for CrossEntropy {
    fn row(&self, logits: &mut [f32], target: u32, gradient: bool) -> RowLossValue {
        let at_target = logits[target as usize];
        let cross_entropy = if gradient { softmax_with_log_sum(logits) } else { log_sum_exp(logits) } - at_target;
        if gradient {
            logits[target as usize] -= 1.0;
        }
        RowLossValue { trained: cross_entropy, cross_entropy }
    }
}

wide! {
    /// Replaces the row by its softmax and returns its [`log_sum_exp`], with one exponential per element.
    fn softmax_with_log_sum(row: &mut [f32]) -> f32 {
        let highest = max(row);
        let (chunks, rest) = row.as_chunks_mut::<LANES>();
        let mut lanes = [0.0f32; LANES];
        for chunk in chunks {
            for i in 0..LANES {
                chunk[i] = exp(chunk[i] - highest);
                lanes[i] += chunk[i];
            }
        }
        for (lane, x) in lanes.iter_mut().zip(rest) {
            *x = exp(*x - highest);
            *lane += *x;
        }
        let sum = fold(lanes);
        let over = 1.0 / sum;
        for x in row {
            *x *= over;
        }
        highest + sum.ln()
    }
}

wide! {
    /// `log Σ e^x`, without overflow; NaN if any element is.
    pub fn log_sum_exp(row: &[f32]) -> f32 {
        let highest = max(row);
        let (chunks, rest) = row.as_chunks::<LANES>();
        let mut lanes = [0.0f32; LANES];
        for chunk in chunks {
            for i in 0..LANES {
                lanes[i] += exp(chunk[i] - highest);
            }
        }
        for (lane, x) in lanes.iter_mut().zip(rest) {
            *lane += exp(x - highest);
        }
        highest + fold(lanes).ln()
    }
}

wide! {
    /// `x = factor · e^(x - log_sum)` for each `x` of the row. If `log_sum` is its [`log_sum_exp`], the result is
    /// `factor` times its softmax.
    pub fn softmax(row: &mut [f32], log_sum: f32, factor: f32) {
        for x in row {
            *x = factor * exp(*x - log_sum);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{gradient, random, wide};
    use proptest::prelude::*;

    fn reference(logits: &[f64], target: usize) -> f64 {
        logits.iter().map(|x| x.exp()).sum::<f64>().ln() - logits[target]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn agrees_with_the_reference(vocabulary in 1usize..70, at in 0usize..70, spread in 0.1f32..20.0) {
            let mut logits: Vec<f32> = random(1, vocabulary).iter().map(|x| x * spread).collect();
            let target = at % vocabulary;
            let expected = reference(&wide(&logits), target);
            let slope = gradient(&logits, |x| reference(x, target));
            let unchanged = logits.clone();
            let value = CrossEntropy.row(&mut logits, target as u32, false);
            prop_assert_eq!(&logits, &unchanged);
            let same = CrossEntropy.row(&mut logits, target as u32, true);
            prop_assert_eq!(value.trained, same.cross_entropy);
            prop_assert!((f64::from(value.trained) - expected).abs() < 1e-5 * expected.abs().max(1.0));
            // An absolute tolerance, since the gradient is between -1 and 1.
            prop_assert!(logits.iter().zip(&slope).all(|(a, e)| (f64::from(*a) - e).abs() <= 1e-5));
        }
    }

    #[test]
    fn large_logits_do_not_overflow_and_nan_propagates() {
        let mut row = [1000.0, 999.0, -1000.0];
        assert!((CrossEntropy.row(&mut row, 0, true).trained - 0.313_261_7).abs() < 1e-4);
        assert!(row.iter().all(|x| x.is_finite()));
        assert!(log_sum_exp(&[1.0, f32::NAN, 2.0]).is_nan());
    }
}

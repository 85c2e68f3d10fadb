//! The learning rate of each step.
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// What happens to the learning rate after warmup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decay {
    /// It stays constant.
    Constant,
    /// It decreases linearly.
    Linear,
    /// It decreases as half a cosine wave (Loshchilov and Hutter 2017).
    #[default]
    Cosine,
    /// Warmup, stable, decay (Hu et al. 2024): it stays constant and decreases linearly at the end. A run can be extended
    /// as long as the decay has not begun.
    Wsd,
}

/// Linear warmup from `peak / warmup` to `peak`, then decay to `peak × floor` at update `steps`, from which on it is
/// constant.
#[derive(Clone, Copy, Debug)]
pub struct LearningRateSchedule {
    /// The highest learning rate.
    pub peak: f64,
    /// Updates until the peak is reached.
    pub warmup: u64,
    /// Updates until the decay is complete.
    pub steps: u64,
    /// The shape of the decay.
    pub decay: Decay,
    /// The fraction of `steps` in which [`Decay::Wsd`] decays, at the end. The others decay from the end of the warmup.
    pub decay_fraction: f64,
    /// The final rate as a fraction of the peak.
    pub floor: f64,
}

impl LearningRateSchedule {
    /// The rate of the update at `step` (the first is step 0).
    ///
    /// ```
    /// # use millrace_train::optimize::schedule::{Decay, LearningRateSchedule};
    /// let s = LearningRateSchedule { peak: 1.0, warmup: 2, steps: 6, decay: Decay::Linear, decay_fraction: 0.5, floor: 0.0 };
    /// assert_eq!((0..6).map(|i| s.rate(i)).collect::<Vec<_>>(), [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]);
    /// let s = LearningRateSchedule { steps: 8, decay: Decay::Wsd, ..s };
    /// assert_eq!((0..9).map(|i| s.rate(i)).collect::<Vec<_>>(), [0.5, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]);
    /// ```
    pub fn rate(&self, step: u64) -> f64 {
        if step < self.warmup {
            return self.peak * (step + 1) as f64 / self.warmup as f64;
        }
        let decay = self.decay_over(self.steps);
        if self.decay == Decay::Constant || step < decay.start {
            return self.peak;
        }
        let done = ((step - decay.start) as f64 / (decay.end - decay.start) as f64).min(1.0);
        let left = match self.decay {
            Decay::Constant => return self.peak,
            Decay::Linear | Decay::Wsd => 1.0 - done,
            Decay::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * done).cos()),
        };
        self.peak * (self.floor + (1.0 - self.floor) * left)
    }

    /// The steps of the decay of a schedule of `steps` updates; at least one.
    pub fn decay_over(&self, steps: u64) -> Range<u64> {
        let start = match self.decay {
            Decay::Wsd => steps.saturating_sub((steps as f64 * self.decay_fraction).ceil() as u64).max(self.warmup),
            _ => self.warmup,
        };
        start..steps.max(start + 1)
    }

    /// The first of `steps` at which the rate would be another one if the decay were complete after `other` updates.
    ///
    /// ```
    /// # use millrace_train::optimize::schedule::{Decay, LearningRateSchedule};
    /// let s = LearningRateSchedule { peak: 1.0, warmup: 2, steps: 6, decay: Decay::Linear, decay_fraction: 0.5, floor: 0.0 };
    /// assert_eq!(s.first_difference(10, 0..6), Some(3)); // 0.75 and 0.875
    /// assert_eq!(s.first_difference(10, 0..3), None); // the warmup and the peak
    /// assert_eq!(s.first_difference(10, 10..20), None); // both are complete
    /// let s = LearningRateSchedule { decay: Decay::Wsd, ..s };
    /// assert_eq!(s.first_difference(10, 0..10), Some(4)); // the decay of 6 steps begins after step 3
    /// ```
    pub fn first_difference(&self, other: u64, steps: Range<u64>) -> Option<u64> {
        let (this, other) = (self.decay_over(self.steps), self.decay_over(other));
        let constant = self.decay == Decay::Constant || self.floor == 1.0 || self.peak == 0.0;
        if constant || this == other {
            return None;
        }
        // Both are at the peak up to the start of the first decay; the longer schedule stays above the other one from
        // then on, until it ends.
        let first = steps.start.max(this.start.min(other.start) + 1);
        (first < steps.end && first < this.end.max(other.end)).then_some(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_difference_is_the_first_step_whose_rates_differ() {
        let mut found = [0, 0];
        let kinds = [(Decay::Constant, 0.5), (Decay::Linear, 0.5), (Decay::Cosine, 0.5)];
        let kinds = kinds.into_iter().chain([0.1, 0.2, 0.5, 0.7, 1.0].map(|fraction| (Decay::Wsd, fraction)));
        for (decay, decay_fraction) in kinds {
            for floor in [0.0, 0.1, 1.0] {
                for case in 0..4 * 8 * 8 * 12 * 3 {
                    let (warmup, one, two) = (case % 4, case / 4 % 8, case / 32 % 8);
                    let (start, steps) = (case / 256 % 12, case / 3072 * 5);
                    let range = start..start + steps;
                    let of = |steps| LearningRateSchedule { peak: 0.01, warmup, steps, decay, decay_fraction, floor };
                    let expected = range.clone().find(|step| of(one).rate(*step) != of(two).rate(*step));
                    assert_eq!(of(one).first_difference(two, range.clone()), expected, "{:?} {two} {range:?}", of(one));
                    found[usize::from(expected.is_some())] += 1;
                }
            }
        }
        assert!(found.iter().all(|found| *found > 1000), "{found:?}");
    }
}

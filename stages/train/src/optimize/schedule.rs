//! The learning rate of each step.
use serde::{Deserialize, Serialize};

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
}

/// Linear warmup from `peak / warmup` to `peak`, then decay to `peak × floor` at the last step.
#[derive(Clone, Copy, Debug)]
pub struct LearningRateSchedule {
    /// The highest learning rate.
    pub peak: f64,
    /// Updates until the peak is reached.
    pub warmup: u64,
    /// Total number of updates.
    pub steps: u64,
    /// The shape of the decay.
    pub decay: Decay,
    /// The final rate as a fraction of the peak.
    pub floor: f64,
}

impl LearningRateSchedule {
    /// The rate of the update at `step` (the first is step 0).
    ///
    /// ```
    /// # use millrace_train::optimize::schedule::{Decay, LearningRateSchedule};
    /// let s = LearningRateSchedule { peak: 1.0, warmup: 2, steps: 6, decay: Decay::Linear, floor: 0.0 };
    /// assert_eq!((0..6).map(|i| s.rate(i)).collect::<Vec<_>>(), [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]);
    /// ```
    pub fn rate(&self, step: u64) -> f64 {
        if step < self.warmup {
            return self.peak * (step + 1) as f64 / self.warmup as f64;
        }
        let span = self.steps.saturating_sub(self.warmup).max(1);
        let done = ((step - self.warmup) as f64 / span as f64).min(1.0);
        let left = match self.decay {
            Decay::Constant => return self.peak,
            Decay::Linear => 1.0 - done,
            Decay::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * done).cos()),
        };
        self.peak * (self.floor + (1.0 - self.floor) * left)
    }
}

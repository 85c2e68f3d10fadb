//! The exponential moving average of the weights, which every optimizer can keep for evaluation and export.
use contract::StageKeys;
use serde::{Deserialize, Serialize};

/// The key of the average.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, StageKeys)]
#[serde(default)]
pub struct Averaging {
    /// Decay of an exponential moving average of the weights, which validation, samples and checkpoints then use in their
    /// place; training itself does not. After update n the decay is at most (1 + n) / (10 + n), so that the average soon
    /// forgets the initial weights. If not given, there is no average.
    #[key(min = 1e-6, max = 0.999_999_9)]
    pub average_decay: Option<f64>,
}

impl Averaging {
    /// How far the average moves towards the weights after an update, as a fraction of its distance from them. The first
    /// update has number 1. `None` if there is no average.
    ///
    /// The decay warms up as in TensorFlow's `tf.train.ExponentialMovingAverage(num_updates)`: at first, the average is
    /// over about the last ninth of all updates, which is a power-function average (Karras et al. 2024), so that one
    /// value of the key suits short and long runs.
    pub fn weight(&self, update: u64) -> Option<f64> {
        let decay = self.average_decay?;
        let warmup = (1.0 + update as f64) / (10.0 + update as f64);
        Some(1.0 - decay.min(warmup))
    }
}

/// That the weights of checkpoints are an exponential moving average, as a resource.
#[derive(Clone, Copy, Debug)]
pub struct WeightAverage {
    /// Its decay.
    pub decay: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_decay_warms_up() {
        let averaging = Averaging { average_decay: Some(0.95) };
        for (update, decay) in [(1, 2.0 / 11.0), (8, 0.5), (169, 170.0 / 179.0), (170, 0.95), (1_000_000, 0.95)] {
            let weight = averaging.weight(update).unwrap();
            assert!((weight - (1.0 - decay)).abs() < 1e-12, "{update}: {weight}");
        }
        assert_eq!(Averaging::default().weight(1), None);
    }
}

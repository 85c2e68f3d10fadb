//! Measures the training time of a step, without validation, from the arrival times of its metrics.
use contract::Purpose;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The clock of one step.
pub struct Clock {
    /// When work on the step began.
    began: Instant,
    /// When the last training metrics of the step arrived, those of the update.
    trained: Instant,
    /// For each worker: when the last metrics of its batches arrived, and the time it has spent on validation.
    workers: BTreeMap<usize, (Instant, Duration)>,
    /// The longest validation time of a worker when the last training metrics arrived: the others had to wait for it.
    validation: Duration,
}

impl Clock {
    /// The clock of a step that begins at `began`.
    pub fn new(began: Instant) -> Self {
        Self { began, trained: began, workers: BTreeMap::new(), validation: Duration::ZERO }
    }

    /// Records that metrics have arrived. If they belong to a batch, `worker` computed it, and has been working on it
    /// since its previous metrics.
    pub fn record(&mut self, now: Instant, purpose: Purpose, worker: Option<usize>) {
        if let Some(worker) = worker {
            let (last, validation) = self.workers.entry(worker).or_insert((self.began, Duration::ZERO));
            let took = now - std::mem::replace(last, now);
            if purpose == Purpose::Validate {
                *validation += took;
            }
        }
        if purpose == Purpose::Train {
            self.trained = now;
            self.validation = self.workers.values().map(|(_, validation)| *validation).max().unwrap_or_default();
        }
    }

    /// Training time of the step.
    pub fn training(&self) -> Duration {
        (self.trained - self.began).saturating_sub(self.validation)
    }

    /// The clock of the next step.
    pub fn next(&self) -> Self {
        Self::new(self.workers.values().map(|(last, _)| *last).fold(self.trained, Instant::max))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Purpose::{Train, Validate};

    /// Training time of two steps in milliseconds, given the arrival times of their metrics in milliseconds.
    fn taken(steps: [&[(u64, Purpose, Option<usize>)]; 2]) -> [u128; 2] {
        let start = Instant::now();
        let mut clock = Clock::new(start);
        steps.map(|numbers| {
            for (at, purpose, worker) in numbers {
                clock.record(start + Duration::from_millis(*at), *purpose, *worker);
            }
            let taken = clock.training().as_millis();
            clock = clock.next();
            taken
        })
    }

    #[test]
    fn a_step_lasts_from_update_to_update() {
        let step = |from: u64| [(from + 60, Train, Some(0)), (from + 65, Train, Some(1)), (from + 100, Train, None)];
        assert_eq!(taken([&step(0), &step(100)]), [100, 100]);
    }

    /// Validation before the training of a step or after it, on a worker that the others have to wait for.
    #[test]
    fn validation_does_not_count() {
        let before = [
            (300, Validate, Some(1)),
            (360, Train, Some(1)),
            (420, Validate, Some(0)),
            (480, Train, Some(0)),
            (520, Train, None),
        ];
        let after = [
            (580, Train, Some(0)),
            (580, Train, Some(1)),
            (620, Train, None),
            (900, Validate, Some(0)),
            (910, Validate, Some(1)),
            (911, Validate, None),
        ];
        assert_eq!(taken([&before, &after]), [100, 100]);
        let next = [(970, Train, Some(0)), (970, Train, Some(1)), (1010, Train, None)];
        let earlier = |(at, purpose, worker)| (at - 520, purpose, worker);
        assert_eq!(taken([&after.map(earlier), &next.map(earlier)]), [100, 100]);
    }
}

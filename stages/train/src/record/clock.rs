//! What a step's training takes, told from when its numbers come.
use contract::Purpose;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// One step's.
pub struct Clock {
    /// When work on the step began.
    began: Instant,
    /// When the last number of its training came, that of the update.
    trained: Instant,
    /// When the last number of each worker's batches came, and what validation has taken of that worker.
    workers: BTreeMap<usize, (Instant, Duration)>,
    /// The longest of those, when the last number of training came: the others had to wait for that worker.
    validation: Duration,
}

impl Clock {
    /// For a step that begins now.
    pub fn new(began: Instant) -> Self {
        Self { began, trained: began, workers: BTreeMap::new(), validation: Duration::ZERO }
    }

    /// A number came. `worker`: whose batch it is of, if of one; since the one before, that worker worked on it.
    pub fn hear(&mut self, now: Instant, purpose: Purpose, worker: Option<usize>) {
        if let Some(worker) = worker {
            let (heard, validation) = self.workers.entry(worker).or_insert((self.began, Duration::ZERO));
            let took = now - std::mem::replace(heard, now);
            if purpose == Purpose::Validate {
                *validation += took;
            }
        }
        if purpose == Purpose::Train {
            self.trained = now;
            self.validation = self.workers.values().map(|(_, validation)| *validation).max().unwrap_or_default();
        }
    }

    /// What training has taken.
    pub fn training(&self) -> Duration {
        (self.trained - self.began).saturating_sub(self.validation)
    }

    /// For the step after this one.
    pub fn next(&self) -> Self {
        Self::new(self.workers.values().map(|(heard, _)| *heard).fold(self.trained, Instant::max))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Purpose::{Train, Validate};

    /// Milliseconds of training of two steps, whose numbers come at those milliseconds.
    fn taken(steps: [&[(u64, Purpose, Option<usize>)]; 2]) -> [u128; 2] {
        let start = Instant::now();
        let mut clock = Clock::new(start);
        steps.map(|numbers| {
            for (at, purpose, worker) in numbers {
                clock.hear(start + Duration::from_millis(*at), *purpose, *worker);
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

    /// Before a step's training or after it, of a worker that others have to wait for.
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

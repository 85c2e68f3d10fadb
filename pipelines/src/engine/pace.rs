//! How fast workers process packets of a shared queue, and whether one that is idle should take another packet.
//!
//! A worker on a slow or busy core that takes the last micro-batch of a step makes all others wait for it. So it leaves
//! the packets that remain to workers that are busy now, if those would have processed all of them before it had
//! processed one.
use contract::{Packet, Purpose, Step};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Packets that take a worker equally long: those of a step with the same purpose. In another step, a worker may be as
/// fast as others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    step: Step,
    validates: bool,
}

impl Work {
    /// The work of processing a packet.
    pub fn of(step: Step, packet: &Packet) -> Self {
        let validates = matches!(packet, Packet::Batch(batch) if batch.purpose == Purpose::Validate);
        Self { step, validates }
    }
}

/// What is known of the workers that take packets from a queue.
#[derive(Default)]
pub struct Pace(BTreeMap<usize, Progress>);

/// One worker.
#[derive(Clone, Copy, Default)]
struct Progress {
    /// What it has been processing, and since when.
    busy: Option<(Work, Instant)>,
    /// How long the last packet took.
    took: Option<(Work, Duration)>,
}

impl Progress {
    /// How long a packet took, if the worker has processed one of this work.
    fn takes(self, work: Work) -> Option<Duration> {
        self.took.filter(|(of, _)| *of == work).map(|(_, took)| took)
    }

    /// When it will have processed its packet, and how long each further one will take. Nothing is known of a worker whose
    /// packet takes more than a quarter longer than the last one.
    fn expected(self, work: Work, now: Instant) -> Option<(Instant, Duration)> {
        let (_, since) = self.busy.filter(|(of, _)| *of == work)?;
        let takes = self.takes(work)?;
        (now <= since + takes * 5 / 4).then_some(((since + takes).max(now), takes.max(now - since)))
    }
}

impl Pace {
    /// `worker` takes a packet.
    pub fn begins(&mut self, worker: usize, work: Work, now: Instant) {
        self.0.entry(worker).or_default().busy = Some((work, now));
    }

    /// `worker` is idle: it has processed what it took.
    pub fn is_idle(&mut self, worker: usize, now: Instant) {
        let progress = self.0.entry(worker).or_default();
        if let Some((work, since)) = progress.busy.take() {
            progress.took = Some((work, now - since));
        }
    }

    /// Whether the idle `worker` should leave the `waiting` packets to others. If so, it should ask again after the
    /// returned time, in case that the others are slower than expected.
    pub fn should_wait(&self, worker: usize, work: Work, waiting: usize, now: Instant) -> Option<Duration> {
        let takes = self.0.get(&worker)?.takes(work)?;
        // What the others gain by this must be more than the accuracy of such predictions.
        let margin = takes / 16;
        let limit = now + takes - margin;
        let mut others: Vec<_> = self.0.values().filter_map(|other| other.expected(work, now)).collect();
        for _ in 0..waiting {
            let first = others.iter_mut().min_by_key(|(end, each)| *end + *each)?;
            first.0 += first.1;
            if first.0 >= limit {
                return None;
            }
        }
        Some(margin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: Duration = Duration::from_millis(1);
    const WORK: Work = Work { step: 0, validates: false };

    /// Workers that are idle after a packet that took each so many milliseconds, and when the last one has become idle.
    fn measured(each: &[u32]) -> (Instant, Pace) {
        let (start, mut pace) = (Instant::now(), Pace::default());
        for (worker, took) in each.iter().enumerate() {
            pace.begins(worker, WORK, start);
            pace.is_idle(worker, start + *took * MS);
        }
        (start + each.iter().copied().max().unwrap_or(0) * MS, pace)
    }

    /// Processes `packets` packets with workers that take so many milliseconds for each. Returns the milliseconds until
    /// the last one is processed, and how many each worker has processed.
    fn simulate(each: &[u32], packets: usize, paced: bool) -> (u32, Vec<usize>) {
        let (start, pace) = measured(each);
        let mut pace = paced.then_some(pace);
        let (mut waiting, mut now) = (packets, 0);
        let (mut free_at, mut asks_again) = (vec![0; each.len()], vec![0; each.len()]);
        let mut done = vec![0; each.len()];
        while waiting > 0 {
            for worker in 0..each.len() {
                if free_at[worker] > now || asks_again[worker] > now || waiting == 0 {
                    continue;
                }
                let at = start + now * MS;
                if let Some(pace) = &mut pace {
                    pace.is_idle(worker, at);
                    if let Some(wait) = pace.should_wait(worker, WORK, waiting, at) {
                        asks_again[worker] = now + (wait.as_millis() as u32).max(1);
                        continue;
                    }
                    pace.begins(worker, WORK, at);
                }
                waiting -= 1;
                free_at[worker] = now + each[worker];
                done[worker] += 1;
            }
            now += 1;
        }
        (free_at.into_iter().max().unwrap(), done)
    }

    #[test]
    fn a_slow_worker_leaves_the_last_packet_to_a_fast_one() {
        // The slow worker is asked first, so without this it would take the sixth packet at 1,000 ms.
        assert_eq!(simulate(&[200, 100], 16, false), (1200, vec![6, 10]));
        assert_eq!(simulate(&[200, 100], 16, true), (1100, vec![5, 11]));
    }

    #[test]
    fn equal_workers_share_the_packets() {
        assert_eq!(simulate(&[100; 4], 16, true), (400, vec![4; 4]));
    }

    #[test]
    fn a_worker_does_not_wait_for_one_that_is_stuck() {
        let (start, mut pace) = measured(&[200, 100]);
        pace.begins(1, WORK, start);
        let waits = |waiting: usize, ms: u32| pace.should_wait(0, WORK, waiting, start + ms * MS).is_some();
        assert!(waits(1, 50), "worker 1 ends at 200, this one would at 250");
        assert!(!waits(2, 50), "two packets would keep worker 1 until 300");
        assert!(waits(1, 120), "the same at 240, 320");
        assert!(!waits(1, 126), "worker 1 is more than a quarter late");
    }

    #[test]
    fn only_packets_of_the_same_work_are_compared() {
        let (now, mut pace) = measured(&[200, 80]);
        for other in [Work { step: 1, ..WORK }, Work { validates: true, ..WORK }] {
            pace.begins(1, other, now);
            assert_eq!(pace.should_wait(0, other, 1, now), None, "how long it takes each of them is not known");
            assert_eq!(pace.should_wait(0, WORK, 1, now), None, "nor when worker 1 is free");
        }
        pace.begins(1, WORK, now);
        assert!(pace.should_wait(0, WORK, 1, now).is_some());
    }

    proptest! {
        /// With workers of constant speed, all packets are processed, and no later than if each worker took what there
        /// is (up to the times at which workers ask again).
        #[test]
        fn waiting_never_makes_a_step_longer(each in prop::collection::vec(20u32..400, 1..6), packets in 1usize..40) {
            let (greedy, _) = simulate(&each, packets, false);
            let (paced, done) = simulate(&each, packets, true);
            prop_assert_eq!(done.iter().sum::<usize>(), packets);
            prop_assert!(paced <= greedy, "{} instead of {}", paced, greedy);
        }
    }
}

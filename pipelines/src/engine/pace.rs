//! How fast workers process packets of a shared queue, and whether one that is idle should take another packet.
//!
//! A worker on a slow or busy core that takes the last micro-batch of a step makes all others wait for it. So it leaves
//! the packets that remain to workers that are busy now, if those would have processed all of them before it had
//! processed one.
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// What is known of the workers that take packets from a queue.
#[derive(Default)]
pub struct Pace(BTreeMap<usize, Progress>);

/// One worker.
#[derive(Clone, Copy, Default)]
struct Progress {
    /// Since when it has been processing a packet.
    busy_since: Option<Instant>,
    /// How long the last one took.
    took: Option<Duration>,
}

impl Progress {
    /// When it will have processed its packet, and how long each further one will take. A packet that takes longer than
    /// the last one is about to be finished, and the next will take as long.
    fn expected(self, now: Instant) -> Option<(Instant, Duration)> {
        let (since, took) = (self.busy_since?, self.took?);
        Some(((since + took).max(now), took.max(now - since)))
    }
}

impl Pace {
    /// `worker` takes a packet.
    pub fn begins(&mut self, worker: usize, now: Instant) {
        self.0.entry(worker).or_default().busy_since = Some(now);
    }

    /// `worker` is idle: it has processed what it took.
    pub fn is_idle(&mut self, worker: usize, now: Instant) {
        let progress = self.0.entry(worker).or_default();
        if let Some(since) = progress.busy_since.take() {
            progress.took = Some(now - since);
        }
    }

    /// Whether the idle `worker` should take one of `waiting` packets. If not, it should ask again after the returned
    /// time, in case that the others are slower than expected.
    pub fn should_wait(&self, worker: usize, waiting: usize, now: Instant) -> Option<Duration> {
        let takes = self.0.get(&worker)?.took?;
        // What the others gain by this must be more than the accuracy of such predictions.
        let margin = takes / 16;
        let limit = now + takes - margin;
        let mut others: Vec<(Instant, Duration)> = self.0.values().filter_map(|other| other.expected(now)).collect();
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

    /// Processes `packets` packets with workers that take so many milliseconds for each. Returns the milliseconds until
    /// the last one is processed, and how many each worker has processed.
    fn simulate(each: &[u32], packets: usize, mut pace: Option<Pace>) -> (u32, Vec<usize>) {
        let start = Instant::now();
        if let Some(pace) = &mut pace {
            for (worker, took) in each.iter().enumerate() {
                pace.begins(worker, start);
                pace.is_idle(worker, start + *took * MS);
            }
        }
        let (mut waiting, mut now) = (packets, 0);
        let (mut free_at, mut done) = (vec![Some(0); each.len()], vec![0; each.len()]);
        let mut asks_again = vec![0; each.len()];
        while waiting > 0 {
            for worker in 0..each.len() {
                let busy = free_at[worker].is_some_and(|at| at > now);
                if busy || asks_again[worker] > now || waiting == 0 {
                    continue;
                }
                let at = start + now * MS;
                if let Some(pace) = &mut pace {
                    pace.is_idle(worker, at);
                    if let Some(wait) = pace.should_wait(worker, waiting, at) {
                        asks_again[worker] = now + (wait.as_millis() as u32).max(1);
                        continue;
                    }
                    pace.begins(worker, at);
                }
                waiting -= 1;
                free_at[worker] = Some(now + each[worker]);
                done[worker] += 1;
            }
            now += 1;
        }
        (free_at.into_iter().flatten().max().unwrap(), done)
    }

    #[test]
    fn a_slow_worker_leaves_the_last_packet_to_a_fast_one() {
        // The slow worker is asked first, so without this it would take the sixth packet at 1,000 ms.
        assert_eq!(simulate(&[200, 100], 16, None), (1200, vec![6, 10]));
        assert_eq!(simulate(&[200, 100], 16, Some(Pace::default())), (1100, vec![5, 11]));
    }

    #[test]
    fn equal_workers_share_the_packets() {
        assert_eq!(simulate(&[100; 4], 16, Some(Pace::default())), (400, vec![4; 4]));
    }

    #[test]
    fn a_worker_does_not_wait_for_one_that_is_stuck() {
        let (start, mut pace) = (Instant::now(), Pace::default());
        for (worker, took) in [(0, 200), (1, 100)] {
            pace.begins(worker, start);
            pace.is_idle(worker, start + took * MS);
        }
        let start = start + 200 * MS;
        pace.begins(1, start);
        assert!(pace.should_wait(0, 1, start + 50 * MS).is_some(), "worker 1 ends at 200, this one would at 250");
        assert!(pace.should_wait(0, 1, start + 150 * MS).is_some(), "the same at 300, 350");
        assert_eq!(pace.should_wait(0, 1, start + 250 * MS), None, "worker 1 needs at least 250 for each now");
        assert_eq!(pace.should_wait(0, 2, start + 50 * MS), None, "two packets would keep worker 1 until 300");
    }

    proptest! {
        /// With workers of constant speed, all packets are processed, and no later than if each worker took what there
        /// is (up to the times at which workers ask again).
        #[test]
        fn waiting_never_makes_a_step_longer(each in prop::collection::vec(20u32..400, 1..6), packets in 1usize..40) {
            let (greedy, _) = simulate(&each, packets, None);
            let (paced, done) = simulate(&each, packets, Some(Pace::default()));
            prop_assert_eq!(done.iter().sum::<usize>(), packets);
            prop_assert!(paced <= greedy, "{} instead of {}", paced, greedy);
        }
    }
}

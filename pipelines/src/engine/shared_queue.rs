//! Queues from which any worker takes: the packets of ports with [`Route::AnyWorker`].
//!
//! timely brings a packet to one worker, chosen when it is sent. Which worker will be idle first is not known then, so
//! these packets wait outside of timely's channels. The edge is still there, without packets: its frontier says when no
//! more can arrive. A packet is put into the queue while its sender holds a capability of its step. So if a worker has
//! seen the frontier pass a step, and then finds no packet of the step in the queue, there will be none. And whoever
//! takes a packet still holds its own capability of the step, since it gives that up only when there is none.
use super::pace::{Pace, Work};
use crate::plan::PlannedStage;
use contract::{Lane, Packet, Route, Step};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use timely::scheduling::SyncActivator;

/// The queue of one port of one stage, shared by all workers.
pub struct SharedQueue {
    /// The workers with lower indices take packets.
    computing: usize,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    /// By step; then by leaf and order of arrival. Adjacent leaves are computed at the same time, so that their
    /// gradients can soon be summed.
    packets: BTreeMap<Step, BTreeMap<(Lane, u64), Packet>>,
    arrived: u64,
    /// Workers that have taken no packet of a step, by index, and how to wake their operator.
    idle: BTreeMap<usize, (Step, SyncActivator)>,
    pace: Pace,
}

/// What a worker gets from a queue.
pub enum Taken {
    /// A packet of the step.
    Packet(Packet),
    /// There is none now.
    Nothing,
    /// Others will have processed the packets there are sooner. If there still are some after this time, ask again.
    Later(Duration),
}

impl SharedQueue {
    /// Adds a packet and wakes the workers that wait for one of its step.
    pub fn push(&self, step: Step, packet: Packet) {
        let mut waiting = self.lock();
        let key = (packet.lane().unwrap_or_default(), waiting.arrived);
        waiting.arrived += 1;
        waiting.packets.entry(step).or_default().insert(key, packet);
        for (_, (_, wake)) in waiting.idle.extract_if(.., |_, (idle_at, _)| *idle_at == step) {
            // Fails if the worker has ended; then there is no operator to wake.
            let _ = wake.activate();
        }
    }

    /// Takes the first packet of `step` for `worker`, which has processed what it took before. If it gets none, it is
    /// woken with `wake` when one arrives.
    pub fn take(&self, step: Step, worker: usize, wake: &SyncActivator) -> Taken {
        if worker >= self.computing {
            return Taken::Nothing;
        }
        let (mut waiting, now) = (self.lock(), Instant::now());
        let Waiting { packets, idle, pace, .. } = &mut *waiting;
        pace.is_idle(worker, now);
        let mut answer = Taken::Nothing;
        let ready = packets.entry(step).or_default();
        let count = ready.len();
        if let Some(first) = ready.first_entry() {
            let work = Work::of(step, first.get());
            match pace.should_wait(worker, work, count, now) {
                Some(wait) => answer = Taken::Later(wait),
                None => {
                    pace.begins(worker, work, now);
                    answer = Taken::Packet(first.remove());
                }
            }
        }
        if ready.is_empty() {
            packets.remove(&step);
        }
        if !matches!(answer, Taken::Packet(_)) {
            idle.insert(worker, (step, wake.clone()));
        }
        answer
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The shared queues of a graph, by stage and port. Made once; every worker builds its graph with the same.
#[derive(Clone, Default)]
pub struct SharedQueues(BTreeMap<(usize, usize), Arc<SharedQueue>>);

impl SharedQueues {
    /// The queues that the ports of these stages need, from which the first `computing` workers take.
    pub fn new(stages: &[PlannedStage], computing: usize) -> Self {
        let mut queues = BTreeMap::new();
        for (at, stage) in stages.iter().enumerate() {
            for (port, takes) in stage.settings.takes().iter().enumerate() {
                if takes.route == Route::AnyWorker {
                    queues.insert((at, port), Arc::new(SharedQueue { computing, waiting: Mutex::default() }));
                }
            }
        }
        Self(queues)
    }

    /// Whether no port has one.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The queue of a port, if it has one.
    pub fn of(&self, stage: usize, port: usize) -> Option<Arc<SharedQueue>> {
        self.0.get(&(stage, port)).cloned()
    }
}

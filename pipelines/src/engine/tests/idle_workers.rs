//! A worker that is idle takes packets of the lanes of others.
use super::Setup;
use super::toys::batch;
use crate::plan::PlannedStage;
use anyhow::{Result, ensure};
use contract::*;
use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// How long a worker waits for the others before the test fails.
const PATIENCE: Duration = Duration::from_secs(10);

/// Emits the batches of all leaves at once, on the worker of the first lane.
struct Read {
    leaves: Lane,
}

impl Source for Read {
    fn next(&mut self, lane: Lane, _: Step, out: &mut dyn Emit) -> Result<Turn> {
        let leaves = if lane == 0 { 0..self.leaves } else { 0..0 };
        leaves.for_each(|leaf| out.give(batch(leaf, vec![leaf])));
        Ok(Turn::Done)
    }
}

/// The leaves of each step that have been processed.
#[derive(Default)]
struct Taken {
    by_step: Mutex<BTreeMap<Step, Vec<Lane>>>,
    changed: Condvar,
}

/// The worker that gets the first leaf of a step keeps it until all others have been processed.
struct Slow {
    leaves: usize,
    taken: Arc<Taken>,
}

impl Stage for Slow {
    fn packet(&mut self, at: At, packet: Packet, _: &mut dyn Emit) -> Result<Turn> {
        let Packet::Batch(batch) = packet else { anyhow::bail!("no batch") };
        let mut by_step = self.taken.by_step.lock().unwrap();
        if batch.leaf == 0 {
            let others = |steps: &mut BTreeMap<Step, Vec<_>>| steps.entry(at.step).or_default().len() < self.leaves - 1;
            let (after, waited) = self.taken.changed.wait_timeout_while(by_step, PATIENCE, others).unwrap();
            ensure!(!waited.timed_out(), "nobody took the other leaves of step {}", at.step);
            by_step = after;
        }
        by_step.entry(at.step).or_default().push(batch.leaf);
        self.taken.changed.notify_all();
        Ok(Turn::Done)
    }
}

fn stages(setup: &Setup, taken: &Arc<Taken>) -> Vec<PlannedStage> {
    let (taken, leaves) = (Arc::clone(taken), setup.lanes);
    vec![
        setup.stage("read", &[], &[], Box::new(move |_| Ok(Built::Source(Box::new(Read { leaves }))))),
        setup.stage(
            "slow",
            &[Port::stream(Kind::Batch).by(Route::AnyWorker)],
            &[&[(0, false)]],
            Box::new(move |_| Ok(Built::Stage(Box::new(Slow { leaves: leaves as usize, taken: Arc::clone(&taken) })))),
        ),
    ]
}

#[test]
fn others_do_the_work_of_a_worker_that_is_busy() {
    for (workers, lanes) in [(2, 8), (3, 3), (4, 16)] {
        let (setup, taken) = (Setup::new(workers, lanes, 20), Arc::new(Taken::default()));
        setup.run(stages(&setup, &taken)).unwrap();
        let by_step = taken.by_step.lock().unwrap();
        assert_eq!(by_step.len(), 21);
        for (step, taken) in &*by_step {
            let mut leaves = taken.clone();
            assert_eq!(leaves.pop(), Some(0), "step {step}");
            leaves.sort_unstable();
            assert_eq!(leaves, (1..lanes).collect::<Vec<_>>(), "step {step}: each leaf once");
        }
    }
}

/// Takes ten times as long on the first worker.
struct Uneven {
    worker: usize,
    taken: Arc<Mutex<Vec<(Step, Lane)>>>,
}

impl Stage for Uneven {
    fn packet(&mut self, at: At, packet: Packet, _: &mut dyn Emit) -> Result<Turn> {
        let Packet::Batch(batch) = packet else { anyhow::bail!("no batch") };
        std::thread::sleep(Duration::from_millis(if self.worker == 0 { 20 } else { 2 }));
        self.taken.lock().unwrap().push((at.step, batch.leaf));
        Ok(Turn::Done)
    }
}

/// The slow worker usually waits at the end of a step, since ten packets of fourteen are done when it asks for its second
/// one, and asks again if the other one does not take what is left. (Who takes what is tested where it is decided.)
#[test]
fn no_packet_is_lost_when_a_worker_leaves_the_last_ones_to_others() {
    const LEAVES: Lane = 14;
    let (setup, taken) = (Setup::new(2, LEAVES, 20), Arc::new(Mutex::new(Vec::new())));
    let shared = Arc::clone(&taken);
    let stages = vec![
        setup.stage("read", &[], &[], Box::new(move |_| Ok(Built::Source(Box::new(Read { leaves: LEAVES }))))),
        setup.stage(
            "uneven",
            &[Port::stream(Kind::Batch).by(Route::AnyWorker)],
            &[&[(0, false)]],
            Box::new(move |env| Ok(Built::Stage(Box::new(Uneven { worker: env.worker, taken: Arc::clone(&shared) })))),
        ),
    ];
    setup.run(stages).unwrap();
    let mut taken = taken.lock().unwrap().clone();
    taken.sort_unstable();
    let expected: Vec<_> = (0..=20).flat_map(|step| (0..LEAVES).map(move |leaf| (step, leaf))).collect();
    assert_eq!(taken, expected, "each leaf of each step once");
}

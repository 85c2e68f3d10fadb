//! Measured times add up, and waiting costs no CPU time.
use super::Setup;
use super::toys::{Outcome, batch, initial, training};
use super::watch::Call;
use contract::*;
use std::sync::Arc;
use std::time::Duration;

#[test]
fn every_stage_has_its_time_and_the_sum_is_no_more_than_all() {
    let setup = Setup::new(2, 4, 200);
    let timings = setup.run(training(&setup, &Arc::new(Outcome::default()), initial())).unwrap();
    assert_eq!(timings.len(), 2);
    for timing in timings {
        for id in ["read", "pack", "forward", "backward", "optimize", "checkpoint"] {
            assert!(timing.stages.iter().any(|s| s.id == id && s.calls > 0), "{id} in {timing:?}");
        }
        assert!(timing.stages.iter().any(|s| s.id == "read (thread)" && s.busy > Duration::ZERO));
        let on_worker = timing.stages.iter().filter(|s| !s.id.ends_with("(thread)"));
        let sum = on_worker.map(|s| s.busy).sum::<Duration>() + timing.parked;
        assert!(sum <= timing.wall.mul_f64(1.05), "{sum:?} of {:?}", timing.wall);
    }
}

/// Takes its time.
struct Slow;

impl Source for Slow {
    fn next(&mut self, lane: Lane, step: Step, out: &mut dyn Emit) -> Result<Turn> {
        std::thread::sleep(Duration::from_millis(200));
        if step < 3 {
            out.give(batch(lane, vec![1]));
        }
        Ok(Turn::Done)
    }
}

struct Pass;

impl Stage for Pass {
    fn packet(&mut self, _: At, packet: Packet, out: &mut dyn Emit) -> Result<Turn> {
        out.give(packet);
        Ok(Turn::Done)
    }
}

/// `stages` stages in a row behind `source`.
fn chain(setup: &Setup, stages: usize, source: fn() -> Box<dyn Source>) -> Vec<crate::plan::PlannedStage> {
    const IDS: [&str; 12] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"];
    let mut planned = vec![setup.stage(IDS[0], &[], &[], Box::new(move |_| Ok(Built::Source(source()))))];
    for (s, id) in IDS.iter().enumerate().take(stages).skip(1) {
        let pass = Box::new(|_: &Env| Ok(Built::Stage(Box::new(Pass))));
        planned.push(setup.stage(id, &[Port::stream(Kind::Batch)], &[&[(s - 1, false)]], pass));
    }
    planned
}

#[test]
fn nobody_spins_while_a_source_is_slow() {
    for workers in [1, 2] {
        let setup = Setup { prefetch: 1, ..Setup::new(workers, 1, 3) };
        for timing in setup.run(chain(&setup, 3, || Box::new(Slow))).unwrap() {
            assert!(timing.parked > timing.wall.mul_f64(0.9), "{timing:?}");
            for stage in &timing.stages {
                assert!(stage.calls < 200, "{stage:?} on {workers}");
            }
        }
    }
}

/// Gives four packets a turn, in twenty turns that take their time.
struct Large(usize);

impl Stage for Large {
    fn packet(&mut self, at: At, _: Packet, out: &mut dyn Emit) -> Result<Turn> {
        self.more(at.step, out)
    }
    fn more(&mut self, _: Step, out: &mut dyn Emit) -> Result<Turn> {
        std::thread::sleep(Duration::from_millis(8));
        (0..4).for_each(|_| out.give(batch(0, vec![1])));
        self.0 += 1;
        Ok(if self.0 < 20 { Turn::More } else { Turn::Done })
    }
}

/// Takes longer for a packet than the shortest time slice.
struct Small;

impl Stage for Small {
    fn packet(&mut self, _: At, _: Packet, _: &mut dyn Emit) -> Result<Turn> {
        std::thread::sleep(Duration::from_micros(500));
        Ok(Turn::Done)
    }
}

/// Gradients are summed while backward continues, and do not queue up until its end.
#[test]
fn who_is_behind_catches_up_between_long_turns() {
    let setup = Setup::new(1, 1, 0);
    let mut stages = chain(&setup, 1, || Box::new(Once));
    let takes = [Port::stream(Kind::Batch)];
    let large = Box::new(|_: &Env| Ok(Built::Stage(Box::new(Large(0)))));
    stages.push(setup.stage("large", &takes, &[&[(0, false)]], large));
    stages.push(setup.stage("small", &takes, &[&[(1, false)]], Box::new(|_| Ok(Built::Stage(Box::new(Small))))));
    setup.run(stages).unwrap();
    let (mut waiting, mut most) = (0_usize, 0);
    for (id, _, call) in setup.log.lock().unwrap().iter() {
        match (*id, call) {
            ("large", Call::Packet(..) | Call::More(_)) => waiting += 4,
            ("small", Call::Packet(..)) => waiting -= 1,
            _ => {}
        }
        most = most.max(waiting);
    }
    assert_eq!(waiting, 0);
    assert!(most <= 12, "{most} packets waited");
}

/// One packet in all.
struct Once;

impl Source for Once {
    fn next(&mut self, lane: Lane, step: Step, out: &mut dyn Emit) -> Result<Turn> {
        if step == 0 {
            out.give(batch(lane, vec![1]));
        }
        Ok(Turn::Done)
    }
}

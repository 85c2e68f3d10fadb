//! The stopwatch adds up, and waiting costs nothing.
use super::Setup;
use super::toys::{Outcome, batch, initial, training};
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

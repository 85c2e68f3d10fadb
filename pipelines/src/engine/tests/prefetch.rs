//! How far sources run ahead, and how demand limits them.
use super::Setup;
use super::toys::{Outcome, initial, training};
use super::watch::Call;
use std::sync::Arc;

#[test]
fn the_source_is_ahead_by_prefetch_steps_and_no_more() {
    for (workers, prefetch) in [(1, 1), (1, 2), (2, 1), (2, 2), (2, 4), (3, 3)] {
        let setup = Setup { prefetch, ..Setup::new(workers, 4, 30) };
        setup.run(training(&setup, &Arc::new(Outcome::default()), initial())).unwrap();
        let mut done = vec![0; workers];
        for (stage, worker, call) in setup.log.lock().unwrap().iter() {
            match call {
                Call::StepDone(step) if *stage == "optimize" => done[*worker] = step + 1,
                Call::Next(_, step) => {
                    let slowest = done.iter().min().unwrap();
                    assert!(*step < slowest + prefetch, "step {step} asked for with {slowest} steps done, {prefetch}");
                }
                _ => {}
            }
        }
    }
}

#[test]
fn the_source_is_asked_as_often_as_a_plain_loop_asks() {
    let counts = |workers| {
        let setup = Setup { prefetch: 3, ..Setup::new(workers, 4, 20) };
        setup.run(training(&setup, &Arc::new(Outcome::default()), initial())).unwrap();
        let mut asked: Vec<_> =
            (0..workers).flat_map(|w| setup.calls("read", w)).filter(|c| matches!(c, Call::Next(..))).collect();
        asked.sort_by_key(|call| format!("{call:?}"));
        asked
    };
    let once = counts(1);
    for _ in 0..10 {
        assert_eq!(counts(2), once);
        assert_eq!(counts(4), once);
    }
}

//! A run that is asked to stop ends after the same step on every worker, with a checkpoint. Resuming it gives the same
//! result.
use super::Setup;
use super::toys::{Outcome, initial, plain, training};
use super::watch::Call;
use crate::engine::Stop;
use std::sync::Arc;
use std::time::Duration;

/// Runs until asked to stop after `delay`; returns the last step, if it was stopped.
fn stopped(setup: &Setup, stop: &Arc<Stop>, outcome: &Arc<Outcome>, delay: Duration) -> Option<u64> {
    let asks = Arc::clone(stop);
    let thread = std::thread::spawn(move || {
        std::thread::sleep(delay);
        asks.ask();
    });
    setup.run(training(setup, outcome, initial())).unwrap();
    thread.join().unwrap();
    stop.last()
}

#[test]
fn all_workers_stop_after_the_same_step_and_go_on_to_the_same_end() {
    let (lanes, steps) = (6, 60);
    let expected = plain(lanes, steps);
    let mut within = 0;
    for round in 0..24u64 {
        for (workers, after, prefetch) in [(1, 2, 2), (2, 1, 1), (3, 2, 4), (2, 3, 2)] {
            let (stop, outcome) = (Arc::new(Stop::default()), Arc::new(Outcome::default()));
            let setup = Setup { prefetch, stop: Some(Arc::clone(&stop)), ..Setup::new(workers, lanes, steps) };
            let Some(last) = stopped(&setup, &stop, &outcome, Duration::from_micros(round * 300)) else { continue };
            within += 1;
            for worker in 0..workers {
                for stage in ["optimize", "checkpoint"] {
                    let calls = setup.calls(stage, worker);
                    let done = calls.iter().filter_map(|c| if let Call::StepDone(s) = c { Some(*s) } else { None });
                    assert_eq!(done.max(), Some(last), "{stage} on {worker}");
                }
                for stage in ["pack", "forward", "backward", "optimize", "checkpoint"] {
                    assert_eq!(setup.calls(stage, worker).last(), Some(&Call::Finish), "{stage} on {worker}");
                }
                let forward = setup.calls("forward", worker);
                assert!(
                    !forward.iter().any(|c| matches!(c, Call::Packet(s, 1) if *s > last)),
                    "nothing is computed after"
                );
            }
            let mut checkpoints = std::mem::take(&mut *outcome.checkpoints.lock().unwrap());
            assert_eq!(checkpoints.keys().copied().collect::<Vec<_>>(), [last]);
            let Some((_, (saved, parameters))) = checkpoints.pop_first() else { unreachable!() };
            assert_eq!(saved.len(), 2 * lanes as usize, "of read and pack, every lane");
            let outcome = Arc::new(Outcome::default());
            let setup = Setup { first: last + 1, saved, ..Setup::new(after, lanes, steps) };
            setup.run(training(&setup, &outcome, parameters.into_values().collect())).unwrap();
            let end: Vec<_> = outcome.parameters.lock().unwrap().values().cloned().collect();
            assert_eq!(end, expected, "{workers} workers until {last}, then {after}");
        }
    }
    assert!(within > 10, "only {within} runs were stopped within their course");
}

#[test]
fn one_that_is_asked_at_once_does_one_step() {
    let (stop, outcome) = (Arc::new(Stop::default()), Arc::new(Outcome::default()));
    stop.ask();
    let setup = Setup { stop: Some(Arc::clone(&stop)), ..Setup::new(2, 3, 9) };
    setup.run(training(&setup, &outcome, initial())).unwrap();
    assert_eq!(stop.last(), Some(0));
    assert_eq!(outcome.checkpoints.lock().unwrap().len(), 1);
}

#[test]
fn one_that_is_not_asked_ends_as_ever() {
    let (stop, outcome) = (Arc::new(Stop::default()), Arc::new(Outcome::default()));
    let setup = Setup { stop: Some(Arc::clone(&stop)), checkpoint: Some(4), ..Setup::new(3, 4, 9) };
    setup.run(training(&setup, &outcome, initial())).unwrap();
    assert_eq!(stop.last(), None);
    assert_eq!(outcome.checkpoints.lock().unwrap().keys().copied().collect::<Vec<_>>(), [3, 7, 8]);
    assert_eq!(outcome.parameters.lock().unwrap().values().cloned().collect::<Vec<_>>(), plain(4, 9));
}

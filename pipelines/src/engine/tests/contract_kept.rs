//! The engine's guarantees to stages, checked in the log of their calls.
use super::Setup;
use super::toys::{Outcome, initial, training};
use super::watch::Call;
use std::sync::Arc;

const STAGES: [&str; 5] = ["pack", "forward", "backward", "optimize", "checkpoint"];

#[test]
fn steps_are_whole_and_in_order_on_every_worker() {
    for (workers, lanes, first) in [(1, 3, 0), (2, 5, 0), (3, 2, 0), (4, 1, 4)] {
        let setup = Setup { first, ..Setup::new(workers, lanes, 9) };
        setup.run(training(&setup, &Arc::new(Outcome::default()), initial())).unwrap();
        for (worker, stage) in (0..workers).flat_map(|w| STAGES.map(|s| (w, s))) {
            let calls = setup.calls(stage, worker);
            assert_eq!(calls[..2], [Call::Build, Call::Start]);
            assert_eq!(calls.iter().filter(|c| **c == Call::Finish).count(), 1);
            assert_eq!(calls.last(), Some(&Call::Finish));
            let (mut step, mut streams) = (first, false);
            for call in &calls {
                match call {
                    Call::Packet(at, port) => {
                        assert_eq!(*at, step, "{stage} on {worker}");
                        let state = stage == "forward" && *port == 0;
                        assert!(!(state && streams), "state after stream in step {step}");
                        streams |= !state;
                    }
                    Call::More(at) => assert_eq!(*at, step),
                    Call::StepDone(at) => {
                        assert_eq!(*at, step, "{stage} on {worker}");
                        (step, streams) = (step + 1, false);
                    }
                    _ => {}
                }
            }
            assert_eq!(step, 10, "{stage} on {worker} missed a step");
        }
    }
}

#[test]
fn every_worker_gets_all_parameters_of_every_step() {
    let setup = Setup::new(3, 2, 5);
    setup.run(training(&setup, &Arc::new(Outcome::default()), initial())).unwrap();
    for worker in 0..3 {
        let calls = setup.calls("forward", worker);
        for step in 0..=5 {
            assert_eq!(calls.iter().filter(|c| **c == Call::Packet(step, 0)).count(), super::toys::TENSORS);
        }
    }
}

#[test]
fn others_have_their_turn_between_two_turns() {
    let setup = Setup::new(1, 2, 3);
    setup.run(training(&setup, &Arc::new(Outcome::default()), initial())).unwrap();
    let log = setup.log.lock().unwrap();
    let calls: Vec<_> = log.iter().filter(|(id, ..)| ["backward", "optimize"].contains(id)).collect();
    let mores = |pair: &[&(&str, usize, Call)]| pair.iter().all(|(_, _, call)| matches!(call, Call::More(_)));
    assert!(!calls.windows(2).any(mores), "the gradient of one layer is summed before the next layer is begun");
}

#[test]
fn gradients_of_a_micro_batch_are_summed_before_those_of_the_next_are_made() {
    let setup = Setup::new(1, 3, 4);
    setup.run(training(&setup, &Arc::new(Outcome::default()), initial())).unwrap();
    let (mut given, mut summed) = (0, 0);
    for (id, _, call) in setup.log.lock().unwrap().iter() {
        match (*id, call) {
            ("backward", Call::More(_)) => given += 1,
            ("optimize", Call::Packet(..)) => summed += 1,
            ("backward", Call::Packet(..)) => assert_eq!(given, summed),
            _ => {}
        }
    }
    assert!(given > 0);
}

//! A failure anywhere ends the run everywhere, and says where it was.
use super::Setup;
use super::toys::{Outcome, initial, training};
use super::watch::{Asked, Call, Fault};
use std::sync::Arc;
use std::time::{Duration, Instant};

fn fails(workers: usize, fault: Fault) -> anyhow::Error {
    let setup = Setup { fault: Some(fault.clone()), checkpoint: Some(2), ..Setup::new(workers, 6, 1_000_000) };
    let began = Instant::now();
    let error = setup.run(training(&setup, &Arc::new(Outcome::default()), initial())).expect_err("it fails");
    assert!(began.elapsed() < Duration::from_secs(5), "{fault:?} took {:?}", began.elapsed());
    error
}

#[test]
fn errors_and_panics_on_any_worker_end_all_and_name_the_stage() {
    let places = [
        ("backward", Call::Build, None),
        ("read", Call::Build, None),
        ("optimize", Call::Start, None),
        ("pack", Call::Packet(3, 0), Some(3)),
        ("forward", Call::Packet(3, 0), Some(3)),
        ("backward", Call::More(2), Some(2)),
        ("optimize", Call::StepDone(4), Some(4)),
        ("checkpoint", Call::StepDone(0), Some(0)),
        ("pack", Call::Save(0), Some(0)),
        ("read", Call::Save(0), Some(0)),
        ("read", Call::Next(0, 3), Some(3)),
    ];
    for (stage, call, step) in places {
        for (workers, worker, panics) in [(1, 0, false), (2, 1, false), (3, 2, true), (2, 0, true)] {
            let worker = match call {
                // Lane 0 is worker 0's.
                Call::Save(_) | Call::Next(..) => Some(0),
                // Any worker may take all leaves of a step.
                Call::More(_) => None,
                _ => Some(worker),
            };
            let error = fails(workers, Fault { stage, worker, call: call.clone(), panics });
            let said = format!("{error:#}");
            assert!(said.contains(&format!("stage `{stage}`")), "{said}");
            assert!(step.is_none_or(|step| said.contains(&format!("step {step}"))), "{said}");
            if panics {
                assert!(said.contains("asked to panic") && said.contains("please report"), "{said}");
            } else {
                assert!(error.downcast_ref::<Asked>().is_some(), "{said}");
            }
        }
    }
}

#[test]
fn a_source_thread_of_another_worker_may_fail_too() {
    for panics in [false, true] {
        let error = fails(2, Fault { stage: "read", worker: Some(1), call: Call::Next(5, 7), panics });
        assert!(format!("{error:#}").starts_with("stage `read`, step 7"), "{error:#}");
    }
}

#[test]
fn a_failure_at_the_very_end_counts() {
    let fault = Fault { stage: "optimize", worker: Some(1), call: Call::Finish, panics: false };
    let setup = Setup { fault: Some(fault), ..Setup::new(2, 3, 2) };
    let error = setup.run(training(&setup, &Arc::new(Outcome::default()), initial())).expect_err("it fails");
    assert!(format!("{error:#}").contains("stage `optimize`"));
}

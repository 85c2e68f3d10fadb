//! A run that resumes from a checkpoint gives the same result as an uninterrupted one.
use super::Setup;
use super::toys::{Outcome, initial, plain, training};
use std::sync::Arc;

#[test]
fn saved_state_arrives_with_its_step_and_leads_to_the_same_end() {
    let (lanes, steps) = (6, 12);
    let expected = plain(lanes, steps);
    for (before, after) in [(1, 1), (1, 3), (2, 1), (3, 2), (2, 4)] {
        let outcome = Arc::new(Outcome::default());
        let setup = Setup { checkpoint: Some(5), prefetch: 4, ..Setup::new(before, lanes, steps) };
        setup.run(training(&setup, &outcome, initial())).unwrap();
        let checkpoints = std::mem::take(&mut *outcome.checkpoints.lock().unwrap());
        assert_eq!(checkpoints.keys().copied().collect::<Vec<_>>(), [4, 9, 11]);
        for (step, (saved, parameters)) in checkpoints {
            for stage in ["read", "pack"] {
                let mut of: Vec<_> = saved.iter().filter(|s| s.stage == stage).map(|s| s.lane).collect();
                of.sort();
                assert_eq!(of, (0..lanes).collect::<Vec<_>>(), "{stage} at {step}");
            }
            let parameters: Vec<_> = parameters.into_values().collect();
            assert_eq!(parameters, plain(lanes, step + 1), "parameters at {step}");
            let outcome = Arc::new(Outcome::default());
            let setup = Setup { first: step + 1, saved, ..Setup::new(after, lanes, steps) };
            setup.run(training(&setup, &outcome, parameters)).unwrap();
            let end: Vec<_> = outcome.parameters.lock().unwrap().values().cloned().collect();
            assert_eq!(end, expected, "{before} workers, then {after} from step {}", step + 1);
        }
    }
}

//! A training loop gives what a plain loop gives, however it is spread.
use super::Setup;
use super::toys::{Outcome, Values, initial, plain, training};
use proptest::prelude::*;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

fn trained(setup: &Setup) -> Values {
    let outcome = Arc::new(Outcome::default());
    setup.run(training(setup, &outcome, initial())).unwrap();
    assert!(outcome.most_alive.load(SeqCst) <= 1, "more than one micro-batch at a time");
    let parameters = outcome.parameters.lock().unwrap();
    parameters.values().cloned().collect()
}

#[test]
fn the_result_is_that_of_a_plain_loop() {
    for lanes in [1, 2, 3, 4, 6] {
        let expected = plain(lanes, 7);
        for workers in [1, 2, 3] {
            assert_eq!(trained(&Setup::new(workers, lanes, 7)), expected, "{workers} workers, {lanes} lanes");
        }
    }
}

#[test]
fn a_run_without_updates_ends() {
    assert_eq!(trained(&Setup::new(2, 3, 0)), initial());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_small_run_is_a_plain_loop(workers in 1usize..5, lanes in 1u32..8, steps in 0u64..9, prefetch in 0u64..5) {
        let setup = Setup { prefetch, checkpoint: Some(1 + prefetch), ..Setup::new(workers, lanes, steps) };
        prop_assert_eq!(trained(&setup), plain(lanes, steps));
    }
}

//! Shares are exact: in every window, over changes of weights, over lanes, and when sources are used up.
use super::*;
use crate::settings::CorpusPart;
use proptest::prelude::*;

fn mixture(weights: Vec<(Step, Vec<f64>)>, between: Between) -> Mixture {
    let sources: Vec<String> = (0..weights[0].1.len()).map(|source| format!("s{source}")).collect();
    let max_epochs = vec![None; sources.len()];
    Mixture { sources, weights, between, max_epochs }
}

fn shape(lanes: u32, leaves: u32, sequences: usize) -> BatchShape {
    BatchShape { micro_batches: lanes * leaves, lanes, sequences, length: 10 }
}

fn allocated(mixture: &Mixture, shape: BatchShape, sizes: &SourceSizes, steps: usize) -> Vec<StepAllocation> {
    Allocation::new(Arc::new(mixture.clone()), shape, sizes).take(steps).collect()
}

/// How many sequences more than its share each source has got before each step.
fn surplus(mixture: &Mixture, shape: BatchShape, steps: &[StepAllocation]) -> Vec<Vec<f64>> {
    let batch = shape.micro_batches as usize * shape.sequences;
    let mut sums = vec![vec![0.0; mixture.sources.len()]];
    for (step, allocation) in steps.iter().enumerate() {
        let weights = mixture.weights_at(step as Step);
        let sum: f64 = weights.iter().sum();
        let (before, got) = (&sums[step], &allocation.sequences);
        let after = (0..got.len()).map(|s| before[s] + got[s] as f64 - batch as f64 * weights[s] / sum);
        sums.push(after.collect());
    }
    sums
}

/// The largest error of a source in any window that ends after step `from` and not later than step `to`.
fn worst(sums: &[Vec<f64>], from: usize, to: usize) -> f64 {
    let windows = (from + WINDOW..=to).map(|end| (&sums[end - WINDOW], &sums[end]));
    windows.flat_map(|(before, after)| before.iter().zip(after).map(|(b, a)| (a - b).abs())).fold(0.0, f64::max)
}

/// Weights of at least one source above zero.
fn weights(sources: usize) -> impl Strategy<Value = Vec<f64>> {
    let weight = prop_oneof![1 => Just(0.0), 8 => 0.001f64..1.0, 2 => (1u32..10).prop_map(f64::from)];
    prop::collection::vec(weight, sources).prop_filter("a share", |all| all.iter().any(|weight| *weight > 0.0))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn constant_shares_hold_to_one_sequence_in_every_window(
        weights in (1usize..9).prop_flat_map(weights), lanes in 1u32..5, leaves in 1u32..5, sequences in 1usize..9,
    ) {
        let (mixture, shape) = (mixture(vec![(0, weights)], Between::Constant), shape(lanes, leaves, sequences));
        let steps = allocated(&mixture, shape, &SourceSizes::default(), 700);
        prop_assert_eq!(steps.len(), 700);
        let sums = surplus(&mixture, shape, &steps);
        prop_assert!(worst(&sums, 0, 700) <= 1.0 + 1e-6, "{}", worst(&sums, 0, 700));
        // Nor does the error grow with the length of the run.
        prop_assert!(sums.iter().flatten().all(|error| error.abs() < 2.0));
    }

    #[test]
    fn a_change_takes_effect_at_its_step(
        (before, after) in (1usize..7).prop_flat_map(|sources| (weights(sources), weights(sources))),
        lanes in 1u32..4, sequences in 1usize..9, change in 1usize..200, linear: bool,
    ) {
        let between = if linear { Between::Linear } else { Between::Constant };
        let sources = before.len();
        let mixture = mixture(vec![(0, before), (change as Step, after.clone())], between);
        let shape = shape(lanes, 2, sequences);
        let steps = allocated(&mixture, shape, &SourceSizes::default(), 500);
        for (step, allocation) in steps.iter().enumerate() {
            let weights = mixture.weights_at(step as Step);
            let sum: f64 = weights.iter().sum();
            for (source, got) in allocation.sequences.iter().enumerate() {
                let wanted = (2 * lanes as usize * sequences) as f64 * weights[source] / sum;
                prop_assert!((*got as f64 - wanted).abs() < 1.0, "step {step}: {got} instead of {wanted}");
            }
        }
        let sums = surplus(&mixture, shape, &steps);
        let most = if sources <= 2 { 1.0 } else { 2.0 };
        prop_assert!(worst(&sums, 0, 500) <= most + 1e-6, "{} of {sources} sources", worst(&sums, 0, 500));
        if change + 2 * WINDOW < 500 {
            prop_assert!(worst(&sums, change + WINDOW, 500) <= 1.0 + 1e-6);
        }
    }

    #[test]
    fn lanes_get_the_same_of_every_source(
        weights in (1usize..6).prop_flat_map(weights), lanes in 1u32..6, leaves in 1u32..4, sequences in 1usize..5,
    ) {
        let (mixture, shape) = (mixture(vec![(0, weights)], Between::Constant), shape(lanes, leaves, sequences));
        let mut sums = vec![vec![0i64; mixture.sources.len()]; lanes as usize];
        for StepAllocation { sequences, by_lane } in allocated(&mixture, shape, &SourceSizes::default(), 400) {
            for (lane, of_lane) in by_lane.iter().enumerate() {
                prop_assert_eq!(of_lane.iter().sum::<usize>(), shape.sequences_of_lane());
                of_lane.iter().zip(&mut sums[lane]).for_each(|(more, sum)| *sum += *more as i64);
            }
            for (source, all) in sequences.iter().enumerate() {
                prop_assert_eq!(by_lane.iter().map(|of_lane| of_lane[source] as u64).sum::<u64>(), *all);
            }
            for source in 0..mixture.sources.len() {
                let of_source = || sums.iter().map(|of_lane| of_lane[source]);
                let apart = of_source().max().unwrap() - of_source().min().unwrap();
                prop_assert!(apart <= 2 * mixture.sources.len() as i64, "{apart} sequences apart");
            }
        }
    }

    #[test]
    fn a_source_that_is_used_up_leaves_its_share_to_the_others(
        weights in prop::collection::vec(0.05f64..1.0, 2..5), epochs in 0.5f64..5.0, tokens in 20u64..4000,
        sequences in 1usize..6,
    ) {
        let mut mixture = mixture(vec![(0, weights.clone())], Between::Constant);
        mixture.max_epochs[0] = Some(epochs);
        let size = Corpus { train: CorpusPart { rows: 1, tokens, bytes: 1 }, ..Corpus::default() };
        let sizes = SourceSizes(vec![("s0".into(), size)]);
        let shape = shape(2, 1, sequences);
        let limit = (epochs * tokens as f64) as u64 / 10;
        let mut allocation = Allocation::new(Arc::new(mixture.clone()), shape, &sizes);
        let mut after = vec![0u64; weights.len()];
        for step in 0..2000 {
            let was_used_up = allocation.is_used_up(0);
            let got = allocation.next().unwrap().sequences;
            prop_assert_eq!(got.iter().sum::<u64>(), 2 * sequences as u64, "step {}", step);
            if was_used_up {
                prop_assert_eq!(got[0], 0);
                after.iter_mut().zip(&got).for_each(|(sum, more)| *sum += more);
            }
        }
        prop_assert!(allocation.used()[0] <= limit);
        if allocation.is_used_up(0) {
            prop_assert_eq!(allocation.used()[0], limit);
            let (all, others) = (after.iter().sum::<u64>() as f64, weights[1..].iter().sum::<f64>());
            for source in 1..weights.len() {
                prop_assert!((after[source] as f64 - all * weights[source] / others).abs() < 3.0);
            }
        }
    }
}

#[test]
fn it_ends_when_all_sources_are_used_up() {
    let mut mixture = mixture(vec![(0, vec![1.0, 1.0, 0.0])], Between::Constant);
    mixture.max_epochs = vec![Some(1.0), Some(2.0), None];
    let size = Corpus { train: CorpusPart { rows: 1, tokens: 100, bytes: 1 }, ..Corpus::default() };
    let sizes = SourceSizes(vec![("s0".into(), size), ("s1".into(), size)]);
    let steps = allocated(&mixture, shape(1, 1, 4), &sizes, 100);
    // Thirty sequences: the third source has no share.
    let sequences: Vec<&[u64]> = steps.iter().map(|step| &step.sequences[..]).collect();
    assert_eq!(sequences[..6], [&[2, 2, 0][..], &[2, 2, 0], &[2, 2, 0], &[2, 2, 0], &[2, 2, 0], &[0, 4, 0]]);
    assert_eq!(steps.len(), 7);
    let mut allocation = Allocation::new(Arc::new(mixture), shape(1, 1, 4), &sizes);
    assert!(allocation.at(6).is_ok());
    assert_eq!(allocation.at(7).unwrap_err().to_string(), "all sources of the mixture are used up at step 7");
}

#[test]
fn weights_between_two_steps() {
    let schedule = vec![(0, vec![1.0, 0.0]), (10, vec![0.0, 2.0]), (20, vec![3.0, 3.0])];
    let constant = mixture(schedule.clone(), Between::Constant);
    let at = |step| constant.weights_at(step);
    assert_eq!(
        [at(0), at(9), at(10), at(19), at(20), at(99)].map(|w| (w[0], w[1])),
        [(1.0, 0.0), (1.0, 0.0), (0.0, 2.0), (0.0, 2.0), (3.0, 3.0), (3.0, 3.0)]
    );
    let linear = mixture(schedule, Between::Linear);
    let at = |step| linear.weights_at(step);
    assert_eq!(
        [at(0), at(5), at(10), at(15), at(20), at(99)].map(|w| (w[0], w[1])),
        [(1.0, 0.0), (0.5, 1.0), (0.0, 2.0), (1.5, 2.5), (3.0, 3.0), (3.0, 3.0)]
    );
}

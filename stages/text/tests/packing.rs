//! The packer against a naive concatenation of training documents, and validation documents against their definition.
mod common;
use arrow::array::{ListArray, ListBuilder, UInt32Builder};
use common::env;
use contract::Tokens;
use contract::testing::{Collect, at};
use contract::{
    Batch, BatchShape, Built, IGNORED, Packet, Purpose, Resources, Schedule, Settings, Stage, Step, Turn,
    ValidationStride,
};
use millrace_text::{Concat, PackKeys, Vocabulary};
use proptest::prelude::*;
use std::sync::Arc;

const END: u32 = 99;

fn lists(documents: &[Vec<u32>]) -> ListArray {
    let mut lists = ListBuilder::new(UInt32Builder::new());
    for document in documents {
        lists.values().append_slice(document);
        lists.append(true);
    }
    lists.finish()
}

fn packer(sequences: usize, length: usize, steps: u64, evaluate: Option<u64>, mask: bool) -> Box<dyn Stage> {
    packer_with(Resources::default(), sequences, length, steps, evaluate, mask)
}

fn packer_with(
    mut resources: Resources,
    sequences: usize,
    length: usize,
    steps: u64,
    evaluate: Option<u64>,
    mask: bool,
) -> Box<dyn Stage> {
    resources.insert(Arc::new(Vocabulary { hash: String::new(), size: 100, end_of_text: END }));
    let shape = BatchShape { micro_batches: 1, lanes: 1, sequences, length };
    let env = env(0, 1, shape, Schedule { first: 0, steps, evaluate, checkpoint: None }, &resources);
    let settings = Concat::from(PackKeys { document_mask: mask, shuffle_tokens: 0, ..PackKeys::default() });
    match settings.build(&env).unwrap() {
        Built::Stage(stage) => stage,
        Built::Source(_) => unreachable!(),
    }
}

fn give(stage: &mut dyn Stage, step: Step, purpose: Purpose, last: bool, documents: &[Vec<u32>]) -> (Turn, Vec<Batch>) {
    let mut out = Collect::default();
    let tokens = Tokens { lane: 0, source: 0, purpose, last, documents: lists(documents) };
    let mut turn = stage.packet(at(step), Packet::Tokens(tokens), &mut out).unwrap();
    while turn == Turn::More {
        turn = stage.more(step, &mut out).unwrap();
    }
    let batch = |p| if let Packet::Batch(b) = p { b } else { unreachable!() };
    (turn, out.0.into_iter().map(batch).collect())
}

fn check_batch(batch: &Batch, stream: &[u32], at: usize, mask: bool) {
    let n = batch.sequences * batch.length;
    assert_eq!(batch.document_starts.len(), if mask { n } else { 0 });
    assert_eq!(batch.tokens[..], stream[at..at + n]);
    for i in 0..n {
        // What the model sees of a document that ended before the sequence is only its end.
        let other = mask && i % batch.length > 0 && stream[at + i] == END;
        let expected = if other { IGNORED } else { stream[at + i + 1] };
        assert_eq!(batch.targets[i], expected);
        if !mask {
            continue;
        }
        let sequence = at + i - i % batch.length;
        let start = (sequence + 2..=at + i).rev().find(|p| stream[p - 1] == END).map_or(0, |p| p - sequence);
        assert_eq!(batch.document_starts[i] as usize, start);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn training_is_a_naive_concatenation(
        documents in prop::collection::vec(prop::collection::vec(0u32..99, 0..30), 1..40),
        sequences in 1usize..4, length in 1usize..9, some in 1usize..4, mask: bool, stop in 0u64..6,
    ) {
        let stream: Vec<u32> = documents.iter().flat_map(|d| d.iter().copied().chain([END])).collect();
        let mut stage = packer(sequences, length, 1000, None, mask);
        let mut chunks = documents.chunks(some).map(<[_]>::to_vec);
        for step in 0u64.. {
            if step == stop {
                let state = stage.save(0).unwrap().value().unwrap();
                stage = packer(sequences, length, 1000, None, mask);
                stage.load(0, state).unwrap();
            }
            let at = step as usize * sequences * length;
            // The first packet of a step may be empty.
            let (mut turn, mut batches) = give(&mut *stage, step, Purpose::Train, false, &[]);
            while turn == Turn::Starved {
                prop_assert!(batches.is_empty());
                let Some(chunk) = chunks.next() else {
                    prop_assert!(at + sequences * length + 1 > stream.len());
                    return Ok(());
                };
                (turn, batches) = give(&mut *stage, step, Purpose::Train, false, &chunk);
            }
            prop_assert_eq!(batches.len(), 1);
            check_batch(&batches[0], &stream, at, mask);
        }
    }

    #[test]
    fn every_validation_token_is_a_target_once(
        documents in prop::collection::vec(prop::collection::vec(0u32..99, 0..30), 0..40),
        sequences in 1usize..4, length in 1usize..9, stride in 1usize..9, mask: bool,
    ) {
        let stride = stride.min(length);
        let mut resources = Resources::default();
        resources.insert(Arc::new(ValidationStride(stride)));
        let mut stage = packer_with(resources, sequences, length, 1, Some(1), mask);
        let mut batches = Vec::new();
        for chunk in documents.chunks(3) {
            let (turn, some) = give(&mut *stage, 1, Purpose::Validate, false, chunk);
            prop_assert_eq!(turn, Turn::Starved);
            batches.extend(some);
        }
        let (turn, some) = give(&mut *stage, 1, Purpose::Validate, true, &[]);
        prop_assert_eq!(turn, Turn::Done);
        batches.extend(some);
        let mut scored = Vec::new();
        for (part, batch) in batches.iter().enumerate() {
            prop_assert_eq!(batch.part as usize, part);
            prop_assert!(batch.sequences == sequences || part + 1 == batches.len() && batch.sequences < sequences);
            let rows = batch.tokens.chunks(batch.length).zip(batch.targets.chunks(batch.length));
            // A batch is not longer than its longest window.
            prop_assert!(rows.clone().any(|(_, targets)| targets[batch.length - 1] != IGNORED));
            for (tokens, targets) in rows {
                let given = (0..batch.length).filter(|position| targets[*position] != IGNORED);
                scored.extend(given.map(|position| (tokens[..=position].to_vec(), targets[position])));
            }
        }
        // Of each token: what the model sees before it. It begins with the end-of-text token, or at a multiple of the
        // stride, as far back as the token still fits.
        let mut expected = Vec::new();
        for document in &documents {
            let stream: Vec<u32> = [END].into_iter().chain(document.iter().copied()).chain([END]).collect();
            for (at, target) in stream.iter().enumerate().skip(1) {
                let from = (0..).step_by(stride).find(|from| at - from <= length).unwrap();
                expected.push((stream[from..at].to_vec(), *target));
            }
        }
        scored.sort();
        expected.sort();
        prop_assert_eq!(scored, expected);
    }
}

#[test]
fn a_step_that_validates_and_trains_is_starved_until_it_has_both() {
    let mut stage = packer(1, 4, 10, Some(1), false);
    let document = |n| vec![vec![1; n]];
    assert_eq!(give(&mut *stage, 0, Purpose::Train, false, &document(20)).0, Turn::Done);
    let (turn, batches) = give(&mut *stage, 1, Purpose::Validate, false, &document(27));
    assert_eq!((turn, batches.len()), (Turn::Starved, 0), "eight windows are sorted at once");
    // What is left from step 0 is enough to train.
    let (turn, batches) = give(&mut *stage, 1, Purpose::Validate, true, &document(2));
    assert_eq!((turn, batches.len()), (Turn::Done, 9));
    assert_eq!(batches.iter().map(|b| b.length).collect::<Vec<_>>(), [4, 4, 4, 4, 4, 4, 4, 3, 4]);
    assert!(batches[..8].iter().all(|b| b.purpose == Purpose::Validate) && batches[8].purpose == Purpose::Train);
    for step in 2..5 {
        let (turn, batches) = give(&mut *stage, step, Purpose::Validate, true, &[]);
        assert_eq!((turn, batches.len()), (Turn::Done, 1));
    }
    assert_eq!(give(&mut *stage, 5, Purpose::Validate, true, &[]).0, Turn::Starved);
    assert_eq!(give(&mut *stage, 5, Purpose::Train, false, &document(1)).0, Turn::Starved);
    assert_eq!(give(&mut *stage, 5, Purpose::Train, false, &document(8)).0, Turn::Done);
}

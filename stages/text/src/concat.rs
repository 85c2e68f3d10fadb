//! Stage `concat`: documents of a lane, end-of-text tokens between them, cut into micro-batches.
use crate::tokenizer::Vocabulary;
use anyhow::{Context, Result, bail};
use arrow::array::AsArray;
use arrow::buffer::ScalarBuffer;
use arrow::datatypes::UInt32Type;
use contract::{
    At, Batch, BatchShape, Built, Calendar, Emit, Env, IGNORED, Kind, Lane, Packet, Port, Problem, Purpose, Settings,
    Stage, StageSettings, Step, Turn,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::any::Any;
use std::collections::BTreeMap;

/// Settings of stage `concat`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Concat {
    /// Tokens in a sequence.
    pub sequence_length: usize,
    /// Sequences in a micro-batch.
    pub micro_batch_size: usize,
    /// Micro-batches in a global batch.
    pub micro_batches: u32,
    /// Do not learn the first token of a document from the one before.
    pub mask_across_documents: bool,
}

impl Default for Concat {
    fn default() -> Self {
        Self { sequence_length: 128, micro_batch_size: 16, micro_batches: 2, mask_across_documents: false }
    }
}

impl StageSettings for Concat {
    const SUMMARY: &'static str = "concatenates documents and cuts them into sequences of one length";
    const KEYS: &'static [(&'static str, &'static str)] = &[
        ("sequence_length", "tokens in a sequence; 1 to 1048576"),
        ("micro_batch_size", "sequences in a micro-batch, the unit of work; 1 to 65536"),
        ("micro_batches", "micro-batches in a step; 1 to 65536; the results depend on it, never on the workers"),
        ("mask_across_documents", "true: the first token of a document is not predicted from the one before"),
    ];
    const EXAMPLE: &'static str = "sequence_length = 128\nmicro_batch_size = 16\nmicro_batches = 2\n";
}

impl Settings for Concat {
    fn takes(&self) -> Vec<Port> {
        vec![Port::stream(Kind::Tokens)]
    }

    fn gives(&self) -> Vec<Kind> {
        vec![Kind::Batch]
    }

    fn check(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut range = |key, value: usize, most: usize| {
            if !(1..=most).contains(&value) {
                problems.push(Problem::at(key, format!("{value} is not from 1 to {most}")));
            }
        };
        range("sequence_length", self.sequence_length, 1 << 20);
        range("micro_batch_size", self.micro_batch_size, 1 << 16);
        range("micro_batches", self.micro_batches as usize, 1 << 16);
        problems
    }

    fn build(&self, env: &Env) -> Result<Built> {
        let vocabulary = env.resource::<Vocabulary>("what the tokens mean (Vocabulary)")?;
        Ok(Built::Stage(Box::new(Packer {
            shape: env.shape,
            calendar: env.calendar,
            end_of_text: vocabulary.end_of_text,
            mask: self.mask_across_documents,
            lanes: BTreeMap::new(),
        })))
    }

    fn pulls(&self) -> bool {
        true
    }

    fn batch_shape(&self) -> Option<BatchShape> {
        let Self { sequence_length: length, micro_batch_size: sequences, micro_batches, .. } = *self;
        Some(BatchShape { micro_batches, sequences, length })
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

struct Packer {
    shape: BatchShape,
    calendar: Calendar,
    end_of_text: u32,
    mask: bool,
    lanes: BTreeMap<Lane, LaneState>,
}

#[derive(Default)]
struct LaneState {
    /// Training tokens not yet in a batch.
    tokens: Vec<u32>,
    /// The last step that got its training batch.
    made: Option<Step>,
    /// Validation tokens of this step not yet in a batch.
    held: Vec<u32>,
    /// Validation batches of this step.
    parts: u32,
}

impl Packer {
    /// The first `sequences` sequences of `tokens`, of which all but the token after them are taken away.
    fn cut(&self, tokens: &mut Vec<u32>, sequences: usize, leaf: Lane, purpose: Purpose, part: u32) -> Batch {
        let length = self.shape.length;
        let n = sequences * length;
        let mut targets = tokens[1..=n].to_vec();
        let mut starts = Vec::with_capacity(n);
        for sequence in tokens[..n].chunks(length) {
            let mut start = 0;
            for (position, token) in (0u32..).zip(sequence) {
                starts.push(start);
                if *token == self.end_of_text {
                    start = position + 1;
                }
            }
        }
        if self.mask {
            targets
                .iter_mut()
                .zip(&tokens[..n])
                .filter(|(_, t)| **t == self.end_of_text)
                .for_each(|(x, _)| *x = IGNORED);
        }
        let rest = tokens[n..].to_vec();
        let mut tokens = std::mem::replace(tokens, rest);
        tokens.truncate(n);
        Batch {
            leaf,
            purpose,
            part,
            sequences,
            length,
            tokens: ScalarBuffer::from(tokens),
            targets: ScalarBuffer::from(targets),
            document_starts: ScalarBuffer::from(starts),
        }
    }

    /// Cuts validation batches: full ones, and at the end a smaller one of what is left, whole sequences only.
    fn validate(&self, lane: Lane, state: &mut LaneState, last: bool, out: &mut dyn Emit) {
        loop {
            let whole = state.held.len().saturating_sub(1) / self.shape.length;
            let sequences = whole.min(self.shape.sequences);
            if sequences == 0 || sequences < self.shape.sequences && !last {
                break;
            }
            let batch = self.cut(&mut state.held, sequences, lane, Purpose::Validate, state.parts);
            out.give(Packet::Batch(batch));
            state.parts += 1;
        }
        if last {
            state.held.clear();
            state.parts = 0;
        }
    }
}

impl Stage for Packer {
    fn packet(&mut self, at: At, packet: Packet, out: &mut dyn Emit) -> Result<Turn> {
        let Packet::Tokens(tokens) = packet else { bail!("concat takes tokens, not {}", packet.kind().name()) };
        let mut state = self.lanes.remove(&tokens.lane).unwrap_or_default();
        let stream = match tokens.purpose {
            Purpose::Train => &mut state.tokens,
            Purpose::Validate => &mut state.held,
        };
        let ids = tokens.documents.values().as_primitive_opt::<UInt32Type>().context("token ids are not uint32")?;
        for bounds in tokens.documents.value_offsets().windows(2) {
            stream.extend_from_slice(&ids.values()[bounds[0] as usize..bounds[1] as usize]);
            stream.push(self.end_of_text);
        }
        let turn = if tokens.purpose == Purpose::Validate && !tokens.last {
            self.validate(tokens.lane, &mut state, false, out);
            Turn::Starved
        } else {
            if tokens.purpose == Purpose::Validate {
                self.validate(tokens.lane, &mut state, true, out);
            }
            let needed = self.shape.sequences * self.shape.length + 1;
            if !self.calendar.trains(at.step) || state.made == Some(at.step) {
                Turn::Done
            } else if state.tokens.len() >= needed {
                let batch = self.cut(&mut state.tokens, self.shape.sequences, tokens.lane, Purpose::Train, 0);
                out.give(Packet::Batch(batch));
                state.made = Some(at.step);
                Turn::Done
            } else {
                Turn::Starved
            }
        };
        self.lanes.insert(tokens.lane, state);
        Ok(turn)
    }

    fn save(&mut self, lane: Lane) -> Result<Value> {
        Ok(json!({ "tokens": self.lanes.get(&lane).map(|state| state.tokens.as_slice()).unwrap_or_default() }))
    }

    fn load(&mut self, lane: Lane, state: Value) -> Result<()> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Left {
            tokens: Vec<u32>,
        }
        let left: Left = serde_json::from_value(state)
            .with_context(|| format!("the checkpoint's state of lane {lane} is not a packer's"))?;
        self.lanes.insert(lane, LaneState { tokens: left.tokens, ..LaneState::default() });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::env;
    use arrow::array::{ListArray, ListBuilder, UInt32Builder};
    use contract::Tokens;
    use contract::testing::{Collect, at};
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
        let mut env = env(1, sequences, length, steps);
        env.calendar.evaluate = evaluate;
        env.resources.insert(Arc::new(Vocabulary { hash: String::new(), size: 100, end_of_text: END }));
        let settings = Concat { mask_across_documents: mask, ..Concat::default() };
        match settings.build(&env).unwrap() {
            Built::Stage(stage) => stage,
            Built::Source(_) => unreachable!(),
        }
    }

    fn give(
        stage: &mut dyn Stage,
        step: Step,
        purpose: Purpose,
        last: bool,
        documents: &[Vec<u32>],
    ) -> (Turn, Vec<Batch>) {
        let mut out = Collect::default();
        let tokens = Tokens { lane: 0, purpose, last, documents: lists(documents) };
        let turn = stage.packet(at(step), Packet::Tokens(tokens), &mut out).unwrap();
        let batch = |p| if let Packet::Batch(b) = p { b } else { unreachable!() };
        (turn, out.0.into_iter().map(batch).collect())
    }

    fn check_batch(batch: &Batch, stream: &[u32], at: usize, mask: bool) {
        let n = batch.sequences * batch.length;
        assert_eq!(batch.tokens[..], stream[at..at + n]);
        for i in 0..n {
            let expected = if mask && stream[at + i] == END { IGNORED } else { stream[at + i + 1] };
            assert_eq!(batch.targets[i], expected);
            let sequence = at + i - i % batch.length;
            let start = (sequence + 1..=at + i).rev().find(|p| stream[p - 1] == END).map_or(0, |p| p - sequence);
            assert_eq!(batch.document_starts[i] as usize, start);
        }
    }

    proptest! {
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
                    let state = stage.save(0).unwrap();
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
        fn validation_covers_all_but_a_tail(
            documents in prop::collection::vec(prop::collection::vec(0u32..99, 0..30), 0..40),
            sequences in 1usize..4, length in 1usize..9,
        ) {
            let stream: Vec<u32> = documents.iter().flat_map(|d| d.iter().copied().chain([END])).collect();
            let mut stage = packer(sequences, length, 1, Some(1), false);
            let mut batches = Vec::new();
            for chunk in documents.chunks(3) {
                let (turn, some) = give(&mut *stage, 1, Purpose::Validate, false, chunk);
                prop_assert_eq!(turn, Turn::Starved);
                batches.extend(some);
            }
            let (turn, some) = give(&mut *stage, 1, Purpose::Validate, true, &[]);
            prop_assert_eq!(turn, Turn::Done);
            batches.extend(some);
            let mut at = 0;
            for (part, batch) in batches.iter().enumerate() {
                prop_assert_eq!(batch.part as usize, part);
                prop_assert!(batch.sequences == sequences || part + 1 == batches.len());
                check_batch(batch, &stream, at, false);
                at += batch.sequences * length;
            }
            prop_assert!(stream.len() - at <= length);
        }
    }

    #[test]
    fn a_step_that_validates_and_trains_is_starved_until_it_has_both() {
        let mut stage = packer(1, 4, 10, Some(1), false);
        let document = |n| vec![vec![1; n]];
        assert_eq!(give(&mut *stage, 0, Purpose::Train, false, &document(20)).0, Turn::Done);
        let (turn, batches) = give(&mut *stage, 1, Purpose::Validate, false, &document(9));
        assert_eq!((turn, batches.len()), (Turn::Starved, 2));
        // What is left from step 0 is enough to train.
        let (turn, batches) = give(&mut *stage, 1, Purpose::Validate, true, &document(6));
        assert_eq!((turn, batches.len()), (Turn::Done, 3));
        assert_eq!(
            batches.iter().map(|b| b.purpose).collect::<Vec<_>>(),
            [Purpose::Validate, Purpose::Validate, Purpose::Train]
        );
        for step in 2..5 {
            let (turn, batches) = give(&mut *stage, step, Purpose::Validate, true, &[]);
            assert_eq!((turn, batches.len()), (Turn::Done, 1));
        }
        assert_eq!(give(&mut *stage, 5, Purpose::Validate, true, &[]).0, Turn::Starved);
        assert_eq!(give(&mut *stage, 5, Purpose::Train, false, &document(1)).0, Turn::Starved);
        assert_eq!(give(&mut *stage, 5, Purpose::Train, false, &document(8)).0, Turn::Done);
    }
}

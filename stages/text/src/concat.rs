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
        let vocabulary = Vocabulary::of(env)?;
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
        let tokens: Vec<u32> = tokens.drain(..n).collect();
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

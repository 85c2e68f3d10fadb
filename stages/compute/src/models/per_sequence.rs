//! Runs a model on one sequence at a time: the same results up to rounding, from smaller matrix products. This is a
//! baseline to measure batching against (the C++ trainer that this project started from worked this way).
use crate::kernels::sum::add;
use crate::models::{Forward, Model};
use contract::parameters::splitmix64;
use contract::{Batch, HeadGradient, Parameters, Result, Tape, Tensor, Turn};
use std::sync::Arc;

/// As [`Model::forward`], with one pass per sequence of `batch`. Backward processes one sequence after the other and
/// accumulates gradients; that of the head is passed from tape to tape. Each gradient is passed on once, at the end.
pub fn forward_per_sequence(model: &Arc<dyn Model>, parameters: &Parameters, batch: &Batch, keep: bool) -> Forward {
    let width = parameters[model.facts().head].shape[1];
    let mut hidden = Tensor::scratch([batch.sequences * batch.length, width]);
    let mut tapes = Vec::new();
    for (sequence, rows) in hidden.data.chunks_exact_mut(batch.length * width).enumerate() {
        let at = sequence * batch.length;
        let starts = &batch.document_starts;
        let one = Batch {
            sequences: 1,
            tokens: batch.tokens.slice(at, batch.length),
            targets: batch.targets.slice(at, batch.length),
            document_starts: if starts.is_empty() { starts.clone() } else { starts.slice(at, batch.length) },
            documents: Vec::new().into(),
            ..batch.clone()
        };
        let forward = model.forward(parameters, &one, keep);
        rows.copy_from_slice(&forward.hidden.data);
        tapes.extend(forward.tape);
    }
    let tape = keep.then(|| -> Box<dyn Tape> {
        Box::new(PerSequence {
            head: model.facts().head,
            length: batch.length,
            tapes: tapes.into_iter().enumerate().collect::<Vec<_>>().into_iter(),
            current: None,
            hidden: None,
            key: 0,
            gradients: (0..parameters.0.len()).map(|_| None).collect(),
        })
    });
    Forward { hidden, tape }
}

struct PerSequence {
    /// Index of the head's tensor.
    head: usize,
    /// Tokens per sequence.
    length: usize,
    /// Tapes of the remaining sequences, with their indices.
    tapes: std::vec::IntoIter<(usize, Box<dyn Tape>)>,
    current: Option<Box<dyn Tape>>,
    /// Gradient of the hidden states of all sequences.
    hidden: Option<Tensor>,
    /// See [`Tape::round_with`].
    key: u64,
    /// Gradients accumulated so far.
    gradients: Vec<Option<Tensor>>,
}

impl PerSequence {
    /// Starts the tape of the next sequence with the head's gradient accumulated so far; false if there is none.
    fn next(&mut self) -> bool {
        let (Some((sequence, mut tape)), Some(hidden)) = (self.tapes.next(), &self.hidden) else { return false };
        let width = hidden.shape[1];
        let rows = self.length * width;
        let own = Tensor::from_values([self.length, width], &hidden.data[sequence * rows..(sequence + 1) * rows]);
        let head =
            self.gradients[self.head].take().expect("start sets the gradient of the head, then each tape returns it");
        tape.round_with(splitmix64(self.key, sequence as u64));
        tape.start(own, HeadGradient::Whole(head));
        self.current = Some(tape);
        true
    }
}

impl Tape for PerSequence {
    fn round_with(&mut self, key: u64) {
        self.key = key;
    }

    fn start(&mut self, hidden: Tensor, head: HeadGradient) {
        self.hidden = Some(hidden);
        self.gradients[self.head] = Some(head.whole());
        self.next();
    }

    fn backward_layer(&mut self, give: &mut dyn FnMut(usize, Tensor)) -> Result<Turn> {
        let gradients = &mut self.gradients;
        if let Some(tape) = &mut self.current {
            // A gradient comes whole, since that of the head is passed on whole.
            let turn = tape.backward_layer(&mut |index, gradient| match &mut gradients[index] {
                Some(sum) => add(&mut sum.data, &gradient.data),
                empty => *empty = Some(gradient),
            })?;
            if turn == Turn::More || self.next() {
                return Ok(Turn::More);
            }
        }
        self.current = None;
        self.hidden = None;
        for (index, gradient) in self.gradients.iter_mut().enumerate() {
            if let Some(gradient) = gradient.take() {
                give(index, gradient);
            }
        }
        Ok(Turn::Done)
    }
}

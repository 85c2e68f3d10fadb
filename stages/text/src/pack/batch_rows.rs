//! The rows of a batch, as they are put together.
use arrow::buffer::ScalarBuffer;
use contract::{Batch, Lane, Purpose};

/// The rows of a batch that is being made.
pub struct BatchRows {
    length: usize,
    tokens: Vec<u32>,
    targets: Vec<u32>,
    document_starts: Vec<u32>,
    /// The document of each sequence, in a validation batch.
    pub documents: Vec<u32>,
}

impl BatchRows {
    /// Of `sequences` sequences.
    pub fn new(sequences: usize, length: usize) -> Self {
        let empty = || Vec::with_capacity(sequences * length);
        Self { length, tokens: empty(), targets: empty(), document_starts: empty(), documents: Vec::new() }
    }

    /// Adds a sequence of `length` tokens with their targets. A document starts after the end of another one.
    pub fn push(&mut self, tokens: &[u32], targets: impl Iterator<Item = u32>, end_of_text: u32) {
        self.tokens.extend_from_slice(tokens);
        self.targets.extend(targets.take(tokens.len()));
        let mut start = 0;
        for (position, token) in (0u32..).zip(tokens) {
            self.document_starts.push(start);
            if *token == end_of_text {
                start = position + 1;
            }
        }
    }

    /// The batch.
    pub fn batch(self, leaf: Lane, purpose: Purpose, part: u32) -> Batch {
        let Self { length, tokens, targets, document_starts, documents } = self;
        Batch {
            leaf,
            purpose,
            part,
            sequences: tokens.len() / length,
            length,
            tokens: ScalarBuffer::from(tokens),
            targets: ScalarBuffer::from(targets),
            document_starts: ScalarBuffer::from(document_starts),
            documents: ScalarBuffer::from(documents),
        }
    }
}

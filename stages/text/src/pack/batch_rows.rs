//! Batches that are made of training sequences or of windows of validation documents.
use crate::pack::windows::Window;
use arrow::buffer::ScalarBuffer;
use contract::{Batch, IGNORED, Lane, Purpose};

/// Makes batches.
pub struct BatchBuilder {
    /// Tokens of a training sequence.
    pub length: usize,
    /// The token that ends a document.
    pub end_of_text: u32,
    /// See [`Concat::mask_across_documents`](crate::pack::Concat::mask_across_documents).
    pub mask: bool,
}

impl BatchBuilder {
    /// Makes a training batch of `windows`, `[sequences, length + 1]`.
    pub fn training(&self, windows: &[u32], leaf: Lane) -> Batch {
        let length = self.length;
        let mut rows = BatchRows::new(windows.len() / (length + 1), length);
        let target = |pair: &[u32]| if self.mask && pair[0] == self.end_of_text { IGNORED } else { pair[1] };
        for window in windows.chunks(length + 1) {
            rows.push(&window[..length], window.windows(2).map(target), self.end_of_text);
        }
        rows.batch(leaf, Purpose::Train, 0)
    }

    /// Makes a validation batch that is as long as the longest of `windows`; what the others lack is padding.
    pub fn validation(&self, windows: Vec<Window>, leaf: Lane, part: u32) -> Batch {
        let length = windows.iter().map(|window| window.tokens.len() - 1).max().unwrap_or(0);
        let mut rows = BatchRows::new(windows.len(), length);
        for Window { mut tokens, document, scored } in windows {
            rows.documents.push(document);
            let inputs = tokens.len() - 1;
            let unscored = std::iter::repeat_n(IGNORED, inputs - scored);
            let targets: Vec<u32> = unscored.chain(tokens[inputs + 1 - scored..].iter().copied()).collect();
            tokens.truncate(inputs);
            tokens.resize(length, self.end_of_text);
            rows.push(&tokens, targets.into_iter().chain(std::iter::repeat(IGNORED)), self.end_of_text);
        }
        rows.batch(leaf, Purpose::Validate, part)
    }
}

/// The rows of a batch that is being made.
struct BatchRows {
    length: usize,
    tokens: Vec<u32>,
    targets: Vec<u32>,
    document_starts: Vec<u32>,
    /// The document of each sequence, in a validation batch.
    documents: Vec<u32>,
}

impl BatchRows {
    fn new(sequences: usize, length: usize) -> Self {
        let empty = || Vec::with_capacity(sequences * length);
        Self { length, tokens: empty(), targets: empty(), document_starts: empty(), documents: Vec::new() }
    }

    /// Adds a sequence of `length` tokens with their targets. A document starts after the end of another one.
    fn push(&mut self, tokens: &[u32], targets: impl Iterator<Item = u32>, end_of_text: u32) {
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

    fn batch(self, leaf: Lane, purpose: Purpose, part: u32) -> Batch {
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

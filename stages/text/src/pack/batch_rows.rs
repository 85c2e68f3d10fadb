//! Batches that are made of training sequences or of windows of validation documents.
use crate::pack::method::NOT_A_TARGET;
use crate::pack::windows::Window;
use arrow::buffer::ScalarBuffer;
use contract::{Batch, IGNORED, Lane, Purpose};

/// Makes batches.
pub struct BatchBuilder {
    /// Tokens of a training sequence.
    pub length: usize,
    /// The token that ends a document.
    pub end_of_text: u32,
    /// See [`PackKeys::document_mask`](crate::pack::PackKeys::document_mask).
    pub document_mask: bool,
}

impl BatchBuilder {
    /// Makes a training batch of `windows`, `[sequences, length + 1]`, of which some targets are [`NOT_A_TARGET`].
    pub fn training(&self, windows: &[u32], leaf: Lane) -> Batch {
        let length = self.length;
        let mut rows = self.rows(windows.len() / (length + 1), length);
        let mut tokens = Vec::with_capacity(length);
        for window in windows.chunks(length + 1) {
            tokens.clear();
            tokens.extend(window[..length].iter().map(|token| token & !NOT_A_TARGET));
            // An end-of-text token before the sequence is no other document: the model sees nothing else of it.
            let starts = |position: usize| self.document_mask && position > 0 && tokens[position] == self.end_of_text;
            let is_target = |position: usize, target: u32| target & NOT_A_TARGET == 0 && !starts(position);
            let targets = window[1..].iter().enumerate();
            let targets = targets.map(|(at, target)| if is_target(at, *target) { *target } else { IGNORED });
            rows.push(&tokens, targets);
        }
        rows.batch(leaf, Purpose::Train, 0)
    }

    /// Makes a validation batch that is as long as the longest of `windows`; what the others lack is padding.
    pub fn validation(&self, windows: Vec<Window>, leaf: Lane, part: u32) -> Batch {
        let length = windows.iter().map(|window| window.tokens.len() - 1).max().unwrap_or(0);
        let mut rows = self.rows(windows.len(), length);
        for Window { mut tokens, document, scored } in windows {
            rows.documents.push(document);
            let inputs = tokens.len() - 1;
            let unscored = std::iter::repeat_n(IGNORED, inputs - scored);
            let targets: Vec<u32> = unscored.chain(tokens[inputs + 1 - scored..].iter().copied()).collect();
            tokens.truncate(inputs);
            tokens.resize(length, self.end_of_text);
            rows.push(&tokens, targets.into_iter().chain(std::iter::repeat(IGNORED)));
        }
        rows.batch(leaf, Purpose::Validate, part)
    }

    fn rows(&self, sequences: usize, length: usize) -> BatchRows {
        let empty = || Vec::with_capacity(sequences * length);
        BatchRows {
            length,
            tokens: empty(),
            targets: empty(),
            ends_documents: self.document_mask.then_some(self.end_of_text),
            document_starts: if self.document_mask { empty() } else { Vec::new() },
            documents: Vec::new(),
        }
    }
}

/// The rows of a batch that is being made.
struct BatchRows {
    length: usize,
    tokens: Vec<u32>,
    targets: Vec<u32>,
    /// The token after which a document starts, if documents are kept apart.
    ends_documents: Option<u32>,
    document_starts: Vec<u32>,
    /// The document of each sequence, in a validation batch.
    documents: Vec<u32>,
}

impl BatchRows {
    /// Adds a sequence of `length` tokens with their targets. A document starts after the end of another one; the end of
    /// one before the sequence is part of the first document, as it begins a text that is generated.
    fn push(&mut self, tokens: &[u32], targets: impl Iterator<Item = u32>) {
        self.tokens.extend_from_slice(tokens);
        self.targets.extend(targets.take(tokens.len()));
        let Some(end_of_text) = self.ends_documents else { return };
        let mut start = 0;
        for (position, token) in (0u32..).zip(tokens) {
            self.document_starts.push(start);
            if position > 0 && *token == end_of_text {
                start = position + 1;
            }
        }
    }

    fn batch(self, leaf: Lane, purpose: Purpose, part: u32) -> Batch {
        let Self { length, tokens, targets, document_starts, documents, .. } = self;
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

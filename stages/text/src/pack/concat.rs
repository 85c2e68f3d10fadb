//! Stage `concat`: documents one after another, cut into sequences wherever these end.
use crate::pack::method::{Cutter, Method, Runs, count};
use anyhow::{Result, ensure};
use contract::{Cuts, DocumentPart, Packing};

/// Concatenates documents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Concatenation;

impl Method for Concatenation {
    const SUMMARY: &'static str = "concatenates training documents and cuts them into sequences of one length";
    const PADS: bool = false;

    fn cutter(length: usize, _: usize, end_of_text: u32) -> Box<dyn Cutter> {
        Box::new(TokenStream { length, end_of_text, tokens: Vec::new() })
    }

    fn cuts(length: usize, _: usize) -> Box<dyn Cuts> {
        Box::new(TokenStreamCuts { length: length as u64, ends: Vec::new() })
    }

    fn packing(length: usize, _: usize, documents: &mut dyn Iterator<Item = u32>) -> Packing {
        let (mut packing, mut end) = (Packing::default(), 0u64);
        let sequence = |token: u64| token.saturating_sub(1) / length as u64;
        for tokens in documents {
            let start = end;
            end += u64::from(tokens);
            count(&mut packing, tokens, length, 1 + sequence(end - 1) - sequence(start));
        }
        packing.positions = end;
        packing
    }
}

/// The tokens of documents, one after another. A sequence and the next one share a token: the last target of one is the
/// first token that the model reads in the other.
struct TokenStream {
    length: usize,
    end_of_text: u32,
    /// Tokens that are not part of a sequence yet, after the last one that is.
    tokens: Vec<u32>,
}

impl Cutter for TokenStream {
    fn push(&mut self, document: &[u32]) {
        self.tokens.extend_from_slice(document);
        self.tokens.push(self.end_of_text);
    }

    fn windows(&mut self, most: usize) -> Vec<u32> {
        let length = self.length;
        let sequences = most.min(self.tokens.len().saturating_sub(1) / length);
        let starts = (0..sequences).map(|i| i * length);
        let windows = starts.flat_map(|start| self.tokens[start..=start + length].iter().copied()).collect();
        self.tokens.drain(..sequences * length);
        windows
    }

    fn saved(&self) -> Runs {
        Runs { tokens: self.tokens.clone(), lengths: Vec::new() }
    }

    fn restore(&mut self, saved: Runs) -> Result<()> {
        ensure!(saved.lengths.is_empty(), "these are sequences with padding");
        self.tokens = saved.tokens;
        Ok(())
    }
}

/// See [`TokenStream`].
struct TokenStreamCuts {
    length: u64,
    /// The number of tokens up to the end of each document.
    ends: Vec<u64>,
}

impl Cuts for TokenStreamCuts {
    fn parts(&mut self, sequence: u64, next: &mut dyn FnMut() -> Result<u32>) -> Result<Vec<DocumentPart>> {
        let first = sequence * self.length;
        let end = first + self.length + 1;
        while self.ends.last().is_none_or(|last| *last < end) {
            let before = self.ends.last().copied().unwrap_or(0);
            self.ends.push(before + u64::from(next()?));
        }
        let (mut at, mut parts) = (first, Vec::new());
        let documents = self.ends.partition_point(|end| *end <= at)..;
        for document in documents {
            let start = document.checked_sub(1).map_or(0, |before| self.ends[before]);
            let stop = end.min(self.ends[document]);
            let tokens = (at - start) as u32..(stop - start) as u32;
            parts.push(DocumentPart { position: (at - first) as usize, document, tokens });
            at = stop;
            if at == end {
                break;
            }
        }
        Ok(parts)
    }
}

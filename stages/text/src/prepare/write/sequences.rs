//! Concatenates documents and cuts them into sequences.
use anyhow::Result;

/// The sequences of one part of one shard.
pub struct Packer {
    length: usize,
    end_of_text: u32,
    tokens: Vec<u32>,
    starts: Vec<u32>,
}

/// Called with each sequence: its tokens, and for each token the position in the sequence at which its document starts.
pub type Sequence<'a> = &'a mut dyn FnMut(&[u32], &[u32]) -> Result<()>;

impl Packer {
    /// Sequences of `length` tokens each, except for the last.
    pub fn new(length: u32, end_of_text: u32) -> Self {
        Self { length: length as usize, end_of_text, tokens: Vec::new(), starts: Vec::new() }
    }

    /// Adds a document and the token that ends it.
    pub fn push(&mut self, document: &[u32], full: Sequence) -> Result<()> {
        let mut start = self.tokens.len() as u32;
        for token in document.iter().chain([&self.end_of_text]) {
            self.tokens.push(*token);
            self.starts.push(start);
            if self.tokens.len() == self.length {
                full(&self.tokens, &self.starts)?;
                self.tokens.clear();
                self.starts.clear();
                start = 0;
            }
        }
        Ok(())
    }

    /// Emits the remaining tokens as a shorter sequence, if there are any.
    pub fn finish(self, full: Sequence) -> Result<()> {
        if self.tokens.is_empty() { Ok(()) } else { full(&self.tokens, &self.starts) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn nothing_is_lost_and_starts_are_right(documents in prop::collection::vec(prop::collection::vec(0u32..9, 0..12), 0..8), length in 2u32..9) {
            let (mut packer, mut sequences) = (Packer::new(length, 99), Vec::new());
            let mut keep = |tokens: &[u32], starts: &[u32]| {
                sequences.push((tokens.to_vec(), starts.to_vec()));
                Ok(())
            };
            documents.iter().for_each(|document| packer.push(document, &mut keep).unwrap());
            packer.finish(&mut keep).unwrap();
            let stream: Vec<u32> = documents.iter().flat_map(|d| d.iter().copied().chain([99])).collect();
            prop_assert_eq!(sequences.iter().flat_map(|(tokens, _)| tokens.clone()).collect::<Vec<_>>(), stream);
            for (at, (tokens, starts)) in sequences.iter().enumerate() {
                prop_assert!(tokens.len() == length as usize || at + 1 == sequences.len());
                for i in 0..tokens.len() {
                    let expected = if i == 0 || tokens[i - 1] == 99 { i as u32 } else { starts[i - 1] };
                    prop_assert_eq!(starts[i], expected);
                }
            }
        }
    }
}

//! Stage `best_fit`: a document that fits into a sequence is never split. Each goes into the fullest incomplete sequence
//! that has space for it (best-fit bin packing; Ding et al. 2024, "Fewer Truncations Improve Language Modeling"). A longer
//! one is cut into full sequences and a rest, which is packed like a document.
//!
//! The model reads an end-of-text token before the sequence, or the token before it if the sequence begins within a
//! document, so every token of a document is predicted once. The only exceptions are the first token of a rest that
//! follows another document, and, with a document mask, first tokens of documents. What is left free is padding.
use crate::pack::method::{Cutter, Method, NOT_A_TARGET, Runs, count, pieces};
use anyhow::{Context, Result, ensure};
use contract::{Cuts, DocumentPart, Packing};
use std::collections::{BTreeMap, VecDeque};

/// Most incomplete sequences of a source in a lane. With more of them there is less padding.
const MOST_OPEN: usize = 256;

/// Packs documents without splitting those that fit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BestFitPacking;

impl Method for BestFitPacking {
    const SUMMARY: &'static str =
        "packs training documents into sequences of one length without splitting those that fit";
    const PADS: bool = true;

    fn cutter(length: usize, open: usize, end_of_text: u32) -> Box<dyn Cutter> {
        Box::new(BinPacker { length, end_of_text, bins: Bins::new(length, open), complete: VecDeque::new() })
    }

    fn cuts(length: usize, open: usize) -> Box<dyn Cuts> {
        Box::new(BinCuts {
            length,
            bins: Bins::new(length, open),
            documents: 0,
            sequences: 0,
            complete: BTreeMap::new(),
        })
    }

    fn packing(length: usize, open: usize, documents: &mut dyn Iterator<Item = u32>) -> Packing {
        let (mut packing, mut bins) = (Packing::default(), Bins::<()>::new(length, open));
        for tokens in documents {
            count(&mut packing, tokens, length, 1);
            for piece in pieces(tokens, length) {
                if let Some(complete) = bins.add(piece.len(), |(), _| ()) {
                    packing.positions += length as u64;
                    packing.padding += complete.free as u64;
                }
            }
        }
        packing
    }

    fn open_tokens(length: usize, open: usize) -> usize {
        (length + 1) * (open.min(MOST_OPEN) + 1)
    }
}

/// Sequences that are being filled, with contents of type `T`.
#[derive(Debug)]
struct Bins<T> {
    length: usize,
    /// Most bins that are incomplete.
    most: usize,
    /// Incomplete bins, by their free positions and their number.
    open: BTreeMap<(usize, u64), T>,
    /// Number of bins so far.
    number: u64,
}

/// A bin to which nothing is added any more.
#[derive(Debug, PartialEq, Eq)]
struct Complete<T> {
    content: T,
    /// Positions that are left.
    free: usize,
}

impl<T: Default> Bins<T> {
    fn new(length: usize, open: usize) -> Self {
        Self { length, most: open.clamp(1, MOST_OPEN), open: BTreeMap::new(), number: 0 }
    }

    /// Adds a piece of `size` tokens, from 1 to the length of a sequence, to the fullest bin that has space, or to a new
    /// one. `put` gets the content of the bin and the position of the piece. Returns the bin that is complete then: one
    /// that is full, or the fullest one if too many are open.
    fn add(&mut self, size: usize, put: impl FnOnce(&mut T, usize)) -> Option<Complete<T>> {
        let fullest = self.open.range((size, 0)..).next().map(|(key, _)| *key);
        let ((free, number), mut content) = match fullest.and_then(|key| Some((key, self.open.remove(&key)?))) {
            Some(bin) => bin,
            None => {
                self.number += 1;
                ((self.length, self.number), T::default())
            }
        };
        put(&mut content, self.length - free);
        let free = free - size;
        if free == 0 {
            return Some(Complete { content, free });
        }
        self.open.insert((free, number), content);
        let ((free, _), content) = (self.open.len() > self.most).then(|| self.open.pop_first()).flatten()?;
        Some(Complete { content, free })
    }
}

/// Packs tokens. A bin has the token before its sequence and those of the sequence so far.
struct BinPacker {
    length: usize,
    end_of_text: u32,
    bins: Bins<Vec<u32>>,
    /// Windows, `[length + 1]` each.
    complete: VecDeque<Vec<u32>>,
}

impl BinPacker {
    /// Adds a piece of a document: `tokens` from `from` on, and the end-of-text token if it is the end.
    fn piece(&mut self, document: &[u32], from: usize, size: usize) {
        let (end_of_text, length) = (self.end_of_text, self.length);
        let before = from.checked_sub(1).map(|before| document[before]);
        let tokens = document[from..].iter().copied().chain([end_of_text]).take(size);
        let complete = self.bins.add(size, |window, position| {
            let first = window.len();
            if position == 0 {
                window.push(before.unwrap_or(end_of_text));
            }
            window.extend(tokens);
            if position > 0 && before.is_some() {
                window[first] |= NOT_A_TARGET;
            }
        });
        self.complete.extend(complete.map(|Complete { mut content, .. }| {
            content.resize(length + 1, end_of_text | NOT_A_TARGET);
            content
        }));
    }
}

impl Cutter for BinPacker {
    fn push(&mut self, document: &[u32]) {
        for piece in pieces(document.len() as u32 + 1, self.length) {
            self.piece(document, piece.start as usize, piece.len());
        }
    }

    fn windows(&mut self, most: usize) -> Vec<u32> {
        let sequences = most.min(self.complete.len());
        self.complete.drain(..sequences).flatten().collect()
    }

    /// Complete windows first, then those that are incomplete, from the oldest to the newest.
    fn saved(&self) -> Runs {
        let mut runs = Runs::default();
        self.complete.iter().for_each(|window| runs.push(window));
        let mut open: Vec<_> = self.bins.open.iter().map(|((_, number), window)| (number, window)).collect();
        open.sort_unstable_by_key(|(number, _)| **number);
        open.into_iter().for_each(|(_, window)| runs.push(window));
        runs
    }

    fn restore(&mut self, saved: Runs) -> Result<()> {
        let runs = saved.split().context("the lengths of its sequences are not those of its tokens")?;
        (self.bins, self.complete) = (Bins::new(self.length, self.bins.most), VecDeque::new());
        for run in runs {
            let free = (self.length + 1).checked_sub(run.len());
            match free {
                Some(0) => self.complete.push_back(run.to_vec()),
                Some(free) if run.len() > 1 => {
                    self.bins.number += 1;
                    self.bins.open.insert((free, self.bins.number), run.to_vec());
                }
                _ => anyhow::bail!("a sequence of {} tokens, not {}", run.len().saturating_sub(1), self.length),
            }
        }
        ensure!(self.bins.open.len() <= self.bins.most, "too many of its sequences are incomplete");
        Ok(())
    }
}

/// Packs the numbers of tokens of documents, as [`BinPacker`] packs the tokens.
struct BinCuts {
    length: usize,
    bins: Bins<Vec<DocumentPart>>,
    /// Number of documents so far.
    documents: usize,
    /// Number of complete sequences so far.
    sequences: u64,
    /// Those that have not been asked for.
    complete: BTreeMap<u64, Vec<DocumentPart>>,
}

impl BinCuts {
    fn push(&mut self, tokens: u32) {
        for piece in pieces(tokens, self.length) {
            let document = self.documents;
            let complete = self.bins.add(piece.len(), |parts, position| {
                // The model also reads the token before the sequence.
                let before = u32::from(position == 0 && piece.start > 0);
                let (position, tokens) = (position + 1 - before as usize, piece.start - before..piece.end);
                parts.push(DocumentPart { position, document, tokens });
            });
            if let Some(Complete { content, .. }) = complete {
                self.complete.insert(self.sequences, content);
                self.sequences += 1;
            }
        }
        self.documents += 1;
    }
}

impl Cuts for BinCuts {
    fn parts(&mut self, sequence: u64, next: &mut dyn FnMut() -> Result<u32>) -> Result<Vec<DocumentPart>> {
        while self.sequences <= sequence {
            self.push(next()?);
        }
        self.complete.remove(&sequence).with_context(|| format!("sequence {sequence} was asked for twice"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const END: u32 = 99;
    const PAD: u32 = END | NOT_A_TARGET;

    fn packer(length: usize, open: usize) -> Box<dyn Cutter> {
        BestFitPacking::cutter(length, open, END)
    }

    #[test]
    fn documents_go_where_they_leave_the_least_space() {
        let mut packer = packer(6, 2);
        let mut pack = |document: &[u32]| {
            packer.push(document);
            packer.windows(9)
        };
        assert!(pack(&[1, 2, 3]).is_empty());
        assert!(pack(&[4, 5]).is_empty(), "two tokens are free, three are needed");
        assert_eq!(pack(&[6]), [END, 1, 2, 3, END, 6, END], "it fits into both; the first one is full then");
        assert!(pack(&[7, 8, 9, 10]).is_empty());
        // A third one is opened, so the fullest is completed.
        assert_eq!(pack(&[11, 12, 13]), [END, 7, 8, 9, 10, END, PAD]);
        let long = [20, 21, 22, 23, 24, 25, 26, 27];
        let rest = [END, 4, 5, END, 26 | NOT_A_TARGET, 27, END];
        assert_eq!(pack(&long), [&[END, 20, 21, 22, 23, 24, 25], &rest[..]].concat());
    }

    #[test]
    fn a_rest_that_begins_a_sequence_follows_its_document() {
        let mut packer = packer(4, 1);
        packer.push(&[1, 2, 3, 4, 5]);
        packer.push(&[6]);
        assert_eq!(packer.windows(1), [END, 1, 2, 3, 4]);
        assert_eq!(packer.windows(2), [4, 5, END, 6, END]);
    }

    proptest! {
        /// Every token of every document is predicted once, after the one before it in its document; documents that fit
        /// are whole; more than half of the positions are tokens; a saved packer goes on in the same way.
        #[test]
        fn packs_everything_once(
            documents in prop::collection::vec(0usize..25, 1..60), length in 1usize..12, open in 1usize..9, stop: usize,
        ) {
            let content = |number: usize| -> Vec<u32> { (0..documents[number]).map(|at| (number * 100 + at) as u32).collect() };
            let (mut packer, mut found, stop) = (BestFitPacking::cutter(length, open, 1 << 30), Vec::new(), stop % documents.len());
            let end = 1 << 30;
            for number in 0..documents.len() {
                if number == stop {
                    let saved = packer.saved();
                    packer = BestFitPacking::cutter(length, open, end);
                    packer.restore(saved).unwrap();
                }
                packer.push(&content(number));
                found.extend(packer.windows(if number % 3 == 0 { 1 } else { 9 }));
            }
            found.extend(packer.windows(usize::MAX));
            let lengths = || documents.iter().map(|tokens| *tokens as u32 + 1);
            let (mut cuts, mut next) = (BestFitPacking::cuts(length, open), lengths());
            let mut seen = vec![0; documents.len()];
            let (mut padding, mut parts_of) = (0, vec![0; documents.len()]);
            for (sequence, window) in found.chunks(length + 1).enumerate() {
                let parts = cuts.parts(sequence as u64, &mut || Ok(next.next().unwrap())).unwrap();
                let mut expected = vec![end; 1];
                for DocumentPart { position, document, tokens } in parts {
                    let whole: Vec<u32> = content(document).into_iter().chain([end]).collect();
                    if position == 0 {
                        expected.clear();
                    }
                    prop_assert_eq!(expected.len(), position);
                    let predicted = tokens.start + u32::from(position == 0)..tokens.end;
                    let first = expected.len() + (predicted.start - tokens.start) as usize;
                    expected.extend(&whole[tokens.start as usize..tokens.end as usize]);
                    if predicted.start > 0 && position > 0 {
                        expected[first] |= NOT_A_TARGET;
                    }
                    prop_assert_eq!(predicted.start, seen[document]);
                    seen[document] = predicted.end;
                    parts_of[document] += 1;
                }
                padding += length + 1 - expected.len();
                expected.resize(length + 1, end | NOT_A_TARGET);
                prop_assert_eq!(window, &expected[..]);
            }
            let packing = BestFitPacking::packing(length, open, &mut lengths());
            prop_assert_eq!(packing.positions, (found.len() / (length + 1) * length) as u64);
            prop_assert_eq!((packing.padding, packing.split), (padding as u64, 0));
            prop_assert!(packing.padding * 2 <= packing.positions);
            for (document, parts) in parts_of.into_iter().enumerate().filter(|(document, _)| documents[*document] < length) {
                prop_assert!(parts <= 1, "document {} is split", document);
            }
        }
    }
}

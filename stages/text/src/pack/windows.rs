//! Validation documents as windows: what the model sees of a document at once, and which of its tokens are scored.
use std::cmp::Reverse;
use std::collections::VecDeque;

/// Windows are sorted by length so many steps' worth at a time, so that the windows of a batch have about the same length
/// and few positions are padding.
const SORTED_STEPS: usize = 8;

/// A part of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// The tokens of the input, and the one that follows them: every token but the first is a target.
    pub tokens: Vec<u32>,
    /// The document it is from.
    pub document: u32,
    /// How many targets are scored, the last ones. The others have been scored in the window before; they are context.
    pub scored: usize,
}

/// The validation documents of a lane that are not part of a batch yet.
#[derive(Debug, Default)]
pub struct Windows {
    /// Documents, each with the token before and the one after it.
    documents: VecDeque<(u32, Vec<u32>)>,
    /// Where the next window of the first document begins, and how many of its targets have been scored.
    next: (usize, usize),
    /// Windows that are not sorted yet.
    unsorted: Vec<Window>,
    /// Windows of the next batches, the longest ones first.
    sorted: VecDeque<Window>,
}

impl Windows {
    /// Adds document `number`, with the token before and the one after it.
    pub fn push(&mut self, number: u32, document: &[u32], [before, after]: [u32; 2]) {
        self.documents.push_back((number, [&[before], document, &[after]].concat()));
    }

    /// The windows of the next batch: up to `sequences` of at most `length` inputs, each `stride` tokens after the one
    /// before. `None` if more documents are needed to sort them; if `last`, there are none, and all windows are returned.
    /// `step`: the lane's sequences per step, a multiple of `sequences`.
    pub fn batch(
        &mut self,
        sequences: usize,
        step: usize,
        length: usize,
        stride: usize,
        last: bool,
    ) -> Option<Vec<Window>> {
        if self.sorted.is_empty() {
            let wanted = SORTED_STEPS * step;
            while self.unsorted.len() < wanted
                && let Some(window) = self.next(length, stride)
            {
                self.unsorted.push(window);
            }
            if self.unsorted.len() < wanted && !last {
                return None;
            }
            self.unsorted.sort_by_key(|window| Reverse(window.tokens.len()));
            self.sorted.extend(self.unsorted.drain(..));
        }
        let batch: Vec<Window> = self.sorted.drain(..sequences.min(self.sorted.len())).collect();
        (!batch.is_empty()).then_some(batch)
    }

    /// Memory in bytes of the windows that are sorted at once, for so many sequences per step.
    pub fn memory(step: usize, length: usize) -> usize {
        SORTED_STEPS * step * (size_of::<Window>() + (length + 1) * size_of::<u32>())
    }

    /// The next window of the first document.
    fn next(&mut self, length: usize, stride: usize) -> Option<Window> {
        let (number, document) = self.documents.front()?;
        let ((start, scored), targets) = (self.next, document.len() - 1);
        let end = targets.min(start + length);
        let window = Window { tokens: document[start..=end].to_vec(), document: *number, scored: end - scored };
        self.next = (start + stride, end);
        if end == targets {
            self.documents.pop_front();
            self.next = (0, 0);
        }
        Some(window)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Before and after a document.
    const ENDS: [u32; 2] = [98, 99];

    /// The windows of one document, in order.
    fn windows(document: &[u32], length: usize, stride: usize) -> Vec<Window> {
        let mut windows = Windows::default();
        windows.push(7, document, ENDS);
        std::iter::from_fn(|| windows.next(length, stride)).collect()
    }

    #[test]
    fn windows_overlap_by_their_length_minus_the_stride() {
        let window = |tokens: &[u32], scored| Window { tokens: tokens.to_vec(), document: 7, scored };
        assert_eq!(windows(&[], 4, 4), [window(&[98, 99], 1)]);
        assert_eq!(windows(&[1, 2, 3], 4, 4), [window(&[98, 1, 2, 3, 99], 4)]);
        assert_eq!(windows(&[1, 2, 3, 4], 4, 4), [window(&[98, 1, 2, 3, 4], 4), window(&[4, 99], 1)]);
        assert_eq!(
            windows(&[1, 2, 3, 4, 5, 6], 4, 2),
            [window(&[98, 1, 2, 3, 4], 4), window(&[2, 3, 4, 5, 6], 2), window(&[4, 5, 6, 99], 1)]
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Together, the scored targets of a document are its tokens and the end-of-text token, in order. A window after
        /// the first has `length - stride` tokens of context before them.
        #[test]
        fn every_token_is_scored_once(tokens in 0usize..50, length in 1usize..12, stride in 1usize..12) {
            prop_assume!(stride <= length);
            let document: Vec<u32> = (0..tokens as u32).collect();
            let mut scored = Vec::new();
            for window in windows(&document, length, stride) {
                let inputs = window.tokens.len() - 1;
                prop_assert!((1..=inputs).contains(&window.scored) && inputs <= length);
                let context = if scored.is_empty() { 0 } else { length - stride };
                prop_assert_eq!(inputs - window.scored, context);
                scored.extend_from_slice(&window.tokens[inputs + 1 - window.scored..]);
            }
            let expected: Vec<u32> = document.into_iter().chain([ENDS[1]]).collect();
            prop_assert_eq!(scored, expected);
        }

        /// Batches are full but for the last one, and their windows are sorted by length, eight steps' worth at a time.
        #[test]
        fn batches_hold_all_windows(
            documents in prop::collection::vec(0usize..20, 0..60), sequences in 1usize..4, leaves in 1usize..4,
            length in 1usize..9,
        ) {
            let step = leaves * sequences;
            let mut held = Windows::default();
            let (mut batches, mut expected) = (Vec::new(), Vec::new());
            for tokens in documents {
                let document: Vec<u32> = (0..tokens as u32).collect();
                expected.extend(windows(&document, length, length));
                held.push(7, &document, ENDS);
                batches.extend(std::iter::from_fn(|| held.batch(sequences, step, length, length, false)));
            }
            prop_assert!(batches.iter().all(|batch| batch.len() == sequences));
            batches.extend(std::iter::from_fn(|| held.batch(sequences, step, length, length, true)));
            prop_assert!(batches.iter().rev().skip(1).all(|batch| batch.len() == sequences));
            for (group, windows) in batches.chunks(SORTED_STEPS * leaves).zip(expected.chunks_mut(SORTED_STEPS * step)) {
                windows.sort_by_key(|window| Reverse(window.tokens.len()));
                prop_assert_eq!(group.concat(), windows);
            }
        }
    }
}

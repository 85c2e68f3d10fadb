//! How documents become sequences: the part in which the stages that pack differ.
use contract::{Cuts, Packing};
use std::ops::Range;

/// Set in a window's token that is not to be predicted.
pub const NOT_A_TARGET: u32 = 1 << 31;

/// How documents become sequences.
pub trait Method: Copy + Default + Send + Sync + 'static {
    /// What the stage does, on one line.
    const SUMMARY: &'static str;
    /// Whether sequences may have padding. At least half of the positions of all sequences together are tokens.
    const PADS: bool;

    /// Makes the sequences of a source in a lane, of `length` tokens. At most `open` of them are incomplete at a time.
    fn cutter(length: usize, open: usize, end_of_text: u32) -> Box<dyn Cutter>;

    /// Which parts of documents [`cutter`](Self::cutter) puts into which sequence.
    fn cuts(length: usize, open: usize) -> Box<dyn Cuts>;

    /// How documents of so many tokens, with the end-of-text token after each, fill sequences.
    fn packing(length: usize, open: usize, documents: &mut dyn Iterator<Item = u32>) -> Packing;

    /// Most tokens of incomplete sequences, if there is more than one.
    fn open_tokens(_length: usize, _open: usize) -> usize {
        0
    }
}

/// Makes sequences of a source's documents in a lane.
pub trait Cutter: Send {
    /// Takes a training document, without the end-of-text token.
    fn push(&mut self, document: &[u32]);

    /// Removes up to `most` sequences, in the order in which they were completed, as windows: `[sequences, length + 1]`,
    /// the token before a sequence and its targets. A target may be [`NOT_A_TARGET`].
    fn windows(&mut self, most: usize) -> Vec<u32>;

    /// The tokens that it has: runs of tokens, one after another.
    fn saved(&self) -> Runs;

    /// Replaces its tokens by those that [`saved`](Self::saved) returned.
    ///
    /// # Errors
    /// If these are not its tokens.
    fn restore(&mut self, saved: Runs) -> anyhow::Result<()>;
}

/// Runs of tokens, one after another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Runs {
    /// All tokens.
    pub tokens: Vec<u32>,
    /// The length of each run.
    pub lengths: Vec<usize>,
}

impl Runs {
    /// Adds a run.
    pub fn push(&mut self, run: &[u32]) {
        self.tokens.extend_from_slice(run);
        self.lengths.push(run.len());
    }

    /// The runs; `None` if the lengths are not those of the tokens.
    pub fn split(&self) -> Option<Vec<&[u32]>> {
        let mut rest = &self.tokens[..];
        let mut runs = Vec::with_capacity(self.lengths.len());
        for length in &self.lengths {
            let (run, others) = rest.split_at_checked(*length)?;
            runs.push(run);
            rest = others;
        }
        rest.is_empty().then_some(runs)
    }
}

/// Counts a document that is in `parts` sequences of `length` tokens.
pub fn count(packing: &mut Packing, tokens: u32, length: usize, parts: u64) {
    packing.documents += 1;
    match tokens as usize > length {
        true => packing.longer += 1,
        false => packing.split += u64::from(parts > 1),
    }
}

/// The pieces that a document of `tokens` tokens is cut into if each may have `length`: as few as possible, from the
/// beginning.
pub fn pieces(tokens: u32, length: usize) -> impl Iterator<Item = Range<u32>> {
    let length = u32::try_from(length).unwrap_or(u32::MAX);
    (0..tokens).step_by(length as usize).map(move |from| from..tokens.min(from.saturating_add(length)))
}

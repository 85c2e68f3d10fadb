//! Where the sequences of a step come from.
use crate::step::Lane;
use anyhow::Result;

/// A training sequence: the micro-batch that it is part of, and the tokens that it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drawn {
    /// The micro-batch.
    pub leaf: Lane,
    /// The index of the sequence in the micro-batch.
    pub row: usize,
    /// The lane whose documents it is cut from.
    pub lane: Lane,
    /// The index of the source in the mixture; 0 if there is only one.
    pub source: usize,
    /// The number of training tokens of this source and lane before its first one, each document with the end-of-text
    /// token after it.
    pub first: u64,
}

/// The training sequences of a run, a step at a time, without their tokens. They follow from the configuration and the
/// sizes of the sources, so nothing has to be recorded.
pub trait Draws {
    /// The sequences of the next step; those of the first step come first.
    ///
    /// # Errors
    /// If the sources of the run's mixture are used up.
    fn next_step(&mut self) -> Result<Vec<Drawn>>;
}

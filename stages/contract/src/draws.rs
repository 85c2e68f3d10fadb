//! Where the sequences of a step come from.
use crate::resources::Resources;
use crate::step::Lane;
use anyhow::Result;
use serde::Serialize;
use std::ops::Range;

/// A training sequence: the micro-batch that it is part of, and which one of its source and lane it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drawn {
    /// The micro-batch.
    pub leaf: Lane,
    /// The index of the sequence in the micro-batch.
    pub row: usize,
    /// The lane whose documents it is made of.
    pub lane: Lane,
    /// The index of the source in the mixture; 0 if there is only one.
    pub source: usize,
    /// Its number among the sequences of this source and lane, in the order in which they are completed.
    pub sequence: u64,
}

/// The training sequences of a run, a step at a time, without their tokens. They follow from the configuration and the
/// sizes of the sources, so nothing has to be recorded.
pub trait Draws {
    /// The sequences of the next step; those of the first step come first.
    ///
    /// # Errors
    /// If the sources of the run's mixture are used up.
    fn next_step(&mut self) -> Result<Vec<Drawn>>;

    /// How the documents of this source of the mixture become sequences in a lane, from the first one on.
    fn cuts(&self, source: usize) -> Box<dyn Cuts>;
}

/// A part of a document in a sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DocumentPart {
    /// The position of its first token in the sequence.
    pub position: usize,
    /// The number of the document among those of its source and lane.
    pub document: usize,
    /// Its tokens: the last one of a document ends it.
    pub tokens: Range<u32>,
}

/// Which parts of documents the sequences of a source in a lane have. It follows from the number of tokens of each
/// document.
///
/// A sequence has the tokens that the model reads, and the one after them, which is its last target.
pub trait Cuts {
    /// The parts of a sequence, in order; each sequence is asked for once. `next` gives the number of tokens of the next
    /// document, with the end-of-text token after it.
    ///
    /// # Errors
    /// Those of `next`.
    fn parts(&mut self, sequence: u64, next: &mut dyn FnMut() -> Result<u32>) -> Result<Vec<DocumentPart>>;
}

/// How the training documents of a source fill sequences, about. The stage that packs them provides it to the source, if the
/// sizes of its documents are known before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Packing {
    /// Whether sequences may have padding, in at most half of their positions.
    pub pads: bool,
    /// Documents of an epoch.
    pub documents: u64,
    /// How many of them are longer than a sequence.
    pub longer: u64,
    /// How many of the others are split nevertheless.
    pub split: u64,
    /// Positions of the sequences.
    pub positions: u64,
    /// How many of them are padding.
    pub padding: u64,
}

impl Packing {
    /// That of all sources; `None` if it is not known.
    pub fn of_all(resources: &Resources) -> Option<Self> {
        resources.all::<Self>().map(|(_, packing)| *packing).reduce(Self::with)
    }

    /// The fraction of positions that are tokens and not padding.
    pub fn filled(&self) -> f64 {
        1.0 - self.padding as f64 / self.positions.max(1) as f64
    }

    /// The positions of sequences that so many tokens take.
    pub fn positions_of(&self, tokens: u64) -> u64 {
        (tokens as f64 / self.filled()).round() as u64
    }

    /// The sum of both.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self {
            pads: self.pads || other.pads,
            documents: self.documents + other.documents,
            longer: self.longer + other.longer,
            split: self.split + other.split,
            positions: self.positions + other.positions,
            padding: self.padding + other.padding,
        }
    }
}

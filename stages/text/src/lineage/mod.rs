//! Which documents a step trains on: derived from the order of documents in each lane and the sequences that `pack`
//! draws, without reading or recording anything. [`documents`]: what these are called, and what has become of others.
pub mod documents;

use crate::corpus::index::CorpusIndex;
use crate::corpus::lanes::LaneOrder;
use anyhow::{Context, Result};
use contract::{BatchShape, Drawn, Draws, Lane};
use std::ops::Range;
use std::sync::Arc;

/// A part of a training document in a sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passage {
    /// The micro-batch.
    pub leaf: Lane,
    /// The index of the sequence in the micro-batch.
    pub row: usize,
    /// The position of its first token in the sequence.
    pub position: usize,
    /// The index of the source in the mixture; 0 if there is only one.
    pub source: usize,
    /// The index of the document in [`CorpusIndex::train`].
    pub document: usize,
    /// How often the document has been read completely before.
    pub epoch: u64,
    /// Its tokens: the last one of a document ends it.
    pub tokens: Range<u32>,
}

/// The documents of every step of a run, from the first step on.
///
/// A sequence has the tokens that the model reads, and the one after them, which is its last target. So consecutive
/// sequences of a lane share a token.
pub struct Lineage {
    draws: Box<dyn Draws>,
    window: u64,
    /// By lane and source.
    streams: Vec<Vec<DocumentStream>>,
}

/// The training documents of a source in a lane, one after another.
struct DocumentStream {
    index: Arc<CorpusIndex>,
    order: LaneOrder,
    /// The documents so far: index and epoch.
    documents: Vec<(usize, u64)>,
    /// The number of tokens up to the end of each of them.
    ends: Vec<u64>,
}

impl Lineage {
    /// The lineage of a run with `seed`, whose sources have these `indices`.
    pub fn new(draws: Box<dyn Draws>, shape: BatchShape, seed: u64, indices: &[Arc<CorpusIndex>]) -> Self {
        let stream = |lane: Lane, index: &Arc<CorpusIndex>| DocumentStream {
            index: Arc::clone(index),
            order: LaneOrder::new(Arc::clone(index), lane, shape.lanes, seed),
            documents: Vec::new(),
            ends: Vec::new(),
        };
        let lane = |lane: Lane| indices.iter().map(|index| stream(lane, index)).collect();
        Self { draws, window: shape.length as u64 + 1, streams: (0..shape.lanes).map(lane).collect() }
    }

    /// The passages of the next step, ordered by micro-batch, sequence and position.
    ///
    /// # Errors
    /// If a source has no training documents, or the sources of the mixture are used up.
    pub fn next_step(&mut self) -> Result<Vec<Passage>> {
        let mut passages = Vec::new();
        for drawn in self.draws.next_step()? {
            let stream = &mut self.streams[drawn.lane as usize][drawn.source];
            stream.passages(&drawn, self.window, &mut passages)?;
        }
        passages.sort_by_key(|passage| (passage.leaf, passage.row, passage.position));
        Ok(passages)
    }
}

impl DocumentStream {
    /// Appends the passages of a sequence of `window` tokens.
    fn passages(&mut self, drawn: &Drawn, window: u64, passages: &mut Vec<Passage>) -> Result<()> {
        let (mut at, end) = (drawn.first, drawn.first + window);
        self.read_up_to(end)?;
        let mut number = self.ends.partition_point(|end| *end <= at);
        while at < end {
            let (document, epoch) = self.documents[number];
            let start = self.ends[number] - u64::from(self.index.train.tokens[document]);
            let stop = end.min(self.ends[number]);
            let tokens = (at - start) as u32..(stop - start) as u32;
            let (Drawn { leaf, row, source, .. }, position) = (*drawn, (at - drawn.first) as usize);
            passages.push(Passage { leaf, row, position, source, document, epoch, tokens });
            (at, number) = (stop, number + 1);
        }
        Ok(())
    }

    /// Adds documents until there are `tokens` tokens.
    fn read_up_to(&mut self, tokens: u64) -> Result<()> {
        while self.ends.last().is_none_or(|end| *end < tokens) {
            let epoch = self.order.epoch();
            let document = self.order.next().context("a source of the run has no training documents")?;
            let before = self.ends.last().copied().unwrap_or(0);
            self.documents.push((document, epoch));
            self.ends.push(before + u64::from(self.index.train.tokens[document]));
        }
        Ok(())
    }
}

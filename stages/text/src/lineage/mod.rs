//! Which documents a step trains on: derived from the order of documents in each lane and the sequences that `pack`
//! draws, without reading or recording anything. [`documents`]: what these are called, and what has become of others.
pub mod documents;

use crate::corpus::index::CorpusIndex;
use crate::corpus::lanes::LaneOrder;
use anyhow::{Context, Result};
use contract::{BatchShape, Cuts, DocumentPart, Drawn, Draws, Lane, Step};
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
pub struct Lineage {
    draws: Box<dyn Draws>,
    /// By lane and source.
    streams: Vec<Vec<DocumentStream>>,
}

/// The training documents of a source in a lane, one after another.
struct DocumentStream {
    index: Arc<CorpusIndex>,
    order: LaneOrder,
    /// The documents so far: index and epoch.
    documents: Vec<(usize, u64)>,
    cuts: Box<dyn Cuts>,
}

impl Lineage {
    /// The lineage of a run with `seed`, whose sources have these `indices`.
    pub fn new(draws: Box<dyn Draws>, shape: BatchShape, seed: u64, indices: &[Arc<CorpusIndex>]) -> Self {
        let stream = |lane: Lane, (source, index): (usize, &Arc<CorpusIndex>)| DocumentStream {
            index: Arc::clone(index),
            order: LaneOrder::new(Arc::clone(index), lane, shape.lanes, seed),
            documents: Vec::new(),
            cuts: draws.cuts(source),
        };
        let lane = |lane: Lane| indices.iter().enumerate().map(|source| stream(lane, source)).collect();
        let streams = (0..shape.lanes).map(lane).collect();
        Self { draws, streams }
    }

    /// The passages of the next step, ordered by micro-batch, sequence and position.
    ///
    /// # Errors
    /// If a source has no training documents, or the sources of the mixture are used up.
    pub fn next_step(&mut self) -> Result<Vec<Passage>> {
        let mut passages = Vec::new();
        for drawn in self.draws.next_step()? {
            let stream = &mut self.streams[drawn.lane as usize][drawn.source];
            passages.extend(stream.passages(&drawn)?);
        }
        passages.sort_by_key(|passage| (passage.leaf, passage.row, passage.position));
        Ok(passages)
    }

    /// The hash of the document of a passage.
    fn hash(&self, passage: &Passage) -> Option<u64> {
        let stream = self.streams.first()?.get(passage.source)?;
        stream.index.train.hashes.get(passage.document).copied()
    }
}

/// The first of `steps` steps in which two runs with the same tokenizer do not train on the same tokens, counted from 0;
/// `None` if there is none. Documents are compared by the hashes of their contents. A run whose sources are used up trains
/// on nothing.
///
/// # Errors
/// If `one` has no further step.
pub fn first_difference(one: &mut Lineage, other: &mut Lineage, steps: Step) -> Result<Option<Step>> {
    for step in 0..steps {
        let expected = one.next_step()?;
        let Ok(found) = other.next_step() else { return Ok(Some(step)) };
        let is_same = |(a, b): (&Passage, &Passage)| {
            let at = |passage: &Passage| (passage.leaf, passage.row, passage.position, passage.source);
            at(a) == at(b) && a.tokens == b.tokens && one.hash(a) == other.hash(b)
        };
        if expected.len() != found.len() || !expected.iter().zip(&found).all(is_same) {
            return Ok(Some(step));
        }
    }
    Ok(None)
}

impl DocumentStream {
    /// The passages of a sequence.
    fn passages(&mut self, drawn: &Drawn) -> Result<Vec<Passage>> {
        let Self { index, order, documents, cuts } = self;
        let mut next = || {
            let epoch = order.epoch();
            let document = order.next().context("a source of the run has no training documents")?;
            documents.push((document, epoch));
            Ok(index.train.tokens[document])
        };
        let parts = cuts.parts(drawn.sequence, &mut next)?;
        let passage = |DocumentPart { position, document, tokens }| {
            let (Drawn { leaf, row, source, .. }, (document, epoch)) = (*drawn, documents[document]);
            Passage { leaf, row, position, source, document, epoch, tokens }
        };
        Ok(parts.into_iter().map(passage).collect())
    }
}

//! Runs the dataflow on a corpus in two versions: the documents of the previous version, then what has changed since.
use super::fragment::{Content, Rank, Verdict, deduplicate};
use crate::engine::{finish, threads};
use anyhow::Result;
use differential_dataflow::consolidation::consolidate;
use differential_dataflow::input::Input;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use timely::dataflow::operators::capture::{Capture, Event};

/// A corpus in two versions.
pub trait Corpus: Send + Sync + 'static {
    /// Documents of the previous version, each with its text.
    fn before(&self) -> &[(Content, Rank)];
    /// Documents that are new in this version (+1), and those of the previous version that are gone (-1).
    fn changes(&self) -> &[((Content, Rank), isize)];
    /// The keys of a text's bands.
    fn bands(&self, text: Content) -> Vec<u64>;
    /// The Jaccard similarity of two texts.
    ///
    /// # Errors
    /// If a text cannot be read.
    fn similarity(&self, a: Content, b: Content) -> Result<f64>;
    /// The smallest similarity of near-duplicates.
    fn threshold(&self) -> f64;
}

/// The result for this version.
#[derive(Debug, Default, PartialEq)]
pub struct Outcome {
    /// Dropped documents, with the reason.
    pub dropped: BTreeMap<Rank, Verdict>,
    /// Pairs of texts that were compared.
    pub compared: Vec<(Content, Content)>,
    /// Documents that are kept in this version but not in the previous one (+1), or the other way round (-1).
    pub changes: Vec<(Rank, isize)>,
}

/// Changes of a collection that the dataflow emits: `(data, version, difference)`, where version 0 is the previous one.
type Changes<D> = Vec<(D, u64, isize)>;

/// Decides which documents of `corpus` are kept.
///
/// # Errors
/// If a text cannot be read.
pub fn run<C: Corpus>(corpus: &Arc<C>, workers: usize) -> Result<Outcome> {
    let (kept, captured_kept) = channel();
    let (dropped, captured_dropped) = channel();
    let (compared, captured_compared) = channel();
    let corpus = Arc::clone(corpus);
    threads(workers, move |worker, failure| {
        let (index, peers) = (worker.index(), worker.peers());
        let (bands, similarity, noted) = (Arc::clone(&corpus), Arc::clone(&corpus), failure.clone());
        let threshold = corpus.threshold();
        let mut input = worker.dataflow::<u64, _, _>(|scope| {
            let (input, documents) = scope.new_collection();
            let result = deduplicate(
                documents,
                move |text| bands.bands(text),
                // A failure or panic ends the run, so the value that stands for its result does not matter.
                move |a, b| noted.guard("deduplicate", None, || similarity.similarity(a, b)).unwrap_or(0.0),
                threshold,
            );
            result.kept.inner.capture_into(kept.clone());
            result.dropped.inner.capture_into(dropped.clone());
            result.compared.inner.capture_into(compared.clone());
            input
        });
        let mine = |rank: Rank| rank as usize % peers == index;
        corpus.before().iter().filter(|(_, rank)| mine(*rank)).for_each(|document| input.update(*document, 1));
        input.advance_to(1);
        let changes = corpus.changes().iter().filter(|((_, rank), _)| mine(*rank));
        changes.for_each(|(document, change)| input.update(*document, *change));
        input.close();
        finish(worker, failure);
        Ok(())
    })?;
    let new = all(&captured_kept).filter(|(_, version, _)| *version == 1);
    let mut changes = new.map(|(rank, _, difference)| (rank, difference)).collect();
    consolidate(&mut changes);
    let (dropped, compared) = (accumulated(&captured_dropped).collect(), accumulated(&captured_compared).collect());
    Ok(Outcome { dropped, compared, changes })
}

/// The changes that all workers have captured, in any order.
fn all<D>(captured: &Receiver<Event<u64, Changes<D>>>) -> impl Iterator<Item = (D, u64, isize)> {
    let batches = captured.try_iter().filter_map(|event| match event {
        Event::Messages(_, changes) => Some(changes),
        Event::Progress(_) => None,
    });
    batches.flatten()
}

/// The content of the collection after all changes, in order.
fn accumulated<D: Ord>(captured: &Receiver<Event<u64, Changes<D>>>) -> impl Iterator<Item = D> {
    let mut sum: Vec<(D, isize)> = all(captured).map(|(data, _, difference)| (data, difference)).collect();
    consolidate(&mut sum);
    sum.into_iter().map(|(data, _)| data)
}

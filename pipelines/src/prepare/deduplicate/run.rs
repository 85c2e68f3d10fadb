//! Runs the fragment over two versions of a corpus: the last one, and what has changed since.
use super::fragment::{Content, Rank, Verdict, deduplicate};
use crate::engine::{finish, threads};
use anyhow::Result;
use differential_dataflow::consolidation::consolidate;
use differential_dataflow::input::Input;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// A corpus in two versions.
pub trait Corpus: Send + Sync + 'static {
    /// Documents of the last version: each with its text.
    fn before(&self) -> &[(Content, Rank)];
    /// Documents of this version that were not in the last (+1), and those that were and are not any more (-1).
    fn changes(&self) -> &[((Content, Rank), isize)];
    /// The keys of a text's bands.
    fn bands(&self, text: Content) -> Vec<u64>;
    /// The Jaccard similarity of two texts.
    ///
    /// # Errors
    /// If a text cannot be read.
    fn similarity(&self, a: Content, b: Content) -> Result<f64>;
    /// From which similarity on two texts are near-duplicates.
    fn threshold(&self) -> f64;
}

/// What holds in this version.
#[derive(Debug, Default, PartialEq)]
pub struct Outcome {
    /// Every dropped document, with why.
    pub dropped: BTreeMap<Rank, Verdict>,
    /// Texts that share a bucket.
    pub compared: Vec<(Content, Content)>,
    /// Documents that have come to be kept (+1), or are kept no longer (-1), since the last version.
    pub changes: Vec<(Rank, isize)>,
}

/// The version of a change: 0 for the last one's documents, 1 for what is new.
type Changes<D> = Vec<(D, u64, isize)>;

#[derive(Default)]
struct Seen {
    kept: Changes<Rank>,
    dropped: Changes<(Rank, Verdict)>,
    compared: Changes<(Content, Content)>,
}

/// Who is kept of `corpus`.
///
/// # Errors
/// If a text cannot be read.
pub fn run<C: Corpus>(corpus: &Arc<C>, workers: usize) -> Result<Outcome> {
    let seen = Arc::new(Mutex::new(Seen::default()));
    let (all, corpus) = (Arc::clone(&seen), Arc::clone(corpus));
    threads(workers, move |worker, failure| {
        let (index, peers) = (worker.index(), worker.peers());
        let (bands, similarity, noted) = (Arc::clone(&corpus), Arc::clone(&corpus), failure.clone());
        let threshold = corpus.threshold();
        let mut input = worker.dataflow::<u64, _, _>(|scope| {
            let (input, documents) = scope.new_collection();
            let result = deduplicate(
                documents,
                move |text| bands.bands(text),
                // What fails, or panics, ends the run; until then nothing is alike.
                move |a, b| noted.guard("deduplicate", None, || similarity.similarity(a, b)).unwrap_or(0.0),
                threshold,
            );
            macro_rules! gather {
                ($collection:expr, $field:ident) => {{
                    let all = Arc::clone(&all);
                    $collection.inspect_batch(move |_, changes| {
                        let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
                        all.$field.extend(changes.iter().cloned());
                    });
                }};
            }
            gather!(result.kept, kept);
            gather!(result.dropped, dropped);
            gather!(result.compared, compared);
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
    let seen = std::mem::take(&mut *seen.lock().unwrap_or_else(PoisonError::into_inner));
    let mut changes =
        seen.kept.into_iter().filter(|(_, version, _)| *version == 1).map(|(rank, _, n)| (rank, n)).collect();
    consolidate(&mut changes);
    let (dropped, compared) = (now(seen.dropped).collect(), now(seen.compared).collect());
    Ok(Outcome { dropped, compared, changes })
}

/// What is there after all changes, in order.
fn now<D: Ord>(changes: Changes<D>) -> impl Iterator<Item = D> {
    let mut sum: Vec<(D, isize)> = changes.into_iter().map(|(data, _, change)| (data, change)).collect();
    consolidate(&mut sum);
    sum.into_iter().map(|(data, _)| data)
}

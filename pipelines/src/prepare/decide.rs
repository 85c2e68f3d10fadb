//! Decides which documents are kept: converts the catalog to collections of numbers for [`super::deduplicate`], and its
//! verdicts back to rows.
use super::RunPaths;
use super::deduplicate::{self, Content, Corpus, Outcome, Rank};
use super::graph::Preparation;
use super::layout::{Verdict, Verdicts};
use super::previous::Previous;
use super::shown;
use crate::show::{Line, Unit};
use anyhow::{Context, Result};
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use text::DocumentStore;
use text::prepare::catalog::{Catalog, Hash};
use text::prepare::deduplicate::{Deduplicate, Shingler, jaccard};
use text::prepare::origins::Origin;

/// Number of shingles that are kept in memory for the next comparison.
const KEPT_SHINGLES: usize = 16 << 20;

/// Decides for every row of `catalog` whether it is kept, given the [`first_verdicts`](super::layout::first_verdicts).
///
/// # Errors
/// If texts of either version cannot be read.
pub fn decide(
    prepared: &Preparation,
    catalog: &Catalog,
    mut rows: Vec<Verdict>,
    previous: Option<&Previous>,
    places: &RunPaths,
    workers: usize,
    line: &mut Line,
) -> Result<Verdicts> {
    let Some(settings) = &prepared.deduplicate else { return Ok(Verdicts { rows, pairs: Vec::new() }) };
    let began = Instant::now();
    let documents = catalog.len() as u64;
    shown(line, "Deduplicating", 0, documents, Unit::Things("documents"), began);
    let usable = previous.filter(|previous| previous.manifest.chain == prepared.chain);
    let sources = catalog.origins.mixed();
    let new = Version::new(catalog, sources, |row| rows[row] == Verdict::Kept);
    let old = usable.map(|last| {
        let takes_part = |row| !matches!(last.outcomes.value(row), "dropped" | "duplicate id");
        Version::new(&last.catalog, sources, takes_part)
    });
    let numbers = Numbers::of(&new, old.as_ref());
    let similarities = known_similarities(previous, settings.shingle_words, &numbers)?;
    let corpus = Arc::new(Texts::new(&new, old.as_ref(), &numbers, places, similarities, settings));
    let outcome = deduplicate::run(&corpus, workers)?;
    apply(&outcome, &new, &numbers, &mut rows);
    let pairs = pairs(&outcome, &corpus, &numbers)?;
    shown(line, "Deduplicating", documents, documents, Unit::Things("documents"), began);
    Ok(Verdicts { rows, pairs })
}

/// The documents of one version of the corpus that take part in deduplication.
struct Version<'a> {
    catalog: &'a Catalog,
    /// Their rows in the catalog.
    rows: Vec<u32>,
    /// By source of the catalog: its position among the sources of the new version, or their number. The document of the
    /// lowest rank is kept, so the order of both versions has to be the same.
    priorities: Vec<usize>,
}

/// What identifies a document, in the order of ranks: the position of its source, its id, the hash of its text.
type Identity<'a> = (usize, &'a str, Hash);

impl<'a> Version<'a> {
    /// The documents of `catalog` that take part; `sources`: those of the new version.
    fn new(catalog: &'a Catalog, sources: &[Origin], takes_part: impl Fn(usize) -> bool) -> Self {
        let position = |source: &Origin| sources.iter().position(|other| other.stage == source.stage);
        let priorities = catalog.origins.mixed().iter().map(|source| position(source).unwrap_or(sources.len()));
        let rows = (0..catalog.len()).filter(|row| takes_part(*row)).map(|row| row as u32).collect();
        Self { catalog, rows, priorities: priorities.collect() }
    }

    /// The row and the identity of each.
    fn documents(&self) -> impl Iterator<Item = (u32, Identity<'a>)> {
        let catalog = self.catalog;
        let source = move |row: usize| catalog.origins.index(catalog.input_row(row));
        let priority = move |row: usize| self.priorities.get(source(row)).copied().unwrap_or(usize::MAX);
        let identity = move |row: usize| (priority(row), catalog.id(row), catalog.content(row));
        self.rows.iter().map(move |row| (*row, identity(*row as usize)))
    }
}

/// The documents and texts of both versions. [`deduplicate`] refers to each by its index here.
struct Numbers<'a> {
    /// Each document, sorted, without duplicates.
    documents: Vec<Identity<'a>>,
    /// Sorted, without duplicates.
    texts: Vec<Hash>,
}

impl<'a> Numbers<'a> {
    fn of(new: &Version<'a>, old: Option<&Version<'a>>) -> Self {
        let documents = || old.into_iter().flat_map(Version::documents).chain(new.documents());
        let mut identities: Vec<Identity> = documents().map(|(_, identity)| identity).collect();
        identities.sort_unstable();
        identities.dedup();
        let mut texts: Vec<Hash> = documents().map(|(_, (.., text))| text).collect();
        texts.sort_unstable();
        texts.dedup();
        Self { documents: identities, texts }
    }

    fn rank(&self, identity: &Identity<'a>) -> Rank {
        self.documents.binary_search(identity).unwrap_or_default() as Rank
    }

    fn content(&self, text: &Hash) -> Option<Content> {
        self.texts.binary_search(text).ok().map(|place| place as Content)
    }

    /// The documents of a version as indices, in order.
    fn documents(&self, version: &Version<'a>) -> Vec<(Content, Rank)> {
        let number = |identity: Identity<'a>| (self.content(&identity.2).unwrap_or_default(), self.rank(&identity));
        let mut documents: Vec<_> = version.documents().map(|(_, identity)| number(identity)).collect();
        documents.sort_unstable();
        documents
    }
}

/// Similarities computed for the previous version that this one may need again.
fn known_similarities(
    previous: Option<&Previous>,
    shingle_words: usize,
    numbers: &Numbers,
) -> Result<HashMap<(Content, Content), f64>> {
    let mut known = HashMap::new();
    for (a, b, similarity) in previous.map(|last| last.pairs(shingle_words)).transpose()?.into_iter().flatten() {
        if let (Some(a), Some(b)) = (numbers.content(&a), numbers.content(&b)) {
            known.insert((a, b), similarity);
        }
    }
    Ok(known)
}

/// Converts verdicts on documents to verdicts on rows.
fn apply<'a>(outcome: &Outcome, new: &Version<'a>, numbers: &Numbers<'a>, rows: &mut [Verdict]) {
    let mut rows_of_ranks = vec![u32::MAX; numbers.documents.len()];
    new.documents().for_each(|(row, identity)| rows_of_ranks[numbers.rank(&identity) as usize] = row);
    let row = |rank: Rank| rows_of_ranks[rank as usize];
    let content = |rank: Rank| new.catalog.content(row(rank) as usize);
    for (dropped, (kept, neighbour, bits)) in &outcome.dropped {
        rows[row(*dropped) as usize] = match content(*dropped) == content(*neighbour) {
            true => Verdict::Exact(row(*kept), row(*neighbour)),
            false => Verdict::Near(row(*kept), row(*neighbour), *bits),
        };
    }
}

/// The similarity of every pair of texts that was compared, for the next version.
fn pairs(outcome: &Outcome, corpus: &Texts, numbers: &Numbers) -> Result<Vec<(Hash, Hash, f64)>> {
    let known = corpus.known.lock().unwrap_or_else(PoisonError::into_inner);
    let pairs = outcome.compared.iter().map(|(a, b)| {
        let similarity = known.get(&(*a, *b)).copied().context("a pair without a similarity (please report this)")?;
        Ok((numbers.texts[*a as usize], numbers.texts[*b as usize], similarity))
    });
    pairs.collect()
}

/// The differences between `before` and `now` (both sorted): what is added (+1) and removed (-1).
fn changes(before: &[(Content, Rank)], now: &[(Content, Rank)]) -> Vec<((Content, Rank), isize)> {
    let (old, new): (BTreeSet<_>, BTreeSet<_>) = (before.iter().collect(), now.iter().collect());
    let gone = old.difference(&new).map(|document| (**document, -1));
    new.difference(&old).map(|document| (**document, 1)).chain(gone).collect()
}

struct Texts {
    before: Vec<(Content, Rank)>,
    changes: Vec<((Content, Rank), isize)>,
    /// By text: a row of the old or the new catalog that has its bands.
    bands: Vec<(bool, u32)>,
    catalogs: (Catalog, Option<Catalog>),
    texts: Arc<DocumentStore>,
    /// By text: its row in `texts`.
    places: Vec<u64>,
    known: Mutex<HashMap<(Content, Content), f64>>,
    shingles: Mutex<Shingles>,
    words: usize,
    threshold: f64,
}

/// Shingle sets of the texts that were compared most recently.
#[derive(Default)]
struct Shingles {
    sets: HashMap<Content, Arc<Vec<u64>>>,
    size: usize,
}

impl Texts {
    fn new<'a>(
        new: &Version<'a>,
        old: Option<&Version<'a>>,
        numbers: &Numbers<'a>,
        places: &RunPaths,
        known: HashMap<(Content, Content), f64>,
        settings: &Deduplicate,
    ) -> Self {
        let mut bands = vec![(false, u32::MAX); numbers.texts.len()];
        let versions = old.map(|old| (true, old)).into_iter().chain([(false, new)]);
        for (is_old, version) in versions {
            for (row, (.., text)) in version.documents() {
                if let Some(text) = numbers.content(&text) {
                    bands[text as usize] = (is_old, row);
                }
            }
        }
        let place = |text: usize| match bands[text] {
            (false, row) if row != u32::MAX => places.rows[row as usize],
            _ => places.old.get(&numbers.texts[text]).copied().unwrap_or(u64::MAX),
        };
        let before = old.map_or(Vec::new(), |old| numbers.documents(old));
        Self {
            changes: changes(&before, &numbers.documents(new)),
            before,
            places: (0..numbers.texts.len()).map(place).collect(),
            bands,
            catalogs: (new.catalog.clone(), old.map(|old| old.catalog.clone())),
            texts: Arc::clone(&places.texts),
            known: Mutex::new(known),
            shingles: Mutex::default(),
            words: settings.shingle_words,
            threshold: settings.threshold,
        }
    }

    fn shingles(&self, text: Content) -> Result<Arc<Vec<u64>>> {
        if let Some(set) = self.shingles.lock().unwrap_or_else(PoisonError::into_inner).sets.get(&text) {
            return Ok(Arc::clone(set));
        }
        let place = self.places[text as usize];
        anyhow::ensure!(place != u64::MAX, "a text that is to be compared is nowhere (please report this)");
        let content = self.texts.get(place)?.unwrap_or_default();
        let set = Arc::new(Shingler::default().set(&content, self.words));
        let mut kept = self.shingles.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.size > KEPT_SHINGLES {
            *kept = Shingles::default();
        }
        kept.size += set.len();
        kept.sets.insert(text, Arc::clone(&set));
        Ok(set)
    }
}

impl Corpus for Texts {
    fn before(&self) -> &[(Content, Rank)] {
        &self.before
    }

    fn changes(&self) -> &[((Content, Rank), isize)] {
        &self.changes
    }

    fn bands(&self, text: Content) -> Vec<u64> {
        let (old, row) = self.bands[text as usize];
        let catalog = if old { self.catalogs.1.as_ref() } else { Some(&self.catalogs.0) };
        catalog.map(|catalog| catalog.bands(row as usize).to_vec()).unwrap_or_default()
    }

    fn similarity(&self, a: Content, b: Content) -> Result<f64> {
        if let Some(known) = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&(a, b)) {
            return Ok(*known);
        }
        let similarity = jaccard(&self.shingles(a)?, &self.shingles(b)?);
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert((a, b), similarity);
        Ok(similarity)
    }

    fn threshold(&self) -> f64 {
        self.threshold
    }
}

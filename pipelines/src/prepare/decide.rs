//! Who is kept: the catalog as collections of numbers for [`super::deduplicate`], and its verdicts as rows again.
use super::Places;
use super::deduplicate::{self, Content, Corpus, Rank};
use super::graph::Preparation;
use super::layout::{Verdict, Verdicts, first_verdicts};
use super::shown;
use super::version::Previous;
use crate::show::{Line, Unit};
use anyhow::{Context, Result};
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use text::DocumentStore;
use text::prepare::catalog::Catalog;
use text::prepare::deduplicate::{Shingler, jaccard};
use text::prepare::scan_rows::Hash;

/// Shingles that are kept in memory for the next comparison.
const KEPT_SHINGLES: usize = 16 << 20;

/// What becomes of every row of `catalog`.
pub fn decide(
    prepared: &Preparation,
    catalog: &Catalog,
    previous: Option<&Previous>,
    places: &Places,
    workers: usize,
    line: &mut Line,
) -> Result<Verdicts> {
    let mut rows = first_verdicts(catalog);
    let Some(settings) = &prepared.deduplicate else { return Ok(Verdicts { rows, pairs: Vec::new() }) };
    let began = Instant::now();
    shown(line, "Deduplicating", 0, catalog.len() as u64, Unit::Things("documents"), began);
    let usable = previous.filter(|previous| previous.manifest.chain == prepared.chain);

    let live: Vec<u32> = (0..catalog.len() as u32).filter(|row| rows[*row as usize] == Verdict::Kept).collect();
    let was_live = |last: &&Previous, row: usize| !matches!(last.outcomes.value(row), "dropped" | "duplicate id");
    let old: Vec<u32> = usable.map_or(Vec::new(), |last| {
        (0..last.catalog.len()).filter(|row| was_live(&last, *row)).map(|row| row as u32).collect()
    });
    // Ids and texts of both versions become numbers in their order.
    let old_catalog = usable.map(|last| &last.catalog);
    let of_old = |row: u32| old_catalog.map_or(("", [0; 16]), |old| (old.id(row as usize), old.content(row as usize)));
    let mut ids: Vec<&str> = live.iter().map(|row| catalog.id(*row as usize)).collect();
    ids.extend(old.iter().map(|row| of_old(*row).0));
    ids.sort_unstable();
    ids.dedup();
    let mut texts: Vec<Hash> = live.iter().map(|row| catalog.content(*row as usize)).collect();
    texts.extend(old.iter().map(|row| of_old(*row).1));
    texts.sort_unstable();
    texts.dedup();
    let rank = |id: &str| ids.binary_search(&id).unwrap_or_default() as Rank;
    let number = |text: &Hash| texts.binary_search(text).unwrap_or_default() as Content;
    let mut rows_of_ranks = vec![u32::MAX; ids.len()];
    let mut bands: Vec<(bool, u32)> = vec![(false, u32::MAX); texts.len()];
    let mut before: Vec<(Content, Rank)> = Vec::with_capacity(old.len());
    for row in &old {
        let (id, text) = of_old(*row);
        let text = number(&text);
        before.push((text, rank(id)));
        bands[text as usize] = (true, *row);
    }
    let mut now: Vec<(Content, Rank)> = Vec::with_capacity(live.len());
    for row in &live {
        let (text, rank) = (number(&catalog.content(*row as usize)), rank(catalog.id(*row as usize)));
        now.push((text, rank));
        bands[text as usize] = (false, *row);
        rows_of_ranks[rank as usize] = *row;
    }
    before.sort_unstable();
    now.sort_unstable();
    let changes = changes(&before, &now);

    let mut known = HashMap::new();
    if let Some(previous) = previous {
        for (a, b, similarity) in previous.pairs(settings.shingle_words)? {
            if let (Ok(a), Ok(b)) = (texts.binary_search(&a), texts.binary_search(&b)) {
                known.insert((a as Content, b as Content), similarity);
            }
        }
    }
    let place = |text: usize| match bands[text] {
        (false, row) if row != u32::MAX => places.rows[row as usize],
        _ => places.old.get(&texts[text]).copied().unwrap_or(u64::MAX),
    };
    let corpus = Arc::new(Texts {
        before,
        changes,
        places: (0..texts.len()).map(place).collect(),
        bands,
        catalogs: (catalog.clone(), usable.map(|last| last.catalog.clone())),
        texts: Arc::clone(&places.texts),
        known: Mutex::new(known),
        shingles: Mutex::default(),
        words: settings.shingle_words,
        threshold: settings.threshold,
    });
    let outcome = deduplicate::run(&corpus, workers)?;
    let row = |rank: Rank| rows_of_ranks[rank as usize];
    for (dropped, (kept, neighbour, bits)) in &outcome.dropped {
        let same = catalog.content(row(*dropped) as usize) == catalog.content(row(*neighbour) as usize);
        rows[row(*dropped) as usize] = match same {
            true => Verdict::Exact(row(*kept), row(*neighbour)),
            false => Verdict::Near(row(*kept), row(*neighbour), *bits),
        };
    }
    let known = corpus.known.lock().unwrap_or_else(PoisonError::into_inner);
    let pairs = outcome.compared.iter().map(|(a, b)| {
        let similarity = known.get(&(*a, *b)).copied().context("a pair without a similarity (please report this)")?;
        Ok((texts[*a as usize], texts[*b as usize], similarity))
    });
    let pairs = pairs.collect::<Result<_>>()?;
    shown(line, "Deduplicating", catalog.len() as u64, catalog.len() as u64, Unit::Things("documents"), began);
    Ok(Verdicts { rows, pairs })
}

/// What has to be added to (+1) and taken from (-1) `before` to get `now`; both sorted.
fn changes(before: &[(Content, Rank)], now: &[(Content, Rank)]) -> Vec<((Content, Rank), isize)> {
    let (old, new): (BTreeSet<_>, BTreeSet<_>) = (before.iter().collect(), now.iter().collect());
    let gone = old.difference(&new).map(|document| (**document, -1));
    new.difference(&old).map(|document| (**document, 1)).chain(gone).collect()
}

struct Texts {
    before: Vec<(Content, Rank)>,
    changes: Vec<((Content, Rank), isize)>,
    /// By text: a row of the old catalog or of the new one that has its bands.
    bands: Vec<(bool, u32)>,
    catalogs: (Catalog, Option<Catalog>),
    texts: Arc<DocumentStore>,
    /// By text: its row of `texts`.
    places: Vec<u64>,
    known: Mutex<HashMap<(Content, Content), f64>>,
    shingles: Mutex<Shingles>,
    words: usize,
    threshold: f64,
}

/// Shingle sets of texts that were compared last.
#[derive(Default)]
struct Shingles {
    sets: HashMap<Content, Arc<Vec<u64>>>,
    size: usize,
}

impl Texts {
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

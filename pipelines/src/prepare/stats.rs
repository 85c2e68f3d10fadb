//! Statistics of a version: `stats.json`, and the summary that is printed when a version is complete.
use super::layout::{Verdict, Verdicts};
use crate::show::human::{bytes as size, count, time as span};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;
use text::Quarantine;
use text::clean::RESIDUE;
use text::corpus::split::Part;
use text::input::quarantine::Counts;
use text::parquet::columns::UNHANDLED;
use text::prepare::catalog::Catalog;
use text::prepare::dropped_lines::DroppedLines;
use text::prepare::write::Work;

/// `stats.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// Sums over all sources.
    #[serde(flatten)]
    pub all: Sums,
    /// Histogram of the kept documents by number of tokens. A bin contains values from its key to below twice its key.
    pub documents_by_tokens: BTreeMap<u64, u64>,
    /// Histogram of the kept documents by bytes of text, with the same bins.
    pub documents_by_bytes: BTreeMap<u64, u64>,
    /// Histogram of the clusters of duplicates by number of documents, with the same bins.
    pub clusters_by_size: BTreeMap<u64, u64>,
    /// Markup in kept wiki pages that was not understood, by kind.
    #[serde(default)]
    pub unhandled_markup: BTreeMap<String, u64>,
    /// Markup that remains in kept documents after stage `clean`, by kind.
    #[serde(default)]
    pub residue: BTreeMap<String, u64>,
    /// Histogram of the compared pairs of texts by similarity, in bins of 0.1.
    pub pairs_by_similarity: BTreeMap<String, u64>,
    /// The sources, if a stage mixes several, in the order of priority.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<SourceStats>,
}

/// What became of rows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sums {
    /// Rows that were read.
    pub read: Amount,
    /// Documents that are kept.
    pub kept: Amount,
    /// Kept documents of the training part.
    pub train: Amount,
    /// Kept documents of the validation part.
    pub validation: Amount,
    /// Documents that could not be read (`quarantine.parquet`), by reason.
    #[serde(default)]
    pub unreadable: BTreeMap<String, u64>,
    /// Dropped rows, by reason.
    pub dropped: BTreeMap<String, Amount>,
}

/// One of several sources.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SourceStats {
    /// The id of its stage.
    pub source: String,
    /// Sums over its rows.
    #[serde(flatten)]
    pub sums: Sums,
    /// Its documents that are dropped as exact or near-duplicates, by the source of the document that is kept instead.
    pub duplicates: BTreeMap<String, u64>,
}

/// A number of documents and their size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Amount {
    /// Documents.
    pub documents: u64,
    /// Bytes of text.
    pub bytes: u64,
    /// Tokens, without end-of-text tokens.
    pub tokens: u64,
}

impl Amount {
    fn add(&mut self, bytes: u64, tokens: u64) {
        self.documents += 1;
        self.bytes += bytes;
        self.tokens += tokens;
    }
}

impl Sums {
    fn new(unreadable: &Counts) -> Self {
        let unreadable = unreadable.iter().map(|(reason, documents)| (reason.to_string(), documents)).collect();
        Self { unreadable, ..Self::default() }
    }

    /// Adds a row that is kept in `part`, or dropped for the reason `Err`.
    fn add(&mut self, outcome: &Result<Part, Cow<str>>, bytes: u64, tokens: u64) {
        self.read.add(bytes, 0);
        match outcome {
            Ok(part) => {
                self.kept.add(bytes, tokens);
                match part {
                    Part::Validation => self.validation.add(bytes, tokens),
                    _ => self.train.add(bytes, tokens),
                }
            }
            Err(reason) => self.dropped.entry(reason.to_string()).or_default().add(bytes, 0),
        }
    }

    /// Adds rows that are dropped for one reason.
    fn add_dropped(&mut self, reason: &str, (documents, bytes): (u64, u64)) {
        for sum in [&mut self.read, self.dropped.entry(reason.to_owned()).or_default()] {
            (sum.documents, sum.bytes) = (sum.documents + documents, sum.bytes + bytes);
        }
    }
}

/// The statistics of a version. `dropped` are the rows that are not in `catalog`, `counts` the numbers of tokens of rows,
/// `unreadable` the input of each source and of all that could not be read.
pub fn stats(
    catalog: &Catalog,
    dropped: &DroppedLines,
    verdicts: &Verdicts,
    counts: &BTreeMap<u32, u32>,
    work: &Work,
    unreadable: &(Vec<Quarantine>, Quarantine),
) -> Stats {
    let mut stats = Stats { all: Sums::new(unreadable.1.counts()), ..Stats::default() };
    let sources = catalog.origins.mixed().iter().zip(&unreadable.0);
    stats.sources.extend(sources.map(|(origin, unreadable)| SourceStats {
        source: origin.stage.clone(),
        sums: Sums::new(unreadable.counts()),
        ..SourceStats::default()
    }));
    let mut clusters: BTreeMap<u32, u64> = BTreeMap::new();
    let power = |n: u64| if n == 0 { 0 } else { 1 << n.ilog2() };
    for (row, verdict) in (0_u32..).zip(&verdicts.rows) {
        let bytes = catalog.bytes(row as usize);
        let tokens = u64::from(counts.get(&row).copied().unwrap_or_default());
        let outcome = match verdict {
            Verdict::Kept => Ok(work.part(row)),
            _ => Err(verdicts.reason(catalog, row as usize)),
        };
        stats.all.add(&outcome, bytes, tokens);
        let mut source = stats.sources.get_mut(catalog.origins.index(catalog.input_row(row as usize)));
        if let Some(source) = &mut source {
            source.sums.add(&outcome, bytes, tokens);
        }
        if *verdict == Verdict::Kept {
            if work.footer.vocabulary.is_some() {
                *stats.documents_by_tokens.entry(power(tokens)).or_default() += 1;
            }
            *stats.documents_by_bytes.entry(power(bytes)).or_default() += 1;
            add_kinds(&mut stats.unhandled_markup, catalog.string(UNHANDLED, row as usize));
            add_kinds(&mut stats.residue, catalog.string(RESIDUE, row as usize));
        }
        if let Verdict::Exact(kept, _) | Verdict::Near(kept, ..) = verdict {
            *clusters.entry(*kept).or_insert(1) += 1;
            let of = source.zip(catalog.stage(*kept as usize));
            of.into_iter().for_each(|(source, of)| *source.duplicates.entry(of.to_owned()).or_default() += 1);
        }
    }
    for (source, sums) in dropped.sums.iter().enumerate() {
        for (reason, sum) in sums {
            let source = stats.sources.get_mut(source).map(|source| &mut source.sums);
            [&mut stats.all].into_iter().chain(source).for_each(|sums| sums.add_dropped(reason, *sum));
        }
    }
    clusters.values().for_each(|size| *stats.clusters_by_size.entry(power(*size)).or_default() += 1);
    for (.., similarity) in &verdicts.pairs {
        let tenth = (similarity * 10.0).floor() / 10.0;
        *stats.pairs_by_similarity.entry(format!("{tenth:.1}")).or_default() += 1;
    }
    stats
}

/// Adds the counts in a value of a column whose values look like `unclosed link: 1; stray ]]: 2`.
fn add_kinds(sum: &mut BTreeMap<String, u64>, value: Option<&str>) {
    for (kind, count) in value.iter().flat_map(|value| value.split("; ")).filter_map(|one| one.rsplit_once(": ")) {
        *sum.entry(kind.to_owned()).or_default() += count.parse::<u64>().unwrap_or_default();
    }
}

/// The summary of a complete version. `previous`: the number of the previous one; `shards`: how many were reused and
/// how many were written.
pub fn summary(folder: &Path, stats: &Stats, previous: Option<u64>, shards: (usize, usize), spent: Duration) -> String {
    let Sums { read, kept, .. } = &stats.all;
    let dropped: u64 = stats.all.dropped.values().map(|amount| amount.documents).sum();
    let mut lines = vec![format!(
        "{}: {} of {} documents are kept, {} dropped\n{} of text, {} tokens, in {}",
        folder.display(),
        kept.documents,
        read.documents,
        dropped,
        size(kept.bytes),
        count(kept.tokens),
        span(spent),
    )];
    for SourceStats { source, sums, .. } in &stats.sources {
        let (kept, read) = (&sums.kept, &sums.read);
        let tokens = count(kept.tokens);
        lines.push(format!("{source}: {} of {} documents are kept, {tokens} tokens", kept.documents, read.documents));
    }
    if let Some(previous) = previous {
        lines.push(format!("since v{previous}: {} shards are the same, {} are written anew", shards.0, shards.1));
    }
    lines.join("\n")
}

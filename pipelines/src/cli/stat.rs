//! `pipeline stat`: statistics of a version of a prepared corpus.
use super::{Command, Context};
use crate::prepare::find_version;
use crate::prepare::stats::{Amount, SourceStats, Stats, Sums};
use crate::prepare::version::STATS;
use crate::show::{Align, bar, table};
use anyhow::{Context as _, Result};
use clap::Args;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Show statistics of a prepared corpus
#[derive(Debug, Args)]
#[command(after_help = "Example: pipeline stat runs/prepare-wiki")]
pub struct Stat {
    /// A version, or a folder of versions (the last one is used)
    #[arg(value_name = "OUT")]
    path: PathBuf,
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
}

impl Command for Stat {
    fn run(&self, context: &Context) -> Result<()> {
        let version = find_version(&self.path)?;
        let file = version.join(STATS);
        let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let stats = serde_json::from_str(&text).with_context(|| format!("cannot understand {}", file.display()))?;
        context.out.answer(self.json, &stats, |columns| render(&version, &stats, columns))
    }
}

/// The statistics as tables of at most `columns`.
fn render(version: &Path, stats: &Stats, columns: usize) -> String {
    let mut text = format!("{}\n\n{}\n", version.display(), sums("", &stats.all, columns));
    for source in &stats.sources {
        text += &format!("\n{}\n", sums(&source.source, &source.sums, columns));
        text += &counted(&format!("{}: could not be read", source.source), &source.sums.unreadable, columns);
    }
    text += &duplicates(&stats.sources, columns);
    for (title, counts) in [
        ("could not be read (quarantine.parquet)", &stats.all.unreadable),
        ("markup that was not understood", &stats.unhandled_markup),
        ("remaining markup", &stats.residue),
    ] {
        text += &counted(title, counts, columns);
    }
    let from = |by: &BTreeMap<u64, u64>| by.iter().map(|(n, count)| (n.to_string(), *count)).collect::<Vec<_>>();
    let pairs: Vec<_> = stats.pairs_by_similarity.iter().map(|(n, count)| (n.clone(), *count)).collect();
    for (title, histogram) in [
        ("tokens from", from(&stats.documents_by_tokens)),
        ("bytes from", from(&stats.documents_by_bytes)),
        ("cluster from", from(&stats.clusters_by_size)),
        ("similarity", pairs),
    ] {
        let most = histogram.iter().map(|(_, count)| *count).max().unwrap_or_default();
        if most > 0 {
            let heads = [(title, Align::Right), ("count", Align::Right), ("", Align::Left)];
            let rows: Vec<_> =
                histogram.into_iter().map(|(n, count)| vec![n, count.to_string(), bar(count, most, 40)]).collect();
            text += &format!("\n{}\n", table(&heads, &rows, columns));
        }
    }
    text
}

/// A table of numbers under the heading `title`; empty if there are none.
fn counted(title: &str, counts: &BTreeMap<String, u64>, columns: usize) -> String {
    if counts.is_empty() {
        return String::new();
    }
    let rows: Vec<_> = counts.iter().map(|(kind, count)| vec![kind.clone(), count.to_string()]).collect();
    format!("\n{}\n", table(&[(title, Align::Left), ("count", Align::Right)], &rows, columns))
}

/// What became of rows, under the heading `title`.
fn sums(title: &str, sums: &Sums, columns: usize) -> String {
    let heads = [(title, Align::Left), ("documents", Align::Right), ("bytes", Align::Right), ("tokens", Align::Right)];
    let line = |name: &str, of: &Amount| {
        let tokens = if of.tokens > 0 { of.tokens.to_string() } else { String::new() };
        vec![name.to_owned(), of.documents.to_string(), of.bytes.to_string(), tokens]
    };
    let mut rows = vec![line("read", &sums.read)];
    rows.extend(sums.dropped.iter().map(|(reason, amount)| line(&format!("  {reason}"), amount)));
    rows.push(line("kept", &sums.kept));
    rows.push(line("  training", &sums.train));
    rows.push(line("  validation", &sums.validation));
    table(&heads, &rows, columns)
}

/// The duplicates within sources and between them; empty if there are none.
fn duplicates(sources: &[SourceStats], columns: usize) -> String {
    let mut rows = Vec::new();
    for SourceStats { source, duplicates, .. } in sources {
        let of = |of: &String| if of == source { "itself".to_owned() } else { of.clone() };
        rows.extend(duplicates.iter().map(|(kept, count)| vec![source.clone(), of(kept), count.to_string()]));
    }
    let heads = [("duplicates in", Align::Left), ("of documents in", Align::Left), ("count", Align::Right)];
    if rows.is_empty() { String::new() } else { format!("\n{}\n", table(&heads, &rows, columns)) }
}

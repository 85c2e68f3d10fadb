//! `pipeline cache`: lists and removes the entries of the cache.
use super::{Command, Context};
use crate::show::human::{bytes, count, end_of};
use crate::show::{Align, table};
use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};
use text::Cache as Store;
use text::support::cache_entries::Entry;

/// Width of the output in columns.
const COLUMNS: usize = 80;
const DAY: Duration = Duration::from_secs(24 * 3600);

/// List the entries of the cache, or remove them
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pipeline cache
  pipeline cache --clear documents --older-than 30")]
pub struct Cache {
    /// Print one line of JSON per entry
    #[arg(long)]
    json: bool,
    /// Remove all entries, or only those of this kind
    #[arg(long, value_name = "KIND", num_args = 0..=1, value_parser = kinds())]
    clear: Option<Option<String>>,
    /// Only entries last used more than DAYS days ago
    #[arg(long, value_name = "DAYS")]
    older_than: Option<u64>,
    /// The cache (default: $MILLRACE_CACHE, $XDG_CACHE_HOME/millrace or ~/.cache/millrace)
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
}

impl Command for Cache {
    fn run(&self, context: &Context) -> Result<()> {
        let now = SystemTime::now();
        let (store, entries, in_use) = self.entries(now)?;
        let text = match self.clear.is_some() {
            _ if self.json => {
                return entries.iter().try_for_each(|entry| context.out.json(&as_json(entry, self.clear.is_some())));
            }
            true => format!("{}{}", summary("Removed", &entries, &store), kept(in_use)),
            false if entries.is_empty() => format!("No entries in {}", store.root().display()),
            false => format!("{}\n{}", listed(&entries, now), summary("Total:", &entries, &store)),
        };
        context.out.line(&text)
    }
}

impl Cache {
    /// The cache, and those of its entries that match the options; if they are to be removed, this is done, except for
    /// those that running processes use, whose number is the last value.
    fn entries(&self, now: SystemTime) -> Result<(Store, Vec<Entry>, u64)> {
        let folder = self.cache.as_ref().map(|folder| folder.to_string_lossy().into_owned());
        let store = Store::new(folder.as_deref());
        let kind = self.clear.as_ref().and_then(Option::as_deref);
        let is_meant = |entry: &Entry| {
            kind.is_none_or(|kind| entry.kind == kind)
                && self.older_than.is_none_or(|days| entry.idle(now).as_secs() / DAY.as_secs() >= days)
        };
        let (entries, in_use) = match self.clear.is_some() {
            true => store.remove(is_meant, now)?,
            false => (store.entries()?.into_iter().filter(is_meant).collect(), 0),
        };
        Ok((store, entries, in_use))
    }
}

fn kinds() -> impl clap::builder::TypedValueParser<Value = String> {
    use clap::builder::{PossibleValue, PossibleValuesParser};
    let kinds = text::support::cache_entries::KINDS.map(|(kind, what)| PossibleValue::new(kind).help(what));
    PossibleValuesParser::new(kinds)
}

fn summary(label: &str, entries: &[Entry], cache: &Store) -> String {
    let size = entries.iter().map(|entry| entry.bytes).sum();
    format!("{label} {} entries, {}\n{}", count(entries.len() as u64), bytes(size), cache.root().display())
}

/// A line about entries that were not removed.
fn kept(in_use: u64) -> String {
    match in_use {
        0 => String::new(),
        1 => "\nKept 1 entry that a running process uses".into(),
        more => format!("\nKept {} entries that running processes use", count(more)),
    }
}

fn listed(entries: &[Entry], now: SystemTime) -> String {
    let heads = [("kind", Align::Left), ("made of", Align::Left), ("size", Align::Right), ("last used", Align::Right)];
    let rows: Vec<Vec<String>> = entries
        .iter()
        .map(|entry| {
            let source = match (&entry.source, entry.unfinished) {
                (_, true) => "(unfinished)".to_string(),
                (Some(source), _) => end_of(source, 44),
                (None, _) => entry.key.chars().take(12).collect(),
            };
            vec![entry.kind.to_string(), source, bytes(entry.bytes), ago(entry.idle(now))]
        })
        .collect();
    table(&heads, &rows, COLUMNS)
}

fn ago(idle: Duration) -> String {
    match idle.as_secs() / DAY.as_secs() {
        0 => "today".into(),
        1 => "1 day ago".into(),
        days => format!("{days} days ago"),
    }
}

fn as_json(entry: &Entry, cleared: bool) -> Value {
    let used = entry.used.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    json!({
        "kind": entry.kind,
        "key": entry.key,
        "source": entry.source,
        "bytes": entry.bytes,
        "last_used": used,
        "files": entry.files,
        "in_use": entry.in_use,
        "removed": cleared,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(kind: &'static str, source: Option<&str>, days: u64, unfinished: bool) -> Entry {
        let (key, source) = ("0123456789abcdef".to_string(), source.map(str::to_string));
        let used = SystemTime::UNIX_EPOCH + DAY * 100 - DAY * days as u32;
        Entry { kind, key, files: vec![], source, bytes: 1_234_567 * (days + 1), used, unfinished, in_use: false }
    }

    #[test]
    fn a_list_of_80_columns() {
        let long = "/home/somebody/a/folder/with/a/long/name/enwiki-latest-pages-articles.xml.bz2";
        let entries = [
            entry("documents", Some(long), 0, false),
            entry("documents", None, 1, true),
            entry("tokenizers", Some("GPT-2, built in"), 40, false),
            entry("indices", None, 3, false),
        ];
        let shown = listed(&entries, SystemTime::UNIX_EPOCH + DAY * 100);
        assert!(shown.lines().all(|line| line.chars().count() <= COLUMNS));
        insta::assert_snapshot!(shown, @r"
        kind        made of                                          size    last used
        documents   …g/name/enwiki-latest-pages-articles.xml.bz2   1.2 MB        today
        documents   (unfinished)                                   2.5 MB    1 day ago
        tokenizers  GPT-2, built in                               50.6 MB  40 days ago
        indices     0123456789ab                                   4.9 MB   3 days ago
        ");
    }
}

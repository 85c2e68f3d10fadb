//! `pipeline diff`: the documents that differ between two versions, and why.
use super::{Command, Context};
use crate::prepare::previous::{Previous, ReadFor};
use crate::prepare::version::MANIFEST;
use crate::problem::Usage;
use crate::show::{Align, table};
use anyhow::Result;
use clap::Args;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

/// Show what has changed between two versions of a prepared corpus
#[derive(Debug, Args)]
#[command(after_help = "Example: pipeline diff runs/prepare-wiki/v1 runs/prepare-wiki/v2")]
pub struct Diff {
    /// The older version
    #[arg(value_name = "FROM")]
    from: PathBuf,
    /// The newer version
    #[arg(value_name = "TO")]
    to: PathBuf,
    /// Print one line of JSON, with every document
    #[arg(long)]
    json: bool,
}

impl Command for Diff {
    fn run(&self, context: &Context) -> Result<()> {
        let found = diff(&self.from, &self.to)?;
        context.out.answer(self.json, &found, |columns| render(&found, columns))
    }
}

/// Maximum number of documents listed in the table; JSON lists all.
const LISTED: usize = 10;

/// The difference between two versions.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
struct Difference {
    /// The older version.
    pub from: String,
    /// The newer one.
    pub to: String,
    /// Documents (and their tokens) that are the same in both.
    pub same: Sum,
    /// Documents that are only in the newer version.
    pub added: Sum,
    /// Documents that are only in the older version.
    pub removed: Sum,
    /// Documents whose text differs: those of the newer version.
    pub replaced: Sum,
    /// Tokens of the replaced documents in the older version.
    pub replaced_tokens_before: u64,
    /// Number of changes by reason.
    pub why: BTreeMap<String, u64>,
    /// All changes, by id.
    pub documents: Vec<Change>,
}

/// Documents and their tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
struct Sum {
    /// Documents.
    pub documents: u64,
    /// Their tokens, without end-of-text.
    pub tokens: u64,
}

/// A changed document.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Change {
    /// Its id.
    pub id: String,
    /// `added`, `removed` or `replaced`.
    pub change: &'static str,
    /// The kind of reason.
    pub why: String,
    /// The duplicate that is kept instead, or that this document replaces, if any.
    pub other: Option<String>,
    /// Its tokens in the older version.
    pub tokens_before: u64,
    /// Its tokens in the newer version.
    pub tokens: u64,
}

impl Sum {
    fn add(&mut self, tokens: u64) {
        self.documents += 1;
        self.tokens += tokens;
    }
}

/// One version for comparison.
struct Side {
    version: Previous,
    /// The relevant row of each id.
    rows: HashMap<String, usize>,
    duplicates: HashMap<String, (String, String, f64)>,
}

impl Side {
    fn read(path: &Path) -> Result<Self> {
        if !path.join(MANIFEST).is_file() {
            let at = path.display();
            return Err(Usage(format!("{at} is not a version of a corpus; give one, for example OUT/v1")).into());
        }
        let version = Previous::read(0, path, ReadFor::Comparison)?;
        let mut rows = HashMap::new();
        for row in 0..version.catalog.len() {
            // If several rows have the same id, the first that was not dropped counts.
            if version.outcomes.value(row) != "duplicate id" {
                let id = version.catalog.id(row);
                let dropped = version.outcomes.value(row) == "dropped";
                let seen = rows.get(id).is_some_and(|other| version.outcomes.value(*other) != "dropped");
                match (dropped, seen) {
                    // Several documents may have one id (`repeated_ids = "keep"`).
                    (false, true) => {
                        let numbered = (2..).map(|number: u64| format!("{id} ({number})"));
                        rows.extend(numbered.into_iter().find(|id| !rows.contains_key(id)).map(|id| (id, row)));
                    }
                    (true, _) if rows.contains_key(id) => {}
                    _ => drop(rows.insert(id.to_owned(), row)),
                }
            }
        }
        Ok(Self { duplicates: version.duplicates()?, version, rows })
    }

    fn kept(&self, id: &str) -> Option<usize> {
        self.rows.get(id).copied().filter(|row| self.version.outcomes.value(*row) == "kept")
    }

    /// Why it was not kept, and the duplicate that was kept instead.
    fn absent(&self, id: &str) -> (String, Option<String>) {
        let Some(row) = self.rows.get(id) else { return ("not in the input".into(), None) };
        let is_dropped = self.version.outcomes.value(*row) == "dropped";
        let duplicate = self.duplicates.get(id).filter(|_| !is_dropped);
        (self.version.outcome(*row), duplicate.map(|line| line.0.clone()))
    }
}

/// Compares two versions.
///
/// # Errors
/// [`Usage`] if one is not a version; an error if its files are corrupt.
fn diff(from: &Path, to: &Path) -> Result<Difference> {
    let (old, new) = (Side::read(from)?, Side::read(to)?);
    let mut found =
        Difference { from: from.display().to_string(), to: to.display().to_string(), ..Difference::default() };
    let ids: BTreeSet<&String> = old.rows.keys().chain(new.rows.keys()).collect();
    for id in ids {
        let (was, is) = (old.kept(id), new.kept(id));
        let tokens_before = was.map_or(0, |row| u64::from(old.version.tokens[row]));
        let tokens = is.map_or(0, |row| u64::from(new.version.tokens[row]));
        let (change, why, other) = match (was, is) {
            (Some(was), Some(is)) if old.version.catalog.content(was) == new.version.catalog.content(is) => {
                found.same.add(tokens);
                continue;
            }
            (Some(_), Some(_)) => {
                found.replaced.add(tokens);
                found.replaced_tokens_before += tokens_before;
                ("replaced", "its text has changed".to_owned(), None)
            }
            (None, Some(_)) => {
                found.added.add(tokens);
                let (why, other) = match old.absent(id) {
                    (why, None) if why == "not in the input" => ("new in the input".to_owned(), None),
                    (why, other) => (format!("was {why}"), other),
                };
                ("added", why, other)
            }
            (Some(_), None) => {
                found.removed.add(tokens_before);
                let (why, other) = new.absent(id);
                let why =
                    if why == "not in the input" { "gone from the input".to_owned() } else { format!("now {why}") };
                ("removed", why, other)
            }
            (None, None) => continue,
        };
        *found.why.entry(format!("{change}: {why}")).or_default() += 1;
        found.documents.push(Change { id: id.clone(), change, why, other, tokens_before, tokens });
    }
    Ok(found)
}

/// The difference as tables of at most `columns`.
fn render(found: &Difference, columns: usize) -> String {
    let heads = [("", Align::Left), ("documents", Align::Right), ("tokens", Align::Right)];
    let sum = |name: &str, sum: Sum| vec![name.to_owned(), sum.documents.to_string(), sum.tokens.to_string()];
    let sums = [
        sum("the same", found.same),
        sum("added", found.added),
        sum("removed", found.removed),
        sum("replaced", found.replaced),
    ];
    let mut text = format!("{} to {}\n\n{}\n", found.from, found.to, table(&heads, &sums, columns));
    if !found.why.is_empty() {
        let rows: Vec<_> = found.why.iter().map(|(why, count)| vec![why.clone(), count.to_string()]).collect();
        text += &format!("\n{}\n", table(&[("why", Align::Left), ("documents", Align::Right)], &rows, columns));
        let heads = [("document", Align::Left), ("change", Align::Left), ("why", Align::Left), ("other", Align::Left)];
        let listed = found.documents.iter().take(LISTED);
        let line = |c: &Change| vec![c.id.clone(), c.change.into(), c.why.clone(), c.other.clone().unwrap_or_default()];
        text += &format!("\n{}\n", table(&heads, &listed.map(line).collect::<Vec<_>>(), columns));
        if found.documents.len() > LISTED {
            text += &format!("… and {} more (--json lists all)\n", found.documents.len() - LISTED);
        }
    }
    text
}

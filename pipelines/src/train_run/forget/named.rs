//! The documents that are to be forgotten, from their names.
use super::super::why::of_prepared;
use crate::problem::Usage;
use anyhow::Result;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use text::SourceDocuments;
use text::support::problem::likeness;

/// A document that is withdrawn.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Withdrawal {
    /// The id of its source in the configuration.
    pub source: String,
    /// Its id.
    pub id: String,
}

/// The documents with these names: ids, or URLs or titles, which must be of one document each. In the order of sources and
/// ids.
///
/// # Errors
/// [`Usage`] if a name is of no document, or a URL or title is of several; if a file cannot be read.
pub fn named(run: &str, sources: &[(String, SourceDocuments)], names: &[String]) -> Result<Vec<Withdrawal>> {
    let mut missing: BTreeSet<&str> = names.iter().map(String::as_str).collect();
    let wanted = missing.clone();
    let mut found = BTreeSet::new();
    for (source, documents) in sources {
        documents.each_id(&mut |id| {
            if wanted.contains(id) {
                missing.remove(id);
                found.insert((source.clone(), id.to_owned()));
            }
        })?;
    }
    for name in missing {
        let mut called = BTreeSet::new();
        for (source, documents) in sources {
            called.extend(documents.called(name)?.into_iter().map(|(_, about)| (source.clone(), about.id)));
        }
        match called.len() {
            0 => return Err(unknown(run, sources, name)?.into()),
            1 => found.append(&mut called),
            n => {
                let ids: Vec<&str> = called.iter().take(3).map(|(_, id)| id.as_str()).collect();
                let more = if n > ids.len() { ", …" } else { "" };
                let why = format!("`{name}` is the title or URL of {n} documents ({}{more}): give ids", ids.join(", "));
                return Err(Usage(format!("{run}: {why}")).into());
            }
        }
    }
    Ok(found.into_iter().map(|(source, id)| Withdrawal { source, id }).collect())
}

/// The error for a name that is of no document.
fn unknown(run: &str, sources: &[(String, SourceDocuments)], name: &str) -> Result<Usage> {
    for (id, source) in sources {
        if let Some(dropped) = of_prepared(id, source, name)? {
            let why = dropped.why.unwrap_or_default();
            let next = "the run has not seen it; `withdraw` of the preparation keeps it out of later versions";
            return Ok(Usage(format!("`{name}` is not in the corpus of {run}: {why}: {next}")));
        }
    }
    let mut nearest = (0.0, String::new());
    for (_, source) in sources {
        source.each_id(&mut |id| {
            let likeness = likeness(name, id);
            if likeness > nearest.0 {
                nearest = (likeness, id.to_owned());
            }
        })?;
    }
    let why = format!("has no document `{name}` in its corpus: give an id, URL or title; similar: {}", nearest.1);
    Ok(Usage(format!("{run} {why}")))
}

/// All ids to withdraw, by source: those that were withdrawn before, and these.
pub fn lists(sources: &[(String, SourceDocuments)], withdrawn: &[Withdrawal]) -> BTreeMap<String, BTreeSet<String>> {
    let mut lists: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for Withdrawal { source, id } in withdrawn {
        lists.entry(source.clone()).or_default().insert(id.clone());
    }
    for (source, documents) in sources {
        if let (Some(list), Some(before)) = (lists.get_mut(source), documents.withdrawn()) {
            list.extend(before.ids().into_iter().map(str::to_owned));
        }
    }
    lists
}

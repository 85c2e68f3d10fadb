//! What has become of a document.
use super::answer::OfDocument;
use crate::prepare::previous::{Previous, ReadFor};
use crate::prepare::version::MANIFEST;
use anyhow::Result;
use std::collections::BTreeSet;
use text::{About, Fate, SourceDocuments};

/// A fate, in the words of an answer.
pub fn named(fate: Fate) -> OfDocument {
    let (fate, why) = match fate {
        Fate::Train(_) => ("train", None),
        Fate::Validation(_) => ("validation", None),
        Fate::NotUsed(why) => ("not used", Some(why)),
    };
    OfDocument { fate, why, ..OfDocument::default() }
}

/// The document `id`, which is not in the files of the source, if they are of a prepared corpus whose input had it.
///
/// # Errors
/// If the catalog of the corpus cannot be read.
pub fn of_prepared(source_id: &str, source: &SourceDocuments, id: &str) -> Result<Option<OfDocument>> {
    for folder in source.folders().into_iter().filter(|folder| folder.join(MANIFEST).is_file()) {
        let version = Previous::read(0, &folder, ReadFor::Comparison)?;
        let Some(row) = (0..version.catalog.len()).find(|row| version.catalog.id(*row) == id) else { continue };
        let (outcome, duplicate) = (version.outcome(row), version.duplicates()?.remove(id));
        let why = match &duplicate {
            Some((kept, _, similarity)) => format!("{outcome} of {kept} (similarity {similarity:.3})"),
            None => outcome,
        };
        let why = format!("{why}, when {} was prepared", folder.display());
        let text = |column| version.catalog.string(column, row).map(str::to_owned);
        let about = About {
            id: id.to_owned(),
            title: text("title").unwrap_or_default(),
            url: text("url"),
            revision: None,
            collection: text("source").unwrap_or_default(),
            file: text("source_file").unwrap_or_default(),
        };
        let duplicate_of = duplicate.map(|(kept, ..)| kept);
        let not_used = named(Fate::NotUsed(why));
        return Ok(Some(OfDocument { source: source_id.to_owned(), about, duplicate_of, ..not_used }));
    }
    Ok(None)
}

/// The documents that were left out as duplicates of one of `kept`, if the source is a prepared corpus: their ids, and those
/// of the documents that were kept in their place.
///
/// # Errors
/// If the catalog of the corpus cannot be read.
pub fn replaced_by(source: &SourceDocuments, kept: &BTreeSet<&str>) -> Result<Vec<(String, String)>> {
    let mut replaced = Vec::new();
    for folder in source.folders().into_iter().filter(|folder| folder.join(MANIFEST).is_file()) {
        let duplicates = Previous::read(0, &folder, ReadFor::Comparison)?.duplicates()?;
        let of_kept = duplicates.into_iter().filter(|(_, (of, ..))| kept.contains(of.as_str()));
        replaced.extend(of_kept.map(|(id, (of, ..))| (id, of)));
    }
    replaced.sort();
    Ok(replaced)
}

//! `documents.jsonl` of a run directory: the loss of each held-out document at the end of the run, from which runs are
//! compared document by document.
use anyhow::{Context, Result};
use contract::DocumentLoss;
use contract::files::{read_if_there, write_whole};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

/// The file with the losses of held-out documents.
pub const DOCUMENTS_FILE: &str = "documents.jsonl";

/// A line of [`DOCUMENTS_FILE`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Document {
    /// Its position among the held-out documents of its source, from 0, times the number of sources, plus the
    /// position of its source in the mixture.
    pub document: u32,
    /// Its tokens and the one that ends it.
    pub tokens: u64,
    /// Their summed cross-entropy, in nats.
    pub nats: f64,
}

/// Writes the losses of the documents whose parts `losses` are, in the order in which they are added.
///
/// # Errors
/// If the file cannot be written.
pub fn write(run_dir: &Path, losses: impl Iterator<Item = DocumentLoss>) -> Result<()> {
    let mut all: BTreeMap<u32, Document> = BTreeMap::new();
    for DocumentLoss { document, tokens, nats } in losses {
        let whole = all.entry(document).or_insert(Document { document, tokens: 0, nats: 0.0 });
        whole.tokens += u64::from(tokens);
        whole.nats += nats;
    }
    write_whole(&run_dir.join(DOCUMENTS_FILE), |out| {
        all.values().try_for_each(|document| Ok(writeln!(out, "{}", serde_json::to_string(document)?)?))
    })
}

/// The losses of a run's held-out documents; none if it has not written them.
///
/// # Errors
/// If the file cannot be read.
pub fn read(run_dir: &Path) -> Result<Vec<Document>> {
    let path = run_dir.join(DOCUMENTS_FILE);
    let bytes = read_if_there(&path)?.unwrap_or_default();
    let lines = bytes.split(|byte| *byte == b'\n').enumerate().filter(|(_, line)| !line.is_empty());
    let parsed = lines.map(|(number, line)| {
        let context = || format!("{}, line {}: no loss of a document", path.display(), number + 1);
        serde_json::from_slice(line).with_context(context)
    });
    parsed.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_a_document_are_added() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read(folder.path()).unwrap(), []);
        let part = |document, tokens, nats| DocumentLoss { document, tokens, nats };
        write(folder.path(), [part(3, 2, 1.5), part(0, 1, 0.25), part(3, 4, 0.5)].into_iter()).unwrap();
        let whole = |document, tokens, nats| Document { document, tokens, nats };
        assert_eq!(read(folder.path()).unwrap(), [whole(0, 1, 0.25), whole(3, 6, 2.0)]);
        std::fs::write(folder.path().join(DOCUMENTS_FILE), "{}\n").unwrap();
        let said = format!("{:#}", read(folder.path()).unwrap_err());
        assert!(said.contains("documents.jsonl, line 1: no loss of a document"), "{said}");
    }
}

//! Reads the documents of a file without row addressing, whatever its format and compression.
use crate::input::decompress::{Damage, Decompressed};
use crate::input::document::{EmitItem, ReaderItem};
use crate::input::format::DocumentReader;
use crate::input::quarantine::Unreadable;
use anyhow::Result;
use std::path::Path;

/// Decompressed bytes at the beginning of a file in which [`look`] expects a document.
const LOOK: u64 = 16 << 20;

/// How far a file was read, and why no further.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadOutcome {
    /// Number of documents found, readable or not.
    pub documents: u64,
    /// How the stream was damaged, if it was.
    pub damage: Option<Damage>,
    /// Decompressed bytes that were read.
    pub decompressed: u64,
    /// Bytes of the compressed file that were read.
    pub compressed: u64,
}

impl ReadOutcome {
    /// Whether documents have been emitted that may not be in the original. If so, the file has to be read again, up to
    /// [`Damage::intact`].
    pub fn is_doubtful(&self) -> bool {
        self.damage.as_ref().is_some_and(|damage| damage.intact < self.decompressed)
    }

    /// The quarantine entry of a damaged stream of `size` bytes, of which `kept` documents remain. It counts the
    /// documents that were emitted and withdrawn, and an estimate for the rest of the file, assuming that it is like
    /// its beginning; at least one.
    pub fn entry(&self, size: u64, kept: u64) -> Option<Unreadable> {
        let damage = self.damage.as_ref()?;
        let unread = u128::from(size.saturating_sub(self.compressed));
        let beyond = u128::from(self.documents) * unread / u128::from(self.compressed.max(1));
        let documents = (beyond as u64).max(1) + (self.documents - kept.min(self.documents));
        let detail = format!("{}; the rest is left out", damage.detail);
        Some(Unreadable { documents, ..Unreadable::at(damage.intact, damage.reason, detail) })
    }
}

/// Emits the documents that `reader` finds in the file at `path`, up to `limit` decompressed bytes. Calls `read` with
/// the number of bytes of the file that have been read.
///
/// # Errors
/// If the file cannot be read, or is not of the format at all.
pub fn convert(
    path: &Path,
    reader: &dyn DocumentReader,
    limit: Option<u64>,
    read: &mut dyn FnMut(u64),
    emit: EmitItem,
) -> Result<ReadOutcome> {
    let input = Decompressed::open(path)?.limited(limit.unwrap_or(u64::MAX));
    let state = input.state();
    let mut documents = 0;
    let mut counted = |found: ReaderItem| {
        documents += 1;
        read(state.packed());
        emit(found)
    };
    reader.read(input, path, &mut counted)?;
    Ok(ReadOutcome { documents, damage: state.damage(), decompressed: state.given(), compressed: state.packed() })
}

/// Reads the file at `path` with `reader` up to its first document, but no more than its first 16 MiB (decompressed).
///
/// # Errors
/// What [`convert`] would report if there were no more of the file: it cannot be read, it is not of the format, or none of
/// the rows in the beginning has the column that is to be read. A row that has it ends the search, so a column that is
/// missing only in the first rows is no error.
pub fn look(path: &Path, reader: &dyn DocumentReader) -> Result<()> {
    let input = Decompressed::open(path)?.beginning(LOOK);
    let state = input.state();
    let mut emit = |found: ReaderItem| match found {
        ReaderItem::Document(_) => Err(FirstDocument.into()),
        ReaderItem::Unreadable(_) => Ok(()),
    };
    match reader.read(input, path, &mut emit) {
        Err(error) if error.is::<FirstDocument>() => Ok(()),
        Err(error) if state.given() >= LOOK => Err(error.context(format!("in the first {} MiB", LOOK >> 20))),
        result => result,
    }
}

/// Ends [`look`]: there is a document.
#[derive(Debug, thiserror::Error)]
#[error("a document was found")]
struct FirstDocument;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::codec::Codec;
    use crate::input::format::{Access, Layout, WithLayout};
    use crate::input::formats::of_file;
    use crate::testing::pack;

    /// The result of looking at a file with this name and content.
    fn looked(name: &str, content: &[u8], column: &str) -> Result<(), String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        let Access::Stream(reader) = &of_file(&path).unwrap().access else { panic!("{name} is read in place") };
        let said = look(&path, &WithLayout(reader, Layout { column, separator: None }));
        said.map_err(|error| format!("{error:#}").replace(&format!("{}/", folder.path().display()), ""))
    }

    #[test]
    fn a_column_is_looked_for_in_the_first_rows() {
        // 1,000 rows without it, and a cut line, do not matter if a later row has it.
        let other = "{\"id\": 1, \"content\": \"x\"}\n".repeat(1000);
        let rows = format!("{other}{{\"te\n{{\"text\": \"a\"}}\n");
        let missing = "no column \"text\" in a.jsonl; columns: id, content";
        for codec in [Codec::Plain, Codec::Gzip, Codec::Zstd, Codec::Bzip2] {
            assert_eq!(looked("a.jsonl", &pack(codec, rows.as_bytes()), "text"), Ok(()), "{codec:?}");
            let said = looked("a.jsonl", &pack(codec, other.as_bytes()), "text").unwrap_err();
            assert_eq!(said, missing, "{codec:?}");
        }
        let said = looked("a.jsonl", other.as_bytes(), "contents").unwrap_err();
        assert_eq!(said, "no column \"contents\" in a.jsonl; columns: id, content; similar: content");
        let said = looked("a.jsonl", other.as_bytes(), "id").unwrap_err();
        assert_eq!(said, "column \"id\" of a.jsonl is of type number, not string");
        assert_eq!(looked("a.jsonl", b"", "text"), Ok(()), "an empty file lacks no column");
    }

    #[test]
    fn no_more_than_the_beginning_is_read() {
        let row = format!("{{\"content\": \"{}\"}}\n", "x".repeat((1 << 20) - 16));
        assert_eq!(row.len(), 1 << 20);
        let tail = "{\"text\": \"a\"}\n";
        // The row with the column is the last one of 16 MiB, or the first one after them.
        let within = row.repeat(15) + tail;
        assert_eq!(looked("a.jsonl", within.as_bytes(), "text"), Ok(()));
        let after = row.repeat(16) + tail;
        let said = looked("a.jsonl", after.as_bytes(), "text").unwrap_err();
        assert_eq!(said, "in the first 16 MiB: no column \"text\" in a.jsonl; columns: content");
    }

    #[test]
    fn a_file_of_another_format_is_seen_at_its_beginning() {
        let said = looked("a.txt", b"\xff\xfea\0", "text").unwrap_err();
        assert!(said.starts_with("a.txt is not plain text: it is UTF-16"), "{said}");
        let said = looked("a.jsonl", &b"no JSON\n".repeat(1000), "text").unwrap_err();
        assert_eq!(said, "a.jsonl is not JSON Lines: not one of its first 1000 lines is a JSON object");
        let said = looked("a.xml", b"<html></html>", "text").unwrap_err();
        assert!(said.starts_with("a.xml: there is no page in it"), "{said}");
        let said = looked("a.txt.gz", b"no gzip", "text").unwrap_err();
        assert!(said.contains("its name ends in .gz"), "{said}");
        let page = "<page><title>A</title><ns>0</ns><id>1</id><revision><text>a</text></revision></page>";
        assert_eq!(looked("a.xml", format!("<mediawiki>{page}").as_bytes(), "text"), Ok(()));
    }
}

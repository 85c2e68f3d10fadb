//! Reads the documents of a file without row addressing, whatever its format and compression.
use crate::input::decompress::{Damage, Decompressed};
use crate::input::document::{EmitItem, ReaderItem};
use crate::input::format::DocumentReader;
use crate::input::quarantine::Unreadable;
use anyhow::Result;
use std::path::Path;

/// How far a file was read, and why no further.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadOutcome {
    /// Number of documents found, readable or not.
    pub documents: u64,
    /// How the stream was damaged, if it was.
    pub damage: Option<Damage>,
    /// Decompressed bytes that were read.
    pub unpacked: u64,
    /// Bytes of the compressed file that were read.
    pub packed: u64,
}

impl ReadOutcome {
    /// Whether documents have been emitted that may not be in the original. If so, the file has to be read again, up to
    /// [`Damage::intact`].
    pub fn is_doubtful(&self) -> bool {
        self.damage.as_ref().is_some_and(|damage| damage.intact < self.unpacked)
    }

    /// The quarantine entry of a damaged stream of `size` bytes, of which `kept` documents remain. It counts the
    /// documents that were emitted and withdrawn, and an estimate for the rest of the file, assuming that it is like
    /// its beginning; at least one.
    pub fn entry(&self, size: u64, kept: u64) -> Option<Unreadable> {
        let damage = self.damage.as_ref()?;
        let unread = u128::from(size.saturating_sub(self.packed));
        let beyond = u128::from(self.documents) * unread / u128::from(self.packed.max(1));
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
    Ok(ReadOutcome { documents, damage: state.damage(), unpacked: state.given(), packed: state.packed() })
}

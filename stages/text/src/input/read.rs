//! From a file without row addressing to its documents, whatever it is and however it is packed.
use crate::input::decompress::{Damage, Decompressed};
use crate::input::document::{Found, Give};
use crate::input::format::DocumentReader;
use crate::input::quarantine::Bad;
use anyhow::Result;
use std::path::Path;

/// How far a file was read, and why not further.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passed {
    /// Documents found, good or bad.
    pub documents: u64,
    /// How it ended, if not well.
    pub damage: Option<Damage>,
    /// Decompressed bytes that were looked at.
    pub unpacked: u64,
    /// Bytes of the file that were read.
    pub packed: u64,
}

impl Passed {
    /// Was anything given that may not be in the original? Then the file has to be read again, up to
    /// [`Damage::intact`].
    pub fn is_doubtful(&self) -> bool {
        self.damage.as_ref().is_some_and(|damage| damage.intact < self.unpacked)
    }

    /// The entry for a stream of `size` bytes that ended badly, of which `kept` documents remained: it counts what was
    /// given and taken back, and as many as the rest of the file would hold if it were like its beginning; at least
    /// one.
    pub fn entry(&self, size: u64, kept: u64) -> Option<Bad> {
        let damage = self.damage.as_ref()?;
        let unread = u128::from(size.saturating_sub(self.packed));
        let beyond = u128::from(self.documents) * unread / u128::from(self.packed.max(1));
        let documents = (beyond as u64).max(1) + (self.documents - kept.min(self.documents));
        let detail = format!("{}; the rest is left out", damage.detail);
        Some(Bad { documents, ..Bad::at(damage.intact, damage.reason, detail) })
    }
}

/// Gives what `reader` finds in the file at `path`, up to `limit` decompressed bytes. `read` is told how many bytes of the
/// file have been read.
///
/// # Errors
/// If the file cannot be read, or is as a whole not what it should be.
pub fn convert(
    path: &Path,
    reader: &dyn DocumentReader,
    limit: Option<u64>,
    read: &mut dyn FnMut(u64),
    give: Give,
) -> Result<Passed> {
    let input = Decompressed::open(path)?.limited(limit.unwrap_or(u64::MAX));
    let watch = input.watch();
    let mut documents = 0;
    let mut counted = |found: Found| {
        documents += 1;
        read(watch.packed());
        give(found)
    };
    reader.read(input, path, &mut counted)?;
    Ok(Passed { documents, damage: watch.damage(), unpacked: watch.given(), packed: watch.packed() })
}

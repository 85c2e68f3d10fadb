//! Files that are written piece by piece. There may be more of them than the system allows to be open at once, so each is
//! open only while it is written to.
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::PathBuf;

/// Appends to a file, which it opens for each write. The Parquet writer writes a row group in few pieces.
pub(super) struct Appender {
    path: PathBuf,
}

impl Appender {
    /// For the file at `path`, which does not exist yet.
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path }
    }
}

impl Write for Appender {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut file = OpenOptions::new().append(true).create(true).open(&self.path)?;
        file.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Hashes what is written to `out`.
pub(super) struct Hashed<W> {
    out: W,
    hasher: blake3::Hasher,
    bytes: u64,
}

impl<W> Hashed<W> {
    /// For an empty `out`.
    pub(super) fn new(out: W) -> Self {
        Self { out, hasher: blake3::Hasher::new(), bytes: 0 }
    }

    /// The number of bytes, and their hash in hexadecimal.
    pub(super) fn finish(self) -> (u64, String) {
        (self.bytes, self.hasher.finalize().to_hex().to_string())
    }
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

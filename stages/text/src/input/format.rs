//! What an input format is: one [`Format`] beside each reader. [`formats`](crate::input::formats) lists them.
use crate::input::decompress::Decompressed;
use crate::input::document::Give;
use anyhow::Result;
use std::io::{self, BufRead};
use std::path::Path;

/// An input format: how its files are recognized, and how their documents are read.
pub struct Format {
    /// Its name in messages.
    pub name: &'static str,
    /// Suffixes of its files' names, in lower case and without that of a compression. One that ends in `*` may stand
    /// anywhere in a name.
    pub suffixes: &'static [&'static str],
    /// What the decompressed content begins with, after a byte order mark and white space; empty if that varies.
    pub magic: &'static [u8],
    /// How documents are read.
    pub access: Access,
}

/// How the documents of a format are read.
pub enum Access {
    /// By row, where they are.
    InPlace,
    /// From the first byte to the last: they are converted to document Parquet once.
    Stream(StreamReader),
}

/// Reads the documents of a format from the first byte to the last.
pub struct StreamReader {
    /// Part of the key of converted files in the cache: the version of the reader and what it uses of the layout. Changes
    /// when the same file would give other documents.
    pub version: fn(Layout) -> String,
    /// Gives each document of the content of the file at a path, and what should have been one.
    pub read: fn(Decompressed, &Path, Layout, Give) -> Result<()>,
    /// How much of the decompressed bytes is text.
    pub share: TextShare,
}

/// Reads the documents of a file as the settings of its source say.
pub trait DocumentReader {
    /// Part of the key of converted files in the cache. Changes when the same file would give other documents.
    fn version(&self) -> String;

    /// Gives each document of the content of the file at `path`, and what should have been one.
    ///
    /// # Errors
    /// If the file cannot be read, or is as a whole not what it should be.
    fn read(&self, input: Decompressed, path: &Path, give: Give) -> Result<()>;
}

/// The reader of a format, for a layout.
pub struct LaidOut<'a>(pub &'a StreamReader, pub Layout<'a>);

impl DocumentReader for LaidOut<'_> {
    fn version(&self) -> String {
        (self.0.version)(self.1)
    }

    fn read(&self, input: Decompressed, path: &Path, give: Give) -> Result<()> {
        (self.0.read)(input, path, self.1, give)
    }
}

/// How plain text and JSON Lines are taken apart.
#[derive(Clone, Copy, Debug)]
pub struct Layout<'a> {
    /// The key of the text.
    pub column: &'a str,
    /// What stands between documents of plain text.
    pub separator: Option<&'a str>,
}

/// How much of a file's decompressed bytes is text, for estimates.
pub enum TextShare {
    /// About this fraction.
    Fraction(f64),
    /// What stands under one key of its records: how much that is of the beginning of a file.
    Keys(fn(&mut dyn BufRead) -> io::Result<KeySizes>),
}

/// Sizes of the texts in some records.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct KeySizes {
    /// Keys with texts, in the order of their first appearance, and the bytes of these.
    pub keys: Vec<(String, u64)>,
    /// Bytes of the records.
    pub records: u64,
}

impl Format {
    /// Parquet: what files of all other formats are converted to.
    pub const PARQUET: Self =
        Self { name: "Parquet", suffixes: &[".parquet"], magic: b"PAR1", access: Access::InPlace };

    /// Is a file of this name, in lower case, of this format?
    pub(crate) fn has(&self, name: &str) -> bool {
        self.suffixes.iter().any(|suffix| match suffix.strip_suffix('*') {
            Some(part) => name.contains(part),
            None => name.ends_with(suffix),
        })
    }

    /// Are files of this format read in place, and therefore not compressed?
    pub fn is_in_place(&self) -> bool {
        matches!(self.access, Access::InPlace)
    }
}

/// Formats are told apart by their names.
impl PartialEq for Format {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Format {}

impl std::fmt::Debug for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

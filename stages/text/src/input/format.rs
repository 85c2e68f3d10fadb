//! The definition of an input format: one [`Format`] next to each reader. [`formats`](crate::input::formats) lists
//! them.
use crate::input::decompress::Decompressed;
use crate::input::document::EmitItem;
use anyhow::Result;
use std::io::{self, BufRead};
use std::path::Path;

/// An input format: how its files are recognized, and how their documents are read.
pub struct Format {
    /// Its name in messages.
    pub name: &'static str,
    /// Suffixes of its file names, in lower case and without the suffix of a compression. One that ends in `*` may
    /// occur anywhere in a name.
    pub suffixes: &'static [&'static str],
    /// The first bytes of the decompressed content, after a byte order mark and white space; empty if there are no
    /// fixed ones.
    pub magic: &'static [u8],
    /// How its documents are read.
    pub access: Access,
}

/// How the documents of a format are read.
pub enum Access {
    /// By row, directly from the file.
    InPlace,
    /// Sequentially: files are converted to document Parquet once.
    Stream(StreamReader),
}

/// Reads the documents of a format sequentially.
pub struct StreamReader {
    /// Part of the cache key of converted files: the version of the reader, and the part of the layout that it uses.
    /// Changes when the same file would yield different documents.
    pub version: fn(Layout) -> String,
    /// Emits each document of a file, given its decompressed content and its path, and an item for each piece
    /// that cannot be read.
    pub read: fn(Decompressed, &Path, Layout, EmitItem) -> Result<()>,
    /// How much of the decompressed bytes is text.
    pub share: TextShare,
    /// The documents have at most as many bytes as the decompressed file.
    pub is_verbatim: bool,
}

/// Reads the documents of a file, configured by the settings of its source.
pub trait DocumentReader {
    /// Part of the cache key of converted files. Changes when the same file would yield different documents.
    fn version(&self) -> String;

    /// Emits each document of the file at `path`, given its decompressed content, and an item for each piece that
    /// cannot be read.
    ///
    /// # Errors
    /// If the file cannot be read, or is not of the format at all.
    fn read(&self, input: Decompressed, path: &Path, emit: EmitItem) -> Result<()>;
}

/// The reader of a format, combined with the layout that the settings describe.
pub struct WithLayout<'a>(pub &'a StreamReader, pub Layout<'a>);

impl DocumentReader for WithLayout<'_> {
    fn version(&self) -> String {
        (self.0.version)(self.1)
    }

    fn read(&self, input: Decompressed, path: &Path, emit: EmitItem) -> Result<()> {
        (self.0.read)(input, path, self.1, emit)
    }
}

/// How plain text and JSON Lines are split into documents.
#[derive(Clone, Copy, Debug)]
pub struct Layout<'a> {
    /// The key with the text.
    pub column: &'a str,
    /// The separator between documents of plain text.
    pub separator: Option<&'a str>,
}

/// How much of a file's decompressed bytes is text, for estimates.
pub enum TextShare {
    /// Approximately this fraction.
    Fraction(f64),
    /// The strings under one key of its records; the function measures them at the beginning of a file.
    Keys(fn(&mut dyn BufRead) -> io::Result<KeySizes>),
}

/// Sizes of the texts in some records.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct KeySizes {
    /// Keys with texts, in order of first appearance, and the bytes of these texts.
    pub keys: Vec<(String, u64)>,
    /// Bytes of the records in total.
    pub records: u64,
}

impl Format {
    /// Parquet, which files of all other formats are converted to.
    pub const PARQUET: Self =
        Self { name: "Parquet", suffixes: &[".parquet"], magic: b"PAR1", access: Access::InPlace };

    /// Whether a file with this name (in lower case) is of this format.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.suffixes.iter().any(|suffix| match suffix.strip_suffix('*') {
            Some(part) => name.contains(part),
            None => name.ends_with(suffix),
        })
    }

    /// Whether files of this format are read in place, and therefore not compressed.
    pub fn is_in_place(&self) -> bool {
        matches!(self.access, Access::InPlace)
    }
}

/// Formats are identified by their names.
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

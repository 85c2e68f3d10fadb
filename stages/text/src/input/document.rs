//! What a reader emits: documents, and what could not be read as one.
use crate::input::quarantine::Unreadable;
use anyhow::Result;

/// A document as a reader finds it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Document<'a> {
    /// Its id, if it has one.
    pub id: Option<String>,
    /// If not: what identifies it within its file, if anything other than its number does.
    pub id_in_file: Option<String>,
    /// Its URL.
    pub url: Option<String>,
    /// Its title, or empty.
    pub title: String,
    /// Its text.
    pub text: &'a str,
    /// The collection it belongs to, if known.
    pub source: Option<String>,
    /// For a wiki page: its revision.
    pub revision: Option<u64>,
    /// The offset in bytes of its start in the decompressed file.
    pub offset: u64,
    /// For a wiki page: markup that could not be handled, by kind.
    pub unhandled: Option<String>,
}

/// An item that a reader emits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReaderItem<'a> {
    /// A document.
    Document(Document<'a>),
    /// A piece of input that cannot be read.
    Unreadable(Unreadable),
}

/// The callback that receives the items of a reader.
pub type EmitItem<'a> = &'a mut dyn FnMut(ReaderItem<'_>) -> Result<()>;

//! What a reader yields: documents, and what should have been one.
use crate::input::quarantine::Bad;
use anyhow::Result;

/// A document as a converter finds it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Document<'a> {
    /// Its name, where it has one.
    pub id: Option<String>,
    /// Its address.
    pub url: Option<String>,
    /// Its title, or nothing.
    pub title: String,
    /// Its text.
    pub text: &'a str,
    /// The collection it belongs to, where that is said.
    pub source: Option<String>,
    /// Of a wiki page: its revision.
    pub revision: Option<u64>,
    /// The byte at which it starts in the unpacked file.
    pub offset: u64,
    /// Of a wiki page: what of its markup could not be handled, by kind.
    pub unhandled: Option<String>,
}

/// What a converter finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found<'a> {
    /// A document.
    Document(Document<'a>),
    /// Something that should have been one.
    Bad(Bad),
}

/// Takes what a converter finds.
pub type Give<'a> = &'a mut dyn FnMut(Found<'_>) -> Result<()>;

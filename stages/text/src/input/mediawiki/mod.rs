//! MediaWiki XML dumps.
//!
//! - [`dump`]: the reader: pages in parallel, documents in order
//! - [`split_pages`]: cuts the XML into pages without parsing them
//! - [`page`]: parses one page, and the header before the first
pub mod dump;
pub mod page;
pub(crate) mod split_pages;

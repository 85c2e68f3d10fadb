//! From paths in the configuration to documents.
//!
//! | module | what |
//! |---|---|
//! | [`paths`] | paths, folders and glob patterns to a list of files |
//! | [`codec`], [`decompress`], [`parallel_bzip2`] | files as byte streams, decompressed from gzip, zstd and bzip2 |
//! | [`format`](mod@format), [`formats`] | what a format is; the list of all, and which of them a file is of |
//! | [`document`] | what a reader of any format yields |
//! | [`json_lines`] (with [`json_members`]), [`plain_text`], [`mediawiki`] | the readers, one per format |
//! | [`read`] | reads a file to its end, or up to where it is damaged |
//! | [`document_writer`], [`ingest`] | converts files without row addressing to document Parquet, once |
//! | [`quarantine`], [`quarantine_file`] | unreadable documents: their counts and table |
//! | [`attribution`] | source and licence of the data |
pub mod attribution;
pub mod codec;
pub mod decompress;
pub mod document;
pub mod document_writer;
pub mod format;
pub mod formats;
pub mod ingest;
pub mod json_lines;
pub mod json_members;
pub mod mediawiki;
pub mod parallel_bzip2;
pub mod paths;
pub mod plain_text;
pub mod quarantine;
pub mod quarantine_file;
pub mod read;

//! Parquet files: random access by row, and the columns this crate reads and writes.
//!
//! - [`pieces`]: decodes row groups in pieces of bounded size
//! - [`decode`](mod@decode): files, read such that system errors are distinguished from damage
//! - [`columns`]: the columns of document rows
//! - [`row_groups`]: random access to the rows of a list of files, a piece of a row group decoded at a time
//! - [`table`]: small files, read completely; [`encoding`]: how files are written
//! - [`documents`]: texts by row number; [`about`](mod@about): their ids, titles and URLs
//! - [`tokens`]: token lists by row number, and their writer
pub mod about;
pub mod columns;
pub mod decode;
pub mod documents;
pub mod encoding;
pub mod pieces;
pub mod row_groups;
pub mod table;
pub mod tokens;

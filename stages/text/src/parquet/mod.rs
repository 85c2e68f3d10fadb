//! Parquet files: random access by row, and the columns this crate reads and writes.
//!
//! - [`columns`]: the columns of document rows
//! - [`row_groups`]: any row of a list of files, one row group decoded at a time
//! - [`documents`]: texts by row number
//! - [`tokens`]: token lists by row number, and their writer
pub mod columns;
pub mod documents;
pub mod row_groups;
pub mod tokens;

//! Corpus preparation: from rows to deduplicated, tokenized shards.
//!
//! - [`scan_rows`]: source of the first graph: every input row with all its columns
//! - [`mod@deduplicate`]: stage `minhash`, the last stage that works row by row: words, shingles, MinHash
//! - [`signatures`]: the end of the first graph: hashes, and texts stored by shard ([`text_files`])
//! - [`origins`]: which source a row comes from
//! - [`catalog`]: what is known about each row, except its text; [`dropped_lines`]: the part of it that is not in memory
//! - [`mod@write`]: source and sink of the second graph, which writes the shards; [`append`]: how files are written
mod append;
pub mod catalog;
pub mod deduplicate;
pub mod dropped_lines;
pub mod origins;
pub mod scan_rows;
pub mod signatures;
pub mod text_files;
pub mod write;

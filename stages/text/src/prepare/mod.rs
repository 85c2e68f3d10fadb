//! Corpus preparation: from rows to deduplicated, tokenized shards.
//!
//! - [`scan_rows`]: source of the first graph: every input row with all its columns
//! - [`signatures`]: sink of the first graph: hashes, MinHash signatures, texts by shard
//! - [`catalog`]: what is known of each row, without its text
//! - [`mod@deduplicate`]: definition of near-duplicates: words, shingles, MinHash
//! - [`mod@write`]: source and sink of the second graph, which writes the shards
pub mod catalog;
pub mod deduplicate;
pub mod scan_rows;
pub mod signatures;
pub mod write;

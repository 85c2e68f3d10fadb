//! What all other folders build on; it imports nothing from them.
//!
//! | module | what |
//! |---|---|
//! | [`problem`] | errors in input data, and isolation of decoder panics |
//! | [`cache`], [`cache_entries`] | files created once, named after the content they were made from; listing and removal |
//! | [`cache_in_use`] | which of them running processes use |
//! | [`in_order`] | parallel map whose results come out in input order |
//! | [`normalize`] | plain-text normalization: Unicode NFC, white space |
//! | [`on_all_cores`] | processes pieces of work on as many threads as there are cores |
//! | [`permutation`] | random-access permutation of `0..n`, for blocks of sequences and samples |
//! | [`progress`] | the progress callback |
pub mod cache;
pub mod cache_entries;
pub mod cache_in_use;
pub mod in_order;
pub mod normalize;
pub mod on_all_cores;
pub mod permutation;
pub mod problem;
pub mod progress;

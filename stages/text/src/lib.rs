//! From files to micro-batches; modules are listed in the order of data flow. No import cycle spans more than two
//! files.
//!
//! | module | what |
//! |---|---|
//! | [`support`] | the cache, errors in input data, permutations, normalization |
//! | [`wikitext`] | the markup of MediaWiki pages to plain text |
//! | [`input`] | paths to files, files of any format to documents, quarantine, attribution |
//! | [`mod@parquet`] | documents and token lists in Parquet, by row |
//! | [`mod@filter`] | stages that drop rows: `gopher_quality`, `gopher_repetition`, `c4`, `fineweb`, … |
//! | [`mod@clean`] | stage `clean`: removes what other extractors leave of wiki markup |
//! | [`mod@tokenizer`] | byte-level BPE: GPT-2's, from a file, or trained; stage `bpe` |
//! | [`corpus`] | the rows of a training corpus and their order; sources `documents` and `tokens` |
//! | [`mod@mixture`] | stage `mixture`: several sources in given shares |
//! | [`pack`] | tokens to micro-batches; stages `concat` and `best_fit` |
//! | [`mod@lineage`] | which documents a step trains on |
//! | [`mod@prepare`] | corpus preparation: stages `minhash` and `parquet` |
#![forbid(unsafe_code)]

pub mod clean;
pub mod corpus;
pub mod filter;
pub mod input;
pub mod lineage;
pub mod mixture;
pub mod pack;
pub mod parquet;
pub mod prepare;
pub mod support;
pub mod tokenizer;
pub mod wikitext;

#[cfg(test)]
mod testing;

pub use clean::Clean;
pub use corpus::count::Count;
pub use corpus::index::CorpusIndex;
pub use corpus::read_documents::ReadDocuments;
pub use corpus::read_tokens::ReadTokens;
pub use corpus::row_stages::RowStages;
pub use corpus::scan::{Chunks, Scan};
pub use corpus::source_rows::{SourceFiles, SourceRows};
pub use corpus::split::{HoldOutAll, Part, Split};
pub use corpus::survey::Survey;
pub use filter::block_list::BlockList;
pub use filter::c4::C4;
pub use filter::fineweb::FineWeb;
pub use filter::gopher_quality::GopherQuality;
pub use filter::gopher_repetition::GopherRepetition;
pub use filter::language::Language;
pub use filter::length::Length;
pub use input::attribution::{Attribution, attributions};
pub use input::format::{Access, Format, TextShare};
pub use input::paths::{InputFile, Inputs, resolve};
pub use input::quarantine::Quarantine;
pub use lineage::documents::{Fate, Hit, SourceDocuments};
pub use lineage::{Lineage, Passage, first_difference};
pub use mixture::Mix;
pub use pack::{BestFit, Concat, PackKeys};
pub use parquet::about::About;
pub use parquet::documents::DocumentStore;
pub use parquet::tokens::{TokenStore, write_tokens};
pub use prepare::catalog::Catalog;
pub use prepare::deduplicate::Deduplicate;
pub use prepare::scan_rows::{Known, RowStore, ScanRows};
pub use prepare::signatures::Signatures;
pub use prepare::write::Write;
pub use support::cache::Cache;
pub use support::problem::TextProblem;
pub use support::progress::{Progress, silent};
pub use tokenizer::byte_bpe::Encoder;
pub use tokenizer::stage::Tokenize;
pub use tokenizer::{Tokenizer, Vocabulary};

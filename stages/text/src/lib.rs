//! From files to micro-batches, in the order data meets the modules.
//!
//! | module | what |
//! |---|---|
//! | [`problem`] | what can be wrong with input, and who can mend it |
//! | [`cache`], [`cache_entries`] | files made once, named after the content they were made of; what there is |
//! | [`inputs`] | paths, folders and patterns to a list of files |
//! | [`attribution`] | whose text it is, and under which licence |
//! | [`unpack`] | files as streams of bytes, out of gzip, zstd and bzip2 |
//! | [`json_lines`], [`plain_text`], [`wiki_dump`] | the formats without row addressing |
//! | [`wikitext`], [`tidy`] | the markup of a wiki page to plain text; plain text as it should be |
//! | [`convert`], [`document_writer`], [`spool`] | which are converted once to document Parquet |
//! | [`quarantine`] | what could not be read: set aside, listed, counted |
//! | [`row_groups`] | any row of Parquet files, by number |
//! | [`documents`] | texts by row number: [`DocumentStore`] |
//! | [`token_files`] | token lists by row number: [`TokenStore`], and the writer |
//! | [`bin_files`] | the same as nanoGPT and llm.c read them |
//! | [`split`] | what is held out |
//! | [`corpus`] | which rows are learned from, which are held out, how large they are |
//! | [`bpe_training`], [`tokenizer`] | byte-level BPE: learned, built in, or from a file |
//! | [`text_stream`] | ids that come one at a time to text |
//! | [`byte_bpe`] | its encoder: the ids of Hugging Face's library, faster |
//! | [`permutation`], [`lanes`] | the order of an epoch, and which rows a lane is given at a step |
//! | [`read_documents`], [`read_tokens`] | sources `documents` and `tokens` |
//! | [`scan`], [`count`] | source and sink of the counting graph |
//! | [`mod@clean`], [`residue`] | stage `clean`: rows of any source without leftovers of markup; what such leftovers are |
//! | [`mod@filter`] | stages that drop rows: `gopher_quality`, `gopher_repetition`, `c4`, `fineweb`, … |
//! | [`columns`] | the columns of document rows, and how any Parquet file gets them |
//! | [`scan_rows`], [`digest`] | source and sink of preparation's first graph |
//! | [`catalog`] | what preparation knows of every row |
//! | [`deduplicate`] | what near-duplicates are: words, shingles, MinHash |
//! | [`tokenize`] | stage `bpe`: rows to tokens |
//! | [`mod@concat`] | stage `concat`: tokens to micro-batches |
//! | [`mod@write`] | stage `parquet`: the end of preparation, and the source of its second graph |
#![forbid(unsafe_code)]

pub mod attribution;
pub mod bin_files;
pub mod bpe_training;
pub mod byte_bpe;
pub mod bzip2_blocks;
pub mod cache;
pub mod cache_entries;
pub mod catalog;
pub mod clean;
pub mod columns;
pub mod concat;
pub mod convert;
pub mod corpus;
pub mod count;
pub mod deduplicate;
pub mod digest;
pub mod document_writer;
pub mod documents;
mod dump_cutter;
pub mod dump_page;
pub mod filter;
pub mod in_order;
pub mod inputs;
pub mod json_lines;
pub mod lanes;
pub mod permutation;
pub mod plain_text;
pub mod problem;
pub mod quarantine;
pub mod read_documents;
pub mod read_tokens;
pub mod residue;
pub mod row_groups;
pub mod scan;
pub mod scan_rows;
pub mod split;
pub mod spool;
pub mod text_stream;
pub mod tidy;
pub mod token_files;
pub mod tokenize;
pub mod tokenizer;
mod tokenizer_folder;
pub mod unpack;
pub mod wiki_dump;
pub mod wikitext;
pub mod write;

#[cfg(test)]
mod testing;

pub use attribution::{Attribution, attributions};
pub use byte_bpe::Encoder;
pub use cache::Cache;
pub use catalog::Catalog;
pub use clean::Clean;
pub use concat::Concat;
pub use corpus::{CorpusIndex, Part, Split, Survey};
pub use count::{Count, Counted};
pub use deduplicate::Deduplicate;
pub use digest::{Digest, Digests};
pub use documents::DocumentStore;
pub use filter::block_list::BlockList;
pub use filter::c4::C4;
pub use filter::fineweb::FineWeb;
pub use filter::gopher_quality::GopherQuality;
pub use filter::gopher_repetition::GopherRepetition;
pub use filter::language::Language;
pub use filter::length::Length;
pub use inputs::{Format, InputFile, Inputs, resolve};
pub use problem::TextProblem;
pub use quarantine::Quarantine;
pub use read_documents::ReadDocuments;
pub use read_tokens::ReadTokens;
pub use scan::Scan;
pub use scan_rows::{Known, RowStore, ScanRows};
pub use token_files::{TokenStore, write_tokens};
pub use tokenize::Tokenize;
pub use tokenizer::{Tokenizer, Vocabulary};
pub use write::Write;

/// Told `(done, total)` now and then during long work.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64);

/// A [`Progress`] for callers that show none.
pub fn silent() -> impl FnMut(u64, u64) {
    |_, _| {}
}

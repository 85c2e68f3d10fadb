//! A training corpus: which rows belong to training and validation, how large they are, and the order they are read in.
//!
//! - [`survey`]: size and part (training or validation) of each row; [`index`]: with its tokens; [`survey_file`]: the file
//!   of both
//! - [`split`]: the rule that assigns rows to parts
//! - [`source_rows`]: what is found out of a source's documents before training; [`row_stages`]: the stages they pass
//! - [`scan`], [`count`]: source and sink of the graph that counts tokens
//! - [`train_tokenizer`]: a tokenizer trained on the documents that are learned from
//! - [`lanes`]: the rows of a lane at a step
//! - [`read_documents`], [`read_tokens`]: sources `documents` and `tokens`; [`read_records`]: sources of other formats
pub mod count;
pub mod index;
pub mod lanes;
pub mod read_documents;
pub mod read_records;
pub mod read_tokens;
pub mod row_stages;
pub mod scan;
pub mod source_rows;
pub mod split;
pub mod survey;
pub mod survey_file;
pub mod train_tokenizer;

//! A training corpus: which rows belong to training and validation, how large they are, and the order they are read in.
//!
//! - [`survey`]: size and part (training or validation) of each row; [`index`]: the same with token counts;
//!   [`survey_file`]: the file format of both
//! - [`split`]: the rule that assigns rows to parts; [`withdrawal`]: documents that are treated as if they were not there
//! - [`source_rows`]: what is determined about a source's documents before training; [`row_stages`]: the stages that
//!   they pass
//! - [`scan`], [`count`]: source and sink of the graph that counts tokens
//! - [`train_tokenizer`]: trains a tokenizer on the training documents
//! - [`epoch_order`]: the order of the training documents in an epoch; [`lanes`]: the rows of a lane at a step;
//!   [`read_ahead`]: reads them if the corpus does not fit into memory
//! - [`read_documents`], [`read_tokens`]: sources `documents` and `tokens`; [`read_records`]: sources of other formats;
//!   [`source_keys`]: keys that they share
pub mod count;
pub mod epoch_order;
pub mod index;
pub mod lanes;
pub mod read_ahead;
pub mod read_documents;
pub mod read_records;
pub mod read_tokens;
pub mod row_stages;
pub mod scan;
pub mod source_keys;
pub mod source_rows;
pub mod split;
pub mod survey;
pub mod survey_file;
pub mod train_tokenizer;
pub mod withdrawal;

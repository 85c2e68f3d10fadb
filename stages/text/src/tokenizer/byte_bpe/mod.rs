//! Byte-level BPE: exactly the ids of Hugging Face's library, at many times its speed.
//!
//! | module | what |
//! |---|---|
//! | [`alphabet`] | the characters that represent bytes |
//! | [`words`] | splits a text into words by GPT-2's pattern, without a regular-expression engine |
//! | [`merge`] | a word's merges, in time near linear in its length |
//! | [`model`] | parses a `tokenizer.json` whose features are all supported here |
//! | [`encoder`] | texts to ids, with a cache of words |

pub mod alphabet;
pub mod encoder;
pub mod merge;
pub mod model;
pub mod words;

pub use alphabet::letter;
pub use encoder::Encoder;
pub use merge::Merges;
pub use model::Model;
pub use words::Words;

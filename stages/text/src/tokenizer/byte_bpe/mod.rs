//! Byte-level BPE, fast and exact: the ids of Hugging Face's library at many times its speed.
//!
//! | module | what |
//! |---|---|
//! | [`alphabet`] | the letters that stand for bytes |
//! | [`words`] | a text cut into words by GPT-2's pattern, by hand instead of by a regular expression |
//! | [`merge`] | a word's merges, in time near linear in its length |
//! | [`model`] | what a `tokenizer.json` says, if it says nothing that is not handled here |
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

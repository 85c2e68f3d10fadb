//! Token ids as nanoGPT and llm.c read them: `.bin` files of little-endian ids, one document after another.
//!
//! | module | contents |
//! |---|---|
//! | [`mod@write`] | writes files, for `pipeline export` |
//! | [`read`] | reads documents from files, for `pipeline import` |
//!
//! - **nanoGPT** ([`data/openwebtext/prepare.py`](https://github.com/karpathy/nanoGPT)): uint16 ids without a header.
//!   Each document is followed by its end-of-text token. There is one file, however large.
//! - **llm.c** ([`dev/data/data_common.py`, `dev/data/fineweb.py`](https://github.com/karpathy/llm.c)): a header of 256
//!   int32 (magic number, version, number of ids, zeros), then the ids. Each document is preceded by an end-of-text
//!   token. Magic number 20240520 with version 1 means uint16 ids; 20240801 with version 7 means uint32. Every file
//!   except the last has the same number of ids, so a document may begin in one file and end in the next.
mod read;
#[cfg(test)]
mod tests;
mod write;

pub use read::BinDocuments;
pub use write::{BinFile, FILE_TOKENS, write};

use crate::support::problem::TextProblem;
use crate::tokenizer::Vocabulary;
use anyhow::Result;

/// The program whose format the files have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BinFormat {
    /// nanoGPT.
    NanoGpt,
    /// llm.c.
    LlmC,
}

/// Size of llm.c's header, in bytes.
const HEADER: usize = 256 * 4;
/// Magic number and version of llm.c's files with ids of 16 bits.
const NARROW: (u32, u32) = (20_240_520, 1);
/// Magic number and version of llm.c's files with ids of 32 bits.
const WIDE: (u32, u32) = (20_240_801, 7);

impl BinFormat {
    /// Bytes per id; an error if the largest id of `vocabulary` does not fit into the ids of this format.
    fn width(self, vocabulary: &Vocabulary) -> Result<usize> {
        match (self, vocabulary.size <= 1 << 16) {
            (_, true) => Ok(2),
            (Self::LlmC, false) => Ok(4),
            (Self::NanoGpt, false) => {
                let why = format!(
                    "nanoGPT reads ids of 16 bits, and the vocabulary has {}; llm.c has a format for more",
                    vocabulary.size
                );
                Err(TextProblem::Tokenizer { name: "export".into(), why }.into())
            }
        }
    }

    /// The name of file `number` of a part, `train` or `val`.
    fn name(self, part: &str, number: usize) -> String {
        match self {
            Self::NanoGpt => format!("{part}.bin"),
            Self::LlmC => format!("{part}_{number:06}.bin"),
        }
    }
}

//! `pipeline export` and `pipeline import`.
use clap::{Args, ValueEnum};
use std::path::PathBuf;
use text::bin_files::BinFormat;

/// `pipeline export`.
#[derive(Debug, Args)]
#[command(after_help = "Example: pipeline export runs/prepare-wiki/v1 bin --format nanogpt")]
pub struct Export {
    /// A version of a prepared corpus, or a folder of versions: its last one
    #[arg(value_name = "CORPUS")]
    pub corpus: PathBuf,
    /// The folder for the files: train.bin and val.bin, or train_000000.bin, …
    #[arg(value_name = "OUT")]
    pub out: PathBuf,
    /// Who is to read them
    #[arg(long, value_enum)]
    pub format: Format,
}

/// Who reads `.bin` files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// nanoGPT: uint16 ids, end-of-text after each document
    Nanogpt,
    /// llm.c: a header of 256 int32, end-of-text before each document
    #[value(name = "llm.c")]
    LlmC,
}

impl From<Format> for BinFormat {
    fn from(format: Format) -> Self {
        match format {
            Format::Nanogpt => Self::NanoGpt,
            Format::LlmC => Self::LlmC,
        }
    }
}

/// `pipeline import`.
#[derive(Debug, Args)]
#[command(after_help = "Example: pipeline import bin/train.bin tokens.parquet --tokenizer gpt2")]
pub struct Import {
    /// Files of nanoGPT or of llm.c, in order: they are read one after the other
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// The token Parquet to write
    #[arg(value_name = "OUT")]
    pub out: PathBuf,
    /// The tokenizer that made the ids: "gpt2", or a tokenizer.json
    #[arg(long, value_name = "TOKENIZER")]
    pub tokenizer: String,
    /// The token that ends a document
    #[arg(long, value_name = "TOKEN", default_value = text::tokenizer::END_OF_TEXT)]
    pub end_of_text: String,
}

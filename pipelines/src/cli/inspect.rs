//! `pipeline inspect`: shows the content of a file.
use super::{Command, Context};
use anyhow::Result;
use clap::Args;
use std::path::PathBuf;

/// Show a Parquet file, checkpoint, safetensors file or tokenizer
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pipeline inspect runs/prepare-wiki/v1/catalog.parquet --rows 5
  pipeline inspect runs/wiki
  pipeline inspect runs/wiki/tokenizer.json --json

FILE is Parquet, .safetensors, a tokenizer.json, a checkpoint, or a run, for its
last checkpoint.")]
pub struct Inspect {
    /// The file, or the directory of a run or checkpoint
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Rows of Parquet to show
    #[arg(long, value_name = "N", default_value_t = 3)]
    rows: usize,
    /// Tokenizer that decodes token lists: gpt2, or a tokenizer.json (default: the one that the file names, if it is
    /// found)
    #[arg(long, value_name = "TOKENIZER")]
    tokenizer: Option<String>,
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
}

impl Command for Inspect {
    fn run(&self, context: &Context) -> Result<()> {
        let found = crate::inspect::inspect(&self.file, self.rows, self.tokenizer.as_deref())?;
        context.out.answer(self.json, &found, |columns| found.text(columns))
    }
}

//! `pipeline import`: token Parquet from the files of nanoGPT and llm.c.
use super::{Command, Context};
use crate::show::human::count;
use anyhow::Result;
use clap::Args;
use serde_json::json;
use std::path::{Path, PathBuf};
use text::parquet::tokens::try_write_tokens;
use text::tokenizer::bin_files::BinDocuments;
use text::{Cache, Tokenizer};

/// Convert .bin files of nanoGPT or llm.c to token Parquet
#[derive(Debug, Args)]
#[command(after_help = "Example: pipeline import bin/train.bin tokens.parquet --tokenizer gpt2")]
pub struct Import {
    /// The .bin files, in the order in which to read them
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// The token Parquet to write
    #[arg(value_name = "OUT")]
    out: PathBuf,
    /// The tokenizer that made the ids: "gpt2", or a tokenizer.json
    #[arg(long, value_name = "TOKENIZER")]
    tokenizer: String,
    /// The token that ends a document
    #[arg(long, value_name = "TOKEN", default_value = text::tokenizer::END_OF_TEXT)]
    end_of_text: String,
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
}

impl Command for Import {
    fn run(&self, context: &Context) -> Result<()> {
        let (documents, tokens) = import(self)?;
        let found = json!({ "file": self.out, "documents": documents, "tokens": tokens });
        context.out.answer(self.json, &found, |_| {
            format!("{}: {} documents, {} tokens", self.out.display(), count(documents), count(tokens))
        })
    }
}

/// Writes the documents of `.bin` files as token Parquet; returns the numbers of documents and tokens.
///
/// # Errors
/// If a file is invalid or was made with another tokenizer, or the output cannot be written.
fn import(asked: &Import) -> Result<(u64, u64)> {
    let tokenizer = match asked.tokenizer.as_str() {
        "gpt2" => Tokenizer::gpt2(&Cache::new(None), &asked.end_of_text)?,
        path => Tokenizer::from_file(Path::new(path), &asked.end_of_text)?,
    };
    let vocabulary = tokenizer.vocabulary();
    let (mut documents, mut tokens) = (0, 0);
    let found = BinDocuments::open(asked.files.clone(), vocabulary.clone()).inspect(|document| {
        documents += u64::from(document.is_ok());
        tokens += document.as_ref().map_or(0, |ids| ids.len() as u64);
    });
    try_write_tokens(&asked.out, vocabulary, found)?;
    Ok((documents, tokens))
}

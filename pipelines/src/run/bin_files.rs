//! `pipeline export` and `pipeline import`: token ids to and from the files of nanoGPT and llm.c.
use super::Usage;
use super::corpus::stat::version;
use crate::cli;
use crate::show::human::count;
use anyhow::{Context, Result};
use arrow::array::AsArray;
use arrow::datatypes::{DataType, Field, Schema};
use std::path::{Path, PathBuf};
use text::bin_files::{self, BinDocuments, BinFormat};
use text::catalog::read_parquet;
use text::token_files::try_write_tokens;
use text::{Cache, TokenStore, Tokenizer};

/// Writes a version's tokens as `.bin` files; what is said of them.
///
/// # Errors
/// [`Usage`] if there is no version or it has no tokens; or if a file cannot be read or written.
pub fn export(asked: &cli::Export) -> Result<String> {
    let version = version(&asked.corpus)?;
    let mut paths: Vec<PathBuf> = std::fs::read_dir(&version)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>())
        .with_context(|| format!("cannot list {}", version.display()))?;
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    paths.retain(|path| name(path).starts_with("documents-"));
    paths.sort();
    let at = version.display();
    if paths.is_empty() {
        return Err(Usage(format!("{at} has no documents")).into());
    }
    if !version.join("tokenizer.json").exists() {
        return Err(Usage(format!("{at} has no tokens: prepare it with a stage that tokenizes")).into());
    }
    let parts = Schema::new(vec![Field::new("part", DataType::Utf8, false)]);
    let (mut train, mut held_out, mut row) = (Vec::new(), Vec::new(), 0);
    for path in &paths {
        for part in read_parquet(path, &parts)?.column(0).as_string::<i32>().iter().flatten() {
            if part == "train" {
                train.push(row)
            } else {
                held_out.push(row)
            }
            row += 1;
        }
    }
    let store = TokenStore::open(&paths, None, &Cache::new(None))?;
    let (format, mut lines) = (BinFormat::from(asked.format), Vec::new());
    for (part, rows) in [("train", train), ("val", held_out)] {
        if rows.is_empty() {
            lines.push(format!("no documents for {part}"));
            continue;
        }
        for file in bin_files::write(&store, &rows, format, &asked.out, part, bin_files::FILE_TOKENS)? {
            lines.push(format!("{}: {} tokens", file.path.display(), count(file.tokens)));
        }
    }
    Ok(lines.join("\n"))
}

/// Writes the documents of `.bin` files as token Parquet; what is said of it.
///
/// # Errors
/// If a file is not what it should be, was made with another tokenizer, or the output cannot be written.
pub fn import(asked: &cli::Import) -> Result<String> {
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
    Ok(format!("{}: {documents} documents, {} tokens", asked.out.display(), count(tokens)))
}

//! `pipeline export`: a prepared corpus as `.bin` files for nanoGPT and llm.c.
use super::{Command, Context};
use crate::prepare::find_version;
use crate::problem::Usage;
use crate::show::human::count;
use anyhow::{Context as _, Result};
use arrow::array::AsArray;
use arrow::datatypes::{DataType, Field, Schema};
use clap::{Args, ValueEnum};
use serde::Serialize;
use serde_json::json;
use std::ffi::OsStr;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use text::parquet::table::read_parquet;
use text::tokenizer::bin_files::{self, BinFormat};
use text::{Cache, TokenStore};

/// Export a prepared corpus to .bin files for nanoGPT or llm.c
#[derive(Debug, Args)]
#[command(after_help = "Example: pipeline export runs/prepare-wiki/v1 bin --format nanogpt")]
pub struct Export {
    /// A version of a prepared corpus, or a folder of versions (the last one is used)
    #[arg(value_name = "CORPUS")]
    corpus: PathBuf,
    /// The folder for the files: train.bin and val.bin, or train_000000.bin, …
    #[arg(value_name = "OUT")]
    out: PathBuf,
    /// The program that reads them
    #[arg(long, value_enum)]
    format: Format,
    /// Remove the files of an earlier export from OUT
    #[arg(long)]
    overwrite: bool,
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
}

/// The program that reads `.bin` files.
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

impl Command for Export {
    fn run(&self, context: &Context) -> Result<()> {
        let files = export(self)?;
        context.out.answer(self.json, &json!({ "out": self.out, "files": files }), |_| text(&files))
    }
}

/// A file that was written.
#[derive(Debug, Serialize)]
struct Exported {
    path: PathBuf,
    /// `train` or `val`.
    part: &'static str,
    tokens: u64,
}

/// One line per file; for a part without files, a line saying so.
fn text(files: &[Exported]) -> String {
    let mut lines = Vec::new();
    for part in PARTS {
        let of = files.iter().filter(|file| file.part == part);
        let said: Vec<_> = of.map(|file| format!("{}: {} tokens", file.path.display(), count(file.tokens))).collect();
        lines.push(if said.is_empty() { format!("no documents for {part}") } else { said.join("\n") });
    }
    lines.join("\n")
}

/// The part of the corpus with this name.
const PARTS: [&str; 2] = ["train", "val"];

/// Writes a version's tokens as `.bin` files.
///
/// # Errors
/// [`Usage`] if there is no version, it has no tokens, or there are files of an earlier export that are not to be
/// replaced; or if a file cannot be read or written.
fn export(asked: &Export) -> Result<Vec<Exported>> {
    let version = find_version(&asked.corpus)?;
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
    let earlier = earlier_files(&asked.out)?;
    if let (false, [first, ..]) = (asked.overwrite, &earlier[..]) {
        return Err(Usage(format!("{} is of an earlier export: --overwrite replaces that", first.display())).into());
    }
    let (format, mut written) = (BinFormat::from(asked.format), Vec::new());
    for (part, rows) in PARTS.into_iter().zip([train, held_out]).filter(|(_, rows)| !rows.is_empty()) {
        let files = bin_files::write(&store, &rows, format, &asked.out, part, bin_files::FILE_TOKENS)?;
        written.extend(files.into_iter().map(|file| Exported { path: file.path, part, tokens: file.tokens }));
    }
    for path in earlier.iter().filter(|path| !written.iter().any(|file: &Exported| file.path == **path)) {
        std::fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(written)
}

/// The files of an earlier export in `out`, which readers would take for a part of this one.
///
/// # Errors
/// If the folder cannot be listed.
fn earlier_files(out: &Path) -> Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(out) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("cannot list {}", out.display())),
    };
    let mut earlier = Vec::new();
    for entry in entries {
        let path = entry.with_context(|| format!("cannot list {}", out.display()))?.path();
        let name = path.file_name().and_then(OsStr::to_str);
        if name.is_some_and(is_exported) && !path.is_dir() {
            earlier.push(path);
        }
    }
    earlier.sort();
    Ok(earlier)
}

/// `train.bin`, `val_000003.bin` and the like.
fn is_exported(name: &str) -> bool {
    let part = name.strip_suffix(".bin").map(|name| name.split_once('_').unwrap_or((name, "000000")));
    part.is_some_and(|(part, number)| PARTS.contains(&part) && number.len() == 6 && number.parse::<u32>().is_ok())
}

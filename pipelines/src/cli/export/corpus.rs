//! The tokens of a prepared corpus as `.bin` files for nanoGPT and llm.c.
use super::{Content, Export, Exported};
use crate::prepare::find_version;
use crate::problem::Usage;
use anyhow::{Context as _, Result};
use arrow::array::AsArray;
use arrow::datatypes::{DataType, Field, Schema};
use std::ffi::OsStr;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use text::parquet::table::read_parquet;
use text::tokenizer::bin_files::{self, BinFormat};
use text::{Cache, TokenStore};

/// One line per file; for a part without files, a line saying so.
pub fn text(files: &[Exported]) -> String {
    let mut lines = Vec::new();
    for part in PARTS {
        let is_of = |file: &&Exported| matches!(file.content, Content::Tokens { part: of, .. } if of == part);
        let said: Vec<String> = files.iter().filter(is_of).map(Exported::to_string).collect();
        lines.push(if said.is_empty() { format!("no documents for {part}") } else { said.join("\n") });
    }
    lines.join("\n")
}

/// The parts of a corpus.
const PARTS: [&str; 2] = ["train", "val"];

/// Writes a version's tokens as `.bin` files.
///
/// # Errors
/// [`Usage`] if there is no version, it has no tokens, or there are files of an earlier export that are not to be
/// replaced; or if a file cannot be read or written.
pub fn export(asked: &Export, format: BinFormat) -> Result<Vec<Exported>> {
    let version = find_version(&asked.source)?;
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
    let mut written = Vec::new();
    for (part, rows) in PARTS.into_iter().zip([train, held_out]).filter(|(_, rows)| !rows.is_empty()) {
        let files = bin_files::write(&store, &rows, format, &asked.out, part, bin_files::FILE_TOKENS)?;
        written.extend(files.into_iter().map(|file| {
            let content = Content::Tokens { part, tokens: file.tokens };
            Exported { path: file.path, content }
        }));
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

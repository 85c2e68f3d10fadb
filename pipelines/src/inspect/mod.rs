//! `pipeline inspect`: shows the content of a file.
//!
//! - [`rows`]: Parquet; [`cell`]: one of its values
//! - [`tensors`]: safetensors; [`checkpoint`]: a folder of them
//! - [`vocabulary`]: a tokenizer.json
mod cell;
mod checkpoint;
mod rows;
mod tensors;
mod vocabulary;

use crate::problem::Usage;
use crate::show::human::{fit, wrap};
use anyhow::{Context, Result};
use serde::Serialize;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Maximum number of lines per value.
const LINES: usize = 3;

/// The content of a file.
#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Inspected {
    /// Parquet.
    Parquet(rows::Table),
    /// A safetensors file.
    Safetensors(tensors::Tensors),
    /// A checkpoint.
    Checkpoint(checkpoint::Contents),
    /// A tokenizer.json.
    Tokenizer(vocabulary::About),
}

/// Inspects a file, or the folder of a checkpoint. Of Parquet, `shown` rows are read, with token lists decoded by
/// `tokenizer`, or by the one that the file names.
///
/// # Errors
/// [`Usage`] if there is no such file or its format is unknown; otherwise what is wrong with it.
pub fn inspect(path: &Path, shown: usize, tokenizer: Option<&str>) -> Result<Inspected> {
    let at = path.display();
    if path.is_dir() {
        return Ok(Inspected::Checkpoint(checkpoint::open(path)?));
    }
    let mut head = Vec::new();
    File::open(path).and_then(|file| file.take(64).read_to_end(&mut head)).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => anyhow::Error::new(Usage::of(path, "is not there")),
        _ => anyhow::Error::new(error).context(format!("cannot read {at}")),
    })?;
    let named = |extension: &str| path.extension().is_some_and(|e| e.eq_ignore_ascii_case(extension));
    let opens = |bytes: &[u8]| head.trim_ascii_start().starts_with(bytes);
    Ok(if named("parquet") || head.starts_with(b"PAR1") {
        Inspected::Parquet(rows::open(path, shown, tokenizer)?)
    } else if named("safetensors") || head.get(8) == Some(&b'{') && head[4..8] == [0; 4] {
        Inspected::Safetensors(tensors::open(path)?)
    } else if named("json") || opens(b"{") {
        Inspected::Tokenizer(vocabulary::open(path)?)
    } else {
        let known = "Parquet, .safetensors, a tokenizer.json, a checkpoint or a run";
        return Err(Usage(format!("{at} cannot be inspected: it is not {known}")).into());
    })
}

impl Inspected {
    /// The content as text, at most `columns` wide.
    pub fn text(&self, columns: usize) -> String {
        match self {
            Self::Parquet(table) => table.text(columns),
            Self::Safetensors(tensors) => tensors.text(columns),
            Self::Checkpoint(contents) => contents.text(columns),
            Self::Tokenizer(about) => about.text(columns),
        }
    }
}

/// `name  value`, with a long value on several lines.
fn fact(name: &str, value: &str, indent: usize, columns: usize) -> String {
    let room = columns.saturating_sub(indent).max(20);
    let shown: String = value.chars().take(room * (LINES + 1)).collect();
    let broken: String = shown.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let mut lines = wrap(&broken, room);
    let more = lines.len() > LINES || shown.len() < value.len();
    lines.truncate(LINES);
    if let (true, Some(last)) = (more, lines.last_mut()) {
        *last = fit(&format!("{last} …"), room);
    }
    let mut out = String::new();
    for (i, line) in lines.iter().enumerate() {
        let name = if i == 0 { name } else { "" };
        out += &format!("{}\n", format!("{name:<indent$}{}", fit(line, room)).trim_end());
    }
    out
}

/// The size of a file.
fn size(path: &Path) -> Result<u64> {
    Ok(std::fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?.len())
}

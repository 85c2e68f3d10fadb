//! Writes token ids to `.bin` files.
use super::{BinFormat, HEADER, NARROW, WIDE};
use crate::parquet::tokens::TokenStore;
use crate::support::cache::write_whole;
use anyhow::{Context, Result};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Ids per file in llm.c's format.
pub const FILE_TOKENS: u64 = 100_000_000;

/// A file that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BinFile {
    /// Its path.
    pub path: PathBuf,
    /// Number of ids in it, including end-of-text tokens.
    pub tokens: u64,
}

/// Writes `rows` of `store` to `folder`, each file atomically. `part` (`train` or `val`) begins the file names. Files
/// in llm.c's format have `file_tokens` ids each.
///
/// # Errors
/// If the format cannot hold the vocabulary, or a file cannot be written.
pub fn write(
    store: &TokenStore,
    rows: &[u64],
    format: BinFormat,
    folder: &Path,
    part: &str,
    file_tokens: u64,
) -> Result<Vec<BinFile>> {
    let (end, width) = (store.vocabulary().end_of_text, format.width(store.vocabulary())?);
    let limit = if format == BinFormat::LlmC { file_tokens.max(1) } else { u64::MAX };
    let (mut written, mut rows, mut left) = (Vec::new(), rows.iter(), Vec::new());
    let mut more = true;
    while more {
        let path = folder.join(format.name(part, written.len()));
        let mut tokens = 0_u64;
        write_whole(&path, |out| {
            if format == BinFormat::LlmC {
                out.write_all(&[0; HEADER])?;
            }
            // `left` holds the rest of a document that did not fit into the previous file.
            while tokens < limit {
                if left.is_empty() {
                    let Some(row) = rows.next() else {
                        more = false;
                        break;
                    };
                    store.each([*row], |ids| match format {
                        BinFormat::NanoGpt => left.extend(ids.iter().copied().chain([end])),
                        BinFormat::LlmC => left.extend([end].into_iter().chain(ids.iter().copied())),
                    })?;
                }
                let fit = left.len().min((limit - tokens) as usize);
                for id in left.drain(..fit) {
                    out.write_all(&id.to_le_bytes()[..width])?;
                }
                tokens += fit as u64;
            }
            more &= rows.len() > 0 || !left.is_empty();
            if format == BinFormat::LlmC {
                let (magic, version) = if width == 2 { NARROW } else { WIDE };
                let count = u32::try_from(tokens).context("a file of llm.c holds less than 2^31 ids")?;
                out.seek(SeekFrom::Start(0))?;
                [magic, version, count].iter().try_for_each(|number| out.write_all(&number.to_le_bytes()))?;
            }
            Ok(())
        })?;
        written.push(BinFile { path, tokens });
    }
    Ok(written)
}

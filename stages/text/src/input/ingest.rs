//! Inputs without row addressing become document Parquet, once, in the cache, with what had to be set aside beside it.
use crate::Progress;
use crate::input::document::Found;
use crate::input::document_writer::{self, DocumentWriter};
use crate::input::format::{Access, Layout, StreamReader};
use crate::input::paths::{InputFile, Inputs};
use crate::input::quarantine::{self, OnBadData, Quarantine};
use crate::input::read::{Passed, convert};
use crate::support::cache::{Cache, Stamp, key, used, write_whole};
use anyhow::{Result, bail};
use std::path::{Path, PathBuf};

/// A Parquet file with documents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DocumentFile {
    /// Where it is.
    pub path: PathBuf,
    /// The column with the text.
    pub column: String,
    /// Its content hash, where that is known without reading it.
    pub hash: Option<String>,
}

/// What [`ingest`] gives.
pub struct Ingested {
    /// Document Parquet of every file, in their order.
    pub files: Vec<DocumentFile>,
    /// What could not be converted.
    pub quarantine: Quarantine,
}

/// Document Parquet for every file of `inputs`: Parquet as it is, with the column of `layout`, everything else
/// converted. Progress is in bytes of the files that have to be converted.
pub fn ingest(
    inputs: &Inputs,
    layout: Layout,
    on_bad_data: OnBadData,
    cache: &Cache,
    progress: Progress,
) -> Result<Ingested> {
    let size = |file: &InputFile| std::fs::metadata(&file.path).map_or(0, |m| m.len());
    let total = inputs.files.iter().filter(|file| !file.format.is_in_place()).map(size).sum();
    let (mut done, mut files, mut quarantine) = (0, Vec::new(), Quarantine::default());
    for file in &inputs.files {
        let Access::Stream(reader) = &file.format.access else {
            files.push(DocumentFile { path: file.path.clone(), column: layout.column.to_string(), hash: None });
            continue;
        };
        // The name counts: rows say which file they come from, and it may say how the file is compressed.
        let name = file.path.file_name().unwrap_or_default().to_string_lossy();
        let (version, stamp) = ((reader.version)(layout), Stamp::of(&file.path)?);
        let key = key(&[document_writer::VERSION, &version, &name, &cache.hash_file(&file.path)?]);
        let path = cache.file("documents", &key, "parquet");
        let kept = cache.file("documents", &key, "quarantine.parquet");
        if path.exists() && kept.exists() {
            used(&[&path, &kept]);
            if on_bad_data == OnBadData::Stop {
                quarantine::read(&kept, &mut |bad| Err(bad.error(&file.path).into()))?;
            }
        } else {
            make((file, reader, &stamp), layout, on_bad_data, &path, &kept, &mut |bytes| {
                progress(done + bytes, total)
            })?;
        }
        done += size(file);
        progress(done, total);
        quarantine.add(kept, vec![file.path.clone()])?;
        files.push(DocumentFile { path, column: "text".into(), hash: Some(key) });
    }
    Ok(Ingested { files, quarantine })
}

/// Converts `file`, which must still have `stamp` in the end, to `path`, and what is set aside to `kept`, which is there when
/// `path` is.
fn make(
    (file, reader, stamp): (&InputFile, &StreamReader, &Stamp),
    layout: Layout,
    on_bad_data: OnBadData,
    path: &Path,
    kept: &Path,
    read: &mut dyn FnMut(u64),
) -> Result<()> {
    let size = std::fs::metadata(&file.path).map_or(0, |m| m.len());
    // Where a stream turns out to be damaged, all of it up to what is known to be right is read once more.
    let mut doubtful: Option<Passed> = None;
    loop {
        let limit = doubtful.as_ref().and_then(|passed| passed.damage.as_ref()).map(|damage| damage.intact);
        let mut again = None;
        let written = write_whole(path, |out| {
            let mut writer = DocumentWriter::new(out, &file.path)?;
            quarantine::write(kept, |set_aside| {
                let mut set_aside = |bad: quarantine::Bad| match on_bad_data {
                    OnBadData::Quarantine => set_aside(bad),
                    OnBadData::Stop => Err(bad.error(&file.path).into()),
                };
                let passed = convert(&file.path, reader, layout, limit, read, &mut |found| match found {
                    Found::Document(document) => writer.push(&document),
                    Found::Bad(bad) => set_aside(bad),
                })?;
                let kept = passed.documents;
                if doubtful.is_none() && passed.is_doubtful() {
                    again = Some(passed);
                    bail!("to be read again");
                }
                doubtful.as_ref().unwrap_or(&passed).entry(size, kept).map_or(Ok(()), set_aside)
            })?;
            stamp.check(&file.path)?;
            writer.close()
        });
        match again {
            Some(passed) => doubtful = Some(passed),
            None => return written,
        }
    }
}

//! Converts inputs without row addressing to document Parquet, once. The result is stored in the cache, together with
//! what had to be quarantined.
use crate::Progress;
use crate::input::document::ReaderItem;
use crate::input::document_writer::{self, DocumentWriter};
use crate::input::format::DocumentReader;
use crate::input::paths::InputFile;
use crate::input::quarantine::{self, OnBadData, Quarantine};
use crate::input::read::{ReadOutcome, convert};
use crate::support::cache::{Cache, Stamp, key, used, write_whole};
use anyhow::{Result, bail};
use std::path::{Path, PathBuf};

/// A Parquet file with documents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DocumentFile {
    /// Its path.
    pub path: PathBuf,
    /// The name of the file it was made from among the input ([`InputFile::name`]): rows without an id are identified
    /// by it.
    pub name: String,
    /// The column with the text.
    pub column: String,
    /// Its content hash, if it is known without reading the file.
    pub hash: Option<String>,
}

impl DocumentFile {
    /// The Parquet file at `path`, named by its file name, whose texts are in `column`.
    pub fn new(path: impl Into<PathBuf>, column: &str) -> Self {
        let path = path.into();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Self { path, name, column: column.to_owned(), hash: None }
    }
}

/// The result of [`ingest`].
pub struct Ingested {
    /// Document Parquet for every file, in order.
    pub files: Vec<DocumentFile>,
    /// What could not be converted.
    pub quarantine: Quarantine,
}

/// How the documents of a file are read.
pub enum Reading<'a> {
    /// In place, from its column of this name: it is Parquet.
    InPlace(&'a str),
    /// By a reader, which converts it once.
    Converted(Box<dyn DocumentReader + 'a>),
}

/// Document Parquet for every file of `inputs`: Parquet files as they are, everything else converted. Progress is in
/// bytes of the files that have to be converted.
pub fn ingest<F>(
    inputs: &[(&InputFile<F>, Reading)],
    on_bad_data: OnBadData,
    cache: &Cache,
    progress: Progress,
) -> Result<Ingested> {
    let size = |path: &Path| std::fs::metadata(path).map_or(0, |m| m.len());
    let converted = inputs.iter().filter(|(_, reading)| matches!(reading, Reading::Converted(_)));
    let total = converted.map(|(input, _)| size(&input.path)).sum();
    let (mut done, mut files, mut quarantine) = (0, Vec::new(), Quarantine::default());
    for (InputFile { path: input, name: among, .. }, reading) in inputs {
        let reader = match reading {
            Reading::Converted(reader) => &**reader,
            Reading::InPlace(column) => {
                files.push(DocumentFile { name: among.clone(), ..DocumentFile::new(input, column) });
                continue;
            }
        };
        // The name is part of the key: rows contain the file they come from, and the name may indicate the compression.
        let (name, stamp) = (input.file_name().unwrap_or_default().to_string_lossy(), Stamp::of(input)?);
        let key = key(&[document_writer::VERSION, &reader.version(), &name, &cache.hash_file(input)?]);
        let path = cache.file("documents", &key, "parquet");
        let kept = cache.file("documents", &key, "quarantine.parquet");
        if path.exists() && kept.exists() {
            used(&[&path, &kept]);
            if on_bad_data == OnBadData::Stop {
                quarantine::read(&kept, &mut |bad| Err(bad.error(input).into()))?;
            }
        } else {
            let mut read = |bytes| progress(done + bytes, total);
            make((input, reader, &stamp), on_bad_data, &path, &kept, &mut read)?;
        }
        done += size(input);
        progress(done, total);
        quarantine.add(kept, vec![input.to_path_buf()])?;
        files.push(DocumentFile { path, name: among.clone(), column: "text".into(), hash: Some(key) });
    }
    Ok(Ingested { files, quarantine })
}

/// Converts `input`, whose `stamp` must not change meanwhile, to `path`, and writes quarantined entries to `kept`,
/// which exists whenever `path` does.
fn make(
    (input, reader, stamp): (&Path, &dyn DocumentReader, &Stamp),
    on_bad_data: OnBadData,
    path: &Path,
    kept: &Path,
    read: &mut dyn FnMut(u64),
) -> Result<()> {
    let size = std::fs::metadata(input).map_or(0, |m| m.len());
    // If a stream turns out to be damaged, it is read once more, up to where it is known to be correct.
    let mut doubtful: Option<ReadOutcome> = None;
    loop {
        let limit = doubtful.as_ref().and_then(|passed| passed.damage.as_ref()).map(|damage| damage.intact);
        let mut again = None;
        let written = write_whole(path, |out| {
            let mut writer = DocumentWriter::new(out, input)?;
            quarantine::write(kept, |set_aside| {
                let mut set_aside = |bad: quarantine::Unreadable| match on_bad_data {
                    OnBadData::Quarantine => set_aside(bad),
                    OnBadData::Stop => Err(bad.error(input).into()),
                };
                let passed = convert(input, reader, limit, read, &mut |found| match found {
                    ReaderItem::Document(document) => writer.push(&document),
                    ReaderItem::Unreadable(bad) => set_aside(bad),
                })?;
                let kept = passed.documents;
                if doubtful.is_none() && passed.is_doubtful() {
                    again = Some(passed);
                    bail!("to be read again");
                }
                doubtful.as_ref().unwrap_or(&passed).entry(size, kept).map_or(Ok(()), set_aside)
            })?;
            stamp.check(input)?;
            writer.close()
        });
        match again {
            Some(passed) => doubtful = Some(passed),
            None => return written,
        }
    }
}

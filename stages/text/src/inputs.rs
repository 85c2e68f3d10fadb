//! Paths, folders and patterns of the configuration to a list of files.
use crate::permutation::choose;
use crate::problem::{TextProblem, similar_file};
use anyhow::{Context, Result};
use std::io::Read;
use std::path::{Path, PathBuf};

/// How a file is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Columns, addressed by row, read in place.
    Parquet,
    /// UTF-8 text.
    PlainText,
    /// A MediaWiki dump.
    MediaWikiXml,
    /// A MediaWiki dump in (multistream) bzip2.
    MediaWikiXmlBz2,
}

/// One file to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputFile {
    /// Where it is.
    pub path: PathBuf,
    /// What it is.
    pub format: Format,
}

/// The files to read, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inputs {
    /// At least one.
    pub files: Vec<InputFile>,
    /// How many documents of them to use, if not all.
    pub sample_documents: Option<u64>,
}

/// Files that `paths` (files, folders, patterns such as `data/*.parquet`) stand for, sorted within each and
/// without repetition. `sample` keeps that many files if there are several, else that many documents.
///
/// Folders are not searched below their first level; hidden files and files of formats that are not read are
/// passed over in them and in patterns, but a file named outright must be readable.
pub fn resolve(paths: &[String], sample: Option<u64>, seed: u64) -> Result<Inputs> {
    let mut files: Vec<InputFile> = Vec::new();
    for given in paths {
        let path = Path::new(given);
        let found = if path.is_dir() {
            let entries = std::fs::read_dir(path).with_context(|| format!("cannot list {given}"))?;
            known(entries.map(|e| Ok(e?.path())).collect::<Result<_>>()?, given)?
        } else if path.exists() {
            vec![InputFile { path: path.to_path_buf(), format: format_of(path)? }]
        } else if given.contains(['*', '?', '[']) {
            let matches = glob::glob(given).map_err(|e| TextProblem::Nothing { place: format!("{given} ({e})") })?;
            known(matches.map(|m| Ok(m?)).collect::<Result<_>>()?, given)?
        } else {
            return Err(TextProblem::Missing { path: path.to_path_buf(), similar: similar_file(path) }.into());
        };
        for file in found {
            if !files.contains(&file) {
                files.push(file);
            }
        }
    }
    if files.is_empty() {
        return Err(TextProblem::Nothing { place: "`paths`".into() }.into());
    }
    if sample == Some(0) {
        return Err(TextProblem::Empty { why: "`sample` is 0".into() }.into());
    }
    let mut sample_documents = sample;
    if files.len() > 1
        && let Some(wanted) = sample
    {
        let chosen = choose(files.len() as u64, wanted, seed);
        files = chosen.iter().map(|i| files[*i as usize].clone()).collect();
        sample_documents = None;
    }
    Ok(Inputs { files, sample_documents })
}

/// Of what a folder or pattern gave: files of formats that are read, sorted.
fn known(mut paths: Vec<PathBuf>, place: &str) -> Result<Vec<InputFile>> {
    paths.sort();
    let visible =
        |p: &PathBuf| p.is_file() && !p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(['.', '_']));
    let files: Vec<_> = paths
        .into_iter()
        .filter(visible)
        .filter_map(|path| extension_format(&path).map(|format| InputFile { path, format }))
        .collect();
    if files.is_empty() {
        return Err(TextProblem::Nothing { place: place.to_string() }.into());
    }
    Ok(files)
}

fn extension_format(path: &Path) -> Option<Format> {
    let name = path.file_name()?.to_string_lossy().to_lowercase();
    if name.ends_with(".parquet") {
        Some(Format::Parquet)
    } else if name.ends_with(".txt") {
        Some(Format::PlainText)
    } else if name.ends_with(".xml.bz2") || (name.ends_with(".bz2") && name.contains(".xml")) {
        Some(Format::MediaWikiXmlBz2)
    } else if name.ends_with(".xml") || name.contains(".xml-p") && !name.contains(".bz2") {
        Some(Format::MediaWikiXml)
    } else {
        None
    }
}

/// The format of one file, by its name and, where that says nothing, by its first bytes.
pub fn format_of(path: &Path) -> Result<Format> {
    if let Some(format) = extension_format(path) {
        return Ok(format);
    }
    let mut head = Vec::new();
    let file = std::fs::File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    file.take(16).read_to_end(&mut head).with_context(|| format!("cannot read {}", path.display()))?;
    let no = |why: &str| Err(TextProblem::Format { path: path.to_path_buf(), why: why.into() }.into());
    match head.as_slice() {
        [b'P', b'A', b'R', b'1', ..] => Ok(Format::Parquet),
        [b'B', b'Z', b'h', ..] => Ok(Format::MediaWikiXmlBz2),
        [b'<', b'm', b'e', b'd', b'i', b'a', b'w', b'i', b'k', b'i', ..] => Ok(Format::MediaWikiXml),
        [0x1f, 0x8b, ..] => no("it is gzip; unpack it first"),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => no("it is zstd; unpack it first"),
        _ => no("neither its name nor its first bytes say what it is"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(names: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in names {
            std::fs::write(folder.path().join(name), b"x").unwrap();
        }
        folder
    }

    fn names(inputs: &Inputs) -> Vec<String> {
        inputs.files.iter().map(|f| f.path.file_name().unwrap().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn folders_patterns_and_files() {
        let folder = folder(&["b.txt", "a.txt", "notes.md", ".hidden.txt", "d.xml.bz2", "e.xml"]);
        let at = |tail: &str| folder.path().join(tail).to_string_lossy().into_owned();
        let all = resolve(&[at("")], None, 1).unwrap();
        assert_eq!(names(&all), ["a.txt", "b.txt", "d.xml.bz2", "e.xml"]);
        assert_eq!(all.files[2].format, Format::MediaWikiXmlBz2);
        assert_eq!(names(&resolve(&[at("*.txt"), at("a.txt")], None, 1).unwrap()), ["a.txt", "b.txt"]);
        let sampled = resolve(&[at("")], Some(2), 7).unwrap();
        assert_eq!((sampled.files.len(), sampled.sample_documents), (2, None));
        assert_eq!(sampled, resolve(&[at("")], Some(2), 7).unwrap());
        assert_eq!(resolve(&[at("a.txt")], Some(2), 7).unwrap().sample_documents, Some(2));
    }

    #[test]
    fn errors_name_the_near_miss() {
        let folder = folder(&["corpus.txt", "notes.md"]);
        let at = |tail: &str| folder.path().join(tail).to_string_lossy().into_owned();
        let said = |p: String| resolve(&[p], None, 1).unwrap_err().to_string();
        assert!(said(at("corpis.txt")).ends_with("similar: corpus.txt"));
        assert!(said(at("*.parquet")).contains("holds no file"));
        assert!(said(at("notes.md")).contains("what can be read: .parquet"));
        assert!(resolve(&[], None, 1).is_err());
    }
}

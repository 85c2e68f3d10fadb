//! Paths, folders and patterns of the configuration to a list of files.
use crate::input::attribution::SOURCE_FILE;
use crate::input::decompress::{Codec, Decompressed};
use crate::support::permutation::choose;
use crate::support::problem::{TextProblem, similar_file};
use anyhow::{Context, Result};
use std::collections::HashSet;
use std::io::Read;
use std::path::{Path, PathBuf};

/// What a file holds. How it is packed (gzip, zstd, bzip2) is seen when it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Columns, addressed by row, read in place.
    Parquet,
    /// A JSON object a line.
    JsonLines,
    /// UTF-8 text.
    PlainText,
    /// A MediaWiki dump.
    MediaWikiXml,
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

/// Files that `paths` (files, folders, patterns such as `data/**/*.parquet`) stand for, sorted within each and
/// without repetition. `sample` keeps that many files if there are several, else that many documents.
///
/// Folders, and folders that a pattern gives, are searched with all that is below them; what is hidden (`.` or `_` at
/// the beginning), notes of the source ([`SOURCE_FILE`]) and files of formats that are not read are passed over in them
/// and in patterns, but a file named outright must be readable.
pub fn resolve(paths: &[String], sample: Option<u64>, seed: u64) -> Result<Inputs> {
    let (mut files, mut known): (Vec<InputFile>, HashSet<PathBuf>) = Default::default();
    for given in paths {
        let path = Path::new(given);
        let found = if path.is_dir() {
            below(vec![path.to_path_buf()], given)?
        } else if path.exists() {
            vec![InputFile { path: path.to_path_buf(), format: format_of(path)? }]
        } else if given.contains(['*', '?', '[']) {
            let matches = glob::glob(given).map_err(|e| TextProblem::Nothing { place: format!("{given} ({e})") })?;
            let matches: Vec<PathBuf> = matches.map(|m| Ok(m?)).collect::<Result<_>>()?;
            below(matches.into_iter().filter(|path| is_visible(path)).collect(), given)?
        } else {
            return Err(TextProblem::Missing { path: path.to_path_buf(), similar: similar_file(path) }.into());
        };
        // By where it really is: patterns follow links, and links may lead back.
        let real = |file: &InputFile| file.path.canonicalize().unwrap_or_else(|_| file.path.clone());
        files.extend(found.into_iter().filter(|file| known.insert(real(file))));
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

/// The files of formats that are read among `paths` and in the folders among them, sorted.
fn below(mut paths: Vec<PathBuf>, place: &str) -> Result<Vec<InputFile>> {
    let (mut files, mut seen) = (Vec::new(), HashSet::new());
    while let Some(path) = paths.pop() {
        if path.is_dir() {
            // A link may lead back to a folder that is being searched.
            let at = || format!("cannot list {}", path.display());
            if seen.insert(path.canonicalize().with_context(at)?) {
                for entry in std::fs::read_dir(&path).with_context(at)? {
                    paths.push(entry.with_context(at)?.path());
                    paths.pop_if(|path| !is_visible(path));
                }
            }
        } else if path.is_file()
            && path.file_name().is_none_or(|name| name != SOURCE_FILE)
            && let Some(format) = named_format(&path)
        {
            files.push(InputFile { path, format });
        }
    }
    if files.is_empty() {
        return Err(TextProblem::Nothing { place: place.to_string() }.into());
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

fn is_visible(path: &Path) -> bool {
    !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(['.', '_']))
}

/// The format that a file's name promises.
fn named_format(path: &Path) -> Option<Format> {
    let name = path.file_name()?.to_string_lossy().to_lowercase();
    if name.ends_with(".parquet") {
        return Some(Format::Parquet);
    }
    let (name, _) = Codec::stem(&name);
    // Parts of a dump: `….xml-p000000010p000030302`.
    let dump = |name: &str| name.ends_with(".xml") || name.contains(".xml-p");
    match name {
        name if [".jsonl", ".ndjson", ".json"].iter().any(|ending| name.ends_with(ending)) => Some(Format::JsonLines),
        name if name.ends_with(".txt") => Some(Format::PlainText),
        name if dump(name) => Some(Format::MediaWikiXml),
        _ => None,
    }
}

/// The format of one file, by its name and, where that says nothing, by its first (unpacked) bytes.
pub fn format_of(path: &Path) -> Result<Format> {
    if let Some(format) = named_format(path) {
        return Ok(format);
    }
    let mut head = Vec::new();
    Decompressed::open(path)?.take(64).read_to_end(&mut head)?;
    match head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&head).trim_ascii_start() {
        [b'P', b'A', b'R', b'1', ..] => Ok(Format::Parquet),
        [b'{', ..] => Ok(Format::JsonLines),
        xml if xml.starts_with(b"<mediawiki") => Ok(Format::MediaWikiXml),
        _ => {
            let why = "neither its name nor its first bytes say what it is".into();
            Err(TextProblem::Format { path: path.to_path_buf(), why }.into())
        }
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
        let folder = folder(&["b.txt", "a.txt", "notes.md", ".hidden.txt", "d.xml.bz2", "e.xml", "SOURCE.json"]);
        let at = |tail: &str| folder.path().join(tail).to_string_lossy().into_owned();
        let all = resolve(&[at("")], None, 1).unwrap();
        assert_eq!(names(&all), ["a.txt", "b.txt", "d.xml.bz2", "e.xml"]);
        assert_eq!(all.files[2].format, Format::MediaWikiXml);
        assert_eq!(names(&resolve(&[at("*.txt"), at("a.txt")], None, 1).unwrap()), ["a.txt", "b.txt"]);
        let sampled = resolve(&[at("")], Some(2), 7).unwrap();
        assert_eq!((sampled.files.len(), sampled.sample_documents), (2, None));
        assert_eq!(sampled, resolve(&[at("")], Some(2), 7).unwrap());
        assert_eq!(resolve(&[at("a.txt")], Some(2), 7).unwrap().sample_documents, Some(2));
    }

    #[test]
    fn folders_are_searched_to_the_bottom_and_formats_mix() {
        let folder = folder(&["x.ndjson"]);
        for path in
            ["a/b/c.jsonl.zst", "a/d.TXT.gz", "a/e.json", "z/f.xml.bz2", ".git/g.txt", "a/_tmp/h.txt", "a/i.csv"]
        {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, b"x").unwrap();
        }
        #[cfg(unix)]
        std::os::unix::fs::symlink(folder.path(), folder.path().join("a/loop")).unwrap();
        let at = |tail: &str| folder.path().join(tail).to_string_lossy().into_owned();
        let all = resolve(&[at("")], None, 1).unwrap();
        assert_eq!(names(&all), ["c.jsonl.zst", "d.TXT.gz", "e.json", "x.ndjson", "f.xml.bz2"]);
        use Format::*;
        let formats: Vec<_> = all.files.iter().map(|f| f.format).collect();
        assert_eq!(formats, [JsonLines, PlainText, JsonLines, JsonLines, MediaWikiXml]);
        assert_eq!(names(&resolve(&[at("**/*.jsonl*"), at("z*")], None, 1).unwrap()), ["c.jsonl.zst", "f.xml.bz2"]);
    }

    #[test]
    fn first_bytes_say_what_a_name_does_not() {
        let folder = folder(&[]);
        let format = |content: &[u8], codec| {
            let path = folder.path().join("data");
            std::fs::write(&path, crate::testing::pack(codec, content)).unwrap();
            format_of(&path)
        };
        for codec in [Codec::Plain, Codec::Gzip, Codec::Zstd, Codec::Bzip2] {
            assert_eq!(format(b"\n{\"text\": 1}", codec).unwrap(), Format::JsonLines);
            assert_eq!(format(b"\xef\xbb\xbf<mediawiki xmlns", codec).unwrap(), Format::MediaWikiXml);
            assert!(format(b"hello", codec).unwrap_err().to_string().contains("neither its name"));
        }
        assert_eq!(format(b"PAR1....", Codec::Plain).unwrap(), Format::Parquet);
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

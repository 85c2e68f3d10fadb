//! Resolves paths, folders and patterns of the configuration to a list of files.
use crate::input::attribution::SOURCE_FILE;
use crate::input::format::Format;
use crate::input::formats::{by_name, of_file, readable};
use crate::support::permutation::choose;
use crate::support::problem::{TextProblem, similar_file};
use anyhow::{Context, Result};
use std::collections::HashSet;
use std::path::{Component, Path, PathBuf};

/// One file to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputFile<F = &'static Format> {
    /// Where it is.
    pub path: PathBuf,
    /// Its path relative to the root of the input, which is the innermost folder that contains everything that `paths`
    /// names: each folder, what precedes the first wildcard of a pattern, and the folder of each file. Components are
    /// separated by `/`. It identifies the file among the others, and does not change if the root is moved.
    pub name: String,
    /// What it holds. How it is compressed is seen when it is read.
    pub format: F,
}

/// The files to read, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inputs<F = &'static Format> {
    /// At least one.
    pub files: Vec<InputFile<F>>,
    /// How many documents of them to use, if not all.
    pub sample_documents: Option<u64>,
}

/// Determines which files are read, and their format `F`.
pub struct Recognizer<'a, F> {
    /// The format that a file's name indicates; `None`: the file is skipped in folders.
    pub by_name: &'a dyn Fn(&Path) -> Option<F>,
    /// The format of a file that is named explicitly.
    pub of_file: &'a dyn Fn(&Path) -> Result<F>,
    /// Suffixes of the files that are read, for messages.
    pub readable: String,
}

/// The files that `paths` (files, folders, patterns such as `data/**/*.parquet`) refer to, sorted within each path and
/// without duplicates. `sample` limits the number of files if there are several, or else the number of documents.
///
/// Folders, including those that match a pattern, are searched recursively. Hidden entries (starting with `.` or `_`),
/// notes about the source ([`SOURCE_FILE`]), metadata about other files (checksums, the index of a dump) and files of
/// unsupported formats are skipped there and in patterns, but a file that is named explicitly must be readable.
pub fn resolve(paths: &[String], sample: Option<u64>, seed: u64) -> Result<Inputs> {
    find(paths, sample, seed, &Recognizer { by_name: &by_name, of_file: &of_file, readable: readable() })
}

/// Like [`resolve`], for the files that `recognizer` recognizes.
pub fn find<F: Clone>(
    paths: &[String],
    sample: Option<u64>,
    seed: u64,
    recognizer: &Recognizer<F>,
) -> Result<Inputs<F>> {
    let nothing = |place: String| TextProblem::Nothing { place, readable: recognizer.readable.clone() };
    let (mut files, mut known): (Vec<InputFile<F>>, HashSet<PathBuf>) = Default::default();
    for given in paths {
        let path = Path::new(given);
        let found = if path.is_dir() {
            below(vec![path.to_path_buf()], recognizer)?
        } else if path.is_file() {
            vec![InputFile { path: path.to_path_buf(), name: String::new(), format: (recognizer.of_file)(path)? }]
        } else if path.exists() {
            let why = "a pipe or a device cannot be read twice; write its content to a file".to_owned();
            return Err(TextProblem::NotOfFormat { path: path.to_path_buf(), format: "a regular file", why }.into());
        } else if given.contains(['*', '?', '[']) {
            let matches = glob::glob(given).map_err(|e| nothing(format!("{given} ({e})")))?;
            let matches: Vec<PathBuf> = matches.map(|m| Ok(m?)).collect::<Result<_>>()?;
            below(matches.into_iter().filter(|path| is_visible(path)).collect(), recognizer)?
        } else {
            return Err(TextProblem::Missing { path: path.to_path_buf(), similar: similar_file(path) }.into());
        };
        if found.is_empty() {
            return Err(nothing(given.clone()).into());
        }
        // Compared by canonical path: patterns follow links, and links may be cyclic.
        let real = |file: &InputFile<F>| file.path.canonicalize().unwrap_or_else(|_| file.path.clone());
        files.extend(found.into_iter().filter(|file| known.insert(real(file))));
    }
    if files.is_empty() {
        return Err(nothing("`paths`".into()).into());
    }
    if sample == Some(0) {
        return Err(TextProblem::Empty { why: "`sample` is 0".into() }.into());
    }
    name(&mut files, paths);
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

/// Sets the names of `files`, which `paths` refer to.
fn name<F>(files: &mut [InputFile<F>], paths: &[String]) {
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    let common = |a: PathBuf, b: PathBuf| {
        a.components().zip(b.components()).take_while(|(a, b)| a == b).map(|(a, _)| a).collect()
    };
    let root: PathBuf =
        paths.iter().map(|given| folder_of(&absolute(Path::new(given)))).reduce(common).unwrap_or_default();
    for file in files {
        let path = absolute(&file.path);
        let components = path.strip_prefix(&root).unwrap_or(&path).components();
        let component = |component: Component| match component.as_os_str().to_str() {
            Some(name) => name.to_owned(),
            None => component.as_os_str().as_encoded_bytes().escape_ascii().to_string(),
        };
        file.name = components.map(component).collect::<Vec<_>>().join("/");
    }
}

/// The innermost folder that contains everything that `given`, a file, folder or pattern, refers to.
fn folder_of(given: &Path) -> PathBuf {
    if given.is_dir() {
        return given.to_path_buf();
    }
    let folder = given.parent().unwrap_or(given);
    let is_pattern = |component: &Component| component.as_os_str().to_string_lossy().contains(['*', '?', '[']);
    match given.is_file() {
        true => folder.to_path_buf(),
        false => folder.components().take_while(|component| !is_pattern(component)).collect(),
    }
}

/// The files that are read among `paths` and in the folders among them, sorted.
fn below<F>(mut paths: Vec<PathBuf>, recognizer: &Recognizer<F>) -> Result<Vec<InputFile<F>>> {
    let (mut files, mut seen) = (Vec::new(), HashSet::new());
    while let Some(path) = paths.pop() {
        if path.is_dir() {
            // A link may point to a folder that is being searched already.
            let at = || format!("cannot list {}", path.display());
            if seen.insert(path.canonicalize().with_context(at)?) {
                let entries = std::fs::read_dir(&path).with_context(at)?;
                let mut entries: Vec<PathBuf> =
                    entries.map(|entry| Ok(entry.with_context(at)?.path())).collect::<Result<_>>()?;
                // In order, so that the file system does not decide through which of two links a folder is found.
                entries.sort_by(|a, b| b.cmp(a));
                paths.extend(entries.into_iter().filter(|path| is_visible(path)));
            }
        } else if path.is_file()
            && !is_about_others(&path)
            && let Some(format) = (recognizer.by_name)(&path)
        {
            files.push(InputFile { path, name: String::new(), format });
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

/// Is it a note of the source, a list of check sums, or the index that comes with a dump in several streams?
fn is_about_others(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    name == SOURCE_FILE.to_lowercase() || name.ends_with("sums.txt") || name.contains("-multistream-index")
}

fn is_visible(path: &Path) -> bool {
    !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(['.', '_']))
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
        for name in ["d-md5sums.txt", "d-multistream-index.txt.bz2"] {
            std::fs::write(folder.path().join(name), b"x").unwrap();
        }
        let at = |tail: &str| folder.path().join(tail).to_string_lossy().into_owned();
        let all = resolve(&[at("")], None, 1).unwrap();
        assert_eq!(names(&all), ["a.txt", "b.txt", "d.xml.bz2", "e.xml"]);
        assert_eq!(all.files[2].format.name, "MediaWiki dump");
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
        let formats: Vec<_> = all.files.iter().map(|f| f.format.name).collect();
        assert_eq!(formats, ["JSON Lines", "plain text", "JSON Lines", "JSON Lines", "MediaWiki dump"]);
        assert_eq!(names(&resolve(&[at("**/*.jsonl*"), at("z*")], None, 1).unwrap()), ["c.jsonl.zst", "f.xml.bz2"]);
    }

    #[test]
    fn a_file_is_named_by_its_path_below_what_paths_have_in_common() {
        let folder = folder(&[]);
        for path in ["data/en/x.txt", "data/en/deep/y.txt", "data/fr/x.txt", "other/x.txt"] {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, b"x").unwrap();
        }
        let named = |paths: &[&str]| -> Vec<String> {
            let paths: Vec<String> = paths.iter().map(|path| format!("{}/{path}", folder.path().display())).collect();
            let mut files = resolve(&paths, None, 1).unwrap().files;
            assert!(files.iter().all(|file| file.path.ends_with(&file.name)), "{files:?}");
            files.drain(..).map(|file| file.name).collect()
        };
        assert_eq!(named(&["data/en/x.txt"]), ["x.txt"]);
        assert_eq!(named(&["data/*/x.txt"]), ["en/x.txt", "fr/x.txt"]);
        assert_eq!(named(&["data/f*/x.txt"]), ["fr/x.txt"], "a folder that is added to the pattern renames no file");
        assert_eq!(named(&["data"]), ["en/deep/y.txt", "en/x.txt", "fr/x.txt"]);
        assert_eq!(named(&["data/fr/x.txt", "data/en/*.txt"]), ["fr/x.txt", "en/x.txt"]);
        assert_eq!(named(&["data/./fr", "other/x.txt"]), ["data/fr/x.txt", "other/x.txt"]);
        assert_eq!(named(&["data/**/*.txt"]), ["en/deep/y.txt", "en/x.txt", "fr/x.txt"]);
    }

    #[test]
    fn errors_name_the_near_miss() {
        let folder = folder(&["corpus.txt", "notes.md", "sha1sums.txt"]);
        let at = |tail: &str| folder.path().join(tail).to_string_lossy().into_owned();
        let said = |p: String| resolve(&[p], None, 1).unwrap_err().to_string();
        assert!(said(at("corpis.txt")).ends_with("similar: corpus.txt"));
        assert!(said(at("*.parquet")).contains("holds no file"));
        assert!(said(at("notes.md")).contains("what can be read: .parquet"));
        assert!(resolve(&[], None, 1).is_err());
        assert_eq!(names(&resolve(&[at("sha1sums.txt")], None, 1).unwrap()), ["sha1sums.txt"], "it was asked for");
        #[cfg(unix)]
        assert!(said("/dev/null".into()).contains("/dev/null is not a regular file"));
    }
}

//! The list of input formats, and how the format of a file is recognized.
use crate::input::codec::Codec;
use crate::input::decompress::Decompressed;
use crate::input::format::Format;
use crate::input::mediawiki::dump;
use crate::input::{json_lines, plain_text};
use crate::support::problem::TextProblem;
use anyhow::Result;
use std::io::Read;
use std::path::Path;

/// All formats, in the order in which they are tried.
pub static FORMATS: &[&Format] = &[&Format::PARQUET, &json_lines::FORMAT, &plain_text::FORMAT, &dump::FORMAT];

/// Bytes at the beginning of a file in which a format's magic bytes are looked for.
const HEAD: u64 = 64;

/// The format that a file's name indicates.
pub fn by_name(path: &Path) -> Option<&'static Format> {
    let name = path.file_name()?.to_string_lossy().to_lowercase();
    let (stem, _) = Codec::stem(&name);
    FORMATS.iter().copied().find(|format| format.has(if format.is_in_place() { &name } else { stem }))
}

/// The format of a file: by its name or, if the name does not tell, by its first decompressed bytes.
///
/// # Errors
/// [`TextProblem::Format`] if neither tells, or if the file cannot be read.
pub fn of_file(path: &Path) -> Result<&'static Format> {
    if let Some(format) = by_name(path) {
        return Ok(format);
    }
    let mut head = Vec::new();
    Decompressed::open(path)?.take(HEAD).read_to_end(&mut head)?;
    let head = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&head).trim_ascii_start();
    let found = FORMATS.iter().copied().find(|format| !format.magic.is_empty() && head.starts_with(format.magic));
    found.ok_or_else(|| {
        let why = "neither its name nor its first bytes say what it is".into();
        TextProblem::Format { path: path.to_path_buf(), why, readable: readable() }.into()
    })
}

/// The suffixes of all formats, for messages.
pub fn readable() -> String {
    let list = |in_place: bool| {
        let formats = FORMATS.iter().filter(|format| format.is_in_place() == in_place);
        let format = |format: &&Format| {
            let suffixes = format.suffixes.iter().copied().filter(|suffix| !suffix.ends_with('*'));
            format!("{} ({})", suffixes.collect::<Vec<_>>().join(", "), format.name)
        };
        formats.map(format).collect::<Vec<_>>().join(", ")
    };
    let codecs: Vec<&str> = Codec::suffixes().collect();
    format!("{}; and, also compressed ({}): {}", list(true), codecs.join(", "), list(false))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pack;
    use std::collections::BTreeSet;

    #[test]
    fn no_two_formats_have_the_same_name_or_suffix() {
        let names: BTreeSet<&str> = FORMATS.iter().map(|format| format.name).collect();
        let suffixes: Vec<&str> = FORMATS.iter().flat_map(|format| format.suffixes.iter().copied()).collect();
        assert_eq!(names.len(), FORMATS.len());
        assert_eq!(suffixes.iter().collect::<BTreeSet<_>>().len(), suffixes.len());
        assert!(suffixes.iter().all(|suffix| suffix.starts_with('.') && *suffix == suffix.to_lowercase()));
    }

    #[test]
    fn names_promise_a_format() {
        let name = |path: &str| by_name(Path::new(path)).map(|format| format.name);
        for (path, format) in [
            ("a.parquet", Some("Parquet")),
            ("a.parquet.gz", None),
            ("a.JSONL.zst", Some("JSON Lines")),
            ("a.ndjson", Some("JSON Lines")),
            ("a.txt.bz2", Some("plain text")),
            ("wiki.xml", Some("MediaWiki dump")),
            ("wiki.xml-p10p302.bz2", Some("MediaWiki dump")),
            ("wiki.xml-p10p302.txt", Some("plain text")),
            ("a.csv", None),
        ] {
            assert_eq!(name(path), format, "{path}");
        }
    }

    #[test]
    fn first_bytes_say_what_a_name_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let format = |content: &[u8], codec| {
            let path = folder.path().join("data");
            std::fs::write(&path, pack(codec, content)).unwrap();
            of_file(&path).map(|format| format.name)
        };
        for codec in [Codec::Plain, Codec::Gzip, Codec::Zstd, Codec::Bzip2] {
            assert_eq!(format(b"\n{\"text\": 1}", codec).unwrap(), "JSON Lines");
            assert_eq!(format(b"\xef\xbb\xbf<mediawiki xmlns", codec).unwrap(), "MediaWiki dump");
            assert!(format(b"hello", codec).unwrap_err().to_string().contains("neither its name"));
        }
        assert_eq!(format(b"PAR1....", Codec::Plain).unwrap(), "Parquet");
    }

    #[test]
    fn messages_list_all_formats() {
        assert_eq!(
            readable(),
            ".parquet (Parquet); and, also compressed (.gz, .zst, .bz2): .jsonl, .ndjson, .json (JSON Lines), \
             .txt (plain text), .xml (MediaWiki dump)"
        );
    }
}

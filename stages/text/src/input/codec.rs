//! How a file is compressed: from its first bytes, which count more than its name.
use crate::support::problem::TextProblem;
use anyhow::Result;
use std::path::Path;

/// The compression of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// None.
    Plain,
    /// gzip.
    Gzip,
    /// Zstandard.
    Zstd,
    /// bzip2.
    Bzip2,
}

impl Codec {
    /// All compressed formats: suffix and first bytes.
    const KNOWN: [(Codec, &str, &[u8]); 3] = [
        (Codec::Gzip, ".gz", &[0x1f, 0x8b, 8]),
        (Codec::Zstd, ".zst", &[0x28, 0xb5, 0x2f, 0xfd]),
        (Codec::Bzip2, ".bz2", b"BZh"),
    ];

    /// The suffixes of compressed files.
    pub fn suffixes() -> impl Iterator<Item = &'static str> {
        Self::KNOWN.iter().map(|(_, ending, _)| *ending)
    }

    /// A file name without the suffix of its compression.
    pub fn stem(name: &str) -> (&str, Codec) {
        let known = Self::KNOWN.iter().find_map(|(codec, ending, _)| Some((name.strip_suffix(ending)?, *codec)));
        known.unwrap_or((name, Codec::Plain))
    }

    /// Determined by the first bytes of a file, whatever its name says. If the name promises a codec that the bytes do
    /// not have, that is an error, unless there are too few bytes to tell.
    pub fn of(path: &Path, head: &[u8]) -> Result<Codec> {
        // A skippable frame, with which files of pzstd begin (RFC 8878, 3.1.2).
        if head.len() >= 4 && head[0] & 0xf0 == 0x50 && head[1..4] == [0x2a, 0x4d, 0x18] {
            return Ok(Codec::Zstd);
        }
        if let Some((codec, ..)) = Self::KNOWN.iter().find(|(_, _, magic)| head.starts_with(magic)) {
            return Ok(*codec);
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        match Self::KNOWN.iter().find(|(_, ending, _)| name.ends_with(ending)) {
            None => Ok(Codec::Plain),
            Some((codec, _, magic)) if magic.starts_with(head) => Ok(*codec),
            Some((_, ending, _)) => {
                let why = format!("its name ends in {ending}, but its first bytes are not of that format");
                Err(TextProblem::Corrupt { file: path.to_path_buf(), row_group: None, why }.into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_first_bytes() {
        let of = |name: &str, head: &[u8]| Codec::of(Path::new(name), head);
        assert_eq!(of("a.txt.gz", &[0x28, 0xb5, 0x2f, 0xfd, 0]).unwrap(), Codec::Zstd);
        assert_eq!(of("a.txt", &[0x1f, 0x8b, 8, 0]).unwrap(), Codec::Gzip);
        assert_eq!(of("a.zst", &[0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0]).unwrap(), Codec::Zstd);
        assert_eq!(of("a.gz", &[0x1f]).unwrap(), Codec::Gzip);
        assert!(of("a.gz", b"plain text").unwrap_err().to_string().contains("its name ends in .gz"));
        assert_eq!(Codec::stem("wiki.xml.bz2"), ("wiki.xml", Codec::Bzip2));
    }
}

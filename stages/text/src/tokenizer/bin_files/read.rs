//! Reads documents from `.bin` files of token ids.
use super::{BinFormat, HEADER, NARROW, WIDE};
use crate::support::problem::TextProblem;
use crate::tokenizer::Vocabulary;
use anyhow::{Context, Result};
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// The most ids that a document may have, because a document is read into memory.
const MAX_DOCUMENT: usize = 1 << 27;

/// An iterator over the documents of `.bin` files, which are read one after another. End-of-text tokens separate the
/// documents.
pub struct BinDocuments {
    paths: std::vec::IntoIter<PathBuf>,
    open: Option<OpenFile>,
    vocabulary: Vocabulary,
    /// The format of all files, known once the first is open.
    format: Option<BinFormat>,
    /// In llm.c's format, the end-of-text token comes before its document: whether the first one has been read.
    begun: bool,
    /// The ids of the current document so far.
    ids: Vec<u32>,
}

/// The file that is being read.
struct OpenFile {
    path: PathBuf,
    input: BufReader<File>,
    /// Bytes per id.
    width: usize,
    /// Number of ids according to the header, if there is one.
    announced: Option<u64>,
    /// Number of ids that have been read.
    read: u64,
}

impl BinDocuments {
    /// Reads `paths`, which must all have the same format, with ids of `vocabulary`. A file is in llm.c's format if it
    /// begins with llm.c's header.
    pub fn open(paths: Vec<PathBuf>, vocabulary: Vocabulary) -> Self {
        Self { paths: paths.into_iter(), open: None, vocabulary, format: None, begun: false, ids: Vec::new() }
    }

    /// The format of the files, once one has been opened.
    pub fn format(&self) -> Option<BinFormat> {
        self.format
    }

    /// The next id, or `None` after the last one.
    fn id(&mut self) -> Result<Option<u32>> {
        loop {
            if self.open.is_none() {
                let Some(path) = self.paths.next() else { return Ok(None) };
                let (open, format) = OpenFile::new(path)?;
                if let Some(before) = self.format.replace(format).filter(|before| *before != format) {
                    let why = format!("it is of {format:?}, and the files before it of {before:?}: import them apart");
                    return Err(corrupt(&open.path, why));
                }
                self.open = Some(open);
            }
            let Some(open) = &mut self.open else { continue };
            match open.next()? {
                Some(id) if id < self.vocabulary.size => return Ok(Some(id)),
                Some(id) => {
                    let (at, size) = (open.read - 1, self.vocabulary.size);
                    let why = format!(
                        "id {id} at place {at} is not below the vocabulary size {size}: was it made with this tokenizer?"
                    );
                    return Err(corrupt(&open.path, why));
                }
                None => self.open = None,
            }
        }
    }

    fn document(&mut self) -> Result<Option<Vec<u32>>> {
        while let Some(id) = self.id()? {
            let ends = id == self.vocabulary.end_of_text;
            if !ends {
                if self.ids.len() == MAX_DOCUMENT {
                    let path = self.open.as_ref().map_or(Path::new(""), |open| &open.path);
                    let end = self.vocabulary.end_of_text;
                    return Err(corrupt(
                        path,
                        format!("{MAX_DOCUMENT} ids without the one that ends a document ({end})"),
                    ));
                }
                self.ids.push(id);
            } else if self.format == Some(BinFormat::NanoGpt)
                || std::mem::replace(&mut self.begun, true)
                || !self.ids.is_empty()
            {
                return Ok(Some(std::mem::take(&mut self.ids)));
            }
        }
        let rest = std::mem::take(&mut self.begun) || !self.ids.is_empty();
        Ok(rest.then(|| std::mem::take(&mut self.ids)))
    }
}

impl Iterator for BinDocuments {
    type Item = Result<Vec<u32>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.document().transpose()
    }
}

impl OpenFile {
    fn new(path: PathBuf) -> Result<(Self, BinFormat)> {
        let at = || format!("cannot read {}", path.display());
        let file = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
        let mut input = BufReader::with_capacity(1 << 18, file);
        let mut header = Vec::new();
        input.by_ref().take(HEADER as u64).read_to_end(&mut header).with_context(at)?;
        let number =
            |place: usize| header.get(4 * place..4 * place + 4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        let kind = (number(0), number(1));
        let width = match kind {
            (Some(magic), Some(version)) if (magic, version) == NARROW => Some(2),
            (Some(magic), Some(version)) if (magic, version) == WIDE => Some(4),
            (Some(magic), version) if [NARROW.0, WIDE.0].contains(&magic) => {
                let why = format!("it has llm.c's magic number {magic}, but version {}", version.unwrap_or_default());
                return Err(corrupt(&path, why));
            }
            _ => None,
        };
        let Some(width) = width else {
            if let Some(what) = other_format(&header) {
                return Err(corrupt(&path, format!("it is {what}, not ids of 16 bits without a header, as nanoGPT's")));
            }
            input.seek(SeekFrom::Start(0)).with_context(at)?;
            return Ok((Self { path, input, width: 2, announced: None, read: 0 }, BinFormat::NanoGpt));
        };
        if header.len() < HEADER {
            return Err(corrupt(&path, "it ends within its header".into()));
        }
        let announced = number(2).map(u64::from);
        Ok((Self { path, input, width, announced, read: 0 }, BinFormat::LlmC))
    }

    fn next(&mut self) -> Result<Option<u32>> {
        let mut id = [0; 4];
        if self.announced == Some(self.read) {
            // Ids after the announced ones mean that the header is wrong; ignoring them would lose data.
            let more = self.input.fill_buf().map(|rest| !rest.is_empty());
            return match more.with_context(|| self.unreadable())? {
                false => Ok(None),
                true => Err(corrupt(&self.path, format!("its header announces {} ids, and more follow", self.read))),
            };
        }
        match self.input.read_exact(&mut id[..self.width]) {
            Ok(()) => {
                self.read += 1;
                Ok(Some(u32::from_le_bytes(id)))
            }
            Err(e) if e.kind() == ErrorKind::UnexpectedEof => match self.announced {
                Some(announced) => {
                    Err(corrupt(&self.path, format!("it ends after {} of the {announced} ids it announces", self.read)))
                }
                None if self.length()? % 2 == 1 => Err(corrupt(&self.path, "it has half an id at its end".into())),
                None => Ok(None),
            },
            Err(e) => Err(e).with_context(|| self.unreadable()),
        }
    }

    fn unreadable(&self) -> String {
        format!("cannot read {}", self.path.display())
    }

    fn length(&self) -> Result<u64> {
        Ok(std::fs::metadata(&self.path).with_context(|| self.unreadable())?.len())
    }
}

/// What a file that begins with `bytes` contains, if that cannot be 16-bit ids without a header.
fn other_format(bytes: &[u8]) -> Option<&'static str> {
    /// The first bytes of files in other formats.
    const MAGIC: [(&[u8], &str); 8] = [
        (b"\x93NUMPY", "a NumPy array with a header (write the ids with `array.tofile(path)` instead of `numpy.save`)"),
        (b"PAR1", "Parquet"),
        (b"PK\x03\x04", "a ZIP archive (PyTorch's and NumPy's .npz files are)"),
        (b"\x1f\x8b", "compressed with gzip"),
        (b"BZh", "compressed with bzip2"),
        (b"\x28\xb5\x2f\xfd", "compressed with zstd"),
        (b"\xfd7zXZ", "compressed with xz"),
        (b"ARROW1", "an Arrow file"),
    ];
    if let Some((_, what)) = MAGIC.iter().find(|(magic, _)| bytes.starts_with(magic)) {
        return Some(what);
    }
    // If a wider id is read two bytes at a time, the numbers after the first are its upper bytes: 0 for ids below
    // 65,536.
    let ids: Vec<&[u8]> = bytes.chunks_exact(2).collect();
    let zero = |first: usize, step: usize| ids.iter().skip(first).step_by(step).all(|id| *id == [0, 0]);
    match ids.len() >= 32 && !zero(0, 1) {
        true if zero(1, 4) && zero(2, 4) && zero(3, 4) => Some("made of ids of 64 bits (write them as uint16)"),
        true if zero(1, 2) => Some("made of ids of 32 bits (write them as uint16)"),
        _ => None,
    }
}

fn corrupt(path: &Path, why: String) -> anyhow::Error {
    TextProblem::Corrupt { file: path.to_path_buf(), row_group: None, why }.into()
}

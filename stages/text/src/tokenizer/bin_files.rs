//! Token ids as nanoGPT and llm.c read them: `.bin` files, little-endian, documents one after the other.
//!
//! - **nanoGPT** ([`data/openwebtext/prepare.py`](https://github.com/karpathy/nanoGPT)): uint16 ids and nothing else; each
//!   document is followed by its end-of-text token. One file, however large.
//! - **llm.c** ([`dev/data/data_common.py`, `dev/data/fineweb.py`](https://github.com/karpathy/llm.c)): a header of 256
//!   int32 (magic number, version, number of ids, zeros), then the ids; each document is preceded by an end-of-text token.
//!   Magic 20240520 and version 1: uint16 ids; magic 20240801 and version 7: uint32. Files of a fixed number of ids,
//!   documents being cut where a file is full.
use crate::parquet::tokens::TokenStore;
use crate::support::cache::write_whole;
use crate::support::problem::TextProblem;
use crate::tokenizer::Vocabulary;
use anyhow::{Context, Result};
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Who is to read the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BinFormat {
    /// nanoGPT.
    NanoGpt,
    /// llm.c.
    LlmC,
}

/// Bytes of llm.c's header.
const HEADER: usize = 256 * 4;
/// Magic number and version of files of two bytes an id, and of four.
const NARROW: (u32, u32) = (20_240_520, 1);
const WIDE: (u32, u32) = (20_240_801, 7);
/// Ids of one of llm.c's files.
pub const FILE_TOKENS: u64 = 100_000_000;
/// A document of more ids is none: whoever reads one has it in memory.
const LONGEST: usize = 1 << 27;

impl BinFormat {
    /// Bytes of an id; an error if the format has no ids as large as those of `vocabulary`.
    fn width(self, vocabulary: &Vocabulary) -> Result<usize> {
        match (self, vocabulary.size <= 1 << 16) {
            (_, true) => Ok(2),
            (Self::LlmC, false) => Ok(4),
            (Self::NanoGpt, false) => {
                let why = format!(
                    "nanoGPT reads ids of 16 bits, and the vocabulary has {}; llm.c has a format for more",
                    vocabulary.size
                );
                Err(TextProblem::Tokenizer { name: "export".into(), why }.into())
            }
        }
    }

    /// The name of file `number` of a part, `train` or `val`.
    fn name(self, part: &str, number: usize) -> String {
        match self {
            Self::NanoGpt => format!("{part}.bin"),
            Self::LlmC => format!("{part}_{number:06}.bin"),
        }
    }
}

/// A file that was written, and its ids, end-of-text tokens included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BinFile {
    /// Where it is.
    pub path: PathBuf,
    /// How many.
    pub tokens: u64,
}

/// Writes `rows` of `store` as files of `part` (`train`, `val`) into `folder`, each whole or not at all. llm.c's have
/// `file_tokens` ids each.
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
            // Ids of the document that the file before was full in go first.
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

/// What a file that begins with `bytes` is, if it cannot be one of 16-bit ids without a header.
fn other_format(bytes: &[u8]) -> Option<&'static str> {
    /// What files of other formats begin with.
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
    // Read two bytes at a time, a wider id is one number and then its upper half: 0 for all ids below 65,536.
    let ids: Vec<&[u8]> = bytes.chunks_exact(2).collect();
    let zero = |first: usize, step: usize| ids.iter().skip(first).step_by(step).all(|id| *id == [0, 0]);
    match ids.len() >= 32 && !zero(0, 1) {
        true if zero(1, 4) && zero(2, 4) && zero(3, 4) => Some("made of ids of 64 bits (write them as uint16)"),
        true if zero(1, 2) => Some("made of ids of 32 bits (write them as uint16)"),
        _ => None,
    }
}

/// The documents of `.bin` files, which are read one after the other: each what stands between end-of-text tokens.
pub struct BinDocuments {
    paths: std::vec::IntoIter<PathBuf>,
    open: Option<Open>,
    vocabulary: Vocabulary,
    /// llm.c's documents begin with the token that ends nanoGPT's.
    format: Option<BinFormat>,
    begun: bool,
    ids: Vec<u32>,
}

struct Open {
    path: PathBuf,
    input: BufReader<File>,
    width: usize,
    /// Ids that the header announces beyond those that were read.
    announced: Option<u64>,
    read: u64,
}

impl BinDocuments {
    /// Of `paths`, all in one format, with the ids of `vocabulary`. Files that begin with llm.c's header are llm.c's.
    pub fn open(paths: Vec<PathBuf>, vocabulary: Vocabulary) -> Self {
        Self { paths: paths.into_iter(), open: None, vocabulary, format: None, begun: false, ids: Vec::new() }
    }

    /// The format of the files, once one has been opened.
    pub fn format(&self) -> Option<BinFormat> {
        self.format
    }

    /// The next id; `None` behind the last.
    fn id(&mut self) -> Result<Option<u32>> {
        loop {
            if self.open.is_none() {
                let Some(path) = self.paths.next() else { return Ok(None) };
                let (open, format) = Open::new(path)?;
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
                if self.ids.len() == LONGEST {
                    let path = self.open.as_ref().map_or(Path::new(""), |open| &open.path);
                    let end = self.vocabulary.end_of_text;
                    return Err(corrupt(path, format!("{LONGEST} ids without the one that ends a document ({end})")));
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

impl Open {
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
            // Nothing may follow: a header that is wrong would lose ids.
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

fn corrupt(path: &Path, why: String) -> anyhow::Error {
    TextProblem::Corrupt { file: path.to_path_buf(), row_group: None, why }.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Cache, write_tokens};
    use proptest::prelude::*;

    fn vocabulary(size: u32) -> Vocabulary {
        Vocabulary { hash: "x".into(), size, end_of_text: 7 }
    }

    fn export(folder: &Path, size: u32, documents: &[Vec<u32>], format: BinFormat, file_tokens: u64) -> Vec<BinFile> {
        let (path, cache) = (folder.join("tokens.parquet"), folder.join("cache"));
        write_tokens(&path, &vocabulary(size), documents).unwrap();
        let store = TokenStore::open(&[path], None, &Cache::new(cache.to_str())).unwrap();
        let rows: Vec<u64> = (0..store.rows()).collect();
        write(&store, &rows, format, folder, "train", file_tokens).unwrap()
    }

    fn import(files: &[BinFile], size: u32) -> Result<Vec<Vec<u32>>> {
        BinDocuments::open(files.iter().map(|file| file.path.clone()).collect(), vocabulary(size)).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn what_is_exported_is_imported(
            documents in prop::collection::vec(prop::collection::vec(0u32..70_000, 0..20), 0..12),
            wide in any::<bool>(),
            file_tokens in 1u64..40,
        ) {
            let size = if wide { 70_001 } else { 65_536 };
            // No document holds the token that ends one.
            let documents: Vec<Vec<u32>> = documents.iter().map(|ids| ids.iter().map(|id| id % size).filter(|id| *id != 7).collect()).collect();
            let folder = tempfile::tempdir().unwrap();
            for format in [BinFormat::NanoGpt, BinFormat::LlmC].into_iter().filter(|format| !wide || *format == BinFormat::LlmC) {
                let files = export(folder.path(), size, &documents, format, file_tokens);
                let tokens: usize = documents.iter().map(|ids| ids.len() + 1).sum();
                prop_assert_eq!(files.iter().map(|file| file.tokens).sum::<u64>(), tokens as u64);
                if format == BinFormat::LlmC {
                    prop_assert!(files[..files.len() - 1].iter().all(|file| file.tokens == file_tokens));
                }
                prop_assert_eq!(&import(&files, size).unwrap(), &documents, "{:?}", format);
            }
        }
    }

    #[test]
    fn what_is_no_list_of_16_bit_ids_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("train.bin");
        let said = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            let read: Result<Vec<Vec<u32>>> = BinDocuments::open(vec![path.clone()], vocabulary(65_536)).collect();
            read.err().map(|error| error.to_string()).unwrap_or_default()
        };
        let ids: Vec<u16> = (0..64).map(|id| 300 * id).collect();
        let wide = |width: usize| -> Vec<u8> {
            ids.iter().flat_map(|id| [&id.to_le_bytes()[..], &vec![0; width - 2]].concat()).collect()
        };
        assert_eq!(said(&wide(2)), "");
        assert_eq!(said(&[0; 256]), "", "zeros may be ids");
        assert!(said(&wide(4)).contains("made of ids of 32 bits"));
        assert!(said(&wide(8)).contains("made of ids of 64 bits"));
        assert!(said(b"\x93NUMPY\x01\x00v\x00{'descr': '<u2'}").contains("a NumPy array with a header"));
        assert!(said(b"PAR1....").contains("Parquet"));
    }

    #[test]
    fn files_are_those_that_numpy_reads() {
        let folder = tempfile::tempdir().unwrap();
        let documents = [vec![1, 2], vec![], vec![259]];
        let bytes = |files: &[BinFile]| std::fs::read(&files[0].path).unwrap();
        let files = export(folder.path(), 300, &documents, BinFormat::NanoGpt, FILE_TOKENS);
        assert_eq!(files[0].path, folder.path().join("train.bin"));
        assert_eq!(bytes(&files), [1, 0, 2, 0, 7, 0, 7, 0, 3, 1, 7, 0]);
        let files = export(folder.path(), 300, &documents, BinFormat::LlmC, FILE_TOKENS);
        assert_eq!(files[0].path, folder.path().join("train_000000.bin"));
        let found = bytes(&files);
        assert_eq!(found[..12], [[0x88, 0xd8, 0x34, 0x01], [1, 0, 0, 0], [6, 0, 0, 0]].concat());
        assert!(found[12..1024].iter().all(|byte| *byte == 0));
        assert_eq!(found[1024..], [7, 0, 1, 0, 2, 0, 7, 0, 7, 0, 3, 1]);
        let found = bytes(&export(folder.path(), 70_000, &documents, BinFormat::LlmC, FILE_TOKENS));
        assert_eq!(found[..12], [[0xa1, 0xd9, 0x34, 0x01], [7, 0, 0, 0], [6, 0, 0, 0]].concat());
        assert_eq!(found[1024..1032], [7, 0, 0, 0, 1, 0, 0, 0]);
    }

    #[test]
    fn what_is_no_such_file_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let said = |content: &[u8], size: u32| {
            let path = folder.path().join("x.bin");
            std::fs::write(&path, content).unwrap();
            format!("{:#}", import(&[BinFile { path, tokens: 0 }], size).unwrap_err())
        };
        assert!(said(&[1, 0, 2], 300).contains("x.bin: it has half an id at its end"));
        assert!(said(&[1, 0, 0, 2], 300).contains("id 512 at place 1 is not below the vocabulary size 300"));
        let whole = std::fs::read(&export(folder.path(), 300, &[vec![1, 2]], BinFormat::LlmC, 9)[0].path).unwrap();
        assert!(said(&whole[..99], 300).contains("ends within its header"));
        assert!(said(&whole[..whole.len() - 1], 300).contains("ends after 2 of the 3 ids"));
        assert!(said(&[&whole[..], &[1, 0]].concat(), 300).contains("announces 3 ids, and more follow"));
        let mut other = whole.clone();
        other[4] = 9;
        assert!(said(&other, 300).contains("magic number 20240520, but version 9"));
        let wide = export(folder.path(), 70_000, &[vec![1]], BinFormat::LlmC, 9);
        let store =
            TokenStore::open(&[folder.path().join("tokens.parquet")], None, &Cache::new(folder.path().to_str()));
        let refused = write(&store.unwrap(), &[0], BinFormat::NanoGpt, folder.path(), "train", 9).unwrap_err();
        assert!(refused.to_string().contains("ids of 16 bits, and the vocabulary has 70000"), "{refused}");
        let narrow = folder.path().join("n.bin");
        std::fs::write(&narrow, [1, 0]).unwrap();
        let both = [wide[0].clone(), BinFile { path: narrow, tokens: 1 }];
        assert!(format!("{:#}", import(&both, 70_000).unwrap_err()).contains("import them apart"));
    }
}

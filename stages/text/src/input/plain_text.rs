//! Plain text to documents.
//!
//! With a separator, documents are the text between its occurrences. Without one, a file of up to 64 KiB is one
//! document, and a larger one is split at blank lines into documents of at least 4 KiB (at any line end from 64 KiB on,
//! anywhere from 1 MiB on), so that there are documents to shuffle and to hold out. Line breaks at either end of a
//! document are removed; everything else is kept.
use crate::input::decompress::{Decompressed, LONGEST, StreamState};
use crate::input::document::{Document, EmitItem, ReaderItem};
use crate::input::format::{Access, Format, StreamReader, TextShare};
use crate::input::quarantine::{Reason, Unreadable};
use crate::support::problem::TextProblem;
use anyhow::Result;
use memchr::memmem::Finder;
use std::io::{BufRead, BufReader, Cursor, Read};
use std::path::Path;
use std::rc::Rc;

/// Plain text in UTF-8.
pub static FORMAT: Format = Format {
    name: "plain text",
    suffixes: &[".txt"],
    magic: b"",
    access: Access::Stream(StreamReader {
        version: |layout| format!("plain text 3 {:?}", layout.separator),
        read: |input, path, layout, emit| read(input, path, layout.separator, emit),
        share: TextShare::Fraction(1.0),
        is_verbatim: true,
    }),
};

const WHOLE: usize = 64 << 10;
/// The least bytes of a document that is cut at a blank line.
pub(crate) const MIN_BYTES: usize = 4 << 10;
const AT_MOST: usize = 1 << 20;

/// Emits each document of `input`, the content of the file at `path`, and an [`Unreadable`] entry for each that is not
/// UTF-8.
///
/// # Errors
/// [`TextProblem::NotOfFormat`] if its beginning cannot be text in UTF-8.
pub fn read(mut input: Decompressed, path: &Path, separator: Option<&str>, emit: EmitItem) -> Result<()> {
    let state = input.state();
    let mut head = Vec::new();
    (&mut input).take(WHOLE as u64 + 1).read_to_end(&mut head)?;
    if let Some(why) = other_than_text(&head) {
        let (path, why) = (path.to_path_buf(), why.to_owned());
        return Err(TextProblem::NotOfFormat { path, format: FORMAT.name, why }.into());
    }
    let small = head.len() <= WHOLE;
    let mut input = BufReader::with_capacity(1 << 16, Cursor::new(head).chain(input));
    let mut cutter = Cutter { state, emit, start: 0, buffer: Vec::new(), overlong: false };
    if input.fill_buf()?.starts_with(b"\xef\xbb\xbf") {
        input.consume(3);
        cutter.start = 3;
    }
    let separator = separator.map(Finder::new);
    loop {
        let before = cutter.buffer.len();
        if input.by_ref().take(AT_MOST as u64).read_until(b'\n', &mut cutter.buffer)? == 0 {
            break;
        }
        let (buffer, line) = (&cutter.buffer, &cutter.buffer[before..]);
        match &separator {
            Some(separator) => {
                let length = separator.needle().len();
                // A separator may have started in an earlier line.
                let mut from = before.saturating_sub(length - 1);
                while let Some(at) = separator.find(&cutter.buffer[from..]) {
                    cutter.cut(from + at, length)?;
                    from = 0;
                }
                if cutter.buffer.len() > LONGEST {
                    cutter.give_up(length - 1)?;
                }
            }
            None if small => {}
            None => {
                let blank = line.iter().all(u8::is_ascii_whitespace);
                let full = blank && buffer.len() >= MIN_BYTES || buffer.len() >= WHOLE && line.ends_with(b"\n");
                if full || buffer.len() >= AT_MOST {
                    let whole = match std::str::from_utf8(buffer) {
                        Err(e) if e.error_len().is_none() => e.valid_up_to(),
                        _ => buffer.len(),
                    };
                    cutter.cut(whole, 0)?;
                }
            }
        }
    }
    cutter.end()
}

/// What a file with this beginning appears to be, if it is not text in UTF-8. (UTF-16 of ASCII is valid UTF-8, with a
/// NUL before or after every letter.)
fn other_than_text(head: &[u8]) -> Option<&'static str> {
    if head.starts_with(b"\xff\xfe") || head.starts_with(b"\xfe\xff") {
        return Some("it is UTF-16, by its byte order mark; `iconv -f UTF-16 -t UTF-8` makes it UTF-8");
    }
    let why = "it has NUL bytes, as UTF-16 and binary files do; `iconv -f UTF-16LE -t UTF-8` makes UTF-16 UTF-8";
    head.contains(&0).then_some(why)
}

struct Cutter<'a> {
    state: Rc<StreamState>,
    emit: EmitItem<'a>,
    start: u64,
    buffer: Vec<u8>,
    /// The current document is too long and is being skipped.
    overlong: bool,
}

impl Cutter<'_> {
    /// Emits the text before `end` and removes `skip` more bytes.
    fn cut(&mut self, end: usize, skip: usize) -> Result<()> {
        match std::str::from_utf8(&self.buffer[..end]) {
            _ if self.overlong => {}
            Ok(text) => {
                let text = text.trim_end_matches(['\n', '\r']);
                let document = text.trim_start_matches(['\n', '\r']);
                if !document.trim().is_empty() {
                    let offset = self.start + (text.len() - document.len()) as u64;
                    (self.emit)(ReaderItem::Document(Document { text: document, offset, ..Document::default() }))?;
                }
            }
            Err(e) => {
                let at = self.start + e.valid_up_to() as u64;
                (self.emit)(ReaderItem::Unreadable(Unreadable::at(
                    self.start,
                    Reason::NotUtf8,
                    format!("at byte {at}"),
                )))?;
            }
        }
        self.overlong = false;
        self.buffer.drain(..end + skip);
        self.start += (end + skip) as u64;
        Ok(())
    }

    /// Discards a document that is too long, except for its last `keep` bytes.
    fn give_up(&mut self, keep: usize) -> Result<()> {
        if !self.overlong {
            (self.emit)(ReaderItem::Unreadable(Unreadable::at(
                self.start,
                Reason::TooLong,
                "no separator in 256 MiB",
            )))?;
        }
        self.overlong = true;
        let end = self.buffer.len() - keep;
        self.buffer.drain(..end);
        self.start += end as u64;
        Ok(())
    }

    /// The remaining text is a document, unless damage has cut it off.
    fn end(mut self) -> Result<()> {
        if self.state.damage().is_none() { self.cut(self.buffer.len(), 0) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::codec::Codec;
    use crate::testing::{found_at, pack};

    fn documents(content: &[u8], separator: Option<&str>) -> (Vec<(u64, String)>, Vec<Unreadable>) {
        let read_all = |content: &[u8], codec| {
            found_at(&pack(codec, content), codec, |input, emit| read(input, Path::new("a.txt"), separator, emit))
                .unwrap()
        };
        let (documents, bad) = read_all(content, Codec::Plain);
        for (at, text) in &documents {
            assert!(content[*at as usize..].starts_with(text.as_bytes()));
        }
        for codec in [Codec::Gzip, Codec::Zstd, Codec::Bzip2] {
            assert_eq!(read_all(content, codec), (documents.clone(), bad.clone()), "{codec:?}");
        }
        (documents, bad)
    }

    #[test]
    fn separators_may_span_lines() {
        let (found, _) = documents(b"one\ntwo\n\n\nthree\n\n\n\n\n", Some("\n\n\n"));
        assert_eq!(found, [(0, "one\ntwo".to_string()), (10, "three".to_string())]);
    }

    #[test]
    fn small_files_are_one_document() {
        assert_eq!(documents("\u{feff}a\n\nb\n".as_bytes(), None).0, [(3, "a\n\nb".to_string())]);
        assert!(documents(b" \n\n", None).0.is_empty());
    }

    #[test]
    fn large_files_are_cut_at_blank_lines_and_nothing_is_lost() {
        let text: String = (0..9000).map(|i| format!("line {i} é\n{}", if i % 7 == 0 { "\n" } else { "" })).collect();
        let (found, _) = documents(text.as_bytes(), None);
        assert!(found.len() > 5 && found.iter().all(|(_, t)| t.len() < 5000));
        let squeeze = |s: &str| s.replace('\n', "");
        assert_eq!(found.iter().map(|(_, t)| squeeze(t)).collect::<String>(), squeeze(&text));
        let endless = "é".repeat(3 << 19);
        let (found, _) = documents(endless.as_bytes(), None);
        assert_eq!(found.iter().map(|(_, t)| t.as_str()).collect::<String>(), endless);
    }

    #[test]
    fn what_is_not_text_is_refused_as_a_whole() {
        let read_all =
            |content: &[u8]| found_at(content, Codec::Plain, |input, emit| read(input, Path::new("a.txt"), None, emit));
        let little: Vec<u8> = "a b".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let marked = [b"\xff\xfe", &little[..]].concat();
        for (content, said) in [(marked, "a.txt is not plain text: it is UTF-16"), (little, "NUL bytes")] {
            let error = read_all(&content).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
        assert_eq!(read_all(b"a\x01b\x7f").unwrap().0.len(), 1);
    }

    #[test]
    fn a_document_in_another_encoding_is_set_aside_with_the_place() {
        let (found, bad) = documents(b"one|caf\xe9 au lait|three", Some("|"));
        assert_eq!(found, [(0, "one".to_string()), (17, "three".to_string())]);
        assert_eq!(bad, [Unreadable::at(4, Reason::NotUtf8, "at byte 7")]);
    }
}

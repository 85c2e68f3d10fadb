//! Plain text to documents.
//!
//! With a separator, documents are what stands between its occurrences. Without one, a file of up to 64 KiB is
//! one document, and a larger one is cut at blank lines into documents of at least 4 KiB (at any line end from
//! 64 KiB on, anywhere from 1 MiB on), so that there is something to shuffle and to hold out. Line breaks at a
//! document's ends are dropped, everything else stays.
use crate::problem::TextProblem;
use anyhow::{Context, Result};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

const WHOLE: usize = 64 << 10;
const AT_LEAST: usize = 4 << 10;
const AT_MOST: usize = 1 << 20;

/// Calls `give` with each document of `path` and the byte at which it starts.
pub fn read(path: &Path, separator: Option<&str>, give: &mut dyn FnMut(u64, &str) -> Result<()>) -> Result<()> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let size = file.metadata().with_context(|| format!("cannot stat {}", path.display()))?.len();
    let mut input = BufReader::with_capacity(1 << 16, file);
    let mut cutter = Cutter { path, give, start: 0, buffer: Vec::new() };
    if input.fill_buf()?.starts_with(b"\xef\xbb\xbf") {
        input.consume(3);
        cutter.start = 3;
    }
    loop {
        let before = cutter.buffer.len();
        let read = input.by_ref().take(AT_MOST as u64).read_until(b'\n', &mut cutter.buffer);
        if read.with_context(|| format!("cannot read {}", path.display()))? == 0 {
            break;
        }
        let (buffer, line) = (&cutter.buffer, &cutter.buffer[before..]);
        match separator.map(str::as_bytes) {
            Some(separator) => {
                // A separator may have begun in an earlier line.
                let mut from = before.saturating_sub(separator.len() - 1);
                while let Some(at) = find(&cutter.buffer[from..], separator) {
                    cutter.cut(from + at, separator.len())?;
                    from = 0;
                }
            }
            None if size <= WHOLE as u64 => {}
            None => {
                let blank = line.iter().all(u8::is_ascii_whitespace);
                let full = blank && buffer.len() >= AT_LEAST || buffer.len() >= WHOLE && line.ends_with(b"\n");
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
    cutter.cut(cutter.buffer.len(), 0)
}

fn find(text: &[u8], word: &[u8]) -> Option<usize> {
    text.windows(word.len()).position(|w| w == word)
}

struct Cutter<'a> {
    path: &'a Path,
    give: &'a mut dyn FnMut(u64, &str) -> Result<()>,
    start: u64,
    buffer: Vec<u8>,
}

impl Cutter<'_> {
    /// Gives what stands before `end` and drops `skip` bytes more.
    fn cut(&mut self, end: usize, skip: usize) -> Result<()> {
        let text = std::str::from_utf8(&self.buffer[..end]).map_err(|e| TextProblem::Corrupt {
            file: self.path.to_path_buf(),
            row_group: None,
            why: format!("not UTF-8 at byte {}", self.start + e.valid_up_to() as u64),
        })?;
        let text = text.trim_end_matches(['\n', '\r']);
        let document = text.trim_start_matches(['\n', '\r']);
        if !document.trim().is_empty() {
            (self.give)(self.start + (text.len() - document.len()) as u64, document)?;
        }
        self.buffer.drain(..end + skip);
        self.start += (end + skip) as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn documents(content: &[u8], separator: Option<&str>) -> Result<Vec<(u64, String)>> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("a.txt");
        std::fs::write(&path, content)?;
        let mut documents = Vec::new();
        read(&path, separator, &mut |at, text| {
            documents.push((at, text.to_string()));
            Ok(())
        })?;
        for (at, text) in &documents {
            assert!(content[*at as usize..].starts_with(text.as_bytes()));
        }
        Ok(documents)
    }

    #[test]
    fn separators_may_span_lines() {
        let found = documents(b"one\ntwo\n\n\nthree\n\n\n\n\n", Some("\n\n\n")).unwrap();
        assert_eq!(found, [(0, "one\ntwo".to_string()), (10, "three".to_string())]);
    }

    #[test]
    fn small_files_are_one_document() {
        assert_eq!(documents("\u{feff}a\n\nb\n".as_bytes(), None).unwrap(), [(3, "a\n\nb".to_string())]);
        assert!(documents(b" \n\n", None).unwrap().is_empty());
    }

    #[test]
    fn large_files_are_cut_at_blank_lines_and_nothing_is_lost() {
        let text: String = (0..9000).map(|i| format!("line {i} é\n{}", if i % 7 == 0 { "\n" } else { "" })).collect();
        let found = documents(text.as_bytes(), None).unwrap();
        assert!(found.len() > 5 && found.iter().all(|(_, t)| t.len() < 5000));
        let squeeze = |s: &str| s.replace('\n', "");
        assert_eq!(found.iter().map(|(_, t)| squeeze(t)).collect::<String>(), squeeze(&text));
        let endless = "é".repeat(3 << 19);
        let found = documents(endless.as_bytes(), None).unwrap();
        assert_eq!(found.iter().map(|(_, t)| t.as_str()).collect::<String>(), endless);
    }

    #[test]
    fn other_encodings_are_refused_with_the_place() {
        let said = documents(b"caf\xe9 au lait", None).unwrap_err().to_string();
        assert!(said.contains("not UTF-8 at byte 3"), "{said}");
    }
}

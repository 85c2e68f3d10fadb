//! The source `deb822`: records of `Key: value` lines, separated by blank lines, as in Debian's control files. A value
//! continues on lines that begin with a space (a single dot stands for an empty line); lines that begin with # are
//! comments.
use contract::{Problem, Result, StageKeys};
use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader};
use text::corpus::read_records::RecordFormat;
use text::input::decompress::Decompressed;
use text::input::document::{Document, EmitItem, ReaderItem};
use text::input::quarantine::{Reason, Unreadable};

/// The keys of `deb822`.
#[derive(Clone, Serialize, Deserialize, StageKeys)]
#[serde(default)]
pub struct Deb822 {
    /// The key whose value is the text.
    #[key(default = "Description".into())]
    field: String,
}

impl RecordFormat for Deb822 {
    const SUMMARY: &'static str = "reads documents from records of `Key: value` lines (Debian's control files)";
    const EXAMPLE: &'static str = "type = \"deb822\"\npaths = [\"data/packages.deb822.gz\"]\nfield = \"Description\"\n";
    const SUFFIXES: &'static [&'static str] = &[".deb822"];
    const VERSION: u32 = 1;

    fn check(&self) -> Vec<Problem> {
        let empty = self.field.is_empty();
        empty.then(|| Problem::at("field", "is empty; name the key whose value is the text")).into_iter().collect()
    }

    fn read(&self, input: Decompressed, emit: EmitItem) -> Result<()> {
        let (state, mut input) = (input.state(), BufReader::new(input));
        let (mut offset, mut record) = (0, Vec::new());
        loop {
            let (end, read) = (record.len(), input.read_until(b'\n', &mut record)?);
            let blank = record[end..].trim_ascii().is_empty();
            let cut = read == 0 && state.damage().is_some();
            if blank && end > 0 && !cut {
                self.record(&record[..end], offset, emit)?;
            }
            if read == 0 {
                return Ok(());
            }
            if blank {
                offset += record.drain(..).len() as u64;
            }
        }
    }
}

impl Deb822 {
    fn record(&self, record: &[u8], offset: u64, emit: EmitItem) -> Result<()> {
        let bad = |reason| ReaderItem::Unreadable(Unreadable::at(offset, reason, ""));
        match std::str::from_utf8(record).map(|record| self.text(record)) {
            Ok(Some(text)) => emit(ReaderItem::Document(Document { text: &text, offset, ..Document::default() })),
            Ok(None) => emit(bad(Reason::NoColumn)),
            Err(_) => emit(bad(Reason::NotUtf8)),
        }
    }

    fn text(&self, record: &str) -> Option<String> {
        let mut lines = record.lines().filter(|line| !line.starts_with('#'));
        let value = |line: &str| Some(line.strip_prefix(&*self.field)?.strip_prefix(':')?.trim().to_owned());
        let mut text = lines.find_map(value)?;
        for line in lines.take_while(|line| line.starts_with([' ', '\t'])) {
            text = text + "\n" + if line.trim() == "." { "" } else { line.trim() };
        }
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;
    use text::input::codec::Codec;

    #[test]
    fn records_become_documents_or_are_set_aside() {
        let content =
            b"\n# all\nText: one\nOther: x\n\n\nOther: y\n\nText: a\n b\n .\n c\nOther: z\n\nText: \xff\n\nText:last";
        let input = Decompressed::new(Cursor::new(content), Codec::Plain).unwrap();
        let mut found = Vec::new();
        let deb822 = Deb822 { field: "Text".into() };
        let mut emit = |one: ReaderItem| {
            found.push(match one {
                ReaderItem::Document(Document { text, offset, .. }) => (offset, text.to_owned()),
                ReaderItem::Unreadable(bad) => (bad.byte.unwrap(), bad.reason.to_string()),
            });
            Ok(())
        };
        deb822.read(input, &mut emit).unwrap();
        let expected = [(1, "one"), (28, "no such column"), (38, "a\nb\n\nc"), (65, "not UTF-8"), (74, "last")];
        assert_eq!(found, expected.map(|(offset, text)| (offset, text.to_owned())));
    }
}

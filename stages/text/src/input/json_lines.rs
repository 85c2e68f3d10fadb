//! JSON Lines to documents: one JSON object per line (jsonlines.org), as Dolma and datatrove write them.
//!
//! The text is a string under `read.column`. `id`, `url`, `title` and `source` are kept if present, from the object or
//! from its `metadata`; no other value needs to be valid JSON. A null is an empty text, as in Parquet. Blank lines are
//! skipped.
use crate::input::decompress::{Decompressed, LONGEST, StreamState};
use crate::input::document::{Document, EmitItem, ReaderItem};
use crate::input::format::{Access, Format, KeySizes, StreamReader, TextShare};
use crate::input::json_members::{members, object as json_object};
use crate::input::quarantine::{Reason, Unreadable};
use crate::support::problem::TextProblem;
use anyhow::Result;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::rc::Rc;

/// One JSON object per line.
pub static FORMAT: Format = Format {
    name: "JSON Lines",
    suffixes: &[".jsonl", ".ndjson", ".json"],
    magic: b"{",
    access: Access::Stream(StreamReader {
        version: |layout| format!("JSON Lines 3 {:?}", layout.column),
        read: |input, path, layout, emit| read(input, path, layout.column, emit),
        share: TextShare::Keys(key_sizes),
        is_verbatim: true,
    }),
};

/// If this many lines, and every one so far, are not JSON, the file is not what its name says.
const HOPELESS: u64 = 1000;

/// Emits a document for each line of `input`, or an [`Unreadable`] entry if the line is not one.
///
/// # Errors
/// [`TextProblem::Column`] if most lines are JSON objects but none has the column, [`TextProblem::NotOfFormat`] if the
/// file is not JSON Lines.
pub fn read(input: Decompressed, path: &Path, column: &str, emit: EmitItem) -> Result<()> {
    let mut lines = Lines::new(input);
    let (mut good, mut without, mut other, mut columns) = (0u64, 0u64, 0u64, Vec::new());
    let mut found = None;
    while let Some(line) = lines.next()? {
        let Line { number, offset, content } = line;
        if content.as_ref().is_ok_and(|content| content.trim_ascii().is_empty()) {
            continue;
        }
        let row = content.and_then(|content| {
            if number == 1 && content.trim_ascii_start().starts_with(b"[") {
                return Err((Reason::NotJson, "one array, not an object a line".to_string()));
            }
            parse(content, column)
        });
        match row {
            Ok(row) => {
                good += 1;
                emit(ReaderItem::Document(Document {
                    id: row.id,
                    id_in_file: None,
                    url: row.url,
                    title: row.title.unwrap_or_default(),
                    text: &row.text,
                    source: row.source,
                    revision: None,
                    offset,
                    unhandled: None,
                }))?;
            }
            Err((reason, detail)) => {
                if reason == Reason::NoColumn {
                    without += 1;
                    if columns.is_empty() {
                        (columns, found) = parse_keys(&lines.buffer, column);
                    }
                } else {
                    other += 1;
                }
                if good + without == 0 && other == HOPELESS && !lines.packed {
                    break;
                }
                emit(ReaderItem::Unreadable(Unreadable {
                    line: Some(number),
                    ..Unreadable::at(offset, reason, detail)
                }))?;
            }
        }
    }
    if good > 0 || lines.state.damage().is_some() {
        return Ok(());
    }
    if without > other {
        let (file, column) = (path.to_path_buf(), column.to_owned());
        return Err(match found {
            Some(found) => {
                let found = found.trim_start_matches("an ").trim_start_matches("a ").to_owned();
                TextProblem::Type { file, column, found, expected: "string" }
            }
            None => TextProblem::Column { file, column, columns },
        }
        .into());
    }
    if other >= HOPELESS {
        let why = format!("not one of its first {other} lines is a JSON object");
        return Err(TextProblem::NotOfFormat { path: path.to_path_buf(), format: FORMAT.name, why }.into());
    }
    Ok(())
}

struct Line<'a> {
    number: u64,
    offset: u64,
    content: Result<&'a [u8], (Reason, String)>,
}

struct Lines {
    input: BufReader<Decompressed>,
    state: Rc<StreamState>,
    packed: bool,
    buffer: Vec<u8>,
    number: u64,
    next: u64,
}

impl Lines {
    fn new(input: Decompressed) -> Self {
        let (state, packed) = (input.state(), input.is_packed());
        Self { input: BufReader::with_capacity(1 << 16, input), state, packed, buffer: Vec::new(), number: 0, next: 0 }
    }

    fn next(&mut self) -> Result<Option<Line<'_>>> {
        self.buffer.clear();
        self.buffer.shrink_to(1 << 20);
        let mut read = (&mut self.input).take(LONGEST as u64).read_until(b'\n', &mut self.buffer)? as u64;
        let whole = read < LONGEST as u64 || self.buffer.ends_with(b"\n");
        if !whole {
            read += self.input.skip_until(b'\n')? as u64;
        }
        // A line cut off by damage is not an invalid line.
        if read == 0 || self.state.damage().is_some() && !self.buffer.ends_with(b"\n") {
            return Ok(None);
        }
        self.number += 1;
        let mut offset = self.next;
        self.next += read;
        let mut content = self.buffer.as_slice();
        if self.number == 1
            && let Some(rest) = content.strip_prefix(b"\xef\xbb\xbf")
        {
            (content, offset) = (rest, 3);
        }
        let content = if whole { Ok(content) } else { Err((Reason::TooLong, format!("{read} bytes"))) };
        Ok(Some(Line { number: self.number, offset, content }))
    }
}

/// The members of an object that are used.
#[derive(Default)]
struct Row {
    text: String,
    id: Option<String>,
    url: Option<String>,
    title: Option<String>,
    source: Option<String>,
}

fn parse(line: &[u8], column: &str) -> Result<Row, (Reason, String)> {
    let line = std::str::from_utf8(line).map_err(|e| (Reason::NotUtf8, format!("at its byte {}", e.valid_up_to())))?;
    let object = |line: &str| {
        let mut json = serde_json::Deserializer::from_str(line);
        Object { column }.deserialize(&mut json).and_then(|row| json.end().map(|()| row))
    };
    // Even if the line as a whole is not valid JSON, the members that are used may be.
    let row = object(line).or_else(|e| used(line, column).and_then(|line| object(&line).ok()).ok_or(e));
    // serde_json would say `at line 1`.
    let said = |e: serde_json::Error| e.to_string().replace(" at line 1 column", " at its column");
    let (text, row) = row.map_err(|e| (Reason::NotJson, said(e)))?;
    match text {
        Some(Value::String(text)) => Ok(Row { text, ..row }),
        Some(Value::Null) => Ok(row),
        Some(other) => Err((Reason::NoColumn, format!("`{column}` is {}, not a string", kind(&other)))),
        None => Err((Reason::NoColumn, format!("no key `{column}`"))),
    }
}

/// Keys that are kept: all of them from an object, and all but the first from its `metadata`.
const TAKEN: [&str; 4] = ["id", "url", "title", "source"];

/// An object with only those members of `line` that are used.
fn used(line: &str, column: &str) -> Option<String> {
    let mut metadata = None;
    let all = members(line)?;
    let mut kept = Vec::new();
    for (key, value) in &all {
        if key == column || TAKEN.contains(&key.as_str()) {
            kept.push((key.as_str(), *value));
        } else if key == "metadata" && value.starts_with('{') {
            let inside = members(value)?;
            let taken = inside.iter().filter(|(key, _)| TAKEN[1..].contains(&key.as_str()));
            metadata = Some(json_object(taken.map(|(key, value)| (key.as_str(), *value))));
        }
    }
    kept.extend(metadata.as_deref().map(|metadata| ("metadata", metadata)));
    Some(json_object(kept))
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// The keys of an object, and what is found under `column`, for a message.
fn parse_keys(line: &[u8], column: &str) -> (Vec<String>, Option<&'static str>) {
    let object: serde_json::Map<String, Value> = serde_json::from_slice(line).unwrap_or_default();
    (object.keys().cloned().collect(), object.get(column).map(kind))
}

/// Bytes of the strings under each key, in the objects on the complete lines of `input`.
fn key_sizes(input: &mut dyn BufRead) -> io::Result<KeySizes> {
    let mut sizes = KeySizes::default();
    for line in input.split(b'\n') {
        let line = line?;
        // The last line may be incomplete.
        let Ok(Value::Object(object)) = serde_json::from_slice(&line) else { continue };
        sizes.records += line.len() as u64 + 1;
        for (key, value) in object {
            let Value::String(text) = value else { continue };
            match sizes.keys.iter_mut().find(|(name, _)| *name == key) {
                Some((_, size)) => *size += text.len() as u64,
                None => sizes.keys.push((key, text.len() as u64)),
            }
        }
    }
    Ok(sizes)
}

/// An object of which some keys are kept; the others are skipped while parsing.
struct Object<'c> {
    column: &'c str,
}

impl<'de> DeserializeSeed<'de> for Object<'_> {
    type Value = (Option<Value>, Row);
    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Object<'_> {
    type Value = (Option<Value>, Row);

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
        let (mut text, mut row, mut metadata) = (None, Row::default(), None);
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                key if key == self.column => text = Some(map.next_value()?),
                "id" => row.id = scalar(map.next_value()?)?,
                "url" => row.url = scalar(map.next_value()?)?,
                "title" => row.title = scalar(map.next_value()?)?,
                "source" => row.source = scalar(map.next_value()?)?,
                "metadata" => metadata = Some(map.next_value::<&RawValue>()?),
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        if let Some(metadata) = metadata.filter(|metadata| metadata.get().starts_with('{')) {
            let metadata: HashMap<Cow<str>, &RawValue> = serde_json::from_str(metadata.get()).map_err(Error::custom)?;
            for (slot, key) in [(&mut row.url, "url"), (&mut row.title, "title"), (&mut row.source, "source")] {
                if let (None, Some(value)) = (&slot, metadata.get(key)) {
                    *slot = scalar(value)?;
                }
            }
        }
        Ok((text, row))
    }
}

/// A string, or a number as it is written: as an integer or a float of 64 bits it could become another one.
fn scalar<E: Error>(value: &RawValue) -> Result<Option<String>, E> {
    match value.get().as_bytes() {
        [b'"', ..] => serde_json::from_str(value.get()).map(Some).map_err(E::custom),
        [b'-' | b'0'..=b'9', ..] => Ok(Some(value.get().to_owned())),
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::codec::Codec;
    use crate::testing::found;

    fn read_all(content: &[u8], column: &str) -> (Vec<String>, Vec<Unreadable>) {
        found(content, Codec::Plain, |input, emit| read(input, Path::new("a.jsonl"), column, emit)).unwrap()
    }

    #[test]
    fn dolma_and_datatrove() {
        let dolma =
            r#"{"id":"d-1","text":"one","source":"wiki","added":"2024","metadata":{"url":"http://x/1","n":[1]}}"#;
        let datatrove = r#"{"text":"two","id":"<urn:2>","metadata":{"title":"Two","source":7,"dump":"CC"}}"#;
        let content = format!("\u{feff}{dolma}\r\n\n{datatrove}");
        let mut all = Vec::new();
        let input = Decompressed::new(std::io::Cursor::new(content.clone().into_bytes()), Codec::Plain).unwrap();
        read(input, Path::new("a.jsonl"), "text", &mut |found| {
            let ReaderItem::Document(d) = found else { panic!() };
            assert!(content[d.offset as usize..].starts_with('{'));
            all.push([d.id, d.url, Some(d.title), d.source, Some(d.text.to_string())].map(Option::unwrap_or_default));
            Ok(())
        })
        .unwrap();
        assert_eq!(all[0], ["d-1", "http://x/1", "", "wiki", "one"]);
        assert_eq!(all[1], ["<urn:2>", "", "Two", "7", "two"]);
        assert_eq!(read_all(dolma.as_bytes(), "id").0, ["d-1"]);
    }

    #[test]
    fn a_bad_line_is_set_aside_and_the_next_is_read() {
        let lines: [(&[u8], Reason); 7] = [
            (b"{\"text\": \"x\"", Reason::NotJson),
            (b"not JSON", Reason::NotJson),
            (b"{\"text\": \"x\"} {}", Reason::NotJson),
            (b"\"x\"", Reason::NotJson),
            (b"{\"text\": \"\\ud800\"}", Reason::NotJson),
            (b"{\"text\": \"caf\xe9\"}", Reason::NotUtf8),
            (b"{\"text\": 7}", Reason::NoColumn),
        ];
        for (line, reason) in lines {
            let content = [b"{\"text\": \"a\"}\n", line, b"\n{\"text\": null}\n{\"text\": \"b\"}\n"].concat();
            let (good, bad) = read_all(&content, "text");
            assert_eq!(good, ["a", "", "b"]);
            assert_eq!((bad.len(), bad[0].line, bad[0].byte, bad[0].reason), (1, Some(2), Some(14), reason));
        }
        let deep = format!("{{\"text\": {}", "[".repeat(100_000));
        assert_eq!(read_all(deep.as_bytes(), "text").1[0].reason, Reason::NotJson);
    }

    #[test]
    fn only_what_is_used_must_be_valid() {
        let lines = [
            r#"{"text": "a", "score": NaN, "n": [1e999, -Infinity]}"#,
            r#"{"score": NaN, "metadata": {"p": 1e999, "url": "http://x/1"}, "text": "b"}"#,
            r#"{"text": NaN}"#,
            r#"{"text": "c", "url": NaN}"#,
            r#"{"text": "d", "score": }"#,
        ];
        let (good, bad) = read_all(lines.join("\n").as_bytes(), "text");
        assert_eq!(good, ["a", "b"]);
        let bad: Vec<_> = bad.iter().map(|bad| (bad.line, bad.reason)).collect();
        assert_eq!(bad, [3, 4, 5].map(|line| (Some(line), Reason::NotJson)));
    }

    #[test]
    fn numbers_are_kept_as_they_are_written() {
        // 2^53 + 1 and 2^64 + 1 have no float of 64 bits.
        let numbers =
            ["9007199254740993", "18446744073709551617", "123456789012345678901234567890", "-7", "1.50", "1e999"];
        for number in numbers {
            let line = format!(r#"{{"id": {number}, "text": "a", "metadata": {{"source": {number}, "url": [1]}}}}"#);
            let row = parse(line.as_bytes(), "text").unwrap();
            assert_eq!((row.id.as_deref(), row.source.as_deref(), row.url), (Some(number), Some(number), None));
        }
    }

    #[test]
    fn keys_of_text_have_sizes() {
        let mut lines: &[u8] =
            b"{\"id\": \"1\", \"text\": \"abc\", \"n\": 7}\nnot JSON\n{\"text\": \"de\"}\n{\"text\": \"cut";
        let sizes = key_sizes(&mut lines).unwrap();
        assert_eq!(sizes, KeySizes { keys: vec![("id".into(), 1), ("text".into(), 5)], records: 35 + 15 });
    }

    #[test]
    fn a_file_that_is_something_else_is_refused() {
        let said = |content: &str, column: &str| {
            let read = |input, emit: EmitItem| read(input, Path::new("a.jsonl"), column, emit);
            found(content.as_bytes(), Codec::Plain, read).unwrap_err().to_string()
        };
        let rows = "{\"id\": 1, \"text\": \"a\"}\n".repeat(3);
        let numbers = "{\"id\": 1, \"text\": [\"a\"]}\n".repeat(3);
        assert_eq!(said(&numbers, "text"), "column \"text\" of a.jsonl is of type array, not string");
        assert_eq!(said(&rows, "txt"), "no column \"txt\" in a.jsonl; columns: id, text; similar: text");
        assert!(said(&"plain text\n".repeat(2000), "text").contains("first 1000 lines is a JSON object"));
        let (good, bad) = read_all(b"[\n{\"text\": \"a\"},\n{\"text\": \"b\"}\n]", "text");
        assert_eq!((good, bad[0].detail.as_str()), (vec!["b".to_string()], "one array, not an object a line"));
    }
}

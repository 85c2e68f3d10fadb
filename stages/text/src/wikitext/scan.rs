//! Markup to text, in one pass over the bytes with a stack of open constructs. The content of a construct is written
//! like other text, and removed, or turned into the text of a link, when the construct is closed.
use super::elements::{Element, Tag, element, end_of, literal, tag};
use super::links::link_text;
use super::names::Prefix;
use super::variants::variant_text;
use super::{Kinds, Names};
use memchr::memmem;

/// Maximum nesting of links; deeper ones only lose their brackets.
const DEEPEST_LINK: usize = 16;

/// An open construct, and where in the output it started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Open {
    /// `{{` or `{{{`, with the number of braces.
    Braces(usize),
    /// `{|`.
    Table,
    /// `<table>`.
    HtmlTable,
    /// `[[`.
    Link,
    /// `[http://…`.
    External,
}

struct Scanner<'a> {
    text: &'a str,
    at: usize,
    out: String,
    stack: Vec<(Open, usize)>,
    /// Numbers on the stack: braces, wiki tables, HTML tables, links.
    open: [usize; 5],
    /// Elements that have no end tag from some offset on.
    endless: Vec<String>,
    /// The next `]]` at or after the offset at which it was looked for: the offset of that, and of the `]]`, if any.
    next_close: Option<(usize, Option<usize>)>,
    names: &'a Names,
    unhandled: &'a mut Kinds,
}

/// Text that still contains headings, list markers and entities, line by line.
pub fn scan(text: &str, names: &Names, unhandled: &mut Kinds) -> String {
    let out = String::with_capacity(text.len());
    let (stack, endless) = (Vec::new(), Vec::new());
    let mut scanner = Scanner { text, at: 0, out, stack, open: [0; 5], endless, next_close: None, names, unhandled };
    scanner.run();
    scanner.out
}

impl Scanner<'_> {
    fn run(&mut self) {
        self.line_start();
        while self.at < self.text.len() {
            let rest = &self.text.as_bytes()[self.at..];
            let plain = rest.iter().position(|b| SPECIAL[usize::from(*b)]).unwrap_or(rest.len());
            self.copy(plain);
            let Some(byte) = rest.get(plain) else { break };
            match byte {
                b'\n' => {
                    let paragraph = rest.get(plain + 1) == Some(&b'\n');
                    while self.ends_with_line(paragraph) {
                        self.pop();
                        self.unhandled.add("unclosed link");
                    }
                    self.copy(1);
                    self.line_start();
                }
                b'{' => self.open_braces(),
                b'}' => self.close_braces(),
                b'[' => self.open_bracket(),
                b']' => self.close_bracket(),
                b'<' => self.angle(),
                b'\'' => self.quotes(),
                b'_' => self.magic_word(),
                _ => self.variant(),
            }
        }
        while let Some((open, _)) = self.stack.last() {
            self.unhandled.add(match open {
                Open::Braces(_) => "unclosed template",
                Open::Table | Open::HtmlTable => "unclosed table",
                Open::Link | Open::External => "unclosed link",
            });
            self.pop();
        }
    }

    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn copy(&mut self, bytes: usize) {
        self.out.push_str(&self.text[self.at..self.at + bytes]);
        self.at += bytes;
    }

    fn push(&mut self, open: Open) {
        self.open[slot(open)] += 1;
        self.stack.push((open, self.out.len()));
    }

    fn pop(&mut self) -> Option<(Open, usize)> {
        let (open, from) = self.stack.pop()?;
        self.open[slot(open)] -= 1;
        Some((open, from))
    }

    fn top(&self) -> Option<Open> {
        self.stack.last().map(|(open, _)| *open)
    }

    /// Whether the innermost construct ends with its line, which may end a paragraph: a URL does, and a link does at the
    /// end of a paragraph. Only the caption of a file may have several paragraphs.
    fn ends_with_line(&mut self, paragraph: bool) -> bool {
        match self.stack.last() {
            Some((Open::External, _)) => true,
            Some((Open::Link, from)) if paragraph => {
                let target = self.out[*from..].split('|').next().unwrap_or_default();
                self.names.prefix(target) != Prefix::File || self.next_close().is_none()
            }
            _ => false,
        }
    }

    /// The offset of the next `]]`.
    fn next_close(&mut self) -> Option<usize> {
        match self.next_close {
            Some((looked, found)) if looked <= self.at && found.is_none_or(|found| found >= self.at) => found,
            _ => {
                let found = memmem::find(self.rest().as_bytes(), b"]]").map(|offset| self.at + offset);
                self.next_close = Some((self.at, found));
                found
            }
        }
    }

    /// Closes everything down to the topmost construct of the kind of `like`, which must exist, and removes its
    /// content.
    fn drop_to(&mut self, like: Open) {
        while let Some((open, from)) = self.pop() {
            if slot(open) == slot(like) {
                self.out.truncate(from);
                return;
            }
            if matches!(open, Open::Braces(_) | Open::Table | Open::HtmlTable) {
                self.unhandled.add(if slot(open) == 0 { "unclosed template" } else { "unclosed table" });
            }
        }
    }

    /// Tables start and end at the beginning of a line.
    fn line_start(&mut self) {
        let bytes = self.text.as_bytes();
        let indent = bytes[self.at..].iter().take(64).take_while(|b| matches!(b, b' ' | b'\t' | b':')).count();
        let at = self.at + indent;
        let two = (bytes.get(at), bytes.get(at + 1), bytes.get(at + 2));
        match two {
            (Some(b'{'), Some(b'|'), third) if third != Some(&b'}') => {
                self.push(Open::Table);
                // The rest of the line is attributes, which would be left if the table were not closed.
                let attributes = &bytes[at + 2..];
                self.at = at + 2 + memchr::memchr3(b'\n', b'{', b'<', attributes).unwrap_or(attributes.len());
            }
            // `|}}` ends a template, unless none has been opened since the table.
            (Some(b'|'), Some(b'}'), third)
                if self.open[1] > 0 && (third != Some(&b'}') || self.top() == Some(Open::Table)) =>
            {
                self.drop_to(Open::Table);
                self.at = at + 2;
            }
            _ => {}
        }
    }

    fn open_braces(&mut self) {
        let run = self.rest().bytes().take_while(|b| *b == b'{').count();
        self.at += run;
        // Three braces are a parameter; of more than three, the inner ones are.
        let mut left = run;
        while left >= 2 {
            let take = if left == 3 { 3 } else { 2 };
            self.push(Open::Braces(take));
            left -= take;
        }
        if left == 1 {
            self.out.push('{');
        }
    }

    fn close_braces(&mut self) {
        let run = self.rest().bytes().take_while(|b| *b == b'}').count();
        self.at += run;
        let mut left = run;
        while left >= 2 && self.open[0] > 0 {
            let innermost = self.stack.iter().rev().find_map(|(open, _)| match open {
                Open::Braces(n) => Some(*n),
                _ => None,
            });
            self.drop_to(Open::Braces(2));
            left -= innermost.unwrap_or(2).min(left);
        }
        match left {
            0 => {}
            1 => self.out.push('}'),
            _ => self.unhandled.add("stray }}"),
        }
    }

    fn open_bracket(&mut self) {
        let rest = self.rest();
        if rest.starts_with("[[") {
            self.at += 2;
            if self.open[3] < DEEPEST_LINK {
                self.push(Open::Link);
            } else {
                self.unhandled.add("link in links");
            }
            return;
        }
        let address = &rest[1..];
        let schemes = ["http://", "https://", "//", "ftp://", "mailto:", "news:", "irc://", "magnet:"];
        if schemes.iter().any(|scheme| {
            address.as_bytes().get(..scheme.len()).is_some_and(|a| a.eq_ignore_ascii_case(scheme.as_bytes()))
        }) {
            let length = address
                .bytes()
                .take_while(|b| !matches!(b, b' ' | b'\t' | b'\n' | b']' | b'[' | b'<' | b'{' | b'|'))
                .count();
            self.at += 1 + length;
            self.push(Open::External);
            let spaces = self.rest().bytes().take_while(|b| matches!(b, b' ' | b'\t')).count();
            self.at += spaces;
            return;
        }
        self.copy(1);
    }

    fn close_bracket(&mut self) {
        if self.top() == Some(Open::External) {
            self.at += 1;
            self.pop();
        } else if self.rest().starts_with("]]") {
            self.at += 2;
            match self.top() {
                Some(Open::Link) => self.close_link(),
                _ => self.unhandled.add("stray ]]"),
            }
        } else {
            self.copy(1);
        }
    }

    /// The text of a link replaces the link.
    fn close_link(&mut self) {
        let Some((_, from)) = self.pop() else { return };
        let text = link_text(&self.out[from..], self.names).map(str::to_owned);
        self.out.truncate(from);
        self.out.push_str(&text.unwrap_or_default());
    }

    fn angle(&mut self) {
        let rest = &self.text[self.at..];
        if rest.starts_with("<!--") {
            let end = memmem::find(rest.as_bytes(), b"-->").map_or(rest.len(), |end| end + 3);
            self.at += end;
            // A comment on a line of its own does not leave an empty line.
            if self.out.ends_with('\n') && self.rest().starts_with('\n') {
                self.at += 1;
                self.line_start();
            }
            return;
        }
        let Some((tag, known)) = tag(rest).and_then(|tag| Some((tag, element(&tag.name.to_ascii_lowercase())?))) else {
            return self.copy(1);
        };
        match known {
            Element::Raw | Element::Literal if !tag.closes && !tag.empty => self.raw(tag, known == Element::Literal),
            Element::Raw | Element::Literal | Element::Tag => self.at += tag.length,
            Element::Line => {
                self.at += tag.length;
                self.out.push('\n');
            }
            Element::Nested => {
                self.at += tag.length;
                if !tag.closes {
                    self.push(Open::HtmlTable);
                } else if self.open[2] > 0 {
                    self.drop_to(Open::HtmlTable);
                }
            }
        }
    }

    /// An element whose content is not parsed: dropped, or kept as written.
    fn raw(&mut self, tag: Tag, keep: bool) {
        let name = tag.name.to_ascii_lowercase();
        let from = self.at + tag.length;
        let ends = !self.endless.contains(&name);
        match ends.then(|| end_of(self.text, from, &name)).flatten() {
            Some((to, after)) => {
                if keep {
                    literal(&self.text[from..to], &mut self.out);
                }
                self.at = after;
            }
            None => {
                self.unhandled.add("unclosed element");
                if ends {
                    self.endless.push(name);
                }
                // Up to the end of its line: the rest is more likely to be text.
                let line = &self.text.as_bytes()[from..];
                let line = if keep { 0 } else { memchr::memchr2(b'\n', b'<', line).unwrap_or(line.len()) };
                self.at = from + line;
            }
        }
    }

    fn quotes(&mut self) {
        let run = self.rest().bytes().take_while(|b| *b == b'\'').count();
        self.at += run;
        let kept = match run {
            1 => 1,
            2 | 3 | 5 => 0,
            4 => 1,
            more => more - 5,
        };
        self.out.extend(std::iter::repeat_n('\'', kept));
    }

    /// `__NOTOC__` and the like.
    fn magic_word(&mut self) {
        let rest = self.rest();
        let word = rest.strip_prefix("__").and_then(|rest| {
            let length =
                rest.chars().take(40).take_while(|c| c.is_uppercase() || *c > '\u{2ff}').map(char::len_utf8).sum();
            (length > 2 && rest[length..].starts_with("__")).then_some(length + 4)
        });
        match word {
            Some(length) => self.at += length,
            None => {
                let run = rest.bytes().take_while(|b| *b == b'_').count();
                self.copy(run);
            }
        }
    }

    /// `-{…}-`: one text for each variant of a language.
    fn variant(&mut self) {
        let rest = &self.text[self.at..];
        if !rest.starts_with("-{") || rest.starts_with("-{{") {
            return self.copy(1);
        }
        let inside = &rest.as_bytes()[2..rest.len().min(2048)];
        let Some(end) = memmem::find(inside, b"}-") else {
            return self.copy(2);
        };
        self.out.push_str(variant_text(&rest[2..2 + end]));
        self.at += 2 + end + 2;
    }
}

fn slot(open: Open) -> usize {
    match open {
        Open::Braces(_) => 0,
        Open::Table => 1,
        Open::HtmlTable => 2,
        Open::Link => 3,
        Open::External => 4,
    }
}

/// Bytes at which a construct may start or end.
const SPECIAL: [bool; 256] = {
    let mut special = [false; 256];
    let bytes = b"\n{}[]<'_-";
    let mut i = 0;
    while i < bytes.len() {
        special[bytes[i] as usize] = true;
        i += 1;
    }
    special
};

//! How tags of HTML and of MediaWiki's extensions are handled.
use memchr::memmem;

/// How an element is handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// Dropped with its content, which is not parsed: nothing in it is markup.
    Raw,
    /// Kept as written.
    Literal,
    /// Dropped with its content, which may contain the same element again.
    Nested,
    /// Its tags are dropped, and end a line.
    Line,
    /// Its tags are dropped.
    Tag,
}

/// How the element with this name (in lower case) is handled; `None` if there is no such element.
pub fn element(name: &str) -> Option<Element> {
    Some(match name {
        "ref" | "references" | "math" | "chem" | "ce" | "gallery" | "timeline" | "score" | "syntaxhighlight"
        | "source" | "imagemap" | "hiero" | "templatedata" | "graph" | "mapframe" | "maplink" | "templatestyles"
        | "indicator" | "categorytree" | "inputbox" | "includeonly" | "style" | "script" | "dynamicpagelist"
        | "charinsert" | "rss" => Element::Raw,
        "nowiki" | "pre" => Element::Literal,
        "table" => Element::Nested,
        "br" | "p" | "div" | "li" | "ul" | "ol" | "dl" | "dt" | "dd" | "hr" | "blockquote" | "center" | "poem"
        | "h1" | "h2" | "h3" | "h4" | "h5" | "h6" | "tr" | "td" | "th" | "caption" | "tbody" | "thead" | "section" => {
            Element::Line
        }
        "a" | "abbr" | "b" | "bdi" | "bdo" | "big" | "cite" | "code" | "data" | "del" | "dfn" | "em" | "font" | "i"
        | "img" | "ins" | "kbd" | "link" | "mark" | "meta" | "noinclude" | "onlyinclude" | "q" | "rb" | "rp" | "rt"
        | "rtc" | "ruby" | "s" | "samp" | "small" | "span" | "strike" | "strong" | "sub" | "sup" | "time" | "tt"
        | "u" | "var" | "wbr" | "translate" | "tvar" | "languages" | "phonos" | "ref-" | "nobr" | "noglossary" => {
            Element::Tag
        }
        _ => return None,
    })
}

/// A tag at the beginning of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag<'a> {
    /// Its name, as written.
    pub name: &'a str,
    /// Whether it is `</name>`.
    pub closes: bool,
    /// Whether it is `<name/>`.
    pub empty: bool,
    /// Its length in bytes.
    pub length: usize,
}

/// The maximum length of a tag.
const LONGEST: usize = 4096;

/// The tag that `text` (starting with `<`) begins with, if it is one.
pub fn tag(text: &str) -> Option<Tag<'_>> {
    let bytes = text.as_bytes();
    let closes = bytes.get(1) == Some(&b'/');
    let from = if closes { 2 } else { 1 };
    let letters = bytes[from..].iter().take(16).take_while(|b| b.is_ascii_alphanumeric()).count();
    let to = from + letters;
    if letters == 0
        || !bytes[from].is_ascii_alphabetic()
        || !matches!(bytes.get(to), Some(b'>' | b'/' | b' ' | b'\t' | b'\n'))
    {
        return None;
    }
    let (mut quote, mut at) = (0, to);
    for byte in bytes[to..].iter().take(LONGEST) {
        match byte {
            b'>' if quote == 0 => {
                let empty = bytes[at - 1] == b'/';
                return Some(Tag { name: &text[from..to], closes, empty, length: at + 1 });
            }
            b'<' if quote == 0 => return None,
            b'"' | b'\'' if quote == 0 && bytes[at - 1] == b'=' => quote = *byte,
            b if *b == quote => quote = 0,
            _ => {}
        }
        at += 1;
    }
    // If a quotation mark is missing, the tag ends at the first `>`.
    let end = bytes[to..].iter().take(LONGEST).position(|b| *b == b'>')?;
    Some(Tag { name: &text[from..to], closes, empty: false, length: to + end + 1 })
}

/// The range of `</name>` at or after `from`.
pub fn end_of(text: &str, from: usize, name: &str) -> Option<(usize, usize)> {
    let bytes = text.as_bytes();
    let mut at = from;
    loop {
        at += memmem::find(&bytes[at..], b"</")?;
        let after = at + 2 + name.len();
        if bytes.get(at + 2..after).is_some_and(|found| found.eq_ignore_ascii_case(name.as_bytes())) {
            let spaces = bytes[after..].iter().take(64).take_while(|b| b.is_ascii_whitespace()).count();
            if bytes.get(after + spaces) == Some(&b'>') {
                return Some((at, after + spaces + 1));
            }
        }
        at += 2;
    }
}

/// Characters that would be markup become entities, which are decoded last.
pub fn literal(text: &str, out: &mut String) {
    for c in text.chars() {
        match c {
            '=' | '*' | '#' | ':' | ';' | '|' | '!' | '{' | '}' | '[' | ']' | '\'' | '_' | '-' => {
                out.push_str(&format!("&#{};", c as u32));
            }
            c => out.push(c),
        }
    }
}

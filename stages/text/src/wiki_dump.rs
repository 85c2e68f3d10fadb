//! MediaWiki dumps (`.xml`, `.xml.bz2`, multistream or not) to documents, one page at a time.
//!
//! The crate `wikrs` does the parsing and the text. It does not tell pages' ids, revisions and places, so a watcher
//! on the same bytes notes those.
use crate::problem::{TextProblem, shielded};
use anyhow::{Context, Result};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;
use std::rc::Rc;

/// Changes when the same dump would give other documents.
pub const CONVERTER: &str = "wikrs 0.4.0, millrace 1";

/// An article.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Article {
    /// The page's id.
    pub id: Option<u64>,
    /// The revision's id.
    pub revision: Option<u64>,
    /// Where its `<page>` starts in the (unpacked) XML.
    pub offset: u64,
    /// The title.
    pub title: String,
    /// Plain text.
    pub text: String,
    /// The wiki's short name, for example `enwiki`, where the dump says it.
    pub wiki: Option<String>,
    /// The page's address, where the dump says the wiki's.
    pub url: Option<String>,
}

/// What a dump held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pages {
    /// Pages in all.
    pub pages: u64,
    /// Given as articles.
    pub articles: u64,
    /// Redirects of the main namespace.
    pub redirects: u64,
    /// Pages of other namespaces.
    pub other_namespaces: u64,
    /// Articles without text once the markup is gone, or that the converter gave up on.
    pub without_text: u64,
}

/// Calls `give` with each article (main namespace, not a redirect, some text) and the bytes of the file read so far.
pub fn read(path: &Path, bzip2: bool, give: &mut dyn FnMut(Article, u64) -> Result<()>) -> Result<Pages> {
    let corrupt = |why: String| TextProblem::Corrupt { file: path.to_path_buf(), row_group: None, why };
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let packed = Rc::new(RefCell::new(0));
    let counted = Counting { inner: BufReader::with_capacity(1 << 18, file), read: packed.clone() };
    let unpacked: Box<dyn Read> =
        if bzip2 { Box::new(bzip2::read::MultiBzDecoder::new(counted)) } else { Box::new(counted) };
    let notes = Rc::new(RefCell::new(Notes::default()));
    let watched = Watched { inner: unpacked, notes: notes.clone() };
    let mut pages = wikrs::dump::Pages::new(BufReader::with_capacity(1 << 16, watched));
    let mut found = Pages::default();
    while let Some(page) =
        shielded(|| pages.next().transpose()).map_err(|e| corrupt(format!("after {} pages: {e:#}", found.pages)))?
    {
        found.pages += 1;
        let note = notes.borrow_mut().pages.pop_front().unwrap_or_default();
        if page.namespace != 0 {
            found.other_namespaces += 1;
        } else if page.redirect {
            found.redirects += 1;
        } else {
            let text = shielded(|| Ok(wikrs::render::plain(&wikrs::parser::parse(&page.text).nodes)));
            let text = text.unwrap_or_default().trim().to_string();
            if text.is_empty() {
                found.without_text += 1;
                continue;
            }
            found.articles += 1;
            let Notes { base, wiki, .. } = &*notes.borrow();
            let folder = base.rsplit_once('/').map(|(folder, _)| folder);
            let url = folder.zip(note.id).map(|(folder, id)| format!("{folder}?curid={id}"));
            let wiki = (!wiki.is_empty()).then(|| wiki.clone());
            let (id, revision, offset) = (note.id, note.revision, note.offset);
            give(Article { id, revision, offset, title: page.title, text, wiki, url }, *packed.borrow())?;
        }
    }
    let notes = notes.borrow();
    if notes.open.is_some() || notes.seen == 0 || notes.in_tag {
        let why = format!("the dump ends in the middle, after {} pages and {} bytes of XML", found.pages, notes.seen);
        return Err(corrupt(why).into());
    }
    Ok(found)
}

struct Counting<R> {
    inner: R,
    read: Rc<RefCell<u64>>,
}

impl<R: Read> Read for Counting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.inner.read(buffer)?;
        *self.read.borrow_mut() += n as u64;
        Ok(n)
    }
}

struct Watched<R> {
    inner: R,
    notes: Rc<RefCell<Notes>>,
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.notes.borrow_mut().see(&buffer[..n]);
        Ok(n)
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Note {
    id: Option<u64>,
    revision: Option<u64>,
    offset: u64,
    in_revision: bool,
}

/// Reads tags, not XML: in a dump every `<` of a page's text is escaped, so that a tag is a tag.
#[derive(Default)]
struct Notes {
    seen: u64,
    in_tag: bool,
    tag_offset: u64,
    tag: Vec<u8>,
    value: Vec<u8>,
    pages: VecDeque<Note>,
    open: Option<Note>,
    base: String,
    wiki: String,
}

impl Notes {
    const LONGEST: usize = 256;

    fn see(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let stop = if self.in_tag { b'>' } else { b'<' };
            let end = rest.iter().position(|b| *b == stop);
            let kept = if self.in_tag { &mut self.tag } else { &mut self.value };
            let room = Self::LONGEST.saturating_sub(kept.len());
            kept.extend(rest[..end.unwrap_or(rest.len())].iter().take(room));
            let used = end.map_or(rest.len(), |end| end + 1);
            self.seen += used as u64;
            rest = &rest[used..];
            if end.is_some() {
                if self.in_tag {
                    self.tag();
                } else {
                    self.tag_offset = self.seen - 1;
                    self.tag.clear();
                }
                self.in_tag = !self.in_tag;
            }
        }
    }

    /// A tag is complete; `value` is the text before it.
    fn tag(&mut self) {
        let name = self.tag.split(u8::is_ascii_whitespace).next().unwrap_or_default();
        let value = || String::from_utf8_lossy(&self.value).into_owned();
        match (name, &mut self.open) {
            (b"page", _) => self.open = Some(Note { offset: self.tag_offset, ..Note::default() }),
            (b"/page", _) => self.pages.extend(self.open.take()),
            (b"revision", Some(page)) => page.in_revision = true,
            (b"/id", Some(page)) => {
                let slot = if page.in_revision { &mut page.revision } else { &mut page.id };
                *slot = slot.or(value().trim().parse().ok());
            }
            (b"/base", None) => self.base = value(),
            (b"/dbname", None) => self.wiki = value(),
            _ => {}
        }
        self.value.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const DUMP: &str = "<mediawiki><siteinfo><dbname>xwiki</dbname><base>https://x.org/wiki/Main</base></siteinfo>\
        <page><title>A</title><ns>0</ns><id>7</id><revision><id>70</id><contributor><id>9</id></contributor>\
        <text xml:space=\"preserve\">'''A''' is &lt;b&gt;[[b|bee]]&lt;/b&gt;.</text></revision></page>\
        <page><title>B</title><ns>0</ns><id>8</id><redirect title=\"A\" /><revision><id>80</id>\
        <text>#REDIRECT [[A]]</text></revision></page>\
        <page><title>Talk:A</title><ns>1</ns><id>9</id><revision><id>90</id><text>hm</text></revision></page>\
        <page><title>C</title><ns>0</ns><id>10</id><revision><id>100</id><text>See.</text></revision></page>\
        </mediawiki>";

    fn articles(name: &str, content: &[u8]) -> Result<(Pages, Vec<Article>)> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join(name);
        std::fs::write(&path, content)?;
        let mut articles = Vec::new();
        let pages = read(&path, name.ends_with("bz2"), &mut |article, _| {
            articles.push(article);
            Ok(())
        })?;
        Ok((pages, articles))
    }

    fn packed(text: &str) -> Vec<u8> {
        let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn articles_know_where_they_come_from() {
        let (pages, found) = articles("x.xml", DUMP.as_bytes()).unwrap();
        assert_eq!(pages, Pages { pages: 4, articles: 2, redirects: 1, other_namespaces: 1, without_text: 0 });
        assert_eq!((found[0].id, found[0].revision, found[0].text.as_str()), (Some(7), Some(70), "A is bee."));
        assert_eq!((found[1].id, found[1].revision, found[1].title.as_str()), (Some(10), Some(100), "C"));
        assert_eq!(found[1].url.as_deref(), Some("https://x.org/wiki?curid=10"));
        assert_eq!(found[1].wiki.as_deref(), Some("xwiki"));
        assert!(DUMP[found[1].offset as usize..].starts_with("<page><title>C"));
        let (first, second) = DUMP.split_at(300);
        let multistream = [packed(first), packed(second)].concat();
        assert_eq!(articles("x.xml.bz2", &multistream).unwrap(), (pages, found));
    }

    #[test]
    fn a_dump_that_ends_early_is_an_error() {
        let said = |name, content: &[u8]| articles(name, content).unwrap_err().to_string();
        assert!(said("x.xml", &DUMP.as_bytes()[..DUMP.len() - 40]).contains("x.xml: "));
        let whole = packed(DUMP);
        assert!(said("x.xml.bz2", &whole[..whole.len() / 2]).contains("x.xml.bz2: after"));
        assert!(said("x.xml", b"").contains("ends in the middle"));
    }
}

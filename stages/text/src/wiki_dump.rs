//! MediaWiki dumps (XML export, packed or not, multistream or not) to documents, one page at a time.
//!
//! In a dump every `<` of a page's text is escaped, so that `<page>` and `</page>` are where pages begin and end: each
//! is cut out and parsed by itself (by the crate `wikrs`, which also makes text of its markup), and a page that is
//! damaged costs no other.
use crate::convert::{Document, Found, Give};
use crate::problem::{TextProblem, shielded};
use crate::quarantine::{Bad, Reason};
use crate::unpack::{LONGEST, Unpacked};
use anyhow::Result;
use memchr::memmem;
use std::io::{BufRead, BufReader};
use std::path::Path;

/// Changes when the same dump would give other documents.
pub const CONVERTER: &str = "wikrs 0.4.0, millrace 2";

/// What a dump held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pages {
    /// Pages in all, sound or not.
    pub pages: u64,
    /// Given as articles.
    pub articles: u64,
    /// Redirects of the main namespace.
    pub redirects: u64,
    /// Pages of other namespaces.
    pub other_namespaces: u64,
    /// Articles without text once the markup is gone.
    pub without_text: u64,
}

/// Gives each article (main namespace, not a redirect, some text) of `input`, and each page that cannot be read.
///
/// # Errors
/// [`TextProblem::Corrupt`] if there is neither a page nor what a dump begins with.
pub fn read(input: Unpacked, path: &Path, give: Give) -> Result<Pages> {
    let watch = input.watch();
    let mut cutter = Cutter::new(input);
    let mut found = Pages::default();
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let stem = name.split('.').next().unwrap_or_default();
    while let Some(Piece { offset, content, whole }) = cutter.next()? {
        found.pages += 1;
        let page = match whole {
            Ok(()) => parse(content),
            Err(reason) => Err((reason, String::new())),
        };
        match page {
            Err((reason, detail)) => give(Found::Bad(Bad::at(offset, reason, detail)))?,
            Ok(page) if page.namespace != 0 => found.other_namespaces += 1,
            Ok(page) if page.redirect => found.redirects += 1,
            Ok(page) => {
                let text = shielded(|| Ok(wikrs::render::plain(&wikrs::parser::parse(&page.text).nodes)));
                let text = match &text {
                    Ok(text) => text.trim(),
                    Err(e) => {
                        give(Found::Bad(Bad::at(offset, Reason::Markup, format!("{:?}: {e:#}", page.title))))?;
                        continue;
                    }
                };
                if text.is_empty() {
                    found.without_text += 1;
                    continue;
                }
                found.articles += 1;
                let (id, revision) = ids(content);
                let folder = cutter.base.rsplit_once('/').map(|(folder, _)| folder);
                let url = folder.zip(id).map(|(folder, id)| format!("{folder}?curid={id}"));
                let source = if cutter.wiki.is_empty() { stem } else { &cutter.wiki };
                let name = id.map_or(format!("{source}-at-{offset}"), |id| format!("{source}-{id}"));
                let (id, source, title) = (Some(name), Some(source.to_string()), page.title);
                give(Found::Document(Document { id, url, title, text, source, revision, offset }))?;
            }
        }
    }
    if found.pages == 0 && !cutter.opened && watch.damage().is_none() {
        let why = "there is no page in it: it is no MediaWiki dump".to_string();
        return Err(TextProblem::Corrupt { file: path.to_path_buf(), row_group: None, why }.into());
    }
    if cutter.opened && !cutter.closed && watch.damage().is_none() && !cutter.ended_in_a_page {
        let detail = format!("no </mediawiki> after {} pages", found.pages);
        give(Found::Bad(Bad::at(cutter.start, Reason::Cut, detail)))?;
    }
    Ok(found)
}

fn parse(page: &[u8]) -> Result<wikrs::dump::Page, (Reason, String)> {
    if let Err(e) = std::str::from_utf8(page) {
        return Err((Reason::NotUtf8, format!("at its byte {}", e.valid_up_to())));
    }
    let parsed = shielded(|| wikrs::dump::Pages::new(page).next().transpose());
    match parsed {
        Ok(Some(page)) => Ok(page),
        Ok(None) => Err((Reason::Page, "no page in it".into())),
        Err(e) => Err((Reason::Page, format!("{e:#}"))),
    }
}

/// Of the page and of its revision.
fn ids(page: &[u8]) -> (Option<u64>, Option<u64>) {
    let first = |part: &[u8]| std::str::from_utf8(between(part, b"<id>", b"</id>")?).ok()?.trim().parse().ok();
    match memmem::find(page, b"<revision") {
        Some(at) => (first(&page[..at]), first(&page[at..])),
        None => (first(page), None),
    }
}

fn between<'a>(text: &'a [u8], open: &[u8], close: &[u8]) -> Option<&'a [u8]> {
    let start = memmem::find(text, open)? + open.len();
    let end = memmem::find(&text[start..], close)?;
    Some(&text[start..start + end])
}

const OPEN: &[u8] = b"<page>";
const CLOSE: &[u8] = b"</page>";

/// A page as it stands in the dump.
struct Piece<'a> {
    offset: u64,
    content: &'a [u8],
    whole: Result<(), Reason>,
}

/// Cuts a dump into its pages.
struct Cutter {
    input: BufReader<Unpacked>,
    buffer: Vec<u8>,
    /// Of `buffer` in the dump.
    start: u64,
    /// Bytes of `buffer` that have been given.
    used: usize,
    opened: bool,
    closed: bool,
    ended_in_a_page: bool,
    /// `<base>` and `<dbname>` of what stands before the pages.
    base: String,
    wiki: String,
}

impl Cutter {
    fn new(input: Unpacked) -> Self {
        let input = BufReader::with_capacity(1 << 16, input);
        let (base, wiki) = Default::default();
        let (opened, closed, ended_in_a_page) = (false, false, false);
        Self { input, buffer: Vec::new(), start: 0, used: 0, opened, closed, ended_in_a_page, base, wiki }
    }

    fn next(&mut self) -> Result<Option<Piece<'_>>> {
        self.drop_used();
        loop {
            // Up to the next page.
            let open = memmem::find(&self.buffer, OPEN);
            let between = open.unwrap_or(self.buffer.len());
            self.look_at(between);
            // What may be the beginning of a tag, or of something that is looked at, stays.
            let drop = if open.is_some() { between } else { between.saturating_sub(1 << 10) };
            self.used = drop;
            self.drop_used();
            if open.is_some() {
                break;
            }
            if !self.more()? {
                self.start += self.buffer.len() as u64;
                self.buffer.clear();
                return Ok(None);
            }
        }
        let mut searched = OPEN.len();
        loop {
            let from = searched.saturating_sub(CLOSE.len());
            let close = memmem::find(&self.buffer[from..], CLOSE).map(|at| from + at + CLOSE.len());
            let limit = close.unwrap_or(self.buffer.len());
            // Another page that begins before this one has ended: its end is lost.
            let next = memmem::find(&self.buffer[from.max(1)..limit], OPEN).map(|at| from.max(1) + at);
            let (end, whole) = match (next, close) {
                (Some(next), _) => (next, Err(Reason::Page)),
                (None, Some(close)) => (close, Ok(())),
                (None, None) if self.buffer.len() > LONGEST => (self.buffer.len(), Err(Reason::TooLong)),
                (None, None) => {
                    searched = self.buffer.len();
                    if self.more()? {
                        continue;
                    }
                    self.ended_in_a_page = true;
                    // What damage has cut off is counted there.
                    if self.input.get_ref().watch().damage().is_some() {
                        return Ok(None);
                    }
                    (self.buffer.len(), Err(Reason::Cut))
                }
            };
            self.used = end;
            return Ok(Some(Piece { offset: self.start, content: &self.buffer[..end], whole }));
        }
    }

    /// Reads on; `false` at the end.
    fn more(&mut self) -> Result<bool> {
        let more = self.input.fill_buf()?;
        let n = more.len();
        self.buffer.extend_from_slice(more);
        self.input.consume(n);
        Ok(n > 0)
    }

    fn drop_used(&mut self) {
        self.buffer.drain(..self.used);
        self.start += self.used as u64;
        self.used = 0;
    }

    /// Looks at what stands outside of pages.
    fn look_at(&mut self, end: usize) {
        let text = &self.buffer[..end];
        self.opened |= memmem::find(text, b"<mediawiki").is_some();
        self.closed |= memmem::find(text, b"</mediawiki>").is_some();
        for (open, close, slot) in
            [(&b"<base>"[..], &b"</base>"[..], &mut self.base), (b"<dbname>", b"</dbname>", &mut self.wiki)]
        {
            if let Some(value) = between(text, open, close) {
                *slot = String::from_utf8_lossy(value).into_owned();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pack;
    use crate::unpack::Packing;
    use std::io::Cursor;

    const DUMP: &str = "<mediawiki><siteinfo><dbname>xwiki</dbname><base>https://x.org/wiki/Main</base></siteinfo>\
        <page><title>A</title><ns>0</ns><id>7</id><revision><id>70</id><contributor><id>9</id></contributor>\
        <text xml:space=\"preserve\">'''A''' is &lt;b&gt;[[b|bee]]&lt;/b&gt;.</text></revision></page>\
        <page><title>B</title><ns>0</ns><id>8</id><redirect title=\"A\" /><revision><id>80</id>\
        <text>#REDIRECT [[A]]</text></revision></page>\
        <page><title>Talk:A</title><ns>1</ns><id>9</id><revision><id>90</id><text>hm</text></revision></page>\
        <page><title>C</title><ns>0</ns><id>10</id><revision><id>100</id><text>See.</text></revision></page>\
        </mediawiki>";

    /// Id, revision, offset, title, text, url.
    type Article = (Option<String>, Option<u64>, u64, String, String, Option<String>);

    fn articles(packing: Packing, content: &[u8]) -> Result<(Pages, Vec<Article>, Vec<Bad>)> {
        let (mut articles, mut bad) = (Vec::new(), Vec::new());
        let input = Unpacked::new(Cursor::new(content.to_vec()), packing)?;
        let pages = read(input, Path::new("x.xml"), &mut |found| {
            match found {
                Found::Document(d) => {
                    assert_eq!(d.source.as_deref(), Some("xwiki"));
                    articles.push((d.id, d.revision, d.offset, d.title, d.text.to_string(), d.url));
                }
                Found::Bad(one) => bad.push(one),
            }
            Ok(())
        })?;
        Ok((pages, articles, bad))
    }

    #[test]
    fn articles_know_where_they_come_from() {
        let (pages, found, bad) = articles(Packing::Plain, DUMP.as_bytes()).unwrap();
        assert_eq!(pages, Pages { pages: 4, articles: 2, redirects: 1, other_namespaces: 1, without_text: 0 });
        assert_eq!((found[0].0.as_deref(), found[0].1, found[0].4.as_str()), (Some("xwiki-7"), Some(70), "A is bee."));
        assert_eq!((found[1].0.as_deref(), found[1].1, found[1].3.as_str()), (Some("xwiki-10"), Some(100), "C"));
        assert_eq!(found[1].5.as_deref(), Some("https://x.org/wiki?curid=10"));
        assert!(DUMP[found[1].2 as usize..].starts_with("<page><title>C"));
        assert!(bad.is_empty());
        let (first, second) = DUMP.split_at(300);
        for packing in [Packing::Gzip, Packing::Zstd, Packing::Bzip2] {
            let parts = [pack(packing, first.as_bytes()), pack(packing, second.as_bytes())].concat();
            assert_eq!(articles(packing, &parts).unwrap(), (pages, found.clone(), bad.clone()), "{packing:?}");
        }
    }

    #[test]
    fn a_dump_that_ends_early_gives_what_is_whole() {
        let at = DUMP.rfind("<page>").unwrap();
        let (_, found, bad) = articles(Packing::Plain, &DUMP.as_bytes()[..DUMP.len() - 40]).unwrap();
        assert_eq!((found.len(), bad), (1, vec![Bad::at(at as u64, Reason::Cut, "")]));
        let (_, found, bad) = articles(Packing::Plain, &DUMP.as_bytes()[..at]).unwrap();
        assert_eq!((found.len(), bad[0].reason, bad.len()), (1, Reason::Cut, 1));
        let none = articles(Packing::Plain, b"<rss></rss>").unwrap_err().to_string();
        assert!(none.starts_with("x.xml: there is no page in it"), "{none}");
    }

    #[test]
    fn a_damaged_page_costs_no_other() {
        let whole = articles(Packing::Plain, DUMP.as_bytes()).unwrap().1;
        for (damaged, reason) in [
            (DUMP.replacen("</page>", "</pa", 1).into_bytes(), Reason::Page),
            (DUMP.replacen("<title>A</title>", "<title>A</titel>", 1).into_bytes(), Reason::Page),
            (DUMP.replacen("<ns>0</ns>", "", 1).into_bytes(), Reason::Page),
            (DUMP.replacen("&lt;", "&lx;", 1).into_bytes(), Reason::Page),
            (DUMP.bytes().map(|b| if b == b'\'' { 0xff } else { b }).collect(), Reason::NotUtf8),
        ] {
            let (_, found, bad) = articles(Packing::Plain, &damaged).unwrap();
            let texts = |articles: &[Article]| articles.iter().map(|a| a.4.clone()).collect::<Vec<_>>();
            assert_eq!((texts(&found), bad.len(), bad[0].reason), (texts(&whole[1..]), 1, reason));
        }
    }
}

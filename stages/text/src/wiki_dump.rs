//! MediaWiki dumps (XML export, packed or not, multistream or not) to documents, one page at a time.
//!
//! In a dump every `<` of a page's text is escaped, so that `<page>` and `</page>` are where pages begin and end: each
//! is cut out and, on one of several threads, parsed by itself ([`crate::dump_page`]) and made text
//! ([`crate::wikitext`]); a page that is damaged costs no other. Dumps in another encoding than UTF-8 say so in their
//! first line and are read as UTF-8 made of them, in which offsets count.
use crate::convert::{Document, Found, Give};
use crate::dump_page::{Page, SiteInfo};
use crate::in_order::in_order;
use crate::problem::{TextProblem, shielded};
use crate::quarantine::{Bad, Reason};
use crate::unpack::{LONGEST, Unpacked};
use crate::wikitext::{Kinds, plain};
use anyhow::Result;
use encoding_rs::{Decoder, Encoding};
use memchr::memmem;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Changes when the same dump would give other documents.
pub const CONVERTER: &str = "millrace 3";
/// Bytes of pages that a thread takes at a time.
const TAKEN: usize = 256 << 10;
/// Bytes before the first page that are looked at.
const LONGEST_HEAD: usize = 1 << 20;

/// What a dump held.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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
    /// What of the markup could not be handled, by kind.
    pub unhandled: Kinds,
}

/// Gives each article (main namespace, not a redirect, some text) of `input`, and each page that cannot be read.
///
/// # Errors
/// [`TextProblem::Corrupt`] if there is neither a page nor what a dump begins with.
pub fn read(input: Unpacked, path: &Path, give: Give) -> Result<Pages> {
    let watch = input.watch();
    let mut cutter = Cutter::new(input, path);
    let mut found = Pages::default();
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let stem = name.split('.').next().unwrap_or_default();
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let given = |(site, pages): (Arc<SiteInfo>, Vec<Made>)| {
        for made in pages {
            found.pages += 1;
            match made {
                Made::Bad(bad) => give(Found::Bad(bad))?,
                Made::OtherNamespace => found.other_namespaces += 1,
                Made::Redirect => found.redirects += 1,
                Made::Text { page, offset, unhandled } => {
                    found.unhandled.merge(&unhandled);
                    if page.text.is_empty() {
                        found.without_text += 1;
                        continue;
                    }
                    found.articles += 1;
                    let source = if site.wiki.is_empty() { stem } else { &site.wiki };
                    let id = page.id.map_or(format!("{source}-at-{offset}"), |id| format!("{source}-{id}"));
                    give(Found::Document(Document {
                        id: Some(id),
                        url: site.url(page.id),
                        title: page.title,
                        text: &page.text,
                        source: Some(source.to_string()),
                        revision: page.revision,
                        offset,
                        unhandled: (!unhandled.is_empty()).then(|| unhandled.to_string()),
                    }))?;
                }
            }
        }
        Ok(())
    };
    in_order(threads, || cutter.some(), |(site, pieces)| (site.clone(), make(&site, pieces)), given)?;
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

/// What a page is made.
enum Made {
    /// Its text is plain.
    Text {
        page: Page,
        offset: u64,
        unhandled: Kinds,
    },
    Redirect,
    OtherNamespace,
    Bad(Bad),
}

/// Pages as they stand in the dump: where, what, and whether it is whole.
type Pieces = Vec<(u64, Vec<u8>, Result<(), Reason>)>;

fn make(site: &SiteInfo, pieces: Pieces) -> Vec<Made> {
    let one = |(offset, xml, whole): (u64, Vec<u8>, Result<(), Reason>)| {
        let bad = |reason, detail: String| Made::Bad(Bad::at(offset, reason, detail));
        if let Err(reason) = whole {
            return bad(reason, String::new());
        }
        if let Err(e) = std::str::from_utf8(&xml) {
            return bad(Reason::NotUtf8, format!("at its byte {}", e.valid_up_to()));
        }
        match shielded(|| Page::read(&xml, site).map_err(anyhow::Error::msg)) {
            Err(e) => bad(Reason::Page, e.to_string()),
            Ok(page) if page.namespace == 0 && page.redirect => Made::Redirect,
            Ok(page) if !page.is_article() => Made::OtherNamespace,
            Ok(mut page) => {
                let mut unhandled = Kinds::default();
                match shielded(|| Ok(plain(&page.text, &site.names, &mut unhandled))) {
                    Ok(text) => page.text = text,
                    Err(e) => return bad(Reason::Markup, format!("{:?}: {e:#}", page.title)),
                }
                Made::Text { page, offset, unhandled }
            }
        }
    };
    pieces.into_iter().map(one).collect()
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
    /// What stands before the pages, once that is known.
    site: Option<Arc<SiteInfo>>,
    /// If it is not UTF-8; `None` until the first bytes are seen.
    decoder: Option<Option<Decoder>>,
    path: PathBuf,
}

impl Cutter {
    fn new(input: Unpacked, path: &Path) -> Self {
        let input = BufReader::with_capacity(1 << 16, input);
        let (site, decoder, path) = (None, None, path.to_path_buf());
        let (opened, closed, ended_in_a_page) = (false, false, false);
        Self { input, buffer: Vec::new(), start: 0, used: 0, opened, closed, ended_in_a_page, site, decoder, path }
    }

    /// Some pages, and what the dump says of itself; `None` at the end.
    fn some(&mut self) -> Result<Option<(Arc<SiteInfo>, Pieces)>> {
        let (mut pieces, mut bytes) = (Vec::new(), 0);
        while bytes < TAKEN
            && let Some(Piece { offset, content, whole }) = self.next()?
        {
            bytes += content.len();
            pieces.push((offset, content.to_vec(), whole));
        }
        let site = self.site.clone().unwrap_or_default();
        Ok((!pieces.is_empty()).then_some((site, pieces)))
    }

    fn next(&mut self) -> Result<Option<Piece<'_>>> {
        self.drop_used();
        loop {
            // Up to the next page.
            let open = memmem::find(&self.buffer, OPEN);
            let between = open.unwrap_or(self.buffer.len());
            self.look_at(between);
            // What may be the beginning of a tag, or of something that is looked at, stays.
            if self.site.is_none() && (open.is_some() || between > LONGEST_HEAD) {
                self.site = Some(Arc::new(SiteInfo::read(&self.buffer[..between])));
            }
            let drop = match (open, &self.site) {
                (Some(_), _) => between,
                (None, None) => 0,
                (None, Some(_)) => between.saturating_sub(1 << 10),
            };
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
        let decoder = match &mut self.decoder {
            Some(decoder) => decoder,
            None => {
                let encoding = declared(more).map_err(|label| {
                    let why = format!("it declares the encoding {label:?}, which is not known; make it UTF-8");
                    TextProblem::Corrupt { file: self.path.clone(), row_group: None, why }
                })?;
                self.decoder.insert(encoding.map(Encoding::new_decoder))
            }
        };
        match decoder {
            None => self.buffer.extend_from_slice(more),
            Some(decoder) => {
                let mut text = String::with_capacity(decoder.max_utf8_buffer_length(n).unwrap_or(4 * n));
                let _ = decoder.decode_to_string(more, &mut text, n == 0);
                self.buffer.extend_from_slice(text.as_bytes());
                if n == 0 {
                    // A decoder that has finished must not be asked again.
                    self.decoder = Some(None);
                }
            }
        }
        self.input.consume(n);
        Ok(n > 0)
    }

    fn drop_used(&mut self) {
        self.buffer.drain(..self.used);
        self.start += self.used as u64;
        self.used = 0;
    }

    /// Notes what stands outside of pages.
    fn look_at(&mut self, end: usize) {
        let text = &self.buffer[..end];
        self.opened |= memmem::find(text, b"<mediawiki").is_some();
        self.closed |= memmem::find(text, b"</mediawiki>").is_some();
    }
}

/// The encoding that a file's first bytes declare, if it is not UTF-8; or the name of one that is not known.
fn declared(head: &[u8]) -> Result<Option<&'static Encoding>, String> {
    if let Some((encoding, _)) = Encoding::for_bom(head) {
        return Ok(Some(encoding).filter(|encoding| *encoding != encoding_rs::UTF_8));
    }
    let head = &head[..head.len().min(256)];
    let Some(end) = memmem::find(head, b"?>").filter(|_| head.starts_with(b"<?xml")) else { return Ok(None) };
    let Some(at) = memmem::find(&head[..end], b"encoding=") else { return Ok(None) };
    let label = head[at + 9..end].split(|b| matches!(b, b'"' | b'\'')).nth(1).unwrap_or_default();
    match Encoding::for_label(label) {
        None => Err(String::from_utf8_lossy(label).into_owned()),
        encoding => Ok(encoding.filter(|encoding| *encoding != encoding_rs::UTF_8)),
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
        assert_eq!(pages, Pages { pages: 4, articles: 2, redirects: 1, other_namespaces: 1, ..Pages::default() });
        assert_eq!((found[0].0.as_deref(), found[0].1, found[0].4.as_str()), (Some("xwiki-7"), Some(70), "A is bee."));
        assert_eq!((found[1].0.as_deref(), found[1].1, found[1].3.as_str()), (Some("xwiki-10"), Some(100), "C"));
        assert_eq!(found[1].5.as_deref(), Some("https://x.org/wiki?curid=10"));
        assert!(DUMP[found[1].2 as usize..].starts_with("<page><title>C"));
        assert!(bad.is_empty());
        let (first, second) = DUMP.split_at(300);
        for packing in [Packing::Gzip, Packing::Zstd, Packing::Bzip2] {
            let parts = [pack(packing, first.as_bytes()), pack(packing, second.as_bytes())].concat();
            assert_eq!(articles(packing, &parts).unwrap(), (pages.clone(), found.clone(), bad.clone()), "{packing:?}");
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
            (DUMP.replacen("<title>A</title>", "", 1).into_bytes(), Reason::Page),
            (DUMP.replacen("&lt;", "&lx;", 1).into_bytes(), Reason::Page),
            (DUMP.bytes().map(|b| if b == b'\'' { 0xff } else { b }).collect(), Reason::NotUtf8),
        ] {
            let (_, found, bad) = articles(Packing::Plain, &damaged).unwrap();
            let texts = |articles: &[Article]| articles.iter().map(|a| a.4.clone()).collect::<Vec<_>>();
            assert_eq!((texts(&found), bad.len(), bad[0].reason), (texts(&whole[1..]), 1, reason));
        }
    }

    fn wrapped(pages: &str) -> String {
        format!("<mediawiki version=\"0.11\">{pages}</mediawiki>")
    }

    fn page(title: &str, text: &str) -> String {
        format!(
            "<page><title>{title}</title><ns>0</ns><id>1</id><revision><id>2</id><text>{text}</text></revision></page>"
        )
    }

    #[test]
    fn other_encodings_are_made_utf_8_or_refused() {
        let text = |encoding: &str| {
            format!("<?xml version=\"1.0\" encoding=\"{encoding}\"?>{}", wrapped(&page("É", "Où ça ?")))
        };
        let latin: Vec<u8> = text("ISO-8859-1").chars().map(|c| c as u32 as u8).collect();
        let wide: Vec<u8> = [0xfffeu16.swap_bytes()]
            .into_iter()
            .chain(text("UTF-16").encode_utf16())
            .flat_map(u16::to_le_bytes)
            .collect();
        for bytes in [text("utf-8").into_bytes(), latin, wide] {
            let (_, found, bad) = articles(Packing::Plain, &bytes).unwrap();
            assert_eq!((found[0].3.as_str(), found[0].4.as_str(), bad.len()), ("É", "Où ça ?", 0));
        }
        let said = articles(Packing::Plain, text("KOI-9").as_bytes()).unwrap_err().to_string();
        assert!(said.contains("x.xml: it declares the encoding \"KOI-9\""), "{said}");
    }

    #[test]
    fn a_page_of_fifty_megabytes_and_one_of_templates_only() {
        let long = "It is a long way. ".repeat(50_000_000 / 18);
        let dump =
            wrapped(&(page("Long", &long) + &page("None", &"{{x|{{y}}}}\n".repeat(1000)) + &page("Last", "End.")));
        let (pages, found, bad) = articles(Packing::Plain, dump.as_bytes()).unwrap();
        assert_eq!((pages.pages, pages.articles, pages.without_text, bad.len()), (3, 2, 1, 0));
        assert_eq!((found[0].4.len(), found[1].4.as_str()), (long.len() - 1, "End."));
        let (pages, ..) = articles(Packing::Plain, wrapped("").as_bytes()).unwrap();
        assert_eq!(pages, Pages::default());
        assert!(articles(Packing::Plain, b"").unwrap_err().to_string().contains("no MediaWiki dump"));
    }

    #[test]
    fn old_versions_find_the_main_namespace_by_title() {
        let head = "<siteinfo><base>http://x.org/w/M</base><namespaces><namespace key=\"1\">Talk</namespace></namespaces></siteinfo>";
        let old = |title: &str| page(title, "text").replace("<ns>0</ns>", "");
        let dump = wrapped(&(head.to_string() + &old("Talk:A") + &old("B") + &old("C: the D")));
        let (pages, found, _) = articles(Packing::Plain, dump.as_bytes()).unwrap();
        assert_eq!((pages.other_namespaces, found.len(), found[1].3.as_str()), (1, 2, "C: the D"));
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(200))]
        #[test]
        fn random_damage_never_panics(changes in proptest::collection::vec((0..DUMP.len(), proptest::prelude::any::<u8>(), 1usize..40), 0..6)) {
            let mut bytes = DUMP.as_bytes().to_vec();
            for (at, byte, length) in changes {
                let at = at.min(bytes.len());
                let end = (at + length).min(bytes.len());
                if byte < 128 { bytes.drain(at..end); } else { bytes[at..end].fill(byte); }
            }
            let _ = articles(Packing::Plain, &bytes);
        }
    }
}

//! MediaWiki dumps (XML export, compressed or not, multistream or not) to documents, one page at a time.
//!
//! The dump is split into pages ([`crate::input::mediawiki::split_pages`]). Several threads parse them
//! ([`crate::input::mediawiki::page`]) and convert them to text ([`crate::wikitext`]), each independently of all
//! others, so damage is confined to a page.
use crate::input::decompress::Decompressed;
use crate::input::document::{Document, EmitItem, ReaderItem};
use crate::input::format::{Access, Format, StreamReader, TextShare};
use crate::input::mediawiki::page::{Page, SiteInfo};
use crate::input::mediawiki::split_pages::{Cutter, Pieces};
use crate::input::quarantine::{Reason, Unreadable};
use crate::support::in_order::in_order;
use crate::support::problem::{TextProblem, shielded};
use crate::wikitext::{Kinds, plain};
use anyhow::Result;
use std::path::Path;
use std::sync::Arc;

/// XML of MediaWiki's export; large dumps come in parts, `….xml-p000000010p000030302`.
pub static FORMAT: Format = Format {
    name: "MediaWiki dump",
    suffixes: &[".xml", ".xml-p*"],
    magic: b"<mediawiki",
    access: Access::Stream(StreamReader {
        version: |_| "millrace 4".into(),
        read: |input, path, _, emit| read(input, path, emit).map(drop),
        share: TextShare::Fraction(0.4),
        is_verbatim: false,
    }),
};

/// Statistics of a dump.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pages {
    /// Number of pages, valid or not.
    pub pages: u64,
    /// Number of articles emitted.
    pub articles: u64,
    /// Redirects of the main namespace.
    pub redirects: u64,
    /// Pages of other namespaces.
    pub other_namespaces: u64,
    /// Articles without text after the markup has been removed.
    pub without_text: u64,
    /// Markup that could not be handled, by kind.
    pub unhandled: Kinds,
}

/// Emits each article (main namespace, not a redirect, not empty) of `input`, and an [`Unreadable`] entry for each page
/// that cannot be read.
///
/// # Errors
/// [`TextProblem::Corrupt`] if there is neither a page nor the beginning of a dump.
pub fn read(input: Decompressed, path: &Path, emit: EmitItem) -> Result<Pages> {
    let state = input.state();
    let mut cutter = Cutter::new(input, path);
    let mut found = Pages::default();
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let stem = name.split('.').next().unwrap_or_default();
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let given = |(site, pages): (Arc<SiteInfo>, Vec<Made>)| {
        for made in pages {
            found.pages += 1;
            match made {
                Made::Unreadable(bad) => emit(ReaderItem::Unreadable(bad))?,
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
                    // An id of a page is unique in its wiki; if the dump does not name that, only in the file.
                    let (id, id_in_file) = match page.id {
                        Some(id) if !site.wiki.is_empty() => (Some(format!("{source}-{id}")), None),
                        Some(id) => (None, Some(id.to_string())),
                        None => (None, Some(format!("at-{offset}"))),
                    };
                    emit(ReaderItem::Document(Document {
                        id,
                        id_in_file,
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
    if found.pages == 0 && !cutter.opened && state.damage().is_none() {
        let why = "there is no page in it: it is no MediaWiki dump".to_string();
        return Err(TextProblem::Corrupt { file: path.to_path_buf(), row_group: None, why }.into());
    }
    if cutter.opened && !cutter.closed && state.damage().is_none() && !cutter.ended_in_a_page {
        let detail = format!("no </mediawiki> after {} pages", found.pages);
        emit(ReaderItem::Unreadable(Unreadable::at(cutter.start, Reason::Cut, detail)))?;
    }
    Ok(found)
}

/// The result of converting a page.
enum Made {
    /// Its text is plain.
    Text {
        page: Page,
        offset: u64,
        unhandled: Kinds,
    },
    Redirect,
    OtherNamespace,
    Unreadable(Unreadable),
}

fn make(site: &SiteInfo, pieces: Pieces) -> Vec<Made> {
    let one = |(offset, xml, whole): (u64, Vec<u8>, Result<(), Reason>)| {
        let bad = |reason, detail: String| Made::Unreadable(Unreadable::at(offset, reason, detail));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::codec::Codec;
    use crate::testing::pack;
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

    fn articles(codec: Codec, content: &[u8]) -> Result<(Pages, Vec<Article>, Vec<Unreadable>)> {
        let (mut articles, mut bad) = (Vec::new(), Vec::new());
        let input = Decompressed::new(Cursor::new(content.to_vec()), codec)?;
        let pages = read(input, Path::new("x.xml"), &mut |found| {
            match found {
                ReaderItem::Document(d) => {
                    articles.push((d.id, d.revision, d.offset, d.title, d.text.to_string(), d.url));
                }
                ReaderItem::Unreadable(one) => bad.push(one),
            }
            Ok(())
        })?;
        Ok((pages, articles, bad))
    }

    #[test]
    fn articles_know_where_they_come_from() {
        let (pages, found, bad) = articles(Codec::Plain, DUMP.as_bytes()).unwrap();
        assert_eq!(pages, Pages { pages: 4, articles: 2, redirects: 1, other_namespaces: 1, ..Pages::default() });
        assert_eq!((found[0].0.as_deref(), found[0].1, found[0].4.as_str()), (Some("xwiki-7"), Some(70), "A is bee."));
        assert_eq!((found[1].0.as_deref(), found[1].1, found[1].3.as_str()), (Some("xwiki-10"), Some(100), "C"));
        assert_eq!(found[1].5.as_deref(), Some("https://x.org/wiki?curid=10"));
        assert!(DUMP[found[1].2 as usize..].starts_with("<page><title>C"));
        assert!(bad.is_empty());
        let (first, second) = DUMP.split_at(300);
        for codec in [Codec::Gzip, Codec::Zstd, Codec::Bzip2] {
            let parts = [pack(codec, first.as_bytes()), pack(codec, second.as_bytes())].concat();
            assert_eq!(articles(codec, &parts).unwrap(), (pages.clone(), found.clone(), bad.clone()), "{codec:?}");
        }
    }

    #[test]
    fn a_dump_that_ends_early_gives_what_is_whole() {
        let at = DUMP.rfind("<page>").unwrap();
        let (_, found, bad) = articles(Codec::Plain, &DUMP.as_bytes()[..DUMP.len() - 40]).unwrap();
        assert_eq!((found.len(), bad), (1, vec![Unreadable::at(at as u64, Reason::Cut, "")]));
        let (_, found, bad) = articles(Codec::Plain, &DUMP.as_bytes()[..at]).unwrap();
        assert_eq!((found.len(), bad[0].reason, bad.len()), (1, Reason::Cut, 1));
        let none = articles(Codec::Plain, b"<rss></rss>").unwrap_err().to_string();
        assert!(none.starts_with("x.xml: there is no page in it"), "{none}");
    }

    #[test]
    fn a_damaged_page_costs_no_other() {
        let whole = articles(Codec::Plain, DUMP.as_bytes()).unwrap().1;
        for (damaged, reason) in [
            (DUMP.replacen("</page>", "</pa", 1).into_bytes(), Reason::Page),
            (DUMP.replacen("<title>A</title>", "<title>A</titel>", 1).into_bytes(), Reason::Page),
            (DUMP.replacen("<title>A</title>", "", 1).into_bytes(), Reason::Page),
            (DUMP.replacen("&lt;", "&lx;", 1).into_bytes(), Reason::Page),
            (DUMP.bytes().map(|b| if b == b'\'' { 0xff } else { b }).collect(), Reason::NotUtf8),
        ] {
            let (_, found, bad) = articles(Codec::Plain, &damaged).unwrap();
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
            let (_, found, bad) = articles(Codec::Plain, &bytes).unwrap();
            assert_eq!((found[0].3.as_str(), found[0].4.as_str(), bad.len()), ("É", "Où ça ?", 0));
        }
        let said = articles(Codec::Plain, text("KOI-9").as_bytes()).unwrap_err().to_string();
        assert!(said.contains("x.xml: it declares the encoding \"KOI-9\""), "{said}");
    }

    #[test]
    fn a_page_of_fifty_megabytes_and_one_of_templates_only() {
        let long = "It is a long way. ".repeat(50_000_000 / 18);
        let dump =
            wrapped(&(page("Long", &long) + &page("None", &"{{x|{{y}}}}\n".repeat(1000)) + &page("Last", "End.")));
        let (pages, found, bad) = articles(Codec::Plain, dump.as_bytes()).unwrap();
        assert_eq!((pages.pages, pages.articles, pages.without_text, bad.len()), (3, 2, 1, 0));
        assert_eq!((found[0].4.len(), found[1].4.as_str()), (long.len() - 1, "End."));
        let (pages, ..) = articles(Codec::Plain, wrapped("").as_bytes()).unwrap();
        assert_eq!(pages, Pages::default());
        assert!(articles(Codec::Plain, b"").unwrap_err().to_string().contains("no MediaWiki dump"));
    }

    #[test]
    fn old_versions_find_the_main_namespace_by_title() {
        let head = "<siteinfo><base>http://x.org/w/M</base><namespaces><namespace key=\"1\">Talk</namespace></namespaces></siteinfo>";
        let old = |title: &str| page(title, "text").replace("<ns>0</ns>", "");
        let dump = wrapped(&(head.to_string() + &old("Talk:A") + &old("B") + &old("C: the D")));
        let (pages, found, _) = articles(Codec::Plain, dump.as_bytes()).unwrap();
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
            let _ = articles(Codec::Plain, &bytes);
        }
    }
}

//! One page of a MediaWiki dump, and the header before the pages: export versions 0.3 to 0.11
//! (<https://www.mediawiki.org/wiki/Help:Export>).
//!
//! Old versions have no `<ns>`: the namespace follows from the title and the list of namespaces in `siteinfo`. From 0.11 on
//! a revision may have several `<content>` slots, of which `main` is the page.
use crate::wikitext::Names;
use quick_xml::Reader;
use quick_xml::events::Event;
use std::collections::HashMap;

/// The header before the pages.
#[derive(Clone, Debug, Default)]
pub struct SiteInfo {
    /// URL of the main page.
    pub base: String,
    /// Short name of the wiki, for example `enwiki`; empty in old versions.
    pub wiki: String,
    /// Version of the format, for example `0.10`.
    pub version: String,
    /// Prefixes of links.
    pub names: Names,
    /// Namespaces other than the main one by name, in lower case.
    namespaces: HashMap<String, i32>,
}

/// A page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Its id.
    pub id: Option<u64>,
    /// Its (last) revision's id.
    pub revision: Option<u64>,
    /// Its title.
    pub title: String,
    /// Its namespace; 0 is the main one.
    pub namespace: i32,
    /// Whether it only redirects to another page.
    pub redirect: bool,
    /// The main slot's content model, for example `wikitext`.
    pub model: String,
    /// The main slot's wikitext.
    pub text: String,
}

impl SiteInfo {
    /// Parses the header before the first page; damage in it affects only what it would have contained.
    pub fn read(head: &[u8]) -> Self {
        let mut site = Self::default();
        let mut reader = Reader::from_reader(head);
        reader.config_mut().check_end_names = false;
        let (mut key, mut value) = (None, String::new());
        loop {
            match reader.read_event() {
                Err(_) | Ok(Event::Eof) => return site,
                Ok(Event::Start(tag) | Event::Empty(tag)) => {
                    value.clear();
                    let attribute = |name: &str| {
                        let found = tag.try_get_attribute(name).ok().flatten()?;
                        Some(String::from_utf8_lossy(&found.value).into_owned())
                    };
                    match tag.name().as_ref() {
                        b"mediawiki" => site.version = attribute("version").unwrap_or_default(),
                        b"namespace" => key = attribute("key").and_then(|key| key.parse().ok()),
                        _ => {}
                    }
                }
                Ok(Event::Text(text)) => value.push_str(&String::from_utf8_lossy(&text)),
                Ok(Event::GeneralRef(name)) => push_entity(&mut value, &name),
                Ok(Event::End(tag)) => match tag.name().as_ref() {
                    b"base" => site.base = std::mem::take(&mut value),
                    b"dbname" => site.wiki = std::mem::take(&mut value),
                    b"namespace" => {
                        if let Some(key) = key.take().filter(|key| *key != 0) {
                            site.names.add(key, &value);
                            site.namespaces.insert(value.to_lowercase(), key);
                        }
                    }
                    _ => {}
                },
                Ok(_) => {}
            }
        }
    }

    /// The URL of a page by its id.
    pub fn url(&self, id: Option<u64>) -> Option<String> {
        let (folder, _) = self.base.rsplit_once('/')?;
        Some(format!("{folder}?curid={}", id?))
    }

    fn namespace(&self, title: &str) -> i32 {
        let prefix = title.split_once(':').map(|(prefix, _)| prefix.trim().replace('_', " ").to_lowercase());
        prefix.and_then(|prefix| self.namespaces.get(&prefix).copied()).unwrap_or(0)
    }
}

fn push_entity(value: &mut String, name: &[u8]) {
    let entity = format!("&{};", String::from_utf8_lossy(name));
    value.push_str(&html_escape::decode_html_entities(&entity));
}

/// The greatest depth of an element that is read.
const DEEPEST: usize = 4;

impl Page {
    /// Parses `<page>…</page>`.
    ///
    /// # Errors
    /// A description of what is missing or is not well-formed XML.
    pub fn read(xml: &[u8], site: &SiteInfo) -> Result<Self, String> {
        let xml = std::str::from_utf8(xml).map_err(|e| format!("it is not UTF-8 (at its byte {})", e.valid_up_to()))?;
        let mut reader = Reader::from_str(xml);
        let mut page = Self::default();
        let (mut namespace, mut titled, mut role) = (None, false, String::new());
        let mut path: Vec<Vec<u8>> = Vec::new();
        let mut value = String::new();
        loop {
            match reader.read_event().map_err(|e| format!("at its byte {}: {e}", reader.error_position()))? {
                Event::Start(tag) => {
                    value.clear();
                    path.push(tag.name().as_ref().to_vec());
                    match tag.name().as_ref() {
                        b"revision" => (page.revision, role) = (None, String::new()),
                        b"content" => role.clear(),
                        _ => {}
                    }
                }
                Event::Empty(tag) => page.redirect |= tag.name().as_ref() == b"redirect" && path.len() == 1,
                Event::Text(text) => value.push_str(&text.decode().map_err(|e| e.to_string())?),
                Event::CData(text) => value.push_str(&text.decode().map_err(|e| e.to_string())?),
                Event::GeneralRef(name) => match &*name {
                    b"lt" => value.push('<'),
                    b"gt" => value.push('>'),
                    b"amp" => value.push('&'),
                    b"quot" => value.push('"'),
                    b"apos" => value.push('\''),
                    _ => match name.resolve_char_ref() {
                        Ok(Some(c)) => value.push(c),
                        _ => return Err(format!("unknown entity &{};", String::from_utf8_lossy(&name))),
                    },
                },
                Event::End(_) => {
                    // None of the elements that count is deeper.
                    let inside: Vec<&[u8]> = path.iter().take(DEEPEST + 1).map(Vec::as_slice).collect();
                    let main = role.is_empty() || role == "main";
                    match inside.as_slice() {
                        [b"page", b"title"] => {
                            page.title = value.trim().to_string();
                            titled = true;
                        }
                        [b"page", b"ns"] => namespace = value.trim().parse().ok(),
                        [b"page", b"id"] => page.id = value.trim().parse().ok(),
                        [b"page", b"redirect"] => page.redirect = true,
                        [b"page", b"revision", b"id"] => page.revision = value.trim().parse().ok(),
                        [b"page", b"revision", b"content", b"role"] => role = value.trim().to_string(),
                        [b"page", b"revision", b"model"] => page.model = std::mem::take(&mut value),
                        [b"page", b"revision", b"text"] => page.text = std::mem::take(&mut value),
                        [b"page", b"revision", b"content", b"model"] if main => page.model = std::mem::take(&mut value),
                        [b"page", b"revision", b"content", b"text"] if main => page.text = std::mem::take(&mut value),
                        _ => {}
                    }
                    path.pop();
                    value.clear();
                }
                Event::Eof => break,
                _ => {}
            }
        }
        if !path.is_empty() {
            return Err("it is cut off".into());
        }
        if !titled {
            return Err("it has no title".into());
        }
        page.namespace = namespace.unwrap_or_else(|| site.namespace(&page.title));
        page.redirect |= is_redirect(&page.text);
        Ok(page)
    }

    /// Whether it is an article in wikitext. (Modules, styles and data have other models.)
    pub fn is_article(&self) -> bool {
        self.namespace == 0 && !self.redirect && (self.model.is_empty() || self.model == "wikitext")
    }
}

/// Whether this is `#REDIRECT [[…]]`, in any language: the number sign, immediately a word, then the link.
fn is_redirect(text: &str) -> bool {
    let Some(rest) = text.trim_start().strip_prefix('#') else { return false };
    let Some((word, link)) = rest.split_once("[[").filter(|(word, _)| word.len() <= 64) else { return false };
    let word = word.trim_end().trim_end_matches([':', '：']).trim_end();
    let is_word =
        !word.is_empty() && word.chars().all(|c| c.is_alphanumeric() || c.is_ascii_punctuation() || is_mark(c));
    // An ordered list may start with such a line, but it has more lines.
    let lines =
        link.lines().filter(|line| !line.trim().is_empty() && !line.trim_start().starts_with(['[', '{'])).count();
    is_word
        && word.chars().any(char::is_alphabetic)
        && link.contains("]]")
        && (lines <= 1 || word.eq_ignore_ascii_case("redirect"))
}

fn is_mark(c: char) -> bool {
    unicode_normalization::char::is_combining_mark(c) || c == '\u{200c}'
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OLD: &str = "<mediawiki xmlns=\"http://www.mediawiki.org/xml/export-0.3/\" version=\"0.3\" xml:lang=\"de\"><siteinfo>\
        <base>http://de.x.org/wiki/Hauptseite</base><namespaces><namespace key=\"-2\">Media</namespace>\
        <namespace key=\"0\" /><namespace key=\"1\">Diskussion</namespace><namespace key=\"6\">Bild</namespace>\
        <namespace key=\"14\">R&amp;D</namespace></namespaces></siteinfo>";

    fn page(inside: &str, site: &SiteInfo) -> Result<Page, String> {
        Page::read(format!("<page>{inside}</page>").as_bytes(), site)
    }

    #[test]
    fn old_versions_have_namespaces_in_titles_only() {
        let site = SiteInfo::read(OLD.as_bytes());
        assert_eq!((site.version.as_str(), site.wiki.as_str()), ("0.3", ""));
        assert_eq!(site.url(Some(7)).unwrap(), "http://de.x.org/wiki?curid=7");
        let namespace = |title: &str| {
            page(&format!("<title>{title}</title><revision><text>x</text></revision>"), &site).unwrap().namespace
        };
        assert_eq!(["A", "Diskussion:A", "2001: A", "Bild:A.jpg", "R&amp;D:x"].map(namespace), [0, 1, 0, 6, 14]);
    }

    #[test]
    fn the_main_slot_is_the_page() {
        let site = SiteInfo::default();
        let slots = "<title>A</title><ns>0</ns><id>3</id><revision><id>30</id><contributor><id>9</id></contributor>\
            <content><role>mediainfo</role><model>json</model><text>{}</text></content>\
            <content><role>main</role><model>wikitext</model><text xml:space=\"preserve\">it &lt;b&gt; &#233;</text></content>\
            <content><role>other</role><text>no</text></content></revision>";
        let page = page(slots, &site).unwrap();
        assert_eq!((page.id, page.revision, page.text.as_str()), (Some(3), Some(30), "it <b> é"));
        assert!(page.is_article());
    }

    #[test]
    fn redirects_of_any_language() {
        for text in [
            "#REDIRECT [[A]]",
            "#redirect:[[A]]",
            "# ",
            "#перенаправление [[A]]",
            "#تحويل [[A]]",
            "#重定向 [[A]]",
            "\n#WEITERLEITUNG [[A#b]]\n\n[[Kategorie:C]]",
            "#पुनर्प्रेषित [[A]]",
        ] {
            assert_eq!(is_redirect(text), text != "# ", "{text}");
        }
        for text in ["# [[A]]", "#one [[A]]\n#two [[B]]\n#three", "A [[b]]", "#5 [[A]]"] {
            assert!(!is_redirect(text), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_page() {
        let site = SiteInfo::default();
        let said = |inside: &str| page(inside, &site).unwrap_err();
        assert_eq!(said("<ns>0</ns>"), "it has no title");
        // In time that is linear in the depth.
        assert_eq!(said(&("<a>".repeat(200_000) + &"</a>".repeat(200_000))), "it has no title");
        assert!(said("<title>A</titel>").contains("at its byte"));
        assert_eq!(said("<title>A&foo;</title>"), "unknown entity &foo;");
        assert_eq!(Page::read(b"<page><title>A</title>", &site).unwrap_err(), "it is cut off");
        assert_eq!(Page::read(b"<page>\xff", &site).unwrap_err(), "it is not UTF-8 (at its byte 6)");
    }

    proptest! {
        #[test]
        fn mutations_of_a_page_never_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..3), 0..8)) {
            let mut bytes = b"<page><title>A &amp; b</title><ns>0</ns><id>3</id><revision><id>30</id><content><role>main</role><text xml:space=\"preserve\">it &lt;b&gt; &#233; {{x}}</text></content></revision></page>".to_vec();
            for (at, byte, how) in changes {
                let at = at.index(bytes.len());
                match how {
                    0 => bytes[at] = byte,
                    1 => bytes.insert(at, byte),
                    _ => drop(bytes.remove(at)),
                }
            }
            let _ = Page::read(&bytes, &SiteInfo::read(&bytes));
        }
    }
}

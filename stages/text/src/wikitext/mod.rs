//! Wikitext (the markup of MediaWiki pages) to plain text, in one pass and in time close to linear for any input.
//!
//! | module | what |
//! |---|---|
//! | [`names`] | a wiki's names for its namespaces: which links are files, categories, other languages |
//! | [`elements`] | which elements are dropped with their content, and of which only the tags |
//! | [`links`] | the text of a link |
//! | [`scan`] | markup to text: removes templates, tables, references and files; keeps the text of links and emphasis |
//! | [`variants`] | the text of what has several variants of a language |
//! | [`lines`] | headings, list items, remains of tables; removes sections without text |
//!
//! Templates are not expanded: that requires the wiki's templates and modules, which a dump of articles does not
//! contain. What cannot be handled (for example a template that is not closed) is dropped as far as its extent is
//! clear, and counted by kind. The syntax: <https://www.mediawiki.org/wiki/Specs/wikitext/1.0.0>.
pub mod elements;
pub mod lines;
pub mod links;
pub mod names;
pub mod scan;
pub mod variants;

pub use names::Names;

use crate::support::normalize::normalize;
use std::collections::BTreeMap;

/// The number of occurrences of each kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kinds(BTreeMap<&'static str, u64>);

impl Kinds {
    /// Counts one occurrence.
    pub fn add(&mut self, kind: &'static str) {
        *self.0.entry(kind).or_default() += 1;
    }

    /// Adds the counts of `other`.
    pub fn merge(&mut self, other: &Kinds) {
        for (kind, count) in &other.0 {
            *self.0.entry(kind).or_default() += count;
        }
    }

    /// The number of one kind.
    pub fn count(&self, kind: &str) -> u64 {
        self.0.get(kind).copied().unwrap_or_default()
    }

    /// All kinds and numbers, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.0.iter().map(|(kind, count)| (*kind, *count))
    }

    /// Whether nothing was counted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl std::fmt::Display for Kinds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let all: Vec<String> = self.iter().map(|(kind, count)| format!("{kind}: {count}")).collect();
        f.write_str(&all.join("; "))
    }
}

/// The plain text of a page. What could not be handled is counted in `unhandled`.
pub fn plain(wikitext: &str, names: &Names, unhandled: &mut Kinds) -> String {
    let scanned = scan::scan(wikitext, names, unhandled);
    let lined = lines::lines(&scanned, unhandled);
    normalize(&html_escape::decode_html_entities(&lined)).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::{Duration, Instant};

    fn text(wikitext: &str) -> String {
        plain(wikitext, &Names::default(), &mut Kinds::default())
    }

    fn unhandled(wikitext: &str) -> String {
        let mut kinds = Kinds::default();
        plain(wikitext, &Names::default(), &mut kinds);
        kinds.to_string()
    }

    #[test]
    fn emphasis_links_and_references() {
        assert_eq!(
            text(
                "'''Alan''' ''Turing''<ref name=a>x [[y]]</ref> was a [[mathematics|mathematician]]<ref name=\"b\" />."
            ),
            "Alan Turing was a mathematician."
        );
        assert_eq!(
            text("[[bus]]es, [[Foo (bar)|]], [[:Category:X]], [[Paris, Texas|]]"),
            "buses, Foo, Category:X, Paris"
        );
        assert_eq!(text("l''''amour'''' '''''both''''' ''it'''s''"), "l'amour' both it's".replace("it's", "its"));
        assert_eq!(text("See [http://x.org the site], [http://x.org] [//y.org y] [1]."), "See the site, y [1].");
        assert_eq!(text("a<!-- no\n[[b]] -->b <nowiki>[[c]] {{d}} '''e'''</nowiki>"), "ab [[c]] {{d}} '''e'''");
        assert_eq!(text("x&nbsp;y &amp;amp; &lt;ref&gt; 5&thinsp;km"), "x y &amp; <ref> 5 km");
    }

    #[test]
    fn what_is_no_text_goes() {
        assert_eq!(text("{{Infobox|a={{b|{{{c|d}}}}}\n|e=[[f]]}}'''A''' is {{convert|5|km}}."), "A is.");
        assert_eq!(text("a\n{| class=\"x\"\n|-\n| b || {{c|}}\n|}\nd\n:{|\n|e\n{|\n|f\n|}\n|}\ng"), "a\n\nd\n\ng");
        assert_eq!(text("[[File:A.jpg|thumb|left|A [[b|c]] of ''d''.]]E [[Category:F]][[de:G]][[Datei:H.png]]"), "E");
        assert_eq!(text("[[File:A.jpg|thumb|b [[c]]\nd\n\ne]]\nF."), "F.");
        assert_eq!(text("[[b c\n\nd]] e"), "b c\n\nd e");
        assert_eq!(text("a <math>\\frac{a}{b}</math> b<gallery>\nFile:A.jpg|b\n</gallery> __NOTOC__"), "a b");
        assert_eq!(text("H<sub>2</sub>O <span style=\"x\">y</span><br />z <s>q</s>"), "H2O y\nz q");
        assert_eq!(text("1 < 2 and <3, a<b>c</b>"), "1 < 2 and <3, ac");
        assert_eq!(text("''A'' ({{lang|x}}; {{y}}) is ( {{z}}), (b ; {{c}})."), "A is, (b).");
    }

    #[test]
    fn headings_and_lists() {
        assert_eq!(
            text("A\n== B ==\n=== C ===\n* d\n** e\n# f\n; g: h\n== I ==\n----\n== J ==\nk\n== L =="),
            "A\n\nB\n\nC\n\nd\ne\nf\ng: h\n\nJ\n\nk"
        );
        assert_eq!(text("* \n*{{x}}\n* a"), "a");
        assert_eq!(text("{{onlytemplates}}\n{{x\n|y}}\n[[Category:Z]]\n"), "");
    }

    #[test]
    fn what_is_broken_is_counted_and_costs_little() {
        assert_eq!(text("a {{b c\n\nd"), "a b c\n\nd");
        assert_eq!(unhandled("a {{b c\n\nd"), "unclosed template: 1");
        assert_eq!(unhandled("a [[b c\n\nd"), "unclosed link: 1");
        assert_eq!(unhandled("a }} ]] d"), "stray ]]: 1; stray }}: 1");
        assert_eq!(unhandled("a <ref>b\n\nd"), "unclosed element: 1");
        assert_eq!(text("a <ref>b\nd"), "a\nd");
        assert_eq!(text("a\n{|\n|b\n! c\nd"), "a\n\nd");
        assert_eq!(text("a\n{| class=\"x\" style=\"y\"\n|-\n| b\n\nc"), "a\n\nc");
        assert_eq!(text("a\n{| class={{b|\n|c}}\n| d\n|}\ne"), "a\n\ne");
        assert_eq!(text("[[File:a|thumb|b\n\nc"), "File:a|thumb|b\n\nc");
        assert_eq!(unhandled("a\n{|\n|b"), "table row: 1; unclosed table: 1");
        assert_eq!(text("[[a [[b]] c]] [http://x y\nz"), "a b c y\nz");
    }

    #[test]
    fn language_variants_keep_the_first() {
        assert_eq!(text("-{zh-hans:计算机; zh-hant:電腦;}-x -{A|y}- -{}- a-{{t}}b"), "计算机x y a-b");
    }

    #[test]
    fn pathological_markup_takes_linear_time() {
        let mut slow = Vec::new();
        for piece in [
            "{{",
            "}}",
            "[[",
            "]]",
            "[[a|",
            "{{{",
            "{{a|[[",
            "<ref>",
            "<ref",
            "<div>",
            "<!--",
            "'''",
            "''",
            "\n{|",
            "\n|}",
            "[http://",
            "[http://a ",
            "-{",
            "}-",
            "__A",
            "&a",
            "&#",
            "<",
            "( ",
            "(;",
            "\n=",
            "\n*",
            "<table>",
            "<nowiki>",
            "=",
            "{|\n{{",
            "[[File:a|",
            "[[File:a|\n\n",
            "[[File:a|\n\n]]",
            "{| a=b ",
            "\u{301}",
            "a\u{301}",
            " ",
            "\n",
            "</ref>",
            "<math>",
            "_",
            "&amp;",
        ] {
            for end in ["", "x"] {
                let wikitext = piece.repeat((1 << 20) / piece.len()) + end;
                let start = Instant::now();
                text(&wikitext);
                if start.elapsed() > Duration::from_secs(2) {
                    slow.push((piece, start.elapsed()));
                }
            }
        }
        assert!(slow.is_empty(), "{slow:?}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(3000))]
        #[test]
        fn anything_gives_text_and_no_panic(
            wikitext in "(\\{\\{|\\}\\}|\\[\\[|\\]\\]|\\||'''|''|<ref>|</ref>|<!--|-->|\n\\{\\||\n\\|\\}|\n\\*|\n==|==|\\[http://a|\\]|\\[|\\{|\\}|<nowiki>|</nowiki>|-\\{|\\}-|__TOC__|<table>|</table>|&nbsp;|&#[0-9]{1,9};|File:|é|[a-c ;:,()]|\\PC){0,40}"
        ) {
            let once = text(&wikitext);
            prop_assert_eq!(normalize(&once).into_owned(), once);
        }
    }
}

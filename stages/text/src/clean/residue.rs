//! Residue of markup in text: its kinds, each with a pattern.
use crate::wikitext::Kinds;
use regex::Regex;
use std::sync::LazyLock;

/// Kinds and their patterns.
const PATTERNS: &[(&str, &str)] = &[
    ("template", r"\{\{|\}\}"),
    ("link", r"\[\[|\]\]"),
    ("table", r"(?m)\{\||^\s*\|[-}+|]?|\|\}"),
    (
        "tag",
        r"(?i)</?(ref|references|br|div|span|small|big|sub|sup|center|nowiki|onlyinclude|noinclude|includeonly|gallery|math|table|t[rdh]|blockquote|code|pre|font|poem|li|ul|ol|p|b|i|u|s)(\s[^<>]{0,200})?/?>",
    ),
    ("comment", r"<!--|-->"),
    ("entity", r"&(amp|lt|gt|quot|nbsp|ndash|mdash|thinsp|minus|times|#x?[0-9a-fA-F]{2,6});"),
    ("attribute", r#"\b(style|class|colspan|rowspan|align|valign|bgcolor|cellpadding|cellspacing|width)\s*=\s*["']"#),
    ("emphasis", r"''+"),
    ("magic word", r"__[A-Z]{3,}__"),
    ("placeholder", r"\b(formula|codice)_\d+"),
    ("empty parentheses", r"(^|\s)\(\s*[,;\s]*\)|\(\s*[,;]"),
    ("file", r"(?i)\b(file|image):[^\s|]{1,100}\.(jpe?g|png|svg|gif)\b|\|\s*(thumb|right|left|\d+px)\b"),
    ("space before punctuation", r"[\pL\pN] [,.](\s|$)"),
];

static REGEXES: LazyLock<Vec<(&str, Regex)>> = LazyLock::new(|| {
    // The patterns are constants: a test shows that all of them compile.
    PATTERNS.iter().filter_map(|(kind, pattern)| Some((*kind, Regex::new(pattern).ok()?))).collect()
});

/// The residue in `text`, by kind.
pub fn residue(text: &str) -> Kinds {
    let mut kinds = Kinds::default();
    for (kind, regex) in REGEXES.iter() {
        regex.find_iter(text).for_each(|_| kinds.add(kind));
    }
    kinds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_found() {
        assert_eq!(REGEXES.len(), PATTERNS.len());
        let text =
            "{{a}} [[b]]\n|- c\n<ref name=x>d <!-- e &nbsp; style=\"f\" ''g'' __TOC__ formula_1 ( ; ) File:h.png i .";
        let kinds = residue(text);
        let missing: Vec<&str> = PATTERNS.iter().map(|(kind, _)| *kind).filter(|kind| kinds.count(kind) == 0).collect();
        assert!(missing.is_empty(), "{missing:?} in {kinds}");
        assert!(residue("A (b) is c, 5 < 6; f() and \"d's\". | x").is_empty());
    }
}

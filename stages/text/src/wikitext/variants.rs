//! Variants of a language, as of Chinese: `-{zh-hans:…; zh-hant:…}-`.
//!
//! The syntax: <https://www.mediawiki.org/wiki/Writing_systems/Syntax>.

/// The text of what stands between `-{` and `}-`: that of the first variant. Conversion rules without output
/// (`-{H|…}-`, `-{-|…}-`) and titles (`-{T|…}-`) have none.
pub fn variant_text(inside: &str) -> &str {
    let (flags, rules) = match inside.split_once('|') {
        Some((flags, rules)) if flags.split(';').all(|flag| is_flag(flag.trim())) => (flags, rules),
        _ => ("", inside),
    };
    if flags.split(';').any(|flag| matches!(flag.trim(), "H" | "T" | "-")) {
        return "";
    }
    let first = rules.split(';').next().unwrap_or_default();
    match first.split_once(':') {
        Some((variant, text)) if is_variant(variant.trim()) => text.trim(),
        _ => rules,
    }
}

fn is_flag(flag: &str) -> bool {
    matches!(flag, "" | "A" | "D" | "H" | "N" | "R" | "T" | "-") || is_variant(flag)
}

/// `zh-hans`, `sr`.
fn is_variant(name: &str) -> bool {
    name.starts_with("zh") || name.len() == 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_say_whether_there_is_any_text() {
        for (inside, text) in [
            ("zh-hans:计算机;zh-hant:電腦", "计算机"),
            ("H|zh-cn:甲;zh-tw:乙;", ""),
            ("T|zh-cn:题;zh-tw:題", ""),
            ("-|zh-cn:甲", ""),
            ("A;H|zh-cn:甲", ""),
            ("A|zh-cn:甲;zh-tw:乙", "甲"),
            ("R|原文", "原文"),
            ("zh-hans;zh-hant|原文", "原文"),
            ("单", "单"),
            ("a|b", "a|b"),
            ("", ""),
        ] {
            assert_eq!(variant_text(inside), text, "{inside}");
        }
    }
}

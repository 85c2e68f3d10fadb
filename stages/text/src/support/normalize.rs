//! Normalizes plain text: Unicode NFC (Unicode Standard Annex 15), one kind of space, no control characters, single
//! empty lines between paragraphs only, and none of the gaps left by removed markup: `( ; )`, `word ,`.
use std::borrow::Cow;
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

/// `text`, normalized. Normalized text is unchanged.
pub fn normalize(text: &str) -> Cow<'_, str> {
    let mut out = String::with_capacity(text.len());
    let mut line_out = String::new();
    let mut gap = false;
    for line in text.split(['\n', '\r', '\u{b}', '\u{c}', '\u{85}', '\u{2028}', '\u{2029}']) {
        line_out.clear();
        normalize_line(&composed(line), &mut line_out);
        let line = line_out.trim_end_matches(' ');
        if line.is_empty() {
            gap = true;
            continue;
        }
        if !out.is_empty() {
            out.push_str(if gap { "\n\n" } else { "\n" });
        }
        gap = false;
        out.push_str(line);
    }
    if out == text { Cow::Borrowed(text) } else { Cow::Owned(out) }
}

/// Removes invisible characters, unifies spaces, and applies NFC.
fn composed(line: &str) -> Cow<'_, str> {
    if line.is_ascii() && !line.bytes().any(|b| b < b' ' || b == 0x7f) {
        return Cow::Borrowed(line);
    }
    let kept = |c: char| match c {
        '\t' => Some(' '),
        '\u{200b}' | '\u{2060}' | '\u{feff}' | '\u{ad}' => None,
        c if c.is_control() => None,
        c if c.is_whitespace() => Some(' '),
        c => Some(c),
    };
    let line: String = line.chars().filter_map(kept).collect();
    match is_nfc_quick(line.chars()) {
        IsNormalized::Yes => Cow::Owned(line),
        _ => Cow::Owned(line.nfc().collect()),
    }
}

/// Leaves single spaces; none before a comma, a full stop or a closing parenthesis; only text after an opening one; and
/// removes empty parentheses (except in `f()`).
fn normalize_line(line: &str, out: &mut String) {
    let mut open = 0usize;
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        let ends = |next: Option<&char>| next.is_none_or(|next| *next == ' ');
        match c {
            ' ' if out.is_empty() || out.ends_with([' ', '(']) => continue,
            ',' | ';' if out.ends_with('(') => continue,
            ',' | '.' if out.ends_with(' ') && ends(chars.peek()) => drop(out.pop()),
            '(' => open += 1,
            ')' if open > 0 => {
                open -= 1;
                out.truncate(out.trim_end_matches([' ', ',', ';']).len());
                if let Some(before) = out.strip_suffix('(')
                    && (before.is_empty() || before.ends_with([' ', '(']))
                {
                    out.pop();
                    continue;
                }
            }
            _ => {}
        }
        if matches!(c, ',' | ';') && out.ends_with('(') {
            continue;
        }
        out.push(c);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn holes_are_closed() {
        for (text, expected) in [
            ("A ( ; )  b\u{a0}c , d .", "A b c, d."),
            ("f() (; x, ) ((a) , )", "f() (x) ((a))"),
            (" ( ( ) ) x", "x"),
            ("a\r\n\n\n b\t\tc\u{200b}\u{0}\n", "a\n\nb c"),
            ("e\u{301} .NET 5 :) x ;)", "é .NET 5 :) x ;)"),
            ("", ""),
        ] {
            assert_eq!(normalize(text), expected);
        }
        assert!(matches!(normalize("As it is.\n\nYes."), Cow::Borrowed(_)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(3000))]
        #[test]
        fn normalized_text_stays_as_it_is(text in "([ (),;.a\n]|\\PC|\\s|[\u{300}-\u{340}<=]|.){0,30}") {
            let once = normalize(&text).into_owned();
            prop_assert_eq!(normalize(&once).into_owned(), once);
        }
    }
}

//! A text cut into words as GPT-2 does (Radford et al., 2019, "Language Models are Unsupervised Multitask Learners",
//! `encoder.py`):
//!
//! ```text
//! 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
//! ```
//!
//! One pass, with no backtracking except for one step at the end of white space. Every byte of the text is in exactly
//! one word.
use std::sync::LazyLock;
use tokenizers::tokenizer::pattern::Pattern;
use tokenizers::utils::SysRegex;

const OTHER: u8 = 0;
const LETTER: u8 = 1;
const NUMBER: u8 = 2;
const SPACE: u8 = 3;
/// All code points from here on are [`OTHER`]: private use, unassigned, or tags.
const END: u32 = 0x4_0000;

/// The class of each code point below [`END`], determined with the regular expressions that `tokenizers` uses, so that
/// both follow the same version of Unicode.
static CLASSES: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let all: String = (0..END).filter_map(char::from_u32).collect();
    let mut classes = vec![OTHER; END as usize];
    for (pattern, class) in [(r"\p{L}+", LETTER), (r"\p{N}+", NUMBER), (r"\s+", SPACE)] {
        let found = SysRegex::new(pattern).map_err(|e| e.to_string());
        let found = found.and_then(|regex| regex_matches(&regex, &all));
        // The patterns are constants; the tests of this file show that they compile.
        for (from, to) in found.unwrap_or_default() {
            for c in all[from..to].chars() {
                classes[c as usize] = class;
            }
        }
    }
    classes
});

fn regex_matches(regex: &SysRegex, text: &str) -> Result<Vec<(usize, usize)>, String> {
    let found = Pattern::find_matches(&regex, text).map_err(|e| e.to_string())?;
    Ok(found.into_iter().filter_map(|(place, is_match)| is_match.then_some(place)).collect())
}

/// The words of a text, in order, as bytes.
pub struct Words<'a> {
    bytes: &'a [u8],
    at: usize,
    classes: &'static [u8],
}

impl<'a> Words<'a> {
    /// The words of `text`.
    pub fn new(text: &'a str) -> Self {
        Self { bytes: text.as_bytes(), at: 0, classes: &CLASSES }
    }

    /// The range of the next word.
    #[inline]
    pub fn next_place(&mut self) -> Option<(usize, usize)> {
        let start = self.at;
        let first = *self.bytes.get(start)?;
        if first == b'\''
            && let Some(end) = self.contraction(start)
        {
            self.at = end;
            return Some((start, end));
        }
        let (class, width) = self.class(start);
        let end = match class {
            SPACE => self.white_space(start, first),
            class => self.run(start + width, class),
        };
        self.at = end;
        Some((start, end))
    }

    /// `'s`, `'t`, `'re`, `'ve`, `'m`, `'ll` or `'d`.
    fn contraction(&self, at: usize) -> Option<usize> {
        let next = |n: usize| self.bytes.get(at + n).copied().unwrap_or_default();
        match (next(1), next(2)) {
            (b's' | b't' | b'm' | b'd', _) => Some(at + 2),
            (b'r' | b'v', b'e') | (b'l', b'l') => Some(at + 3),
            _ => None,
        }
    }

    /// A space with the word after it; or white space up to its second to last character, as the last may be the space
    /// of the next word; or one white-space character; or everything that is left.
    fn white_space(&self, start: usize, first: u8) -> usize {
        if first == b' ' && start + 1 < self.bytes.len() {
            let (class, width) = self.class(start + 1);
            if class != SPACE {
                return self.run(start + 1 + width, class);
            }
        }
        let end = self.run(start, SPACE);
        if end == self.bytes.len() {
            return end;
        }
        let mut last = end - 1;
        while last > start && self.bytes[last] & 0xC0 == 0x80 {
            last -= 1;
        }
        if last == start { end } else { last }
    }

    /// Where the run of characters of `class` that starts at `at` ends.
    #[inline]
    fn run(&self, mut at: usize, class: u8) -> usize {
        while let Some(byte) = self.bytes.get(at) {
            if *byte < 0x80 {
                if self.classes[usize::from(*byte)] != class {
                    break;
                }
                at += 1;
            } else {
                let (found, width) = self.wide(at);
                if found != class {
                    break;
                }
                at += width;
            }
        }
        at
    }

    /// Class and width in bytes of the character at `at`.
    #[inline]
    fn class(&self, at: usize) -> (u8, usize) {
        let byte = self.bytes[at];
        if byte < 0x80 { (self.classes[usize::from(byte)], 1) } else { self.wide(at) }
    }

    /// The same for a character that is not ASCII. The bytes are those of a `str`: the first byte tells how many
    /// follow.
    fn wide(&self, at: usize) -> (u8, usize) {
        let part = |n: usize| u32::from(self.bytes[at + n] & 0x3F);
        let first = u32::from(self.bytes[at]);
        let (code, width) = match first {
            0..0xE0 => ((first & 0x1F) << 6 | part(1), 2),
            0xE0..0xF0 => ((first & 0x0F) << 12 | part(1) << 6 | part(2), 3),
            _ => ((first & 0x07) << 18 | part(1) << 12 | part(2) << 6 | part(3), 4),
        };
        (self.classes.get(code as usize).copied().unwrap_or(OTHER), width)
    }
}

impl<'a> Iterator for Words<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        self.next_place().map(|(from, to)| &self.bytes[from..to])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PATTERN: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
    static REGEX: LazyLock<SysRegex> = LazyLock::new(|| SysRegex::new(PATTERN).unwrap());

    fn check(text: &str) {
        let expected: Vec<&str> =
            regex_matches(&REGEX, text).unwrap().into_iter().map(|(from, to)| &text[from..to]).collect();
        let found: Vec<&str> = Words::new(text).map(|word| std::str::from_utf8(word).unwrap()).collect();
        assert_eq!(found, expected, "{text:?}");
    }

    #[test]
    fn every_character_is_of_the_class_that_the_pattern_gives_it() {
        let all: String = ('\0'..=char::MAX).collect();
        for (pattern, class) in [(r"\p{L}", LETTER), (r"\p{N}", NUMBER), (r"\s", SPACE)] {
            let places = regex_matches(&SysRegex::new(pattern).unwrap(), &all).unwrap();
            let theirs: Vec<char> = places.iter().map(|(from, to)| all[*from..*to].parse().unwrap()).collect();
            let words = Words::new(&all);
            let ours = all.char_indices().filter(|(at, _)| words.class(*at).0 == class).map(|(_, c)| c);
            assert!(ours.eq(theirs), "{pattern}");
        }
    }

    #[test]
    fn words_are_those_of_the_pattern() {
        for text in [
            "",
            "'",
            "''s 's'S'll 'l 'RE're've'v'",
            " a  b   c \n\n d\t\te \u{a0}\u{a0}f\u{2003}g  ",
            "x\u{3000}\u{3000} y  \u{3000}",
            "  \n",
            "12 ³½ ٣٤ 一二 Ⅷ",
            "don't \"quote\"'s !? ... <|endoftext|>",
            "e\u{301}a\u{300} नमस्ते 🌍🏳️‍🌈 \u{feff}\u{85}x",
        ] {
            check(text);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn on_any_text(text in "([ '\"a-z\\n\\t]|\\PC|'(s|t|re|ve|m|ll|d)|\\s|\\pN|\\pL|.){0,40}") {
            check(&text);
        }
    }
}

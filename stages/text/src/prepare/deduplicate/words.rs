//! Words for the comparison of near-duplicates: runs of letters, numbers and `_` in the lower-cased text.
//!
//! Equivalent to Python's `re.findall(r"\w+", text.lower())`: letters and numbers are Unicode's general categories L*
//! and N*; lower-casing is the full mapping (`İ` becomes two characters, `Σ` depends on its position).
use unicode_general_category::{GeneralCategory, get_general_category};

/// Calls `f` with the hash of each word of `text`, in order. `word` is a scratch buffer.
pub fn each_word(text: &str, word: &mut Vec<u8>, mut f: impl FnMut(u64)) {
    // The one letter whose lower case depends on its context; rare enough to justify a copy of the text.
    if text.contains('Σ') {
        return words_of(&text.to_lowercase(), word, &mut f);
    }
    words_of(text, word, &mut f);
}

fn words_of(text: &str, word: &mut Vec<u8>, f: &mut impl FnMut(u64)) {
    word.clear();
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let byte = bytes[at];
        if byte < 0x80 {
            at += 1;
            if byte.is_ascii_alphanumeric() || byte == b'_' {
                word.push(byte.to_ascii_lowercase());
            } else {
                end(word, f);
            }
            continue;
        }
        let Some(letter) = text[at..].chars().next() else { break };
        at += letter.len_utf8();
        for lower in letter.to_lowercase() {
            if in_word(lower) {
                word.extend_from_slice(lower.encode_utf8(&mut [0; 4]).as_bytes());
            } else {
                end(word, f);
            }
        }
    }
    end(word, f);
}

fn end(word: &mut Vec<u8>, f: &mut impl FnMut(u64)) {
    if !word.is_empty() {
        f(hash(word));
        word.clear();
    }
}

fn in_word(letter: char) -> bool {
    use GeneralCategory::*;
    let numbers_and_letters = [
        UppercaseLetter,
        LowercaseLetter,
        TitlecaseLetter,
        ModifierLetter,
        OtherLetter,
        DecimalNumber,
        LetterNumber,
        OtherNumber,
    ];
    letter == '_' || numbers_and_letters.contains(&get_general_category(letter))
}

/// A 64-bit hash of a word: eight bytes at a time, with folded multiplication.
fn hash(word: &[u8]) -> u64 {
    let (chunks, rest) = word.as_chunks::<8>();
    let mut hash = word.len() as u64 ^ 0x9e37_79b9_7f4a_7c15;
    for chunk in chunks {
        hash = fold(hash ^ u64::from_le_bytes(*chunk), 0xa076_1d64_78bd_642f);
    }
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    fold(hash ^ u64::from_le_bytes(last), 0xe703_7ed1_a0b4_28db)
}

/// Both halves of the 128-bit product, combined: a cheap, strong mixing function.
#[inline(always)]
pub(super) fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ ((product >> 64) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hashes(text: &str) -> Vec<u64> {
        let mut found = Vec::new();
        each_word(text, &mut Vec::new(), |hash| found.push(hash));
        found
    }

    #[test]
    fn words_are_those_of_python() {
        // The results of `[w for w in re.findall(r"\w+", text.lower())]`.
        for (text, words) in [
            ("The river's Mill_2, 1900–1905!", "the river s mill_2 1900 1905"),
            ("ÉTÉ naïve Straße", "été naïve straße"),
            ("İstanbul", "i stanbul"),
            ("ΟΔΟΣ ΣΑΣ", "οδος σας"),
            ("x² ½ Ⅷ 東京", "x² ½ ⅷ 東京"),
            ("e\u{301} हिन्दी", "e ह न द"),
            (" — ", ""),
        ] {
            let expected: Vec<u64> = words.split_whitespace().map(|word| hash(word.as_bytes())).collect();
            assert_eq!(hashes(text), expected, "{text}");
        }
    }

    #[test]
    fn words_that_share_a_beginning_or_an_end_differ() {
        let words = ["a", "b", "ab", "ba", "abcdefgh", "abcdefghi", "abcdefgha", "iabcdefgh", "aaaaaaaa", "aaaaaaaaa"];
        let found: std::collections::BTreeSet<u64> = words.iter().flat_map(|word| hashes(word)).collect();
        assert_eq!(found.len(), words.len());
    }
}

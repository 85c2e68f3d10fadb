//! The characters that represent bytes in byte-level vocabularies.
use rustc_hash::FxHashMap;
use std::sync::LazyLock;

/// The character for a byte: the byte itself if it is printable, otherwise one from 256 on.
pub fn letter(byte: u8) -> char {
    let visible = |b: &u8| matches!(b, 33..=126 | 161..=172 | 174..=255);
    if visible(&byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|b| !visible(b)).count() as u32;
    char::from_u32(256 + before).unwrap_or_default()
}

/// The byte that the character `of` represents; the inverse of [`letter`].
pub fn byte(of: char) -> Option<u8> {
    static BYTES: LazyLock<FxHashMap<char, u8>> =
        LazyLock::new(|| (0..=255).map(|byte| (letter(byte), byte)).collect());
    BYTES.get(&of).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use tokenizers::pre_tokenizers::byte_level::ByteLevel;

    #[test]
    fn every_byte_has_a_letter_of_the_library_and_is_found_by_it() {
        let letters: HashSet<char> = (0..=255).map(letter).collect();
        assert_eq!(letters, ByteLevel::alphabet().into_iter().collect());
        assert!((0..=255).all(|b| byte(letter(b)) == Some(b)));
        assert_eq!(byte('\u{200}'), None);
    }
}

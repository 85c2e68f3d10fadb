//! Decodes ids one at a time. Only whole characters are returned, since a token may contain part of one.
use crate::Tokenizer;
use anyhow::Result;

/// The replacement for bytes that are not UTF-8, or not yet.
const REPLACEMENT: char = '\u{FFFD}';

/// Decodes ids incrementally. The concatenated results of [`push`](TextStream::push) and [`finish`](TextStream::finish)
/// equal [`Tokenizer::decode`] of all ids.
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    /// Ids since the text last ended with a whole character, and the one before them: the text of an id may depend on
    /// whether it is the first (`Metaspace` drops the space there).
    ids: Vec<u32>,
    /// Bytes of their text that have been returned.
    given: usize,
}

impl<'a> TextStream<'a> {
    /// An empty text.
    pub fn new(tokenizer: &'a Tokenizer) -> Self {
        Self { tokenizer, ids: Vec::new(), given: 0 }
    }

    /// The text that `id` completes, which may be empty.
    ///
    /// # Errors
    /// If the tokenizer cannot decode it.
    pub fn push(&mut self, id: u32) -> Result<String> {
        self.ids.push(id);
        let text = self.tokenizer.decode(&self.ids)?;
        // All but the last of several replacement characters are invalid for good; only the last may still become a
        // character.
        let Some(sure) = text.strip_suffix(REPLACEMENT) else {
            let new = text[self.given..].to_owned();
            self.ids = vec![id];
            self.given = self.tokenizer.decode(&self.ids)?.len();
            return Ok(new);
        };
        let new = sure[self.given..].to_owned();
        self.given = sure.len();
        Ok(new)
    }

    /// The remaining text: the replacement of a character that was never completed.
    ///
    /// # Errors
    /// Like [`push`](TextStream::push).
    pub fn finish(self) -> Result<String> {
        Ok(self.tokenizer.decode(&self.ids)?[self.given..].to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Cache;
    use crate::tokenizer::END_OF_TEXT;
    use proptest::prelude::*;
    use std::sync::LazyLock;

    static GPT2: LazyLock<Tokenizer> = LazyLock::new(|| {
        let folder = tempfile::tempdir().unwrap();
        Tokenizer::gpt2(&Cache::new(folder.path().to_str()), END_OF_TEXT).unwrap()
    });

    fn pieces(ids: &[u32]) -> Vec<String> {
        let mut stream = TextStream::new(&GPT2);
        let mut pieces: Vec<String> = ids.iter().map(|id| stream.push(*id).unwrap()).collect();
        pieces.push(stream.finish().unwrap());
        pieces
    }

    #[test]
    fn a_character_comes_when_it_is_whole() {
        let ids = GPT2.encode("a 🌍!").unwrap();
        let pieces = pieces(&ids);
        assert_eq!(pieces.concat(), "a 🌍!");
        assert!(pieces.iter().all(|piece| !piece.contains(REPLACEMENT)), "{pieces:?}");
        let cut = GPT2.decode(&ids[..2]).unwrap();
        assert_eq!(self::pieces(&ids[..2]).concat(), cut);
    }

    #[test]
    fn spaces_between_words_stay_where_the_decoder_drops_the_first() {
        let mut json: serde_json::Value = serde_json::from_str(GPT2.json()).unwrap();
        let byte_level = json["decoder"].take();
        json["decoder"] = serde_json::json!({
            "type": "Sequence",
            "decoders": [byte_level, {"type": "Strip", "content": " ", "start": 1, "stop": 0}],
        });
        let tokenizer = Tokenizer::from_json("stripping", json.to_string(), END_OF_TEXT).unwrap();
        let ids = tokenizer.encode(" The old mill 漢 turns").unwrap();
        let mut stream = TextStream::new(&tokenizer);
        let mut text: String = ids.iter().map(|id| stream.push(*id).unwrap()).collect();
        text += &stream.finish().unwrap();
        assert_eq!(text, "The old mill 漢 turns");
        assert_eq!(text, tokenizer.decode(&ids).unwrap());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn the_pieces_are_the_text(text in "\\PC{0,20}", noise in prop::collection::vec(0u32..256, 0..12), at in 0usize..20) {
            let mut ids = GPT2.encode(&text).unwrap();
            let at = at.min(ids.len());
            ids.splice(at..at, noise); // the first 256 ids of GPT-2 are single bytes
            let pieces = pieces(&ids);
            prop_assert_eq!(pieces.concat(), GPT2.decode(&ids).unwrap());
        }
    }
}

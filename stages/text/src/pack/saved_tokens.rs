//! Tokens in a checkpoint's state: base64, a tenth of the memory that a JSON array of numbers takes.
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize, Serializer};

/// Number of tokens that are converted at once; a multiple of three.
const BLOCK: usize = 3 << 12;

/// Token ids, saved as `u16:` or `u32:` and the base64 text of their little-endian bytes.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct SavedTokens(pub Vec<u32>);

impl Serialize for SavedTokens {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&text(&self.0))
    }
}

/// The text of `tokens` in a checkpoint.
pub fn text(tokens: &[u32]) -> String {
    let small = tokens.iter().all(|token| u16::try_from(*token).is_ok());
    let (prefix, width) = if small { ("u16:", size_of::<u16>()) } else { ("u32:", size_of::<u32>()) };
    let mut text = String::with_capacity(prefix.len() + (tokens.len() * width).div_ceil(3) * 4);
    text.push_str(prefix);
    // Blocks whose bytes are a multiple of three need no padding, so their texts can be joined.
    let mut bytes = Vec::with_capacity(BLOCK * width);
    for block in tokens.chunks(BLOCK) {
        bytes.clear();
        block.iter().for_each(|token| bytes.extend_from_slice(&token.to_le_bytes()[..width]));
        STANDARD.encode_string(&bytes, &mut text);
    }
    text
}

/// Most bytes of the text of a token of a vocabulary.
pub const fn most_text(vocabulary: usize) -> usize {
    if vocabulary <= 1 << 16 { 3 } else { 6 }
}

impl TryFrom<String> for SavedTokens {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let (width, text) = text.split_once(':').unwrap_or_default();
        let bytes = STANDARD.decode(text).map_err(|error| format!("tokens are not base64: {error}"))?;
        let tokens = match (width, bytes.as_chunks::<2>(), bytes.as_chunks::<4>()) {
            ("u16", (tokens, []), _) => tokens.iter().map(|bytes| u16::from_le_bytes(*bytes).into()).collect(),
            ("u32", _, (tokens, [])) => tokens.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect(),
            _ => return Err("tokens are neither `u16:…` nor `u32:…`".into()),
        };
        Ok(Self(tokens))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn come_back(small: Vec<u16>, large: Vec<u32>) {
            for tokens in [small.into_iter().map(u32::from).collect(), large] {
                prop_assert_eq!(SavedTokens::try_from(text(&tokens)).unwrap().0, tokens);
            }
        }
    }

    #[test]
    fn blocks_are_one_text() {
        for width in [3, 70_000] {
            let tokens: Vec<u32> = (0..2 * BLOCK as u32 + 5).map(|i| i % width).collect();
            assert_eq!(SavedTokens::try_from(text(&tokens)).unwrap().0, tokens);
        }
    }

    #[test]
    fn have_a_documented_form_and_reject_others() {
        assert_eq!(text(&[1, 0x0203]), "u16:AQADAg==");
        assert_eq!(text(&[0x0001_0000]), "u32:AAABAA==");
        for wrong in ["", "AQADAg==", "u16:AQAD?", "u16:AQAD", "u32:AQADAgQ=", "u8:AQ=="] {
            assert!(serde_json::from_value::<SavedTokens>(wrong.into()).is_err(), "{wrong}");
        }
    }
}

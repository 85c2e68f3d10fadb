//! A tokenizer as llama.cpp's tokenizer `gpt2` takes it, with the split into words that it calls `gpt-2`.
//!
//! llama.cpp's own converter recognizes a BPE by a hash of the ids of a fixed text, so it rejects every tokenizer that
//! was trained for one model. The hash only serves to find the split into words, which is known here.
use crate::support::problem::TextProblem;
use crate::tokenizer::Tokenizer;
use crate::tokenizer::hugging_face::{merges, tokens};
use anyhow::{Context, Result};
use serde_json::Value;
use std::collections::BTreeSet;

/// The lists of a GGUF file's tokenizer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LlamaCppTokenizer {
    /// The spelling of each id.
    pub tokens: Vec<String>,
    /// The type of each id.
    pub types: Vec<TokenType>,
    /// Merges, `left right`, in the order in which they are applied.
    pub merges: Vec<String>,
    /// The token that is added before each text, if any.
    pub begins: Option<u32>,
    /// The token that is added after each text, if any.
    pub ends: Option<u32>,
}

/// `llama_token_type` of llama.cpp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum TokenType {
    /// Made by merges.
    Normal = 1,
    /// Has a meaning and no text, as the end of a text.
    Control = 3,
    /// Matched in texts before anything else.
    UserDefined = 4,
    /// An id without a token.
    Unused = 5,
}

impl LlamaCppTokenizer {
    /// The lists of `tokenizer` for a model with `vocabulary` ids.
    ///
    /// # Errors
    /// If llama.cpp would make other ids of some texts than `tokenizer`; the error says why.
    pub fn new(tokenizer: &Tokenizer, vocabulary: usize) -> Result<Self> {
        let problem = |why: String| TextProblem::Tokenizer {
            name: tokenizer.name.clone(),
            why: format!("llama.cpp would make other tokens of texts: {why}"),
        };
        if let Some(why) = tokenizer.slow_because() {
            return Err(
                problem(format!("it is not a byte-level BPE with GPT-2's split into words, but has {why}")).into()
            );
        }
        let json: Value = serde_json::from_str(tokenizer.json()).context("its tokenizer.json is not JSON")?;
        let merges = merges(&json);
        if let Some(odd) = merges.iter().find(|merge| merge.matches(' ').count() != 1) {
            return Err(problem(format!("a token of the merge {odd:?} contains a space")).into());
        }
        let (mut spelled, mut types) = (vec![None; vocabulary], vec![TokenType::Unused; vocabulary]);
        let (special, added) = added_tokens(&json);
        for (token, id) in tokens(&json) {
            let Some(place) = spelled.get_mut(id as usize) else {
                return Err(problem(format!("the model has {vocabulary} ids, and {token:?} is {id}")).into());
            };
            types[id as usize] = match () {
                () if id == tokenizer.end_of_text() || special.contains(&id) => TokenType::Control,
                () if added.contains(&id) => TokenType::UserDefined,
                () => TokenType::Normal,
            };
            *place = Some(token);
        }
        let named = |(id, token): (usize, Option<String>)| token.unwrap_or_else(|| format!("[PAD{id}]"));
        let (begins, ends) = around(tokenizer).map_err(problem)?;
        Ok(Self { tokens: spelled.into_iter().enumerate().map(named).collect(), types, merges, begins, ends })
    }
}

/// The ids of the added tokens that are special, and of all.
fn added_tokens(json: &Value) -> (BTreeSet<u32>, BTreeSet<u32>) {
    let all = || json["added_tokens"].as_array().into_iter().flatten();
    let id = |token: &Value| token["id"].as_u64().and_then(|id| u32::try_from(id).ok());
    (all().filter(|token| token["special"] == true).filter_map(id).collect(), all().filter_map(id).collect())
}

/// The tokens that `tokenizer` adds before and after a text.
fn around(tokenizer: &Tokenizer) -> Result<(Option<u32>, Option<u32>), String> {
    const TEXT: &str = "a";
    let ids = |ids: Result<Vec<u32>>| ids.map_err(|error| error.to_string());
    let (plain, whole) = (ids(tokenizer.encode(TEXT))?, ids(tokenizer.encode_prompt(TEXT))?);
    let Some(at) = whole.windows(plain.len()).position(|window| window == plain) else {
        return Err("it adds tokens within a text".into());
    };
    let one = |added: &[u32]| match added {
        [] => Ok(None),
        [one] => Ok(Some(*one)),
        several => Err(format!("it adds {} tokens at an end of each text", several.len())),
    };
    Ok((one(&whole[..at])?, one(&whole[at + plain.len()..])?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::END_OF_TEXT;
    use crate::tokenizer::train::{WordCounts, learn, tokenizer_json};

    fn json() -> Value {
        let mut words = WordCounts::default();
        words.add("the theatre of the north, the other three");
        let learned = learn(words, 270, END_OF_TEXT, |_, _| {});
        serde_json::from_str(&tokenizer_json(&learned.tokens, &learned.merges, (END_OF_TEXT, 0))).unwrap()
    }

    fn lists(json: &Value, vocabulary: usize) -> Result<LlamaCppTokenizer> {
        LlamaCppTokenizer::new(&Tokenizer::from_json("t.json", json.to_string(), END_OF_TEXT).unwrap(), vocabulary)
    }

    #[test]
    fn lists_are_in_the_order_of_ids() {
        let found = lists(&json(), 272).unwrap();
        assert_eq!(found.tokens[0], END_OF_TEXT);
        assert_eq!(found.tokens[1], "!");
        assert_eq!(found.tokens[270..], ["[PAD270]", "[PAD271]"]);
        assert_eq!((found.types[0], found.types[1]), (TokenType::Control, TokenType::Normal));
        assert_eq!(found.types[270], TokenType::Unused);
        assert_eq!(found.merges.len(), 270 - 257);
        assert_eq!(found.merges[0].replace(' ', ""), found.tokens[257]);
        assert_eq!((found.begins, found.ends), (None, None));
    }

    #[test]
    fn tokens_around_each_text_are_known() {
        let mut template = json();
        template["post_processor"] = serde_json::json!({
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": END_OF_TEXT, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": { END_OF_TEXT: {"id": END_OF_TEXT, "ids": [0], "tokens": [END_OF_TEXT]} },
        });
        let found = lists(&template, 270).unwrap();
        assert_eq!((found.begins, found.ends), (Some(0), None));
    }

    #[test]
    fn what_llama_cpp_would_tokenize_differently_is_rejected() {
        let said = |json: Value, vocabulary| lists(&json, vocabulary).unwrap_err().to_string();
        let few = said(json(), 269);
        assert!(few.contains("the model has 269 ids"), "{few}");
        let mut other = json();
        other["pre_tokenizer"] = serde_json::json!({"type": "Sequence", "pretokenizers": [
            {"type": "Digits", "individual_digits": true}, other["pre_tokenizer"]
        ]});
        let split = said(other, 270);
        assert!(split.contains("GPT-2's split into words, but has another pre-tokenizer"), "{split}");
    }
}

//! GPT-2's tokenizer, from the ranks in the crate `tiktoken-rs`.
use crate::support::cache::{Cache, used};
use crate::tokenizer::byte_bpe::letter;
use crate::tokenizer::train::tokenizer_json;
use crate::tokenizer::{END_OF_TEXT, Tokenizer};
use anyhow::{Context, Result};
use std::collections::HashMap;

/// Number of GPT-2's ids without its end-of-text token.
const IDS: u32 = 50_256;

impl Tokenizer {
    /// GPT-2's tokenizer; stored in the cache as `tokenizer.json`.
    ///
    /// # Errors
    /// If it has no token `end_of_text`.
    pub fn gpt2(cache: &Cache, end_of_text: &str) -> Result<Self> {
        let path = cache.file("tokenizers", "gpt2-1", "json");
        if let Ok(json) = std::fs::read_to_string(&path)
            && let Ok(tokenizer) = Self::from_json("gpt2", json, end_of_text)
        {
            used(&[&path]);
            return Ok(tokenizer);
        }
        let tokenizer = Self::from_json("gpt2", gpt2_json()?, end_of_text)?;
        // The cache is only an optimisation: if it is not writable, the tokenizer is built anew.
        let _ = tokenizer.save(&path);
        Ok(tokenizer)
    }
}

/// GPT-2's `tokenizer.json`. A token's rank is the position of its merge; the merged pair is found by merging the
/// token's bytes with all lower ranks.
fn gpt2_json() -> Result<String> {
    let ranks = tiktoken_rs::r50k_base().context("the GPT-2 ranks cannot be read")?;
    let bytes: Vec<Vec<u8>> = (0..IDS).map(|id| Ok(ranks.decode_bytes(&[id])?)).collect::<Result<_>>()?;
    let ids: HashMap<&[u8], u32> = (0..).zip(&bytes).map(|(id, token)| (token.as_slice(), id)).collect();
    let spelled = |bytes: &[u8]| bytes.iter().map(|b| letter(*b)).collect::<String>();
    let mut merges = Vec::new();
    for (id, token) in (0u32..).zip(&bytes).filter(|(_, token)| token.len() > 1) {
        let (left, right) = last_merge(token, id, &ids).with_context(|| format!("GPT-2's token {id} has no merge"))?;
        merges.push((spelled(left), spelled(right)));
    }
    let mut tokens: Vec<String> = bytes.iter().map(|token| spelled(token)).collect();
    tokens.push(END_OF_TEXT.to_string());
    Ok(tokenizer_json(&tokens, &merges, (END_OF_TEXT, IDS)))
}

/// The two tokens that `token` consists of after all merges below `id` have been applied.
fn last_merge<'a>(token: &'a [u8], id: u32, ids: &HashMap<&[u8], u32>) -> Option<(&'a [u8], &'a [u8])> {
    let mut cuts: Vec<usize> = (0..=token.len()).collect();
    while cuts.len() > 3 {
        let rank = |i: &usize| ids.get(&token[cuts[*i]..cuts[i + 2]]).copied().filter(|rank| *rank < id);
        let (_, best) = (0..cuts.len() - 2).filter_map(|i| Some((rank(&i)?, i))).min()?;
        cuts.remove(best + 1);
    }
    Some((&token[..cuts[1]], &token[cuts[1]..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpt2_is_built_in() {
        let gpt2 = Tokenizer::from_json("gpt2", gpt2_json().unwrap(), END_OF_TEXT).unwrap();
        assert_eq!((gpt2.vocabulary_size(), gpt2.end_of_text()), (50_257, 50_256));
        assert_eq!(
            gpt2.encode("Hello, World! How are you today? 🌍").unwrap(),
            [15496, 11, 2159, 0, 1374, 389, 345, 1909, 30, 12520, 234, 235]
        );
        assert_eq!(gpt2.decode(&[15496, 11, 2159]).unwrap(), "Hello, World");
    }
}

//! What a `tokenizer.json` of Hugging Face says, if nothing in it is beyond what is handled here.
use super::merge::Merges;
use super::words::Words;
use crate::tokenizer::letter;
use aho_corasick::{AhoCorasick, MatchKind};
use rustc_hash::{FxHashMap, FxHashSet};
use serde_json::Value;

/// A byte-level BPE with GPT-2's pattern.
#[derive(Debug)]
pub struct Model {
    /// The id of each byte.
    bytes: [u32; 256],
    merges: Merges,
    /// Words that are one token, and are reached by merging.
    whole: FxHashMap<Box<[u8]>, u32>,
    /// Tokens that are looked for in the text before anything else (the end of text), and their ids.
    added: Option<(AhoCorasick, Vec<u32>)>,
}

impl Model {
    /// From a `tokenizer.json`, and the ids that the library gives to tokens; or what it has that only the library
    /// itself handles.
    pub fn from_json(json: &str, id: impl Fn(&str) -> Option<u32>) -> Result<Self, String> {
        let document: Value = serde_json::from_str(json).map_err(|e| e.to_string())?;
        let model = &document["model"];
        expect(model, "type", &["BPE"])?;
        if !document["normalizer"].is_null() {
            return Err(format!("a normalizer ({})", document["normalizer"]["type"]));
        }
        let pre_tokenizer = &document["pre_tokenizer"];
        expect(pre_tokenizer, "type", &["ByteLevel"]).map_err(|e| format!("another pre-tokenizer: {e}"))?;
        if pre_tokenizer["add_prefix_space"].as_bool() != Some(false) || pre_tokenizer["use_regex"] == false {
            return Err("a pre-tokenizer with add_prefix_space, or without use_regex".into());
        }
        if !document["post_processor"].is_null() {
            expect(&document["post_processor"], "type", &["ByteLevel", "TemplateProcessing"])?;
        }
        for key in ["dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix"] {
            if !(model[key].is_null() || model[key] == "") {
                return Err(format!("{key} = {}", model[key]));
            }
        }
        for key in ["byte_fallback", "ignore_merges"] {
            if model[key] == true {
                return Err(format!("{key} = true"));
            }
        }
        let ids = vocabulary(&model["vocab"])?;
        let mut bytes = [0; 256];
        for (byte, id) in (0..=255).zip(&mut bytes) {
            *id = *ids.get(letter(byte).to_string().as_str()).ok_or_else(|| format!("no token for byte {byte}"))?;
        }
        let merges = merges(&model["merges"], &ids)?;
        let mut model = Self { bytes, merges, whole: FxHashMap::default(), added: added(&document, id)? };
        model.whole = model.whole_words(&ids);
        Ok(model)
    }

    /// Appends the ids of `text`.
    pub fn encode(&self, text: &str, scratch: &mut Vec<u32>, ids: &mut Vec<u32>) {
        let words = |(scratch, ids): &mut (&mut Vec<u32>, &mut Vec<u32>), text: &str| {
            Words::new(text).for_each(|word| self.word(word, scratch, ids));
        };
        self.split(text, &mut (scratch, ids), words, |(_, ids), id| ids.push(id));
    }

    /// Appends the ids of a word.
    pub fn word(&self, word: &[u8], scratch: &mut Vec<u32>, ids: &mut Vec<u32>) {
        if let Some(id) = self.whole.get(word) {
            return ids.push(*id);
        }
        self.merge(word, scratch);
        ids.extend_from_slice(scratch);
    }

    fn merge(&self, word: &[u8], symbols: &mut Vec<u32>) {
        symbols.clear();
        symbols.extend(word.iter().map(|byte| self.bytes[usize::from(*byte)]));
        self.merges.apply(symbols);
    }

    /// Calls `text` with what stands between added tokens, and `token` with each of those, in order.
    pub fn split<S>(&self, whole: &str, state: &mut S, text: impl Fn(&mut S, &str), token: impl Fn(&mut S, u32)) {
        let mut from = 0;
        if let Some((searcher, ids)) = &self.added {
            for found in searcher.find_iter(whole) {
                text(state, &whole[from..found.start()]);
                token(state, ids[found.pattern().as_usize()]);
                from = found.end();
            }
        }
        text(state, &whole[from..]);
    }

    /// Tokens that are words, and that merging their bytes leads to.
    fn whole_words(&self, ids: &FxHashMap<&str, u32>) -> FxHashMap<Box<[u8]>, u32> {
        let letters: FxHashMap<char, u8> = (0..=255).map(|byte| (letter(byte), byte)).collect();
        let mut symbols = Vec::new();
        let mut whole = FxHashMap::default();
        for (token, id) in ids {
            let spelled: Option<Vec<u8>> = token.chars().map(|c| letters.get(&c).copied()).collect();
            // A piece of a character never is a word.
            let Some(spelled) = spelled.filter(|s| std::str::from_utf8(s).is_ok_and(|s| Words::new(s).count() == 1))
            else {
                continue;
            };
            self.merge(&spelled, &mut symbols);
            if symbols == [*id] {
                whole.insert(spelled.into(), *id);
            }
        }
        whole
    }
}

fn expect(value: &Value, key: &str, known: &[&str]) -> Result<(), String> {
    match value[key].as_str() {
        Some(found) if known.contains(&found) => Ok(()),
        _ => Err(format!("{key} is {}, not {}", value[key], known.join(" or "))),
    }
}

fn vocabulary(vocab: &Value) -> Result<FxHashMap<&str, u32>, String> {
    let entries = vocab.as_object().ok_or("no vocabulary")?;
    let id = |id: &Value| id.as_u64().and_then(|id| u32::try_from(id).ok()).filter(|id| *id < u32::MAX);
    let ids: FxHashMap<&str, u32> =
        entries.iter().map(|(token, i)| Some((token.as_str(), id(i)?))).collect::<Option<_>>().ok_or("an odd id")?;
    let different: FxHashSet<u32> = ids.values().copied().collect();
    if different.len() == ids.len() { Ok(ids) } else { Err("an id that two tokens have".into()) }
}

/// Merges are `"left right"` or `["left", "right"]`.
fn merges(merges: &Value, ids: &FxHashMap<&str, u32>) -> Result<Merges, String> {
    let parts = |merge: &Value| -> Option<[u32; 3]> {
        let (left, right) = match merge {
            Value::String(both) => both.split_once(' ')?,
            both => (both[0].as_str()?, both[1].as_str()?),
        };
        let id = |token: &str| ids.get(token).copied();
        Some([id(left)?, id(right)?, id(&format!("{left}{right}"))?])
    };
    let list = merges.as_array().ok_or("no merges")?;
    list.iter()
        .map(|merge| parts(merge).ok_or_else(|| format!("an odd merge {merge}")))
        .collect::<Result<_, _>>()
        .map(Merges::new)
}

/// Added tokens are found anywhere, the longest at the leftmost place, as in `tokenizers`.
fn added(document: &Value, id: impl Fn(&str) -> Option<u32>) -> Result<Option<(AhoCorasick, Vec<u32>)>, String> {
    let tokens = document["added_tokens"].as_array().map(Vec::as_slice).unwrap_or_default();
    let normalized = |token: &Value| token["normalized"] == true;
    if tokens.iter().any(|token| normalized(token) != normalized(&tokens[0])) {
        return Err("added tokens of which some are `normalized` and some not".into());
    }
    let (mut spelled, mut found) = (Vec::new(), Vec::new());
    for token in tokens {
        if let Some(key) = ["single_word", "lstrip", "rstrip"].iter().find(|key| token[**key] == true) {
            return Err(format!("an added token with {key} ({})", token["content"]));
        }
        let content = token["content"].as_str().filter(|c| !c.is_empty()).ok_or("an added token without content")?;
        found.push(id(content).ok_or("an added token without id")?);
        spelled.push(content);
    }
    if spelled.is_empty() {
        return Ok(None);
    }
    let searcher = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(spelled);
    Ok(Some((searcher.map_err(|e| e.to_string())?, found)))
}

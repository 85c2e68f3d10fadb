//! Parses a `tokenizer.json` of Hugging Face, if it uses only features supported here.
use super::alphabet::{byte, letter};
use super::merge::Merges;
use super::words::Words;
use aho_corasick::{AhoCorasick, MatchKind};
use rustc_hash::{FxHashMap, FxHashSet};
use serde_json::Value;

/// A byte-level BPE with GPT-2's pattern.
#[derive(Debug)]
pub struct Model {
    /// The id of each byte.
    bytes: [u32; 256],
    merges: Merges,
    /// Words that are a single token, and that merging produces.
    whole: FxHashMap<Box<[u8]>, u32>,
    /// Tokens that are matched in the text before anything else (such as end of text), and their ids.
    added: Option<(AhoCorasick, Vec<u32>)>,
    /// The spelling of all tokens, by id.
    tokens: FxHashMap<u32, Box<str>>,
}

impl Model {
    /// Parses a `tokenizer.json`; the error names the feature that only Hugging Face's library supports.
    pub fn from_json(json: &str) -> Result<Self, String> {
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
        expect(&document["decoder"], "type", &["ByteLevel"]).map_err(|e| format!("another decoder: {e}"))?;
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
        let (spelled, found) = added(&document, &ids)?;
        let tokens = ids.iter().map(|(token, id)| (*id, Box::from(*token)));
        let tokens = tokens.chain(found.iter().copied().zip(spelled.iter().map(|token| Box::from(*token)))).collect();
        let mut model = Self { bytes, merges, whole: FxHashMap::default(), added: None, tokens };
        model.whole = model.whole_words(&ids);
        if !spelled.is_empty() {
            let searcher = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(spelled);
            model.added = Some((searcher.map_err(|e| e.to_string())?, found));
        }
        Ok(model)
    }

    /// One more than the highest id.
    pub fn size(&self) -> u32 {
        self.tokens.keys().max().map_or(0, |id| id + 1)
    }

    /// The id of `token`, spelled as in `tokenizer.json`. A linear search.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.tokens.iter().find(|(_, spelled)| &***spelled == token).map(|(id, _)| *id)
    }

    /// The number of bytes that a token stands for.
    pub fn bytes(&self, id: u32) -> usize {
        let mut text = Vec::new();
        self.tokens.get(&id).into_iter().for_each(|token| spell_out(token, &mut text));
        text.len()
    }

    /// The text of `ids`, as Hugging Face's `ByteLevel` decodes it: bytes that are not UTF-8 become replacement
    /// characters, and unknown ids are skipped.
    pub fn decode(&self, ids: &[u32]) -> String {
        let mut text = Vec::new();
        ids.iter().filter_map(|id| self.tokens.get(id)).for_each(|token| spell_out(token, &mut text));
        String::from_utf8(text).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned())
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

    /// Calls `text` with each stretch between added tokens, and `token` with each added token, in order.
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

    /// Tokens that are words, and that merging their bytes produces.
    fn whole_words(&self, ids: &FxHashMap<&str, u32>) -> FxHashMap<Box<[u8]>, u32> {
        let mut symbols = Vec::new();
        let mut whole = FxHashMap::default();
        for (token, id) in ids {
            let spelled: Option<Vec<u8>> = token.chars().map(byte).collect();
            // A part of a character is never a word.
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

/// Appends the bytes that a token stands for: one for each letter of the alphabet of bytes, or those of its spelling, if it
/// has other letters.
fn spell_out(token: &str, text: &mut Vec<u8>) {
    let from = text.len();
    for c in token.chars() {
        let Some(byte) = byte(c) else {
            text.truncate(from);
            return text.extend_from_slice(token.as_bytes());
        };
        text.push(byte);
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

/// Added tokens and their ids. They match anywhere, leftmost-longest, as in `tokenizers`.
fn added<'a>(document: &'a Value, ids: &FxHashMap<&str, u32>) -> Result<(Vec<&'a str>, Vec<u32>), String> {
    let tokens = document["added_tokens"].as_array().map(Vec::as_slice).unwrap_or_default();
    let normalized = |token: &Value| token["normalized"] == true;
    if tokens.iter().any(|token| normalized(token) != normalized(&tokens[0])) {
        return Err("added tokens of which some are `normalized` and some not".into());
    }
    let (mut spelled, mut found) = (Vec::new(), Vec::new());
    // As in the library, whatever the file says: the id in the vocabulary, or else the next free one.
    let mut next = ids.len() as u64;
    for token in tokens {
        if let Some(key) = ["single_word", "lstrip", "rstrip"].iter().find(|key| token[**key] == true) {
            return Err(format!("an added token with {key} ({})", token["content"]));
        }
        let content = token["content"].as_str().filter(|c| !c.is_empty()).ok_or("an added token without content")?;
        let id = match ids.get(content) {
            Some(id) => u64::from(*id),
            None => {
                next += 1;
                next - 1
            }
        };
        if spelled.contains(&content) {
            return Err(format!("an added token that is there twice ({content})"));
        }
        found.push(u32::try_from(id).map_err(|e| e.to_string())?);
        spelled.push(content);
    }
    if ids.values().any(|id| u64::from(*id) >= ids.len() as u64) && next > ids.len() as u64 {
        return Err("ids with gaps, and added tokens".into());
    }
    Ok((spelled, found))
}

//! Trains a byte-level BPE. The same texts give the same merges, whatever the iteration order of maps and the threads.
//!
//! The rules are those of Hugging Face's trainer: words are matches of the GPT-2 pattern, and the most frequent
//! adjacent pair is merged first, the one with the smallest ids in case of a tie. (That trainer itself iterates over
//! hash maps, and for some ties its merges depend on their order.)
use crate::tokenizer::byte_bpe::{Words, letter};
use rustc_hash::FxHashMap;
use serde_json::{Value, json};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

/// Must change when the same texts would give different merges.
pub const TRAINER: &str = "bpe 1";

type Pair = (u32, u32);

/// The number of occurrences of each word.
#[derive(Clone, Debug, Default)]
pub struct WordCounts(FxHashMap<Box<[u8]>, u64>);

impl WordCounts {
    /// Counts the words of `text`.
    pub fn add(&mut self, text: &str) {
        for word in Words::new(text) {
            match self.0.get_mut(word) {
                Some(count) => *count += 1,
                None => drop(self.0.insert(word.into(), 1)),
            }
        }
    }

    /// Adds the counts of `other`.
    pub fn merge(&mut self, other: WordCounts) {
        for (word, count) in other.0 {
            *self.0.entry(word).or_default() += count;
        }
    }
}

/// Tokens in the order of their ids, and merges in the order in which they are applied.
pub struct Learned {
    /// Tokens: the special one, the 256 bytes, then one per merge.
    pub tokens: Vec<String>,
    /// Pairs of tokens.
    pub merges: Vec<(String, String)>,
}

/// Learns merges until there are `size` tokens, with `special` as id 0, or nothing is left to merge.
pub fn learn(words: WordCounts, size: usize, special: &str, mut progress: impl FnMut(u64, u64)) -> Learned {
    let mut alphabet: Vec<char> = ByteLevel::alphabet().into_iter().collect();
    alphabet.sort_unstable();
    let mut tokens = vec![special.to_string()];
    tokens.extend(alphabet.iter().map(char::to_string));
    let mut ids: HashMap<String, u32> = (0..).zip(&tokens).map(|(id, token)| (token.clone(), id)).collect();
    let bytes: Vec<u32> = (0..=255).map(|byte| ids[letter(byte).to_string().as_str()]).collect();

    let mut words: Vec<(Box<[u8]>, u64)> = words.0.into_iter().collect();
    words.sort_unstable();
    let of_ids = |word: &[u8]| word.iter().map(|byte| bytes[usize::from(*byte)]).collect();
    let mut pairs = Pairs::new(words.iter().map(|(word, count)| (of_ids(word), *count as i64)).collect());
    let mut merges = Vec::new();
    while tokens.len() < size
        && let Some(pair) = pairs.most_frequent()
    {
        let (left, right) = (tokens[pair.0 as usize].clone(), tokens[pair.1 as usize].clone());
        let token = format!("{left}{right}");
        let id = *ids.entry(token.clone()).or_insert_with(|| {
            tokens.push(token);
            tokens.len() as u32 - 1
        });
        merges.push((left, right));
        pairs.merge(pair, id);
        progress(tokens.len() as u64, size as u64);
    }
    Learned { tokens, merges }
}

/// Words as ids, with an index of their adjacent pairs.
struct Pairs {
    /// The words, each with its number of occurrences.
    words: Vec<(Vec<u32>, i64)>,
    counts: HashMap<Pair, i64>,
    /// The words that contain a pair, or did once.
    places: HashMap<Pair, Vec<u32>>,
    /// Every pair has an entry with at least its count: a count that has decreased is corrected when the entry is
    /// popped.
    queue: BinaryHeap<(i64, Reverse<Pair>)>,
}

impl Pairs {
    fn new(words: Vec<(Vec<u32>, i64)>) -> Self {
        let (mut counts, mut places) = (HashMap::<Pair, i64>::new(), HashMap::<Pair, Vec<u32>>::new());
        for (index, (word, count)) in (0..).zip(&words) {
            for pair in pairs(word) {
                *counts.entry(pair).or_default() += count;
                places.entry(pair).or_default().push(index);
            }
        }
        let queue = counts.iter().map(|(pair, count)| (*count, Reverse(*pair))).collect();
        Self { words, counts, places, queue }
    }

    /// Takes the most frequent pair, the one with the smallest ids in case of a tie; `None` if none is left.
    fn most_frequent(&mut self) -> Option<Pair> {
        loop {
            let (count, Reverse(pair)) = self.queue.pop()?;
            let actual = self.counts.get(&pair).copied().unwrap_or_default();
            if count == actual {
                return (count > 0).then_some(pair);
            }
            if actual > 0 && actual < count {
                self.queue.push((actual, Reverse(pair)));
            }
        }
    }

    /// Replaces `pair` by `id` in all words.
    fn merge(&mut self, pair: Pair, id: u32) {
        let mut touched = self.places.remove(&pair).unwrap_or_default();
        touched.sort_unstable();
        touched.dedup();
        let mut grown = Vec::new();
        for index in touched {
            let (word, count) = &mut self.words[index as usize];
            for old in pairs(word) {
                *self.counts.entry(old).or_default() -= *count;
            }
            merge(word, pair, id);
            for new in pairs(word) {
                *self.counts.entry(new).or_default() += *count;
                if new.0 == id || new.1 == id {
                    self.places.entry(new).or_default().push(index);
                    grown.push(new);
                }
            }
        }
        self.counts.remove(&pair);
        grown.sort_unstable();
        grown.dedup();
        self.queue.extend(grown.into_iter().map(|pair| (self.counts[&pair], Reverse(pair))));
    }
}

fn pairs(word: &[u32]) -> impl Iterator<Item = Pair> {
    word.windows(2).map(|w| (w[0], w[1]))
}

/// Replaces every occurrence of `pair`, from the left.
fn merge(word: &mut Vec<u32>, pair: Pair, id: u32) {
    let (mut from, mut to) = (0, 0);
    while from < word.len() {
        if from + 1 < word.len() && (word[from], word[from + 1]) == pair {
            word[to] = id;
            from += 2;
        } else {
            word[to] = word[from];
            from += 1;
        }
        to += 1;
    }
    word.truncate(to);
}

/// A `tokenizer.json` as written by Hugging Face's library for a byte-level BPE.
pub fn tokenizer_json(tokens: &[String], merges: &[(String, String)], special: (&str, u32)) -> String {
    let vocabulary: serde_json::Map<String, Value> =
        (0u32..).zip(tokens).map(|(id, token)| (token.clone(), id.into())).collect();
    let byte_level = |prefix: bool, trim: bool| json!({"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": trim, "use_regex": true});
    let document = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [{
            "id": special.1, "content": special.0, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true
        }],
        "normalizer": null,
        "pre_tokenizer": byte_level(false, true),
        "post_processor": byte_level(true, false),
        "decoder": byte_level(true, true),
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocabulary, "merges": merges
        }
    });
    format!("{document:#}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use tokenizers::models::bpe::{BPE, BpeTrainer};
    use tokenizers::{AddedToken, Trainer};

    fn counted(texts: &[&str]) -> WordCounts {
        let mut words = WordCounts::default();
        texts.iter().for_each(|text| words.add(text));
        words
    }

    /// Text without ties that matter, so that Hugging Face's trainer has a unique result as well.
    const TEXT: &str = "the theatre of the north: there they thought that the other three were thin. \
        Nine nice nights in the inn; singing, ringing, bringing things in the end.";

    #[test]
    fn merges_are_those_of_hugging_face() {
        let alphabet: HashSet<char> = ByteLevel::alphabet().into_iter().collect();
        let mut trainer = BpeTrainer::builder()
            .vocab_size(300)
            .show_progress(false)
            .special_tokens(vec![AddedToken::from("<|endoftext|>", true)])
            .initial_alphabet(alphabet)
            .build();
        let words = counted(&[TEXT]);
        let spelled = |word: &[u8]| word.iter().map(|byte| letter(*byte)).collect::<String>();
        let each: Vec<String> =
            words.0.iter().flat_map(|(word, n)| std::iter::repeat_n(spelled(word), *n as usize)).collect();
        trainer.feed(each.into_iter(), |word| Ok(vec![word.to_string()])).unwrap();
        let mut model = BPE::default();
        trainer.train(&mut model).unwrap();
        let theirs = tokenizers::Model::get_vocab(&model);
        let ours = learn(words, 300, "<|endoftext|>", |_, _| {});
        assert_eq!(ours.tokens.len(), 300);
        for (id, token) in ours.tokens.iter().enumerate() {
            assert_eq!(theirs.get(token), Some(&(id as u32)), "{token}");
        }
    }

    #[test]
    fn the_order_of_texts_and_maps_does_not_matter() {
        let texts: Vec<&str> = TEXT.split_inclusive(' ').collect();
        let mut turned = texts.clone();
        turned.reverse();
        let json = |texts: &[&str]| {
            let learned = learn(counted(texts), 290, "<e>", |_, _| {});
            tokenizer_json(&learned.tokens, &learned.merges, ("<e>", 0))
        };
        assert_eq!(json(&texts), json(&turned));
    }

    #[test]
    fn learning_stops_when_nothing_is_left() {
        let learned = learn(counted(&["aaaa"]), 1000, "<e>", |_, _| {});
        assert_eq!(learned.tokens[257..], ["aa", "aaaa"]);
        assert_eq!(learn(WordCounts::default(), 1000, "<e>", |_, _| {}).tokens.len(), 257);
    }
}

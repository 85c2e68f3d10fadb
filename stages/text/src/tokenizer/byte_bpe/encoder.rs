//! Texts to ids, for one thread: a tokenizer with a cache of words. The cache does not affect the ids.
use super::model::Model;
use super::words::Words;
use crate::tokenizer::Tokenizer;
use anyhow::Result;
use rustc_hash::FxHashMap;
use std::sync::Arc;

/// Number of slots in the cache of short words, a power of two.
const SLOTS: usize = 1 << 15;
/// Length of the longest word in the cache of short words: with its length it fits 128 bits.
const SHORT: usize = 15;
/// Length of the longest word that is cached at all.
const LONGEST: usize = 128;
/// Number of cached ids after which the cache is cleared.
const CACHED_IDS: usize = 1 << 20;

/// Encodes one text after the other.
pub struct Encoder {
    tokenizer: Arc<Tokenizer>,
    cache: Cache,
}

impl Encoder {
    /// An encoder for this tokenizer.
    pub fn new(tokenizer: Arc<Tokenizer>) -> Self {
        Self { tokenizer, cache: Cache::new() }
    }

    /// Appends the ids of `text`; see [`Tokenizer::encode`].
    pub fn encode(&mut self, text: &str, ids: &mut Vec<u32>) -> Result<()> {
        match self.tokenizer.model() {
            Some(model) => encode_with(model, &mut self.cache, text, ids),
            None => ids.extend(self.tokenizer.encode(text)?),
        }
        Ok(())
    }
}

fn encode_with(model: &Model, cache: &mut Cache, text: &str, ids: &mut Vec<u32>) {
    let between = |(cache, ids): &mut (&mut Cache, &mut Vec<u32>), text: &str| {
        let mut words = Words::new(text);
        while let Some((from, to)) = words.next_place() {
            cache.word(model, text.as_bytes(), from, to, ids);
        }
    };
    model.split(text, &mut (cache, ids), between, |(_, ids), id| ids.push(id));
}

/// A short word and its ids or, if there are too many, where they are stored and how many.
#[derive(Clone, Copy, Default)]
struct Slot {
    word: u128,
    count: u32,
    ids: [u32; 3],
}

/// Short words are in a direct-mapped table, in which a new word replaces the old one; longer words are in a map.
struct Cache {
    slots: Vec<Slot>,
    long: FxHashMap<Box<[u8]>, (u32, u32)>,
    cached: Vec<u32>,
    scratch: Vec<u32>,
}

impl Cache {
    fn new() -> Self {
        Self {
            slots: vec![Slot::default(); SLOTS],
            long: FxHashMap::default(),
            cached: Vec::new(),
            scratch: Vec::new(),
        }
    }

    /// Appends the ids of the word `text[from..to]`.
    #[inline]
    fn word(&mut self, model: &Model, text: &[u8], from: usize, to: usize, ids: &mut Vec<u32>) {
        if to - from > SHORT {
            return self.long_word(model, &text[from..to], ids);
        }
        let word = packed(text, from, to);
        let at = slot(word);
        let found = self.slots[at];
        if found.word != word {
            return self.new_word(model, &text[from..to], word, ids);
        }
        match found.count as usize {
            1 => ids.push(found.ids[0]),
            count @ 2..=3 => ids.extend_from_slice(&found.ids[..count]),
            count => ids.extend_from_slice(&self.cached[found.ids[0] as usize..][..count]),
        }
    }

    #[cold]
    fn new_word(&mut self, model: &Model, spelled: &[u8], word: u128, ids: &mut Vec<u32>) {
        let from = ids.len();
        model.word(spelled, &mut self.scratch, ids);
        let found = &ids[from..];
        let mut new = Slot { word, count: found.len() as u32, ids: [0; 3] };
        if found.len() <= new.ids.len() {
            new.ids[..found.len()].copy_from_slice(found);
        } else {
            new.ids[0] = self.keep(found);
        }
        self.slots[slot(word)] = new;
    }

    fn long_word(&mut self, model: &Model, word: &[u8], ids: &mut Vec<u32>) {
        if let Some((at, count)) = self.long.get(word) {
            return ids.extend_from_slice(&self.cached[*at as usize..][..*count as usize]);
        }
        let from = ids.len();
        model.word(word, &mut self.scratch, ids);
        if word.len() <= LONGEST {
            let at = self.keep(&ids[from..]);
            self.long.insert(word.into(), (at, (ids.len() - from) as u32));
        } else {
            self.scratch = Vec::new();
        }
    }

    /// The index at which `ids` are now stored.
    fn keep(&mut self, ids: &[u32]) -> u32 {
        if self.cached.len() + ids.len() > CACHED_IDS {
            self.cached.clear();
            self.long.clear();
            self.slots.fill(Slot::default());
        }
        self.cached.extend_from_slice(ids);
        (self.cached.len() - ids.len()) as u32
    }
}

/// The word's bytes, with their number in the last byte.
#[inline]
fn packed(text: &[u8], from: usize, to: usize) -> u128 {
    let length = to - from;
    let bytes = match text.get(from..from + 16).and_then(|bytes| bytes.try_into().ok()) {
        Some(bytes) => u128::from_le_bytes(bytes) & ((1 << (8 * length)) - 1),
        None => text[from..to].iter().rev().fold(0, |word, byte| word << 8 | u128::from(*byte)),
    };
    bytes | (length as u128) << 120
}

#[inline]
fn slot(word: u128) -> usize {
    let (low, high) = (word as u64, (word >> 64) as u64);
    let mixed = (low ^ high.rotate_left(29)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mixed = (mixed ^ mixed >> 32).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    (mixed >> 32) as usize % SLOTS
}

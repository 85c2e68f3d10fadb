//! Shingles: hashes of `n` consecutive words, and the similarity of two sets of them.
use super::words::{each_word, fold};
use std::cmp::Ordering;

/// Computes shingles, reusing its buffers.
#[derive(Default)]
pub struct Shingler {
    word: Vec<u8>,
    words: Vec<u64>,
}

impl Shingler {
    /// Calls `f` with the hash of every `length` consecutive words of `text`, including repetitions. A text with fewer
    /// words is one shingle; a text without words has none.
    pub fn each(&mut self, text: &str, length: usize, mut f: impl FnMut(u64)) {
        let Self { word, words } = self;
        words.clear();
        each_word(text, word, |hash| words.push(hash));
        if words.is_empty() {
            return;
        }
        for shingle in words.windows(length.clamp(1, words.len())) {
            let joined = shingle.iter().fold(0x2545_f491_4f6c_dd1d_u64, |hash, word| {
                hash.wrapping_mul(0x9e6c_63d0_876a_68e5).rotate_left(23).wrapping_add(*word)
            });
            f(fold(joined ^ 0xd6e8_feb8_6659_fd93, 0xff51_afd7_ed55_8ccd));
        }
    }

    /// The set of `text`'s shingles: sorted, without duplicates.
    pub fn set(&mut self, text: &str, length: usize) -> Vec<u64> {
        let mut set = Vec::new();
        self.each(text, length, |shingle| set.push(shingle));
        set.sort_unstable();
        set.dedup();
        set
    }
}

/// Jaccard similarity of two sets, each sorted and without duplicates: the size of the intersection over the size of
/// the union. The similarity of two empty sets is 0.
pub fn jaccard(a: &[u64], b: &[u64]) -> f64 {
    let (mut i, mut j, mut both) = (0, 0, 0_usize);
    while i < a.len() && j < b.len() {
        let order = a[i].cmp(&b[j]);
        both += usize::from(order == Ordering::Equal);
        i += usize::from(order != Ordering::Greater);
        j += usize::from(order != Ordering::Less);
    }
    let either = a.len() + b.len() - both;
    if either == 0 { 0.0 } else { both as f64 / either as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// By definition, with words instead of hashes.
    fn plain(text: &str, length: usize) -> BTreeSet<Vec<String>> {
        let text = text.to_lowercase();
        let words: Vec<String> = text.split_whitespace().map(str::to_string).collect();
        match words.len() {
            0 => BTreeSet::new(),
            n if n < length => BTreeSet::from([words]),
            _ => words.windows(length).map(<[String]>::to_vec).collect(),
        }
    }

    proptest! {
        #[test]
        fn sets_and_similarity_are_those_of_the_definition(a in "([a-c]{1,2} ){0,30}", b in "([a-c]{1,2} ){0,30}", n in 1usize..6) {
            let mut shingler = Shingler::default();
            let (sets, plain) = ([shingler.set(&a, n), shingler.set(&b, n)], [plain(&a, n), plain(&b, n)]);
            prop_assert_eq!(sets[0].len(), plain[0].len());
            let either = plain[0].union(&plain[1]).count();
            let expected = if either == 0 { 0.0 } else { plain[0].intersection(&plain[1]).count() as f64 / either as f64 };
            prop_assert_eq!(jaccard(&sets[0], &sets[1]), expected);
            prop_assert_eq!(jaccard(&sets[1], &sets[0]), expected);
        }
    }

    #[test]
    fn the_order_of_words_counts() {
        let mut shingler = Shingler::default();
        let sets = ["a b c d e", "e d c b a", "b a c d e"].map(|text| shingler.set(text, 5));
        assert_eq!(
            (jaccard(&sets[0], &sets[1]), jaccard(&sets[0], &sets[2]), jaccard(&sets[0], &sets[0])),
            (0.0, 0.0, 1.0)
        );
    }
}

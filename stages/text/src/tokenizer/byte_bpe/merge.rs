//! The merges of one word: of all adjacent pairs that have a merge, the one with the lowest rank is merged first, the
//! leftmost in case of a tie, until none is left (Sennrich et al., 2016, "Neural Machine Translation of Rare Words with
//! Subword Units").
use rustc_hash::FxHashMap;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// No rank, no symbol.
const NONE: u32 = u32::MAX;
/// Up to this many symbols, the lowest rank is searched from scratch each time: quadratic, but faster for short words.
const SHORT: usize = 96;

/// The merges of a vocabulary.
#[derive(Clone, Debug, Default)]
pub struct Merges {
    /// The rank of the merge of two ids.
    ranks: FxHashMap<u64, u32>,
    /// By rank: the two ids, and the merged id.
    merged: Vec<[u32; 3]>,
}

fn pair(left: u32, right: u32) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}

impl Merges {
    /// From `(left, right, merged)` in the order of ranks. If a pair occurs twice, the later rank counts.
    pub fn new(merges: Vec<[u32; 3]>) -> Self {
        let ranks = (0..).zip(&merges).map(|(rank, [left, right, _])| (pair(*left, *right), rank)).collect();
        Self { ranks, merged: merges }
    }

    #[inline]
    fn rank(&self, left: u32, right: u32) -> u32 {
        self.ranks.get(&pair(left, right)).copied().unwrap_or(NONE)
    }

    /// Applies all merges to `symbols`. Takes time close to linear in the number of symbols, whatever they are.
    pub fn apply(&self, symbols: &mut Vec<u32>) {
        if symbols.len() <= SHORT { self.apply_short(symbols) } else { self.apply_long(symbols) }
    }

    fn apply_short(&self, symbols: &mut Vec<u32>) {
        let mut ranks = [NONE; SHORT];
        for (at, two) in symbols.windows(2).enumerate() {
            ranks[at] = self.rank(two[0], two[1]);
        }
        let mut length = symbols.len();
        while length > 1 {
            let (mut at, mut lowest) = (0, NONE);
            for (i, rank) in ranks[..length - 1].iter().enumerate() {
                if *rank < lowest {
                    (at, lowest) = (i, *rank);
                }
            }
            if lowest == NONE {
                break;
            }
            symbols[at] = self.merged[lowest as usize][2];
            symbols.copy_within(at + 2..length, at + 1);
            ranks.copy_within(at + 1..length, at);
            length -= 1;
            ranks[length - 1] = NONE;
            if at > 0 {
                ranks[at - 1] = self.rank(symbols[at - 1], symbols[at]);
            }
            ranks[at] = if at + 1 < length { self.rank(symbols[at], symbols[at + 1]) } else { NONE };
        }
        symbols.truncate(length);
    }

    /// Keeps symbols in a linked list, with a list of candidate positions per rank. All positions of a rank are
    /// processed before those of a higher one, unless a merge creates a pair of a lower rank: that pair then comes
    /// first, as required.
    fn apply_long(&self, symbols: &mut Vec<u32>) {
        let length = symbols.len();
        let mut next: Vec<u32> = (1..=length as u32).collect();
        let mut before: Vec<u32> = (0..length as u32).map(|at| at.wrapping_sub(1)).collect();
        let mut places: FxHashMap<u32, Vec<u32>> = FxHashMap::default();
        for at in 0..length - 1 {
            let rank = self.rank(symbols[at], symbols[at + 1]);
            if rank != NONE {
                places.entry(rank).or_default().push(at as u32);
            }
        }
        let mut queue: BinaryHeap<Reverse<u32>> = places.keys().map(|rank| Reverse(*rank)).collect();
        while let Some(Reverse(rank)) = queue.pop() {
            let Some(mut list) = places.remove(&rank) else { continue };
            list.sort_unstable();
            let [left, right, merged] = self.merged[rank as usize];
            let mut list = list.into_iter();
            while let Some(at) = list.next() {
                let (here, there) = (at as usize, next[at as usize] as usize);
                // The pair that was here when the position was recorded may have been merged differently since.
                if symbols[here] != left || there >= length || symbols[there] != right {
                    continue;
                }
                symbols[here] = merged;
                symbols[there] = NONE;
                next[here] = next[there];
                let mut lower = false;
                let mut note = |at: usize, found: u32| {
                    if found != NONE {
                        lower |= found < rank;
                        places.entry(found).or_insert_with(|| {
                            queue.push(Reverse(found));
                            Vec::new()
                        });
                        places.entry(found).or_default().push(at as u32);
                    }
                };
                if let Some(following) = symbols.get(next[here] as usize) {
                    before[next[here] as usize] = at;
                    note(here, self.rank(merged, *following));
                }
                if before[here] != NONE {
                    let previous = before[here] as usize;
                    note(previous, self.rank(symbols[previous], merged));
                }
                if lower {
                    queue.push(Reverse(rank));
                    places.entry(rank).or_default().extend(list);
                    break;
                }
            }
        }
        symbols.retain(|symbol| *symbol != NONE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition, literally.
    fn naive(merges: &Merges, symbols: &mut Vec<u32>) {
        loop {
            let found = symbols.windows(2).enumerate().map(|(at, two)| (merges.rank(two[0], two[1]), at)).min();
            let Some((rank, at)) = found.filter(|(rank, _)| *rank != NONE) else { return };
            symbols[at] = merges.merged[rank as usize][2];
            symbols.remove(at + 1);
        }
    }

    /// Merges over four letters, each of two existing tokens, in any order of ranks, including merges that create a
    /// pair of a lower rank. Tokens are identified by their spelling: two merges may produce the same token.
    fn merges() -> impl Strategy<Value = Merges> {
        prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u32>()), 0..40)
            .prop_map(|choices| {
                let mut tokens: Vec<Vec<u8>> = (0..4).map(|letter| vec![letter]).collect();
                let mut merges: Vec<(u32, [u32; 3])> = Vec::new();
                for (left, right, order) in choices {
                    let (left, right) = (left.index(tokens.len()), right.index(tokens.len()));
                    let spelled = [tokens[left].clone(), tokens[right].clone()].concat();
                    let merged = tokens.iter().position(|token| *token == spelled).unwrap_or_else(|| {
                        tokens.push(spelled);
                        tokens.len() - 1
                    });
                    let merge = [left as u32, right as u32, merged as u32];
                    if !merges.iter().any(|(_, other)| *other == merge) {
                        merges.push((order, merge));
                    }
                }
                merges.sort();
                Merges::new(merges.into_iter().map(|(_, merge)| merge).collect())
            })
    }

    proptest! {
        #[test]
        fn both_ways_are_the_definition(merges in merges(), symbols in prop::collection::vec(0u32..4, 0..SHORT)) {
            let (mut expected, mut short, mut long) = (symbols.clone(), symbols.clone(), symbols.clone());
            naive(&merges, &mut expected);
            merges.apply_short(&mut short);
            prop_assert_eq!(&short, &expected);
            if symbols.len() > 1 {
                merges.apply_long(&mut long);
                prop_assert_eq!(&long, &expected);
            }
        }
    }
}

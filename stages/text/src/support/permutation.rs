//! A keyed permutation of `0..n` that needs no memory: the order of a block of sequences, and samples.

const ROUNDS: usize = 6;

/// A pseudorandom permutation of `0..n`: a Feistel network over the next power of four, applied repeatedly until the
/// result is below `n` (cycle walking).
///
/// ```
/// # use millrace_text::support::permutation::Permutation;
/// let order = Permutation::new(5, 1, 0);
/// let mut rows: Vec<u64> = (0..5).map(|i| order.at(i)).collect();
/// rows.sort();
/// assert_eq!(rows, [0, 1, 2, 3, 4]);
/// ```
#[derive(Clone, Debug)]
pub struct Permutation {
    n: u64,
    half: u32,
    keys: [u64; ROUNDS],
}

impl Permutation {
    /// The permutation of `0..n` for `block` of those that are ordered by `seed`.
    pub fn new(n: u64, seed: u64, block: u64) -> Self {
        let bits = u64::BITS - n.saturating_sub(1).leading_zeros();
        // Named after what it was made for; another name would be another order.
        let mut hasher = blake3::Hasher::new_derive_key("millrace order of an epoch 1");
        hasher.update(&seed.to_le_bytes()).update(&block.to_le_bytes());
        let mut stream = hasher.finalize_xof();
        let keys = std::array::from_fn(|_| {
            let mut bytes = [0; 8];
            stream.fill(&mut bytes);
            u64::from_le_bytes(bytes)
        });
        Self { n, half: bits.div_ceil(2).max(1), keys }
    }

    /// The image of `position` (below `n`).
    pub fn at(&self, position: u64) -> u64 {
        debug_assert!(position < self.n);
        let mut x = position;
        loop {
            x = self.once(x);
            if x < self.n {
                return x;
            }
        }
    }

    fn once(&self, x: u64) -> u64 {
        let mask = (1 << self.half) - 1;
        let (mut left, mut right) = (x >> self.half, x & mask);
        for key in self.keys {
            (left, right) = (right, left ^ (mix(right ^ key) & mask));
        }
        left << self.half | right
    }
}

/// The finalizer of SplitMix64, applied twice: a permutation of all numbers.
pub(crate) fn mix(mut x: u64) -> u64 {
    for _ in 0..2 {
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^= x >> 31;
    }
    x
}

/// `wanted` of `0..n`, chosen by `seed`, ascending; all if there are not more.
pub fn choose(n: u64, wanted: u64, seed: u64) -> Vec<u64> {
    let order = Permutation::new(n, seed, u64::MAX);
    let mut chosen: Vec<u64> = (0..wanted.min(n)).map(|i| order.at(i)).collect();
    chosen.sort_unstable();
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn is_a_bijection(n in 1u64..3000, seed: u64, block in 0u64..5) {
            let order = Permutation::new(n, seed, block);
            let mut rows: Vec<u64> = (0..n).map(|i| order.at(i)).collect();
            rows.sort_unstable();
            prop_assert!(rows.into_iter().eq(0..n));
        }
    }

    #[test]
    fn blocks_differ_and_neighbours_part() {
        let (a, b) = (Permutation::new(1000, 1, 0), Permutation::new(1000, 1, 1));
        assert!((0..1000).filter(|i| a.at(*i) == b.at(*i)).count() < 20);
        assert!((0..999).filter(|i| a.at(*i).abs_diff(a.at(i + 1)) == 1).count() < 20);
        // Golden: the order of a run must not change between versions.
        assert_eq!((0..8).map(|i| a.at(i)).collect::<Vec<_>>(), [936, 534, 800, 682, 285, 472, 380, 82]);
    }

    #[test]
    fn huge_domains_do_not_overflow() {
        let order = Permutation::new(u64::MAX / 2, 3, 0);
        assert!(order.at(5) < u64::MAX / 2);
    }
}

//! MinHash: maps a text's shingles to a few numbers such that each agrees between two texts with a probability equal to
//! their Jaccard similarity (Broder 1997). The numbers are grouped into bands, so that similar texts share a bucket
//! (Leskovec et al., *Mining of Massive Datasets*, 3.4).
use super::shingles::Shingler;
use super::words::fold;

/// Hash functions computed together: a multiple of the widest SIMD vector.
const LANES: usize = 16;

/// Computes a text's bands: `bands` keys, each from `rows` minima. Two texts of similarity *s* share a key with
/// probability 1 − (1 − *s*^rows)^bands.
pub struct MinHasher {
    bands: usize,
    rows: usize,
    words: usize,
    /// Factors of the hash functions, padded to a multiple of [`LANES`].
    factors: [Vec<u32>; 2],
    shingler: Shingler,
    shingles: Vec<u64>,
    minima: Vec<u32>,
}

impl MinHasher {
    /// `bands` × `rows` hash functions over shingles of `words` words.
    pub fn new(bands: usize, rows: usize, words: usize) -> Self {
        let padded = (bands * rows).next_multiple_of(LANES);
        let mut state = 0x6d69_6c6c_7261_6365_u64;
        let mut random = || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            fold(state, 0xbf58_476d_1ce4_e5b9) as u32 | 1
        };
        let factors = [(); 2].map(|()| (0..padded).map(|_| random()).collect());
        let (shingler, shingles, minima) = (Shingler::default(), Vec::new(), vec![u32::MAX; padded]);
        Self { bands, rows, words, factors, shingler, shingles, minima }
    }

    /// Writes the keys of `text`'s bands to `keys`; none if it has no words.
    pub fn bands(&mut self, text: &str, keys: &mut Vec<u64>) {
        keys.clear();
        let Self { shingles, minima, factors: [low, high], .. } = self;
        shingles.clear();
        self.shingler.each(text, self.words, |shingle| shingles.push(shingle));
        if shingles.is_empty() {
            return;
        }
        minima.fill(u32::MAX);
        least(shingles, low, high, minima);
        for (band, rows) in minima.chunks_exact(self.rows).take(self.bands).enumerate() {
            keys.push(rows.iter().fold(band as u64 + 1, |key, row| fold(key ^ u64::from(*row), 0xe703_7ed1_a0b4_28db)));
        }
    }
}

/// The minimum of every function: each half of a shingle times an odd factor, added modulo 2³².
#[multiversion::multiversion(targets(
    "x86_64+avx+avx2+fma+avx512f+avx512bw+avx512cd+avx512dq+avx512vl",
    "x86_64+avx+avx2+fma",
    "aarch64+neon",
))]
fn least(shingles: &[u64], low: &[u32], high: &[u32], minima: &mut [u32]) {
    let functions = low.as_chunks::<LANES>().0.iter().zip(high.as_chunks::<LANES>().0);
    // The minima stay in registers while the loop runs over all shingles.
    for ((low, high), minima) in functions.zip(minima.as_chunks_mut::<LANES>().0) {
        let mut least = *minima;
        for shingle in shingles {
            let (a, b) = (*shingle as u32, (*shingle >> 32) as u32);
            for lane in 0..LANES {
                let value = a.wrapping_mul(low[lane]).wrapping_add(b.wrapping_mul(high[lane]));
                least[lane] = least[lane].min(value);
            }
        }
        *minima = least;
    }
}

#[cfg(test)]
mod tests {
    use super::super::shingles::jaccard;
    use super::*;

    /// Two texts of 200 random words; the second shares `same` of them with the first.
    fn pair(seed: u64, same: usize) -> (String, String) {
        let mut state = seed;
        let mut word = || {
            state = fold(state ^ 0x1234_5678_9abc_def1, 0x9e37_79b9_7f4a_7c15);
            format!("w{}", state % 100_000)
        };
        let first: Vec<String> = (0..200).map(|_| word()).collect();
        let second: Vec<String> = first[..same].iter().cloned().chain((same..200).map(|_| word())).collect();
        (first.join(" "), second.join(" "))
    }

    #[test]
    fn agreement_follows_similarity() {
        let mut hasher = MinHasher::new(128, 1, 5);
        let (mut a, mut b, mut shingler) = (Vec::new(), Vec::new(), Shingler::default());
        for same in [20, 60, 100, 140, 180, 200] {
            let (mut agreed, mut expected) = (0.0, 0.0);
            for seed in 0..30 {
                let (first, second) = pair(seed, same);
                hasher.bands(&first, &mut a);
                hasher.bands(&second, &mut b);
                agreed += a.iter().zip(&b).filter(|(a, b)| a == b).count() as f64 / 128.0 / 30.0;
                expected += jaccard(&shingler.set(&first, 5), &shingler.set(&second, 5)) / 30.0;
            }
            // 30 × 128 trials: the standard deviation is below 0.008.
            assert!((agreed - expected).abs() < 0.03, "{agreed} where {expected} is expected");
        }
    }

    #[test]
    fn bands_follow_from_the_set_alone() {
        let mut hasher = MinHasher::new(20, 6, 2);
        let keys = |hasher: &mut MinHasher, text: &str| {
            let mut keys = Vec::new();
            hasher.bands(text, &mut keys);
            keys
        };
        let once = keys(&mut hasher, "a b c a b");
        assert_eq!(once.len(), 20);
        assert_eq!(once, keys(&mut hasher, "A b. C, a b! (c a)"), "the same pairs of words, some twice");
        assert_ne!(once, keys(&mut hasher, "a b c"));
        assert!(keys(&mut hasher, "…").is_empty());
    }
}

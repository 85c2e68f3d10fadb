//! Sampling of the next token from logits: temperature, top-k, and nucleus (top-p) sampling (Holtzman et al. 2020).
use contract::parameters::splitmix64;

/// Sampler of next tokens. The same logits, settings and seed give the same tokens.
#[derive(Clone, Debug)]
pub struct Sampler {
    /// Logits are divided by it; 0 always selects the most probable token.
    pub temperature: f64,
    /// Sample only from this many of the most probable tokens; 0: from all.
    pub top_k: usize,
    /// Sample only from the most probable tokens whose total probability reaches this; 1: from all.
    pub top_p: f64,
    /// Seed of the random numbers.
    pub seed: u64,
    /// Tokens drawn so far.
    pub drawn: u64,
}

impl Sampler {
    /// The next token; `None` if a logit is NaN, or the largest is infinite. Equal logits rank by ascending id.
    pub fn next(&mut self, logits: &[f32]) -> Option<u32> {
        let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        if !highest.is_finite() || logits.iter().any(|x| x.is_nan()) {
            return None;
        }
        if self.temperature == 0.0 {
            return logits.iter().position(|x| *x == highest).map(|id| id as u32);
        }
        let uniform = (splitmix64(self.seed, self.drawn) >> 11) as f64 / (1u64 << 53) as f64;
        self.drawn += 1;
        let most_probable_first = |a: &u32, b: &u32| {
            let (x, y) = (logits[*a as usize], logits[*b as usize]);
            y.total_cmp(&x).then(a.cmp(b))
        };
        let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
        if self.top_k > 0 && self.top_k < ids.len() {
            ids.select_nth_unstable_by(self.top_k, most_probable_first);
            ids.truncate(self.top_k);
        }
        ids.sort_unstable_by(most_probable_first);
        let weight = |id: &u32| (f64::from(logits[*id as usize] - highest) / self.temperature).exp();
        let weights: Vec<f64> = ids.iter().map(weight).collect();
        let kept = first_to_reach(&weights, self.top_p) + 1;
        Some(ids[first_to_reach(&weights[..kept], uniform)])
    }
}

/// First index at which the cumulative sum of `weights` is positive and reaches `fraction` of the total.
fn first_to_reach(weights: &[f64], fraction: f64) -> usize {
    let goal = fraction * weights.iter().sum::<f64>();
    let mut sum = 0.0;
    let found = weights.iter().position(|weight| {
        sum += weight;
        sum > 0.0 && sum >= goal
    });
    found.unwrap_or(weights.len() - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sampler(temperature: f64, top_k: usize, top_p: f64) -> Sampler {
        Sampler { temperature, top_k, top_p, seed: 1, drawn: 0 }
    }

    #[test]
    fn temperature_zero_takes_the_first_of_the_largest_logits() {
        assert_eq!(sampler(0.0, 0, 1.0).next(&[0.0, 3.0, -1.0, 3.0]), Some(1));
        assert_eq!(sampler(1.0, 1, 1.0).next(&[0.0, 3.0, -1.0, 3.0]), Some(1));
        assert_eq!(sampler(1.0, 0, 1e-9).next(&[0.0, 3.0, -1.0, 3.0]), Some(1));
        assert_eq!(sampler(1.0, 0, 1.0).next(&[0.0, f32::NAN]), None);
        assert_eq!(sampler(0.0, 0, 1.0).next(&[f32::NEG_INFINITY; 3]), None);
    }

    #[test]
    fn frequencies_of_tokens_match_their_probabilities() {
        let probabilities = [0.5f64, 0.05, 0.2, 0.25];
        let logits = probabilities.map(|p| (p.ln() + 3.0) as f32);
        let counts = |sampler: &mut Sampler| {
            let mut counts = [0.0; 4];
            (0..40_000).for_each(|_| counts[sampler.next(&logits).unwrap() as usize] += 1.0 / 40_000.0);
            counts
        };
        let close = |found: [f64; 4], expected: [f64; 4]| {
            assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 0.01), "{found:?}, expected {expected:?}");
        };
        close(counts(&mut sampler(1.0, 0, 1.0)), probabilities);
        close(counts(&mut sampler(1.0, 2, 1.0)), [2.0 / 3.0, 0.0, 0.0, 1.0 / 3.0]);
        close(counts(&mut sampler(1.0, 0, 0.9)), [0.5 / 0.95, 0.0, 0.2 / 0.95, 0.25 / 0.95]);
        let squares = [0.25 / 0.355, 0.0025 / 0.355, 0.04 / 0.355, 0.0625 / 0.355];
        close(counts(&mut sampler(0.5, 0, 1.0)), squares);
    }

    proptest! {
        #[test]
        fn sampled_tokens_are_among_the_most_probable(
            logits in prop::collection::vec(-9.0f32..9.0, 1..40), top_k in 1usize..50, seed: u64,
            temperature in 0.01f64..10.0, top_p in 0.0f64..=1.0,
        ) {
            let mut sampler = Sampler { temperature, top_k, top_p, seed, drawn: 0 };
            let mut again = sampler.clone();
            for _ in 0..5 {
                let id = sampler.next(&logits).unwrap();
                prop_assert_eq!(again.next(&logits), Some(id));
                let better = logits.iter().filter(|x| **x > logits[id as usize]).count();
                prop_assert!(better < top_k);
            }
        }
    }
}

//! Differences between the losses of two variants, and their intervals.
//!
//! Runs of two variants share seeds and held-out documents, so most of what varies in their losses cancels out of the
//! difference. What is left is noise of two kinds, which are crossed: other seeds would give other differences, and so
//! would other documents. With `d[s][i]` the difference at seed `s` on document `i`, the variance of their mean is
//! estimated as in a two-way analysis of variance with random effects,
//!
//! `variance = between seeds + between documents − interaction`,
//!
//! where the interaction is in both of the others and must count once. Documents count by their tokens (a ratio
//! estimator), as they do in the mean loss.
//!
//! A variance between three seeds is known badly, one between hundreds of documents well, so each has a margin of its
//! own: Student's t for its degrees of freedom, times its standard error. The margin of the difference is the root of
//! the sum of their squares. (Satterthwaite's degrees of freedom of the sum would give intervals that are too short
//! where seeds matter most and happen to agree: 91 % instead of 95 %.) Its coverage is tested on simulated losses
//! below.
use statrs::distribution::{ContinuousCDF, Normal, StudentsT};

/// The probability of detecting a difference that [`runs_to_detect`] asks for.
pub const POWER: f64 = 0.8;
/// The most runs of a variant that [`runs_to_detect`] considers.
const MOST_RUNS: usize = 100_000;

/// The loss of one variant: its runs with different seeds, all evaluated on the same documents.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Losses {
    /// Mean loss of each run, in nats per token.
    pub means: Vec<f64>,
    /// Summed loss of each run on each document, in nats; empty if it was not recorded.
    pub nats: Vec<Vec<f64>>,
}

/// The variance of a mean, by its causes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Variance {
    /// Between seeds, with its degrees of freedom; `None` if there is one seed.
    pub seeds: Option<(f64, f64)>,
    /// Between documents, with its degrees of freedom; `None` if they are not known.
    pub documents: Option<(f64, f64)>,
    /// What is in both.
    pub interaction: f64,
}

impl Variance {
    /// What documents add to the variance between seeds.
    pub fn of_documents(&self) -> f64 {
        self.documents.map_or(0.0, |(variance, _)| (variance - self.interaction).max(0.0))
    }

    /// Half the length of an interval that contains the mean with probability `level`; infinite if nothing is known.
    fn margin(&self, level: f64) -> f64 {
        let square = |variance: f64, degrees: f64| t_quantile(0.5 + level / 2.0, degrees).powi(2) * variance;
        let seeds = self.seeds.map(|(variance, degrees)| square(variance, degrees));
        let documents = self.documents.map(|(_, degrees)| square(self.of_documents(), degrees));
        match (seeds, documents) {
            (None, None) => f64::INFINITY,
            (seeds, documents) => (seeds.unwrap_or(0.0) + documents.unwrap_or(0.0)).sqrt(),
        }
    }
}

/// An estimated difference of mean losses, the first variant's minus the second's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    /// The difference, in nats per token.
    pub mean: f64,
    /// Half the length of its interval.
    pub margin: f64,
    /// The variance of `mean`.
    pub variance: Variance,
}

impl Difference {
    /// With an interval that contains the true difference with probability `level`.
    fn new(mean: f64, variance: Variance, level: f64) -> Self {
        let margin = variance.margin(level);
        Self { mean, margin, variance }
    }

    /// Whether the interval excludes 0.
    pub fn is_detected(&self) -> bool {
        self.mean.abs() > self.margin
    }
}

/// The difference of two variants whose runs, in the same order, have the same seeds. `tokens`: those of each document.
pub fn paired(one: &Losses, other: &Losses, tokens: &[f64], level: f64) -> Difference {
    let differences: Vec<f64> = one.means.iter().zip(&other.means).map(|(a, b)| a - b).collect();
    let nats: Vec<Vec<f64>> = one.nats.iter().zip(&other.nats).map(|(a, b)| minus(a, b)).collect();
    Difference::new(mean(&differences), variance_of(&differences, &nats, tokens), level)
}

/// The difference of two variants whose runs have nothing but the documents in common. Each counts with the variance
/// between its seeds.
pub fn unpaired(one: &Losses, other: &Losses, tokens: &[f64], level: f64) -> Difference {
    let between = |losses: &Losses| -> Option<(f64, f64)> {
        let degrees = losses.means.len() as f64 - 1.0;
        (degrees > 0.0).then(|| (variance(&losses.means) / losses.means.len() as f64, degrees))
    };
    let seeds = between(one).zip(between(other)).map(|((a, m), (b, n))| {
        let degrees = if a + b > 0.0 { (a + b) * (a + b) / (a * a / m + b * b / n) } else { m + n };
        (a + b, degrees)
    });
    let of_means = match (means_of(&one.nats), means_of(&other.nats)) {
        (a, b) if a.is_empty() || b.is_empty() => Vec::new(),
        (a, b) => vec![minus(&a, &b)],
    };
    let documents = variance_of(&[0.0], &of_means, tokens).documents;
    let mean = mean(&one.means) - mean(&other.means);
    Difference::new(mean, Variance { seeds, documents, interaction: 0.0 }, level)
}

/// The variance of the mean of `values`, one per seed, of which `nats` are the sums by document.
pub fn variance_of(values: &[f64], nats: &[Vec<f64>], tokens: &[f64]) -> Variance {
    let count = values.len() as f64;
    let seeds = (values.len() > 1).then(|| (variance(values) / count, count - 1.0));
    let (all, total): (f64, f64) = (tokens.len() as f64, tokens.iter().sum());
    if tokens.len() < 2 || nats.is_empty() || total <= 0.0 {
        return Variance { seeds, documents: None, interaction: 0.0 };
    }
    let of_document = means_of(nats);
    let per_token = of_document.iter().sum::<f64>() / total;
    let correction = all / (all - 1.0);
    let residual = |document: usize| of_document[document] - per_token * tokens[document];
    let squares: f64 = (0..tokens.len()).map(|document| residual(document).powi(2)).sum();
    let documents = Some((correction * squares / (total * total), all - 1.0));
    let mut crossed = 0.0;
    for of_seed in nats {
        let per_token = of_seed.iter().sum::<f64>() / total;
        for (document, tokens) in tokens.iter().enumerate() {
            crossed += (of_seed[document] - per_token * tokens - residual(document)).powi(2);
        }
    }
    let interaction = seeds.map_or(0.0, |(_, degrees)| correction * crossed / (degrees * count * total * total));
    Variance { seeds, documents, interaction }
}

/// How many runs of each of two variants detect a difference of `size` with probability [`POWER`], if the difference
/// of two runs has variance `of_a_run`, and documents add `fixed`, which no number of runs makes smaller. `groups`: 1
/// if runs are paired, 2 if not. `None` if no number does.
pub fn runs_to_detect(size: f64, of_a_run: f64, fixed: f64, groups: usize, level: f64) -> Option<usize> {
    let enough = |runs: usize| {
        let degrees = (groups * (runs - 1)) as f64;
        let square = |degrees| (t_quantile(0.5 + level / 2.0, degrees) + t_quantile(POWER, degrees)).powi(2);
        square(degrees) * of_a_run / runs as f64 + square(f64::INFINITY) * fixed <= size * size
    };
    if !enough(MOST_RUNS) {
        return None;
    }
    let (mut low, mut high) = (1, MOST_RUNS);
    while high - low > 1 {
        let middle = low.midpoint(high);
        if enough(middle) { high = middle } else { low = middle }
    }
    Some(high)
}

/// The median, of an even number of values the upper one; `None` of nothing.
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// The mean; 0 of none.
pub fn mean(values: &[f64]) -> f64 {
    if values.is_empty() { 0.0 } else { values.iter().sum::<f64>() / values.len() as f64 }
}

/// The variance between values, of which there is more than one; else 0.
pub fn variance(values: &[f64]) -> f64 {
    if values.len() < 2 {
        return 0.0;
    }
    let mean = mean(values);
    values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (values.len() - 1) as f64
}

fn minus(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a - b).collect()
}

/// The mean over seeds of each document.
fn means_of(nats: &[Vec<f64>]) -> Vec<f64> {
    let documents = nats.first().map_or(0, Vec::len);
    (0..documents).map(|document| nats.iter().map(|seed| seed[document]).sum::<f64>() / nats.len() as f64).collect()
}

/// The quantile of Student's t distribution; of the normal one for many degrees of freedom.
fn t_quantile(probability: f64, degrees: f64) -> f64 {
    let t = StudentsT::new(0.0, 1.0, degrees).ok().filter(|_| degrees < 1e5);
    match (t, Normal::new(0.0, 1.0)) {
        (Some(t), _) => t.inverse_cdf(probability),
        (None, Ok(normal)) => normal.inverse_cdf(probability),
        (None, Err(_)) => f64::INFINITY,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::parameters::splitmix64;

    /// Normally distributed numbers.
    struct Random(u64, u64);

    impl Random {
        fn uniform(&mut self) -> f64 {
            self.1 += 1;
            (splitmix64(self.0, self.1) >> 11) as f64 / (1u64 << 53) as f64
        }

        fn normal(&mut self, deviation: f64) -> f64 {
            let (a, b) = (1.0 - self.uniform(), self.uniform());
            deviation * (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()
        }
    }

    /// Deviations of the simulated losses, in nats per token.
    #[derive(Clone, Copy)]
    struct Noise {
        /// Of a run, whatever its variant: what pairing by seed takes out.
        seed: f64,
        /// Of a document, likewise.
        document: f64,
        /// Of the effect of the variant at a seed, on a document, and on a document at a seed.
        effects: [f64; 3],
    }

    /// Losses of two variants of which the first is worse by `effect`, and the tokens of documents.
    fn simulated(
        random: &mut Random,
        effect: f64,
        seeds: usize,
        documents: usize,
        n: Noise,
    ) -> (Losses, Losses, Vec<f64>) {
        let tokens: Vec<f64> = (0..documents).map(|_| 50.0 * random.normal(0.8).exp()).collect();
        let total: f64 = tokens.iter().sum();
        let of_document: Vec<[f64; 2]> =
            (0..documents).map(|_| [random.normal(n.document), random.normal(n.effects[1])]).collect();
        let (mut one, mut other) = (Losses::default(), Losses::default());
        for _ in 0..seeds {
            let [seed, at_seed] = [random.normal(n.seed), effect + random.normal(n.effects[0])];
            let (mut a, mut b) = (Vec::new(), Vec::new());
            for (tokens, [level, on_document]) in tokens.iter().zip(&of_document) {
                let shared = 5.0 + seed + level;
                b.push(tokens * shared);
                a.push(tokens * (shared + at_seed + on_document + random.normal(n.effects[2])));
            }
            for (losses, nats) in [(&mut one, a), (&mut other, b)] {
                losses.means.push(nats.iter().sum::<f64>() / total);
                losses.nats.push(nats);
            }
        }
        (one, other, tokens)
    }

    /// The share of 2,000 simulations whose interval contains the true difference.
    fn coverage(seeds: usize, documents: usize, noise: Noise, level: f64, pairs: bool) -> f64 {
        const TRIALS: u64 = 2_000;
        let contains = |trial: &u64| {
            let effect = 0.003;
            let (one, other, tokens) = simulated(&mut Random(*trial, 0), effect, seeds, documents, noise);
            let compare = if pairs { paired } else { unpaired };
            let found = compare(&one, &other, &tokens, level);
            (found.mean - effect).abs() <= found.margin
        };
        (0..TRIALS).filter(contains).count() as f64 / TRIALS as f64
    }

    #[test]
    fn intervals_contain_the_true_difference_as_often_as_they_promise() {
        let noise = |effects| Noise { seed: 0.02, document: 0.6, effects };
        for (effects, what) in [
            ([0.01, 0.0, 0.05], "seeds decide"),
            ([0.0, 0.3, 0.05], "documents decide"),
            ([0.01, 0.1, 0.05], "both count"),
            ([0.0, 0.0, 0.2], "each document at each seed"),
        ] {
            for (seeds, documents) in [(3, 60), (3, 400), (8, 100)] {
                for level in [0.95, 0.99] {
                    let covered = coverage(seeds, documents, noise(effects), level, true);
                    // Three standard deviations of the simulation; where both kinds count, the interval is
                    // conservative.
                    let allowed = level - 3.0 * (level * (1.0 - level) / 2_000.0).sqrt()..=1.0;
                    assert!(allowed.contains(&covered), "{what}, {seeds} × {documents}: {covered} at {level}");
                    println!("{what}, {seeds} seeds × {documents} documents: {covered} at {level}");
                }
            }
        }
        // Where there is one kind of noise, the interval is exact.
        for effects in [[0.01, 0.0, 0.0], [0.0, 0.3, 0.0]] {
            let covered = coverage(4, 300, noise(effects), 0.95, true);
            assert!((0.935..=0.97).contains(&covered), "{effects:?}: {covered}");
        }
    }

    #[test]
    fn unpaired_intervals_are_longer_and_contain_it_too() {
        let noise = Noise { seed: 0.02, document: 0.6, effects: [0.005, 0.05, 0.05] };
        let covered = coverage(5, 100, noise, 0.95, false);
        assert!((0.93..=1.0).contains(&covered), "{covered}");
        let (one, other, tokens) = simulated(&mut Random(1, 0), 0.003, 5, 100, noise);
        let [with, without] = [paired, unpaired].map(|compare| compare(&one, &other, &tokens, 0.95));
        assert!((with.mean - without.mean).abs() < 1e-12, "the estimate is the same");
        assert_eq!(without.variance.interaction, 0.0);
    }

    #[test]
    fn a_second_look_at_the_numbers() {
        // Two seeds and two documents of 10 tokens: worked out by hand.
        let one = Losses { means: vec![1.2, 1.4], nats: vec![vec![11.0, 13.0], vec![15.0, 13.0]] };
        let other = Losses { means: vec![1.0, 1.0], nats: vec![vec![10.0, 10.0]; 2] };
        let found = paired(&one, &other, &[10.0, 10.0], 0.95);
        assert!((found.mean - 0.3).abs() < 1e-12);
        let (seeds, degrees) = found.variance.seeds.unwrap();
        assert!((seeds - 0.02 / 2.0).abs() < 1e-12 && degrees == 1.0);
        // Documents have the differences 1 and 5, 3 and 3: means of 3, so nothing between them.
        let (documents, degrees) = found.variance.documents.unwrap();
        assert!(documents.abs() < 1e-12 && degrees == 1.0);
        // Residuals are -1, 1, 1, -1: 2 · 4 / (1 · 2 · 400).
        assert!((found.variance.interaction - 0.01).abs() < 1e-12);
        assert_eq!(found.variance.of_documents(), 0.0);
        assert!((found.margin - 12.706 * 0.1).abs() < 1e-3, "{}", found.margin);
    }

    #[test]
    fn with_one_seed_only_documents_are_known() {
        let one = Losses { means: vec![1.2], nats: vec![vec![11.0, 13.0]] };
        let other = Losses { means: vec![1.0], nats: vec![vec![10.0, 10.0]] };
        let found = paired(&one, &other, &[10.0, 10.0], 0.95);
        assert!(found.variance.seeds.is_none() && found.margin.is_finite());
        let unknown = |losses: &Losses| Losses { nats: Vec::new(), ..losses.clone() };
        let found = paired(&unknown(&one), &unknown(&other), &[], 0.95);
        assert!(found.margin.is_infinite() && !found.is_detected());
    }

    #[test]
    fn the_runs_that_it_takes() {
        // (1.96 + 0.84)² · 2 · 0.01² / 0.003² = 174 runs of each, and a few for the estimated variance.
        let found = runs_to_detect(0.003, 2.0 * 1e-4, 0.0, 2, 0.95).unwrap();
        assert!((174..178).contains(&found), "{found}");
        let found = runs_to_detect(0.003, 1e-6, 0.0, 1, 0.95).unwrap();
        assert!((3..=4).contains(&found), "{found}");
        assert_eq!(runs_to_detect(0.003, 1e-6, 1e-5, 1, 0.95), None, "other documents could change it more than that");
    }
}

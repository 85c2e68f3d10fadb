//! The result of a comparison: a row per variant, and which one learns best, with the error of that statement.
use super::halving::Rung;
use super::measured::{Measured, Variant};
use super::statistics::{Difference, Losses, mean, paired, runs_to_detect, unpaired, variance};
use serde::Serialize;
use std::collections::BTreeMap;
use train::documents::Document;

/// The probability with which all intervals together contain the true differences.
pub const LEVEL: f64 = 0.95;

/// A comparison.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// The variants, the best one first.
    pub variants: Vec<Row>,
    /// The loss of `seconds_to_target`.
    pub target_loss: Option<f64>,
    /// The best variant against each other one.
    pub differences: Vec<Compared>,
    /// How the intervals of `differences` are computed.
    pub method: String,
    /// What successive halving has decided.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub halving: Vec<Rung>,
    /// What makes the comparison weaker than it could be.
    pub notes: Vec<String>,
}

/// A variant.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Its name.
    pub variant: String,
    /// Its runs.
    pub runs: Vec<Measured>,
    /// Mean validation loss, in nats per token.
    pub loss: Option<f64>,
    /// Standard deviation of the loss between seeds.
    pub spread: Option<f64>,
    /// Mean bits per byte.
    pub bits_per_byte: Option<f64>,
    /// Mean tokens per second.
    pub tok_per_sec: Option<f64>,
    /// Mean seconds of training until validation found the target loss, if all its runs did.
    pub seconds_to_target: Option<f64>,
}

/// The best variant against another one.
#[derive(Clone, Debug, Serialize)]
pub struct Compared {
    /// The other one.
    pub variant: String,
    /// Its loss minus that of the best one, in nats per token.
    pub difference: f64,
    /// Half the length of the interval around it; `None` if it cannot be known.
    pub margin: Option<f64>,
    /// Whether the interval excludes 0.
    pub detected: bool,
    /// Whether losses per token mean the same: if not, they are of other documents, or of another tokenizer.
    pub comparable: bool,
    /// Seeds that both were run with; 0 if they are not paired by seed.
    pub paired_seeds: usize,
    /// Documents that it is paired by; 0 if it is not.
    pub paired_documents: usize,
    /// How many runs of each would detect [`size`](Needed::size).
    pub needed: Needed,
}

/// How many runs of each of two variants detect a difference with a probability of 80 %; `None`: no number does, or
/// it is not known.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Needed {
    /// The difference, in nats per token.
    pub size: f64,
    /// Paired by seed and by document.
    pub paired: Option<usize>,
    /// With other seeds for each variant, on the same documents, which are taken as given.
    pub unpaired: Option<usize>,
}

/// Compares variants: time is measured until `target` is reached (if `None`, the loss that all runs reach), and runs
/// are counted that detect a difference of `detect`. Runs that `halving` has stopped are not missing.
pub fn compare(variants: &[Variant], target: Option<f64>, detect: f64, halving: Vec<Rung>) -> Comparison {
    let losses = |variant: &Variant| variant.losses();
    // The loss of the worst run, which all reach.
    let reached = variants.iter().flat_map(losses).fold(f64::NEG_INFINITY, f64::max);
    let target_loss = target.or(Some(reached).filter(|loss| loss.is_finite()));
    let mut order: Vec<&Variant> = variants.iter().collect();
    let key =
        |variant: &Variant| Some(losses(variant)).filter(|all| !all.is_empty()).map_or(f64::INFINITY, |all| mean(&all));
    order.sort_by(|a, b| key(a).total_cmp(&key(b)));
    let finished: Vec<&Variant> = order.iter().copied().filter(|variant| !losses(variant).is_empty()).collect();
    let pairs = finished.len() * finished.len().saturating_sub(1) / 2;
    // Bonferroni: which of them is best is not known before, so every pair counts.
    let level = 1.0 - (1.0 - LEVEL) / pairs.max(1) as f64;
    let differences: Vec<Compared> = match finished.split_first() {
        Some((best, others)) => others.iter().map(|other| difference(best, other, level, detect)).collect(),
        None => Vec::new(),
    };
    let (method, notes) = (method(&differences, pairs), notes(variants, &differences, &halving));
    let variants = order.into_iter().map(|variant| row(variant, target_loss)).collect();
    Comparison { variants, target_loss, differences, method, halving, notes }
}

fn row(variant: &Variant, target: Option<f64>) -> Row {
    let done: Vec<&Measured> = variant.runs.iter().filter(|run| run.loss().is_some()).collect();
    let mean_of = |value: &dyn Fn(&Measured) -> Option<f64>| -> Option<f64> {
        let values: Option<Vec<f64>> = done.iter().map(|run| value(run)).collect();
        values.filter(|values| !values.is_empty()).map(|values| mean(&values))
    };
    let losses = variant.losses();
    Row {
        variant: variant.name.clone(),
        runs: variant.runs.clone(),
        loss: mean_of(&Measured::loss),
        spread: (losses.len() > 1).then(|| variance(&losses).sqrt()),
        bits_per_byte: mean_of(&|run| run.ran.bits_per_byte),
        tok_per_sec: mean_of(&|run| run.ran.tok_per_sec),
        seconds_to_target: target.and_then(|target| mean_of(&|run| run.seconds_to(target))),
    }
}

/// The loss of `other` minus that of `best`.
fn difference(best: &Variant, other: &Variant, level: f64, detect: f64) -> Compared {
    let [a, b] = [other, best].map(by_seed);
    let shared: Vec<u64> = a.keys().copied().filter(|seed| b.contains_key(seed)).collect();
    // All runs have a counterpart, or there are not enough that do.
    let pairs = shared.len() == a.len().max(b.len()) || shared.len() > 1;
    let chosen = |all: &BTreeMap<u64, &Measured>| -> Vec<Measured> {
        all.iter().filter(|(seed, _)| !pairs || shared.contains(seed)).map(|(_, run)| (*run).clone()).collect()
    };
    let (a, b) = (chosen(&a), chosen(&b));
    let tokens = same_documents(a.iter().chain(&b)).unwrap_or_default();
    // Losses per token mean the same only for the same tokens.
    let same_by_seed =
        || pairs && a.iter().zip(&b).all(|(one, other)| same_documents([one, other].into_iter()).is_some());
    let unknown = a.iter().chain(&b).any(|run| run.documents.is_empty());
    let comparable = !tokens.is_empty() || unknown || same_by_seed();
    let [one, another] = [&a, &b].map(|runs| losses_of(runs, !tokens.is_empty()));
    let found = if pairs { paired(&one, &another, &tokens, level) } else { unpaired(&one, &another, &tokens, level) };
    Compared {
        variant: other.name.clone(),
        difference: found.mean,
        // The variation between seeds is unknown, and so is the error.
        margin: Some(found.margin).filter(|margin| comparable && margin.is_finite() && found.variance.seeds.is_some()),
        detected: comparable && found.variance.seeds.is_some() && found.is_detected(),
        comparable,
        paired_seeds: if pairs { a.len() } else { 0 },
        paired_documents: tokens.len(),
        needed: needed(&one, &another, &found, (pairs, level), detect),
    }
}

fn needed(one: &Losses, other: &Losses, found: &Difference, (pairs, level): (bool, f64), size: f64) -> Needed {
    let (runs, others) = (one.means.len(), other.means.len());
    let count = |variance: f64, fixed, groups| runs_to_detect(size, variance, fixed, groups, level);
    let fixed = found.variance.of_documents();
    let between = found.variance.seeds.filter(|_| pairs).map(|(variance, _)| variance * runs as f64);
    Needed {
        size,
        paired: between.and_then(|variance| count(variance, fixed, 1)),
        unpaired: (runs > 1 && others > 1)
            .then(|| variance(&one.means) + variance(&other.means))
            .and_then(|variance| count(variance, 0.0, 2)),
    }
}

/// The finished runs of a variant, by seed.
fn by_seed(variant: &Variant) -> BTreeMap<u64, &Measured> {
    variant.runs.iter().filter(|run| run.loss().is_some()).map(|run| (run.seed, run)).collect()
}

fn losses_of(runs: &[Measured], documents: bool) -> Losses {
    let nats = |run: &Measured| run.documents.iter().map(|document| document.nats).collect();
    Losses {
        means: runs.iter().filter_map(Measured::loss).collect(),
        nats: if documents { runs.iter().map(nats).collect() } else { Vec::new() },
    }
}

/// The tokens of each held-out document, if all runs have recorded the same ones.
fn same_documents<'a>(mut runs: impl Iterator<Item = &'a Measured>) -> Option<Vec<f64>> {
    let key = |document: &Document| (document.document, document.tokens);
    let first: Vec<_> = runs.next()?.documents.iter().map(key).collect();
    let same = |run: &Measured| run.documents.iter().map(key).eq(first.iter().copied());
    (first.len() > 1 && runs.all(same)).then(|| first.iter().map(|(_, tokens)| *tokens as f64).collect())
}

fn method(differences: &[Compared], pairs: usize) -> String {
    let Some(first) = differences.first() else { return String::new() };
    let [seeds, documents] = [first.paired_seeds, first.paired_documents];
    let by = match (seeds, documents) {
        (0, 0) => "Welch's t-interval of runs that are not paired".into(),
        (0, _) => format!("Welch's t-interval, runs not paired by seed, paired by {documents} held-out documents"),
        (_, 0) => format!("t-interval of differences paired by {seeds} seeds"),
        _ => format!(
            "differences paired by {seeds} seeds and {documents} held-out documents, two-way variance, t-margins of \
             seeds and documents added in quadrature"
        ),
    };
    let adjusted = if pairs > 1 { format!(", together for all {pairs} pairs (Bonferroni)") } else { String::new() };
    format!("{:.0} % intervals{adjusted}: {by}", 100.0 * LEVEL)
}

fn notes(variants: &[Variant], differences: &[Compared], halving: &[Rung]) -> Vec<String> {
    let mut notes = Vec::new();
    let stopped = |variant: &Variant| {
        let has_run = !variant.losses().is_empty();
        !has_run && halving.iter().any(|rung| rung.stopped.iter().any(|ranked| ranked.variant == variant.name))
    };
    let runs = variants.iter().filter(|variant| !stopped(variant)).flat_map(|variant| &variant.runs);
    let unfinished: Vec<&str> = runs.filter(|run| run.loss().is_none()).map(|run| run.ran.run.as_str()).collect();
    if !unfinished.is_empty() {
        notes.push(format!("not compared, as they are not finished or not validated: {}", unfinished.join(", ")));
    }
    if differences.iter().any(|one| one.margin.is_none() && one.comparable) {
        notes.push("with one run of a variant, nothing is known of the variation between seeds: no verdict".into());
    }
    if differences.iter().any(|one| one.paired_documents == 0 && one.comparable) {
        let why = "their losses are missing (runs of an older program), or each seed has other ones (`sample`)";
        notes.push(format!("not paired by document: {why}"));
    }
    if differences.iter().any(|one| !one.comparable) {
        let why =
            "were validated on other documents, or have another tokenizer: their losses per token cannot be compared";
        notes.push(format!("some variants {why} (bits per byte can, if the documents are the same)"));
    }
    if differences.iter().any(|one| one.paired_seeds == 0) {
        notes.push("not paired by seed: the variants were run with other seeds".into());
    }
    if !halving.is_empty() {
        let why = "one that learns slowly at first may have been stopped, and one that goes on was chosen by the losses of \
                   the same runs";
        notes.push(format!("halving compares variants before their end: {why}"));
    }
    notes
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::run_files::Ran;
    use crate::train_run::status::State;
    use contract::parameters::splitmix64;
    use train::record::StepLine;

    /// A run whose losses vary with its seed and its documents, and a little with `effect`.
    fn run(name: &str, seed: u64, effect: f64) -> Measured {
        let noise = |salt: u64, i: u64| (splitmix64(salt, i) >> 11) as f64 / (1u64 << 53) as f64 - 0.5;
        let of_effect = effect + 0.002 * noise(seed, effect.to_bits());
        let document = |i: u64| {
            let tokens = 20 + i % 7;
            let per_token = 5.0 + 0.1 * noise(1, seed) + noise(2, i) + of_effect * (1.0 + 0.5 * noise(3, i));
            Document { document: i as u32, tokens, nats: tokens as f64 * per_token }
        };
        let documents: Vec<Document> = (0..200).map(document).collect();
        let tokens: u64 = documents.iter().map(|document| document.tokens).sum();
        let loss = documents.iter().map(|document| document.nats).sum::<f64>() / tokens as f64;
        let line = |step: u64| StepLine {
            step,
            tokens: 1000 * step,
            tok_per_sec: 500.0,
            validation_loss: Some(loss + 1.0 - step as f64 / 10.0),
            ..StepLine::default()
        };
        let ran = Ran {
            run: format!("runs/x/{name}-seed{seed}"),
            state: State::Done,
            step: 10,
            steps: Some(10),
            loss: Some(loss),
            validation_loss: Some(loss),
            bits_per_byte: Some(loss / 3.0),
            tok_per_sec: Some(500.0),
            checkpoint: None,
            started: None,
            seen: None,
            error: None,
            metrics: Vec::new(),
        };
        Measured { ran, seed, metrics: (1..=10).map(line).collect(), documents }
    }

    pub fn variant(name: &str, seeds: &[u64], effect: f64) -> Variant {
        Variant { name: name.into(), runs: seeds.iter().map(|seed| run(name, *seed, effect)).collect() }
    }

    pub fn variants(seeds: &[u64]) -> Vec<Variant> {
        vec![variant("adamw", seeds, 0.02), variant("muon", seeds, 0.0), variant("lion", seeds, 0.0004)]
    }

    #[test]
    fn the_best_is_first_and_compared_with_each_other_one() {
        let found = compare(&variants(&[1, 2, 3]), None, 0.003, Vec::new());
        let differences: Vec<(&str, bool)> =
            found.differences.iter().map(|d| (d.variant.as_str(), d.detected)).collect();
        assert_eq!(differences.last(), Some(&("adamw", true)), "{:?}", found.differences);
        assert!(!differences[0].1, "{:?}", found.differences);
        let adamw = &found.differences[1];
        assert!((adamw.difference - 0.02).abs() < 0.003 && adamw.margin.unwrap() < 0.02, "{adamw:?}");
        assert_eq!((adamw.paired_seeds, adamw.paired_documents), (3, 200));
        // The variation between seeds is fifty times as large as that of their differences.
        let needed = adamw.needed;
        assert!(needed.unpaired.unwrap() > 100 && needed.paired.unwrap() < 10, "{needed:?}");
        // All reach the loss of the worst run, at its last step at the latest: 10,000 tokens at 500 per second.
        let worst = found.variants.iter().map(|row| row.seconds_to_target.unwrap()).fold(0.0, f64::max);
        assert!(worst > 16.0 && worst <= 20.0, "{worst}");
    }

    #[test]
    fn what_is_missing_is_not_paired() {
        let mut all = variants(&[1, 2, 3]);
        all.truncate(2);
        all[0].runs[1].documents.clear();
        let found = compare(&all, None, 0.003, Vec::new());
        assert_eq!((found.differences[0].paired_seeds, found.differences[0].paired_documents), (3, 0));
        assert!(found.notes[0].starts_with("not paired by document"), "{:?}", found.notes);
        all[0].runs[1].documents = all[0].runs[0].documents[..199].to_vec();
        let found = compare(&all, None, 0.003, Vec::new());
        let adamw = &found.differences[0];
        assert!(!adamw.comparable && !adamw.detected && adamw.margin.is_none(), "{adamw:?}");
        assert!(found.notes[0].starts_with("some variants were validated on other documents"), "{:?}", found.notes);
        all[1].runs[1].documents.truncate(199);
        let found = compare(&all, None, 0.003, Vec::new());
        assert!(found.differences[0].comparable && found.notes[0].contains("each seed has other ones"), "{found:?}");
        let other = vec![variant("adamw", &[4, 5], 0.02), variant("muon", &[1, 2], 0.0)];
        let found = compare(&other, None, 0.003, Vec::new());
        assert_eq!((found.differences[0].paired_seeds, found.differences[0].paired_documents), (0, 200));
        assert!(found.method.contains("Welch") && found.notes[0].starts_with("not paired by seed"), "{found:?}");
        // A run that is not finished is left out, and so is its counterpart.
        all[1].runs[0].ran.state = State::Stopped;
        let found = compare(&all, None, 0.003, Vec::new());
        assert_eq!(found.differences[0].paired_seeds, 2);
        assert!(found.notes[0].contains("runs/x/muon-seed1"), "{:?}", found.notes);
    }
}

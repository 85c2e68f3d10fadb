//! A comparison as text of 80 columns.
use super::halving::{Ranked, Rung};
use super::verdict::{Compared, Comparison, Row};
use crate::show::human::{count, decimal, hang, time};
use crate::show::{Align, table};
use std::time::Duration;

/// The table and the verdict.
pub fn text(comparison: &Comparison, columns: usize) -> String {
    let mut parts = vec![rows(comparison, columns)];
    let halving: Vec<String> = comparison.halving.iter().map(rung).collect();
    parts.extend(halving.first().map(|_| String::new()));
    parts.extend(halving.iter().map(|line| hang(line, columns)));
    let verdict = verdict(comparison);
    parts.extend(verdict.first().map(|_| String::new()));
    parts.extend(verdict.iter().map(|line| hang(line, columns)));
    parts.extend(comparison.notes.iter().map(|note| hang(&format!("note: {note}"), columns)));
    parts.join("\n")
}

fn rows(comparison: &Comparison, columns: usize) -> String {
    let to = comparison.target_loss.map_or("to target".to_owned(), |loss| format!("to {loss:.3}"));
    let heads = [
        ("variant", Align::Left),
        ("runs", Align::Right),
        ("loss", Align::Right),
        ("spread", Align::Right),
        ("bits/byte", Align::Right),
        ("tok/s", Align::Right),
        (to.as_str(), Align::Right),
    ];
    let row = |row: &Row| {
        let done = row.runs.iter().filter(|run| run.loss().is_some()).count();
        vec![
            row.variant.clone(),
            if done == row.runs.len() { done.to_string() } else { format!("{done}/{}", row.runs.len()) },
            decimal(row.loss, 4),
            decimal(row.spread, 4),
            decimal(row.bits_per_byte, 4),
            row.tok_per_sec.map_or("-".into(), |rate| count(rate.round() as u64)),
            row.seconds_to_target
                .map_or("-".into(), |seconds| time(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))),
        ]
    };
    let shown: Vec<Vec<String>> = comparison.variants.iter().map(row).collect();
    table(&heads, &shown, columns)
}

/// What was decided after some steps, not wrapped.
pub fn rung(Rung { step, metric, go_on, stopped }: &Rung) -> String {
    let list = |ranked: &[Ranked]| {
        let one = |ranked: &Ranked| {
            format!("{} ({})", ranked.variant, ranked.mean.map_or("failed".into(), |mean| format!("{mean:.4}")))
        };
        ranked.iter().map(one).collect::<Vec<_>>().join(", ")
    };
    format!("Halving after {step} steps, by {metric}: went on: {}; stopped: {}", list(go_on), list(stopped))
}

/// The lines of the verdict, not wrapped.
pub fn verdict(comparison: &Comparison) -> Vec<String> {
    let Some(best) = comparison.variants.first().filter(|row| row.loss.is_some()) else { return Vec::new() };
    let mut lines = Vec::new();
    for compared in &comparison.differences {
        lines.push(sentence(&best.variant, compared));
    }
    if !comparison.differences.is_empty() {
        lines.push(comparison.method.clone());
        lines.extend(needed(comparison.differences.last()));
    }
    lines
}

fn sentence(best: &str, compared: &Compared) -> String {
    let Compared { variant, margin, detected, comparable, .. } = compared;
    if !comparable {
        return format!("No verdict: the losses of {best} and {variant} are of other documents or tokens");
    }
    // The best on average over all its seeds can be the worse one over those that both have.
    let (best, variant) = if compared.difference < 0.0 { (variant.as_str(), best) } else { (best, variant.as_str()) };
    let difference = compared.difference.abs();
    match (margin, detected) {
        (Some(margin), true) => {
            format!("Verdict: {best} is better than {variant} by {difference:.4} ± {margin:.4} nats per token")
        }
        (Some(margin), false) => format!(
            "Verdict: no difference between {best} and {variant} was detected: {difference:.4} ± {margin:.4} nats per \
             token"
        ),
        (None, _) => {
            format!("No verdict: {best} is ahead of {variant} by {difference:.4} nats per token, with an unknown error")
        }
    }
}

/// How many runs a difference takes.
fn needed(compared: Option<&Compared>) -> Option<String> {
    let Compared { variant, needed, paired_seeds, .. } = compared?;
    let unpaired = needed.unpaired?;
    let size = needed.size;
    let said = match (needed.paired, paired_seeds) {
        (_, 0) => return None,
        (Some(paired), _) => format!("{paired} runs of each paired as here, and {unpaired} not paired by seed"),
        (None, _) => format!(
            "more held-out documents, whatever the number of runs ({unpaired} of each would do if no other documents \
             mattered)"
        ),
    };
    Some(format!("To detect {size} nats per token (4 times in 5) between the best and {variant} takes {said}"))
}

#[cfg(test)]
mod tests {
    use super::super::verdict::tests::{variant, variants};
    use super::super::verdict::{Comparison, compare};
    use super::*;

    fn shown(comparison: &Comparison) -> String {
        let shown = text(comparison, 80);
        assert!(shown.lines().all(|line| line.chars().count() <= 80), "{shown}");
        shown
    }

    #[test]
    fn a_verdict_has_its_error() {
        insta::assert_snapshot!(shown(&compare(&variants(&[1, 2, 3]), None, 0.003, Vec::new())), @r"
        variant  runs    loss  spread  bits/byte  tok/s  to 5.071
        muon        3  5.0247  0.0269     1.6749    500    20.0 s
        lion        3  5.0250  0.0259     1.6750    500    20.0 s
        adamw       3  5.0450  0.0266     1.6817    500    20.0 s

        Verdict: no difference between muon and lion was detected: 0.0004 ± 0.0049 nats
          per token
        Verdict: muon is better than adamw by 0.0204 ± 0.0033 nats per token
        95 % intervals, together for all 3 pairs (Bonferroni): differences paired by 3
          seeds and 200 held-out documents, two-way variance, t-margins of seeds and
          documents added in quadrature
        To detect 0.003 nats per token (4 times in 5) between the best and adamw takes 4
          runs of each paired as here, and 1669 not paired by seed
        ");
    }

    #[test]
    fn with_one_seed_there_is_none() {
        let said = shown(&compare(&variants(&[1]), Some(5.5), 0.003, Vec::new()))
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ");
        assert!(said.contains("No verdict: ") && said.contains(" is ahead of adamw by"), "{said}");
        assert!(said.contains("nothing is known of the variation between seeds"), "{said}");
        assert!(!said.contains("To detect"), "{said}");
    }

    #[test]
    fn nothing_to_compare() {
        let said = shown(&compare(&[variant("adamw", &[], 0.0)], None, 0.003, Vec::new()));
        assert_eq!(said.lines().count(), 2, "{said}");
    }
}

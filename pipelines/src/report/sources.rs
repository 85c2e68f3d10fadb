//! The sources of a run that mixes several: a table and plots.
use super::html::escape;
use super::plot::{Plot, Series, Style};
use crate::show::human::{count, decimal};
use std::fmt::Write;
use train::record::StepLine;

/// Intervals in which shares are shown, at most.
const INTERVALS: usize = 200;

/// What the run has trained on of each source, and the losses on them; nothing if the run has one source.
pub(super) fn section(metrics: &[StepLine]) -> String {
    if metrics.last().is_none_or(|line| line.sources.is_empty()) {
        return String::new();
    }
    let figures: String = plots(metrics).iter().map(Plot::figure).collect();
    format!("{}<section class=\"plots\">\n{figures}</section>\n", table(metrics))
}

/// The share of each source, and the loss on each, over the steps.
fn plots(metrics: &[StepLine]) -> [Plot; 2] {
    let names: Vec<&String> = metrics.last().into_iter().flat_map(|line| line.sources.keys()).collect();
    let over = |title: &'static str, unit, from_zero, points: &dyn Fn(&str) -> Vec<(f64, f64)>| {
        let series = names.iter().enumerate().map(|(at, name)| Series::new(name.as_str(), Style::Of(at), points(name)));
        Plot { title: title.into(), unit, along: "step", from_zero, series: series.collect(), ..Plot::default() }
    };
    let losses = |name: &str| {
        let loss = |line: &StepLine| Some((line.step as f64, line.sources.get(name)?.validation_loss?));
        metrics.iter().filter_map(loss).collect()
    };
    [
        over("Share of each source", "% of the tokens", true, &|name| shares(metrics, name)),
        over("Validation loss by source", "nats per token", false, &losses),
    ]
}

/// The share of a source in percent, in equal intervals of steps.
fn shares(metrics: &[StepLine], name: &str) -> Vec<(f64, f64)> {
    let all = |line: &StepLine| line.sources.values().map(|source| source.tokens).sum::<u64>();
    let own = |line: &StepLine| line.sources.get(name).map_or(0, |source| source.tokens);
    let (mut points, mut before) = (Vec::new(), (0, 0));
    for interval in metrics.chunks(metrics.len().div_ceil(INTERVALS).max(1)) {
        let Some(last) = interval.last() else { continue };
        let (tokens, of_all) = (own(last) - before.0, all(last) - before.1);
        before = (own(last), all(last));
        if of_all > 0 {
            points.push((last.step as f64, 100.0 * tokens as f64 / of_all as f64));
        }
    }
    points
}

/// What the run has trained on of each source so far, and the last validation; nothing if the run has one source.
fn table(metrics: &[StepLine]) -> String {
    let Some(last) = metrics.last().filter(|line| !line.sources.is_empty()) else { return String::new() };
    let validated = metrics.iter().rev().find(|line| line.validation_loss.is_some());
    let all: u64 = last.sources.values().map(|source| source.tokens).sum();
    let mut out = String::from(
        "<h2>Sources</h2>\n<div class=\"panel\"><table class=\"times\">\n<tr><th>source</th><th class=\"n\">tokens</th>\
         <th class=\"n\">share</th><th class=\"n\">epochs</th><th class=\"n\">validation loss</th>\
         <th class=\"n\">bits per byte</th></tr>\n",
    );
    for (source, line) in &last.sources {
        let at_validation = validated.and_then(|line| line.sources.get(source));
        let _ = writeln!(
            out,
            "<tr><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{:.1} %</td><td class=\"n\">{:.2}</td>\
             <td class=\"n\">{}</td><td class=\"n\">{}</td></tr>",
            escape(source),
            count(line.tokens),
            if all > 0 { 100.0 * line.tokens as f64 / all as f64 } else { 0.0 },
            line.epoch,
            decimal(at_validation.and_then(|line| line.validation_loss), 4),
            decimal(at_validation.and_then(|line| line.bits_per_byte), 4),
        );
    }
    let step =
        validated.map_or(String::new(), |line| format!("<p class=\"none\">Validated at step {}.</p>", line.step));
    out + &format!("</table>{step}</div>\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use train::record::SourceLine;

    #[test]
    fn a_run_of_one_source_has_no_table_and_names_stay_text() {
        assert_eq!(section(&[StepLine::default()]), "");
        let source = |tokens, validation_loss| SourceLine { tokens, epoch: 0.5, validation_loss, bits_per_byte: None };
        let line = |step, tokens, loss| StepLine {
            step,
            validation_loss: loss,
            sources: BTreeMap::from([("a".into(), source(tokens, loss)), ("<b>".into(), source(300, None))]),
            ..StepLine::default()
        };
        let lines = [line(4, 50, Some(2.5)), line(5, 100, None)];
        let shown = section(&lines);
        for piece in ["<td>a</td>", "25.0 %", ">2.5000<", "&lt;b&gt;", "75.0 %", "Validated at step 4"] {
            assert!(shown.contains(piece), "{piece}: {shown}");
        }
        assert!(shown.contains("Share of each source") && shown.contains("Validation loss by source"));
        let [first, second] = shares(&lines, "a")[..] else { panic!() };
        assert!((first.1 - 100.0 * 50.0 / 350.0).abs() < 1e-9 && second == (5.0, 100.0), "{first:?} {second:?}");
    }
}

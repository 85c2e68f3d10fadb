//! The sources of a run that mixes several, as a table.
use super::html::escape;
use crate::show::human::{count, decimal};
use std::fmt::Write;
use train::record::StepLine;

/// What the run has trained on of each source so far, and the last validation; nothing if the run has one source.
pub(super) fn table(metrics: &[StepLine]) -> String {
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
        assert_eq!(table(&[StepLine::default()]), "");
        let source = |tokens, validation_loss| SourceLine { tokens, epoch: 0.5, validation_loss, bits_per_byte: None };
        let line = |step, tokens, loss| StepLine {
            step,
            validation_loss: loss,
            sources: BTreeMap::from([("a".into(), source(tokens, loss)), ("<b>".into(), source(300, None))]),
            ..StepLine::default()
        };
        let shown = table(&[line(4, 50, Some(2.5)), line(5, 100, None)]);
        for piece in ["<td>a</td>", "25.0 %", ">2.5000<", "&lt;b&gt;", "75.0 %", "Validated at step 4"] {
            assert!(shown.contains(piece), "{piece}: {shown}");
        }
    }
}

//! What updates do to each block of the model: a table and plots.
use super::html::escape;
use super::plot::{Plot, Series, Style};
use crate::curves::number;
use std::fmt::Write;
use train::record::{BlockLine, StepLine};

/// The blocks at the last step at which they were measured, and over the steps; nothing if they never were.
pub(super) fn section(metrics: &[StepLine]) -> String {
    let measured: Vec<&StepLine> = metrics.iter().filter(|line| !line.blocks.is_empty()).collect();
    let Some(last) = measured.last() else { return String::new() };
    let mut blocks: Vec<(&String, &BlockLine)> = last.blocks.iter().collect();
    blocks.sort_by_key(|(name, _)| position(name));
    let plots = if measured.len() > 1 { plots(&measured, &blocks) } else { String::new() };
    table(last, &blocks) + &plots
}

/// The norms and the ratio of each block over the steps.
fn plots(measured: &[&StepLine], blocks: &[(&String, &BlockLine)]) -> String {
    let over = |title: &'static str, unit, value: fn(&BlockLine) -> Option<f64>| {
        let line = |(at, (name, _)): (usize, &(&String, &BlockLine))| {
            let points = measured.iter().filter_map(|line| Some((line.step as f64, value(line.blocks.get(*name)?)?)));
            Series::new(name.as_str(), Style::Of(at), points)
        };
        let series = blocks.iter().enumerate().map(line).collect();
        Plot { title: title.into(), unit, along: "step", from_zero: true, series, ..Plot::default() }
    };
    let plots = [
        over("Gradient norm by block", "before clipping", |block| Some(block.gradient_norm)),
        over("Weight norm by block", "", |block| Some(block.weight_norm)),
        over("Update by block", "norm relative to that of the weights", |block| block.update_ratio),
    ];
    format!("<section class=\"plots\">\n{}</section>\n", plots.iter().map(Plot::figure).collect::<String>())
}

fn table(last: &StepLine, blocks: &[(&String, &BlockLine)]) -> String {
    let mut out = String::from(
        "<h2>Blocks</h2>\n<div class=\"panel\"><table class=\"times\">\n<tr><th>block</th>\
         <th class=\"n\">gradient norm</th><th class=\"n\">weight norm</th><th class=\"n\">update / weight</th></tr>\n",
    );
    for (name, line) in blocks {
        let _ = writeln!(
            out,
            "<tr><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td></tr>",
            escape(name),
            number(line.gradient_norm),
            number(line.weight_norm),
            line.update_ratio.map_or_else(|| "-".into(), number),
        );
    }
    out + &format!("</table><p class=\"none\">The update of step {}; gradients before clipping.</p></div>\n", last.step)
}

/// Where a block is in the order of the forward pass: embeddings, layers by number, what else there is, the head.
fn position(name: &str) -> (u8, &str, u64) {
    let (before, number) = name.rsplit_once('.').unwrap_or(("", name));
    match (name, number.parse()) {
        ("embedding", _) => (0, "", 0),
        ("head", _) => (3, "", 0),
        (_, Ok(number)) => (1, before, number),
        _ => (2, name, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn blocks_are_in_the_order_of_the_forward_pass() {
        assert_eq!(section(&[StepLine::default()]), "");
        let names = ["10", "2", "decoder.0", "embedding", "head", "vectors", "<b>"];
        let line = |norm| BlockLine { gradient_norm: norm, weight_norm: 12.5, update_ratio: None };
        let blocks = |norm| names.iter().map(|name| ((*name).to_owned(), line(norm))).collect::<BTreeMap<_, _>>();
        let measured = StepLine { step: 8, blocks: blocks(0.25), ..StepLine::default() };
        let shown =
            section(&[StepLine { blocks: blocks(0.5), ..StepLine::default() }, measured.clone(), StepLine::default()]);
        assert!(
            shown.contains("Weight norm by block") && !section(&[measured]).contains("by block"),
            "one point is no curve"
        );
        let rows: Vec<&str> = shown.split("<tr><td>").skip(1).filter_map(|row| row.split("</td>").next()).collect();
        assert_eq!(rows, ["embedding", "2", "10", "decoder.0", "&lt;b&gt;", "vectors", "head"]);
        assert!(shown.contains("The update of step 8") && shown.contains(">0.25</td>"));
    }
}

//! What updates do to each block of the model, as a table.
use super::html::escape;
use crate::curves::number;
use std::fmt::Write;
use train::record::{BlockLine, StepLine};

/// The blocks at the last step at which they were measured; nothing if they never were.
pub(super) fn table(metrics: &[StepLine]) -> String {
    let Some(last) = metrics.iter().rev().find(|line| !line.blocks.is_empty()) else { return String::new() };
    let mut blocks: Vec<(&String, &BlockLine)> = last.blocks.iter().collect();
    blocks.sort_by_key(|(name, _)| position(name));
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
        assert_eq!(table(&[StepLine::default()]), "");
        let names = ["10", "2", "decoder.0", "embedding", "head", "vectors", "<b>"];
        let line = |norm| BlockLine { gradient_norm: norm, weight_norm: 12.5, update_ratio: None };
        let blocks = |norm| names.iter().map(|name| ((*name).to_owned(), line(norm))).collect::<BTreeMap<_, _>>();
        let measured = StepLine { step: 8, blocks: blocks(0.25), ..StepLine::default() };
        let shown = table(&[StepLine { blocks: blocks(0.5), ..StepLine::default() }, measured, StepLine::default()]);
        let rows: Vec<&str> = shown.split("<tr><td>").skip(1).filter_map(|row| row.split("</td>").next()).collect();
        assert_eq!(rows, ["embedding", "2", "10", "decoder.0", "&lt;b&gt;", "vectors", "head"]);
        assert!(shown.contains("The update of step 8") && shown.contains(">0.25</td>") && !shown.contains(">0.5<"));
    }
}

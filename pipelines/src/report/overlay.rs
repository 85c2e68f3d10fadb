//! `experiment.html`: the curves of several runs over each other, and links to their reports.
use super::document::{document, section};
use super::html::escape;
use super::plot::{Plot, Series, Style};
use crate::curves::{smoothed, window};
use crate::experiment::measured::Measured;
use crate::experiment::text::verdict;
use crate::experiment::verdict::{Comparison, Row};
use crate::show::human::decimal;
use anyhow::Result;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write;
use std::path::Path;
use train::record::StepLine;

/// The file of an experiment.
pub const OVERLAY_FILE: &str = "experiment.html";

/// Writes the page of a comparison to `path`.
///
/// # Errors
/// If it cannot be written.
pub fn write(path: &Path, title: &str, comparison: &Comparison) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new(""));
    let body = format!(
        "<header><h1>{}</h1><p>{} variants, {} runs</p></header>\n{}{}{}",
        escape(title),
        comparison.variants.len(),
        comparison.variants.iter().map(|row| row.runs.len()).sum::<usize>(),
        told(comparison),
        section(&plots(comparison)),
        runs(folder, comparison),
    );
    let html = document(&format!("{title} · experiment"), &body);
    contract::files::write_whole(path, |out| Ok(out.write_all(html.as_bytes())?))
}

fn told(comparison: &Comparison) -> String {
    let lines = verdict(comparison).into_iter().chain(comparison.notes.iter().map(|note| format!("Note: {note}")));
    let items: String = lines.map(|line| format!("<p>{}</p>\n", escape(&line))).collect();
    format!("<div class=\"panel verdict\">\n{items}</div>\n")
}

fn plots(comparison: &Comparison) -> Vec<Plot> {
    let over = |title: &'static str, unit, wide, smooth: bool, value: fn(&StepLine) -> Option<f64>| {
        let series = comparison.variants.iter().enumerate().map(|(index, row)| {
            let points = mean_curve(row, value);
            let points = if smooth { smoothed(&points, window(points.len())) } else { points };
            Series::new(row.variant.clone(), Style::Of(index), points)
        });
        Plot { title: title.into(), unit, along: "step", wide, series: series.collect(), ..Plot::default() }
    };
    vec![
        over("Validation loss", "nats per token, mean over seeds", true, false, |line| line.validation_loss),
        over("Training loss", "nats per token, mean over seeds", false, true, |line| Some(line.loss)),
        over("Gradient norm", "before clipping, mean over seeds", false, true, |line| Some(line.gradient_norm)),
    ]
}

/// The mean over the runs of a variant at each step that all of them have.
fn mean_curve(row: &Row, value: fn(&StepLine) -> Option<f64>) -> Vec<(f64, f64)> {
    let mut sums: BTreeMap<u64, (usize, f64)> = BTreeMap::new();
    for line in row.runs.iter().flat_map(|run| &run.metrics) {
        if let Some(value) = value(line) {
            let (count, sum) = sums.entry(line.step).or_default();
            (*count, *sum) = (*count + 1, *sum + value);
        }
    }
    let most = sums.values().map(|(count, _)| *count).max().unwrap_or(0);
    let whole = sums.into_iter().filter(|(_, (count, _))| *count == most);
    whole.map(|(step, (count, sum))| (step as f64, sum / count as f64)).collect()
}

fn runs(folder: &Path, comparison: &Comparison) -> String {
    let heads = ["Variant", "Seed", "Run", "State", "Loss", "Bits per byte", "Tokens/s"];
    let heads: String = heads.iter().map(|head| format!("<th>{head}</th>")).collect();
    let mut out = format!("<h2>Runs</h2>\n<div class=\"panel\"><table>\n<tr>{heads}</tr>\n");
    for row in &comparison.variants {
        row.runs.iter().for_each(|run| line(&mut out, folder, row, run));
    }
    out + "</table></div>\n"
}

fn line(out: &mut String, folder: &Path, row: &Row, run: &Measured) {
    let path = Path::new(&run.ran.run);
    let name = path.file_name().map_or(run.ran.run.clone(), |name| name.to_string_lossy().into_owned());
    // A run outside of the folder is linked by its full path.
    let place = path.strip_prefix(folder).map(Path::to_owned).or_else(|_| path.canonicalize());
    let place = place.unwrap_or_else(|_| path.to_owned()).join(super::REPORT_FILE);
    let _ = writeln!(
        out,
        "<tr><td>{}</td><td>{}</td><td><a href=\"{}\">{}</a></td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
        escape(&row.variant),
        run.seed,
        escape(&place.display().to_string()),
        escape(&name),
        run.ran.state.name(),
        decimal(run.ran.validation_loss, 4),
        decimal(run.ran.bits_per_byte, 4),
        decimal(run.ran.tok_per_sec, 0),
    );
}

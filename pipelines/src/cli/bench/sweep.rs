//! `pipeline bench --sweep`: how speed depends on width, length, batch and workers, one of them varied at a time.
use super::measure::{How, Shape, measure};
use super::{Bench, Context, Model, Optimizer};
use crate::machine::cores;
use crate::report::{self, Plot, Series, Style};
use crate::show::{Align, table};
use anyhow::Result;
use compute::kernels::gemm::rate::gemm_gflops;
use contract::{BatchShape, Precision};
use serde::Serialize;
use std::collections::BTreeMap;
use train::forward::Batching;

/// The base configuration, of which one value at a time is varied.
const BASE: Shape = Shape {
    name: "sweep",
    layers: 4,
    heads: 4,
    width: 256,
    vocabulary: 8192,
    batch: BatchShape { micro_batches: 2, lanes: 2, sequences: 4, length: 256 },
};
const WIDTHS: [usize; 4] = [128, 256, 512, 768];
const LENGTHS: [usize; 4] = [64, 256, 512, 1024];
const SEQUENCES: [usize; 4] = [1, 4, 8, 16];
/// Width of a column.
const HEAD: usize = 64;
/// Characters of the longest bar.
const BAR: usize = 30;

/// The measurement for one value of the varied quantity.
#[derive(Serialize)]
struct Point {
    varied: &'static str,
    value: usize,
    tok_per_sec: f64,
    /// Percent.
    mfu: f64,
}

/// Measures, prints the table, with MFU also as bars, and writes plots if requested.
///
/// # Errors
/// If any stage fails, or the plots cannot be written.
pub fn sweep(asked: &Bench, context: &Context) -> Result<()> {
    let precision: Precision = asked.precision.unwrap_or(crate::cli::options::Precision::F32).into();
    let cores = cores();
    let with = |change: &dyn Fn(&mut Shape)| {
        let mut shape = BASE;
        change(&mut shape);
        (shape, cores)
    };
    let mut runs = Vec::new();
    runs.extend(WIDTHS.map(|width| ("width", width, with(&|s| (s.width, s.heads) = (width, width / HEAD)))));
    runs.extend(LENGTHS.map(|length| ("length", length, with(&|s| s.batch.length = length))));
    runs.extend(SEQUENCES.map(|n| ("batch", n, with(&|s| s.batch.sequences = n))));
    // At most as many leaves as workers.
    runs.extend((1..=cores.min(2)).map(|workers| ("workers", workers, (BASE, workers))));
    let mut limits = BTreeMap::new();
    let mut points = Vec::new();
    for (varied, value, (shape, workers)) in runs {
        let limit = *limits.entry(workers).or_insert_with(|| gemm_gflops(workers, contract::Precision::F32));
        let (batching, optimizer) = (Batching::Batched, Optimizer::Adamw);
        let how =
            How { model: Model::Gpt2, precision, batching, optimizer, workers, leaves: None, warmup: 1, steps: 3 };
        let measured = measure(&shape, &how, || limit)?;
        points.push(Point { varied, value, tok_per_sec: measured.tok_per_sec, mfu: 100.0 * measured.mfu });
    }
    let BatchShape { micro_batches, sequences, length, .. } = BASE.batch;
    let about = format!(
        "{precision}, {} layers, width {}, {length} tokens, {micro_batches} x {sequences} sequences, {cores} workers; one varied",
        BASE.layers, BASE.width
    );
    if let Some(path) = &asked.plot {
        report::plots(path, "Speed of a training step", &about, &plots(&points))?;
    }
    match asked.json {
        true => points.iter().try_for_each(|point| context.out.json(point)),
        false => context.out.line(&format!("{about}\n\n{}", listed(&points, context.out.columns()))),
    }
}

/// The value of a full bar: 100 % or, in bf16, the highest measured one.
fn listed(points: &[Point], columns: usize) -> String {
    let most = points.iter().map(|point| point.mfu).fold(100.0, f64::max);
    let row = |point: &Point| {
        let full = (point.mfu / most * BAR as f64).round() as usize;
        vec![
            point.varied.to_owned(),
            point.value.to_string(),
            format!("{:.0}", point.tok_per_sec),
            format!("{:.0} %", point.mfu),
            "#".repeat(full),
        ]
    };
    let heads = [
        ("varied", Align::Left),
        ("value", Align::Right),
        ("tokens/s", Align::Right),
        ("MFU", Align::Right),
        ("", Align::Left),
    ];
    table(&heads, &points.iter().map(row).collect::<Vec<_>>(), columns)
}

/// Two plots per varied quantity.
fn plots(points: &[Point]) -> Vec<Plot> {
    let titles = [
        ("width", "Tokens/s over width", "MFU over width"),
        ("length", "Tokens/s over length", "MFU over length"),
        ("batch", "Tokens/s over batch", "MFU over batch"),
        ("workers", "Tokens/s over workers", "MFU over workers"),
    ];
    let plot = |title: &'static str, unit, along, value: fn(&Point) -> f64| {
        let of = points.iter().filter(|point| point.varied == along);
        let series = vec![Series::new("measured", Style::Marked, of.map(|point| (point.value as f64, value(point))))];
        Plot { title: title.into(), unit, along, from_zero: true, series, ..Plot::default() }
    };
    titles
        .into_iter()
        .flat_map(|(along, speed, share)| {
            [
                plot(speed, "tokens/s", along, |point| point.tok_per_sec),
                plot(share, "% of large products", along, |point| point.mfu),
            ]
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_measured_is_listed_and_plotted() {
        let point = |varied, value, mfu| Point { varied, value, tok_per_sec: 1e3, mfu };
        let points = [point("width", 128, 40.0), point("width", 256, 80.0), point("workers", 1, 75.0)];
        let table = listed(&points, 80);
        assert!(table.contains("width      256      1000  80 %  ########################\n"), "{table}");
        let table = listed(&[point("width", 128, 100.0), point("width", 256, 200.0)], 80);
        let half = "#".repeat(BAR / 2);
        assert!(
            table.contains(&format!("100 %  {half}\n")) && table.ends_with(&format!("200 %  {half}{half}")),
            "{table}"
        );
        let plots = plots(&points);
        assert_eq!(plots.len(), 8);
        assert_eq!(plots[1].series[0].points, [(128.0, 40.0), (256.0, 80.0)]);
        assert_eq!(plots[6].series[0].points, [(1.0, 1e3)]);
        assert!(plots[1].figure().contains("from 40 to 80"), "{}", plots[1].figure());
    }
}

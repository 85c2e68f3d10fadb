//! `pipeline bench --sweep`: how speed depends on width, length, batch and workers, one of them varied at a time.
use super::bench::{How, Shape, measure};
use crate::cli;
use crate::show::{Align, table};
use anyhow::Result;
use compute::machine;
use contract::{BatchShape, Precision};
use std::collections::BTreeMap;
use train::forward::Batching;

/// From which one thing at a time departs.
const BASE: Shape = Shape {
    name: "sweep",
    layers: 4,
    heads: 4,
    width: 256,
    vocabulary: 8192,
    batch: BatchShape { micro_batches: 2, sequences: 4, length: 256 },
};
const WIDTHS: [usize; 4] = [128, 256, 512, 768];
const LENGTHS: [usize; 4] = [64, 256, 512, 1024];
const SEQUENCES: [usize; 4] = [1, 4, 8, 16];
/// Columns of a head.
const HEAD: usize = 64;
/// Characters of a bar that stands for 100 %.
const BAR: usize = 25;

/// Measures, and gives the table: MFU also as bars.
///
/// # Errors
/// If any stage fails.
pub fn sweep(asked: &cli::Bench, columns: usize) -> Result<String> {
    let precision = match asked.precision {
        cli::Precision::F32 => Precision::F32,
        cli::Precision::Bf16 => Precision::Bf16,
    };
    let cores = super::cores();
    let with = |change: &dyn Fn(&mut Shape)| {
        let mut shape = BASE;
        change(&mut shape);
        (shape, cores)
    };
    let mut runs = Vec::new();
    runs.extend(WIDTHS.map(|width| ("width", width, with(&|s| (s.width, s.heads) = (width, width / HEAD)))));
    runs.extend(LENGTHS.map(|length| ("length", length, with(&|s| s.batch.length = length))));
    runs.extend(SEQUENCES.map(|n| ("sequences", n, with(&|s| s.batch.sequences = n))));
    // As many leaves as workers at most.
    runs.extend((1..=cores.min(2)).map(|workers| ("workers", workers, (BASE, workers))));
    let mut limits = BTreeMap::new();
    let mut rows = Vec::new();
    for (varied, value, (shape, workers)) in runs {
        let limit = *limits.entry(workers).or_insert_with(|| machine::gemm_gflops(workers));
        let how = How { precision, batching: Batching::Batched, workers, warmup: 1, steps: 3 };
        let (measured, _) = measure(&shape, &how, || limit)?;
        let full = (measured.mfu * BAR as f64).round() as usize;
        rows.push(vec![
            varied.to_owned(),
            value.to_string(),
            format!("{:.0}", measured.tok_per_sec),
            format!("{:.0} %", 100.0 * measured.mfu),
            "#".repeat(full.min(BAR + 5)),
        ]);
    }
    let heads = [
        ("varied", Align::Left),
        ("value", Align::Right),
        ("tokens/s", Align::Right),
        ("MFU", Align::Right),
        ("", Align::Left),
    ];
    let BatchShape { micro_batches, sequences, length } = BASE.batch;
    Ok(format!(
        "{} layers, width {}, {length} tokens, {micro_batches} x {sequences} sequences, {cores} workers; one varied at a time\n\n{}",
        BASE.layers,
        BASE.width,
        table(&heads, &rows, columns)
    ))
}

//! The whole training step, as `pipeline run` takes it, on synthetic tokens: the graph, all workers, every stage.
use clap::Parser;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use millrace_pipelines::cli::{Cli, Command};
use millrace_pipelines::run::bench;
use std::time::Duration;

/// Tokens in a step of the shape `seed`.
const TOKENS: u64 = 2 * 16 * 128;

/// How long `steps` steps take, at the speed `pipeline bench` measures.
fn steps(steps: u64, options: &str) -> Duration {
    let line = format!("pipeline bench --shape seed --warmup 1 --steps {steps} {options}");
    let Command::Bench(asked) = Cli::parse_from(line.split_whitespace()).command else { panic!("no bench") };
    let (measured, _) = bench(&asked).expect("the step works");
    let measured = serde_json::to_value(measured).expect("it is JSON");
    let rate = measured["tok_per_sec"].as_f64().expect("a rate");
    Duration::from_secs_f64((steps * TOKENS) as f64 / rate)
}

fn step(c: &mut Criterion) {
    let mut group = c.benchmark_group("step, seed");
    group.throughput(Throughput::Elements(TOKENS)).sample_size(10);
    for (name, options) in [
        ("one worker", "--workers 1"),
        ("two workers", "--workers 2"),
        ("two workers, sequence by sequence", "--workers 2 --batching per_sequence"),
    ] {
        group.bench_function(name, |b| b.iter_custom(|n| steps(n, options)));
    }
}

criterion_group!(benches, step);
criterion_main!(benches);

//! The whole training step, as `pipeline run` takes it, on synthetic tokens: the graph, all workers, every stage.
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use millrace_pipelines::cli::{bench::Bench, parse};
use std::time::Duration;

/// Tokens in a step of the shape `seed`.
const TOKENS: u64 = 2 * 16 * 128;

/// How long `steps` steps take, at the speed `pipeline bench` measures.
fn steps(steps: u64, options: &str) -> Duration {
    let line = format!("--shape seed --warmup 1 --steps {steps} {options}");
    let bench: Bench = parse(&line).expect("these are its options");
    let measured = bench.measure().expect("the step works");
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

//! What `pipeline explain` says is what then happens.
mod support;
use serde_json::Value;
use support::{Scratch, tiny};

/// Layers, heads, width; sequences a leaf, tokens a sequence, leaves; workers.
const SHAPES: [([u32; 3], [u32; 3], u32); 3] =
    [([2, 4, 192], [8, 128, 2], 2), ([6, 4, 128], [12, 64, 4], 1), ([4, 8, 256], [4, 128, 3], 3)];

#[test]
#[cfg(target_os = "linux")]
fn the_estimate_of_memory_is_within_15_percent_of_what_happens() {
    let scratch = Scratch::new();
    scratch.documents("corpus.parquet", &support::corpus(1500));
    scratch.train("fill-the-cache", &[]);
    let mut seen = Vec::new();
    for (number, ([layers, heads, width], [sequences, length, leaves], workers)) in SHAPES.iter().enumerate() {
        let set = [
            format!("forward.layers={layers}"),
            format!("forward.heads={heads}"),
            format!("forward.width={width}"),
            format!("pack.micro_batch_size={sequences}"),
            format!("pack.sequence_length={length}"),
            format!("pack.micro_batches={leaves}"),
            "run.max_steps=4".into(),
        ];
        let workers = workers.to_string();
        let mut options = vec!["--workers", &workers];
        set.iter().for_each(|set| options.extend(["--set", set]));
        let said = scratch.pipeline(&[&["explain", "run.toml", "--json"][..], &options].concat()).succeeds();
        let said: Value = serde_json::from_str(&said.stdout).expect("JSON");
        let directory = format!("run-{number}");
        scratch.train(&directory, &options);
        let summary: Value = serde_json::from_str(&scratch.read(&format!("{directory}/status.json"))).expect("JSON");
        let (said_mb, taken_mb) = (said["peak_mb"].as_f64().unwrap(), summary["peak_rss_mb"].as_f64().unwrap());
        seen.push(format!("{said_mb} MB said, {taken_mb} MB taken: {}", said["memory"]));
        assert!(said["tok_per_sec"].as_f64() > Some(0.0), "{said}");
        assert!((said_mb / taken_mb - 1.0).abs() <= 0.15, "{}", seen.join("\n"));
    }
    println!("{}", seen.join("\n"));
}

#[test]
fn it_draws_the_graph_and_reads_nothing() {
    let scratch = Scratch::new();
    scratch.write("run.toml", tiny("paths = [\"not-there-yet.parquet\"]"));
    let said = scratch.pipeline(&["explain", "run.toml", "--workers", "1"]).succeeds().stdout;
    for piece in [
        "│ forward",
        "gpt2",
        "parameters (broadcast, state, feedback + 1 step) ─ optimize",
        "Memory   about",
        "Time     about",
    ] {
        assert!(said.contains(piece), "{piece} is not in:\n{said}");
    }
    assert!(said.lines().all(|line| line.chars().count() <= 80), "{said}");
    scratch.pipeline(&["explain", "run.toml", "--set", "forward.heads=7"]).fails(2, &["7 heads do not divide"]);
}

#[test]
fn a_dry_run_prepares_and_trains_nothing() {
    let scratch = Scratch::new();
    let dry = || scratch.pipeline(&["run", "run.toml", "--run-dir", "r", "--dry-run"]).succeeds().stdout;
    let said = dry();
    for piece in [
        "Reads    corpus.parquet (",
        "Length   6 steps, ",
        "Corpus   ",
        "made of the corpus and kept in the cache: ",
        "nothing was trained; a run would leave its files in r",
    ] {
        assert!(said.contains(piece), "{piece} is not in:\n{said}");
    }
    assert!(!scratch.path("r").exists());
    let again = dry();
    assert!(again.contains("everything made of the corpus was in the cache"), "{again}");
    scratch.train("r", &[]);
}

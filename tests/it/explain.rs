//! What `pipeline explain` says is what then happens.
use crate::support;
use crate::support::{Scratch, tiny};
use serde_json::Value;

/// Here the machine is measured before, as it is for whoever has not set `MILLRACE_GEMM_GFLOPS`.
const MEASURED: &str = "small, and the machine is measured";

/// What differs from `run.toml` in each run: options of `explain` and of `run` alike. Small and large, short and long,
/// few and many ids, more and fewer leaves than workers, either model and optimizer, checkpoints written while it
/// trains.
const SHAPES: [(&str, &str); 14] = [
    (MEASURED, ""),
    ("two workers", "forward.width=192 forward.heads=4 pack.micro_batch_size=8 pack.sequence_length=128"),
    (
        "one worker, deep and narrow",
        "forward.layers=6 forward.heads=4 forward.width=128 pack.micro_batch_size=12 pack.sequence_length=64 \
         run.workers=1",
    ),
    (
        "three workers, three leaves",
        "forward.layers=4 forward.heads=8 forward.width=256 pack.micro_batch_size=4 pack.sequence_length=128 \
         pack.micro_batches=3 run.workers=3",
    ),
    (
        "eight workers, sixteen leaves",
        "forward.layers=4 forward.heads=8 forward.width=256 pack.micro_batch_size=2 pack.sequence_length=128 \
         pack.micro_batches=16 run.workers=8",
    ),
    (
        "long sequences, one at a time",
        "forward.layers=3 forward.heads=4 forward.width=128 pack.micro_batch_size=1 pack.sequence_length=1024",
    ),
    ("many ids", "tokenize=gpt2.toml forward.width=64 pack.sequence_length=64 pack.micro_batches=4"),
    (
        "wide, in bf16",
        "forward.width=512 forward.heads=8 forward.precision=bf16 pack.micro_batch_size=4 pack.sequence_length=128 \
         pack.micro_batches=4",
    ),
    (
        "the same in eight bits",
        "forward.width=512 forward.heads=8 forward.precision=int8 pack.micro_batch_size=4 pack.sequence_length=128 \
         pack.micro_batches=4",
    ),
    (
        "wide, in bf16, a leaf a worker",
        "forward.width=512 forward.heads=8 forward.precision=bf16 pack.micro_batch_size=4 pack.sequence_length=128",
    ),
    (
        "a llama",
        "forward=llama.toml forward.layers=4 forward.width=256 forward.heads=8 pack.micro_batch_size=8 \
         pack.sequence_length=128 pack.micro_batches=4",
    ),
    (
        "a llama in bf16 with a head of its own, Muon, more workers than leaves",
        "forward=llama.toml optimize=muon.toml tokenize=gpt2.toml forward.width=64 forward.precision=bf16 \
         pack.sequence_length=64 run.workers=3",
    ),
    (
        "a checkpoint after every step",
        "forward.layers=4 forward.width=384 forward.heads=6 pack.micro_batch_size=2 pack.sequence_length=64 \
         checkpoint.interval=1 evaluate.interval=1",
    ),
    (
        "the same with an average of the weights",
        "forward.layers=4 forward.width=384 forward.heads=6 pack.micro_batch_size=2 pack.sequence_length=64 \
         checkpoint.interval=1 evaluate.interval=1 optimize.average_decay=0.9",
    ),
];

#[test]
fn padding_and_documents_that_are_split_are_counted_beforehand() {
    let scratch = Scratch::new();
    // Two documents have room, and what is left is too small for another one.
    let long = ["--set", "pack.sequence_length=256"];
    let dry = |packing: &str| -> Value {
        let set = format!("pack.type={packing}");
        let ran = scratch
            .pipeline(&[&["run", "run.toml", "--dry-run", "--json", "--set", &set], &long[..]].concat())
            .succeeds();
        serde_json::from_str(&ran.stdout).unwrap()
    };
    let (concat, best_fit) = (dry("concat"), dry("best_fit"));
    let [one, other] = [&concat["packing"], &best_fit["packing"]];
    let count = |packing: &Value, key: &str| packing[key].as_u64().unwrap();
    assert_eq!(count(one, "padding"), 0);
    assert!(count(one, "split") > 0 && count(other, "split") == 0, "{one} {other}");
    assert!(count(other, "padding") > 0 && 2 * count(other, "padding") < count(other, "positions"), "{other}");
    // Padding is no part of an epoch.
    let epochs = |explanation: &Value| explanation["length"]["epochs"].as_f64().unwrap();
    let filled = 1.0 - count(other, "padding") as f64 / count(other, "positions") as f64;
    assert!((epochs(&best_fit) / epochs(&concat) - filled).abs() < 1e-9, "{concat} {best_fit}");
    let best_fit_packs = [&["--set", "pack.type=best_fit"], &long[..]].concat();
    let text = scratch.pipeline(&[&["run", "run.toml", "--dry-run"], &best_fit_packs[..]].concat()).succeeds().stdout;
    assert!(text.contains("Packing  about ") && text.contains("0 of the others are split"), "{text}");
    // What a run records of its epoch.
    scratch.train("r", &best_fit_packs);
    let recorded = scratch.metrics("r").last().unwrap()["epoch"].as_f64().unwrap();
    assert!((recorded - epochs(&best_fit)).abs() < 1e-3, "{recorded} {}", epochs(&best_fit));
}

#[test]
#[cfg(target_os = "linux")]
fn the_estimate_of_memory_is_within_15_percent_of_what_happens() {
    let scratch = Scratch::new();
    scratch.documents("corpus.parquet", &support::corpus(1500));
    scratch.write("gpt2.toml", "type = \"bpe\"\ntokenizer = \"gpt2\"\n");
    // What it takes to prepare the corpus is not what is estimated.
    for stage in ["optimize=muon.toml", "tokenize=gpt2.toml"] {
        scratch.pipeline(&["run", "run.toml", "--dry-run", "--stage", stage]).succeeds();
    }
    let mut seen = Vec::new();
    for (number, (name, changes)) in SHAPES.iter().enumerate() {
        // The estimate does not know the length of the corpus, which has more tokens than this pool.
        let mut options =
            vec!["--set", "run.workers=2", "--set", "run.max_steps=4", "--set", "pack.shuffle_tokens=65536"];
        for change in changes.split_whitespace() {
            options.extend([if change.ends_with(".toml") { "--stage" } else { "--set" }, change]);
        }
        let pipeline = |arguments: &[&str]| {
            let mut command = scratch.command(&[arguments, &options].concat());
            if *name == MEASURED {
                command.env_remove("MILLRACE_GEMM_GFLOPS");
            }
            let output = command.output().expect("the program starts");
            assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
            output.stdout
        };
        let said: Value = serde_json::from_slice(&pipeline(&["explain", "run.toml", "--json"])).expect("JSON");
        let [said_mb, delayed_mb] = ["peak_mb", "peak_mb_if_delayed"].map(|key| said[key].as_f64().unwrap());
        // Workers may also take turns and never hold their most at once: the peak is that of several runs.
        let mut taken_mb: f64 = 0.0;
        for attempt in 0..3 {
            let directory = format!("run-{number}-{attempt}");
            pipeline(&["run", "run.toml", "--run-dir", &directory]);
            let status: Value = serde_json::from_str(&scratch.read(&format!("{directory}/status.json"))).expect("JSON");
            taken_mb = taken_mb.max(status["peak_rss_mb"].as_f64().unwrap());
            if said_mb <= 1.15 * taken_mb {
                break;
            }
        }
        assert!(said["tok_per_sec"].as_f64() > Some(0.0), "{said}");
        let right = said_mb <= 1.15 * taken_mb && 0.85 * taken_mb <= delayed_mb;
        let (ratio, memory) = (said_mb / taken_mb, &said["memory"]);
        seen.push((
            right,
            format!("{ratio:.2} {name}: {said_mb} to {delayed_mb} MB said, {taken_mb} MB taken: {memory}"),
        ));
    }
    let (right, lines): (Vec<bool>, Vec<String>) = seen.into_iter().unzip();
    println!("{}", lines.join("\n"));
    assert!(right.iter().all(|right| *right), "{}", lines.join("\n"));
}

#[test]
fn it_draws_the_graph_and_reads_nothing() {
    let scratch = Scratch::new();
    let said = scratch.pipeline(&["explain", "run.toml", "--workers", "1"]).succeeds().stdout;
    assert!(!scratch.path("cache/surveys").exists() && !scratch.path("cache/indices").exists());
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
    scratch.write("run.toml", tiny("paths = [\"not-there-yet.parquet\"]"));
    scratch.pipeline(&["explain", "run.toml"]).fails(2, &["`read.paths`", "not-there-yet.parquet", "run.toml:8"]);
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
        "derived from the corpus and cached: ",
        "nothing was trained; a run would write its files to r",
    ] {
        assert!(said.contains(piece), "{piece} is not in:\n{said}");
    }
    assert!(!scratch.path("r").exists());
    let again = dry();
    assert!(again.contains("all data derived from the corpus was in the cache"), "{again}");
    scratch.train("r", &[]);
}

#[test]
fn a_preparation_is_drawn_and_a_dry_run_of_it_writes_nothing() {
    let scratch = Scratch::new();
    let stages = "[stage.read]\ntype = \"documents\"\npaths = [\"corpus.parquet\"]\n[stage.tokenize]\ntype = \"bpe\"\ntokenizer = \"gpt2\"\n[stage.write]\ntype = \"parquet\"\n";
    scratch.write("prepare.toml", stages);
    let said = scratch.pipeline(&["explain", "prepare.toml"]).succeeds().stdout;
    for piece in ["`read` reads", "│ scan rows ", "rows (", "│ kept rows ", "│ write ", "no model is trained"] {
        assert!(said.contains(piece), "{piece} is not in:\n{said}");
    }
    let run = |more: &str| scratch.pipeline(&["run", "prepare.toml", "--run-dir", "out", more]);
    let said = run("--dry-run").succeeds().stdout;
    assert!(said.contains("Reads    corpus.parquet (") && said.contains("nothing was read or written"), "{said}");
    run("--resume").fails(2, &["run the preparation again without it"]);
    assert!(!scratch.path("out").exists());
}

#[test]
fn a_run_on_several_hosts_is_predicted() {
    let scratch = Scratch::new();
    let explain = |more: &str| {
        let line = format!("explain run.toml --workers 1 {more}");
        scratch.pipeline(&line.split_whitespace().collect::<Vec<_>>())
    };
    let said = explain("--hosts 8 --network 1gbit --set pack.micro_batches=16").succeeds().stdout;
    for piece in [
        "Hosts    8 like this one, each with 1 worker and a network of 1.0 Gbit/s",
        "A step   ",
        "Rate     ",
        "90 %     from ",
        "\n0-7               2             1  ",
    ] {
        assert!(said.contains(piece), "{piece} is not in:\n{said}");
    }
    assert!(!said.contains("Idle") && said.lines().all(|line| line.chars().count() <= 80), "{said}");
    // More hosts than micro-batches.
    let said = explain("--hosts 4 --network 100mbit --set pack.micro_batches=2").succeeds().stdout;
    assert!(said.contains("Idle     hosts 0, 2 get no micro-batch"), "{said}");

    let json = explain("--hosts 4 --network 2.5gbit --set pack.micro_batches=16 --json").succeeds().stdout;
    let said: Value = serde_json::from_str(&json).expect("JSON");
    let parameters: u64 = said["parameters"].as_array().unwrap().iter().map(|part| part[1].as_u64().unwrap()).sum();
    let scaling = &said["scaling"];
    let shares = scaling["shares"].as_array().unwrap();
    let sent: u64 = shares.iter().map(|share| share["sent_bytes"].as_u64().unwrap()).sum();
    let received: u64 = shares.iter().map(|share| share["received_bytes"].as_u64().unwrap()).sum();
    assert_eq!((sent, received), (8 * parameters * 3, 8 * parameters * 3), "{scaling}");
    assert_eq!((scaling["bits_per_second"].as_f64(), scaling["most_partial_sums"].as_u64()), (Some(2.5e9), Some(1)));
    let seconds = |key: &str| scaling[key].as_f64().unwrap();
    let parts = ["compute_seconds", "communication_seconds", "latency_seconds", "update_seconds"].map(seconds);
    assert!((seconds("step_seconds") - parts.iter().sum::<f64>()).abs() < 1e-12, "{scaling}");
    assert!(parts.iter().all(|part| *part > 0.0), "{scaling}");
    // Ten messages of a local network's 0.1 ms. AdamW keeps two numbers for each parameter.
    assert_eq!(seconds("latency_seconds"), 0.001);
    let commit = said["memory"].as_array().unwrap().iter().find(|row| row[0] == "last commit, on the head").unwrap();
    assert_eq!(commit[1].as_u64(), Some(3 * 4 * parameters));
    let alone: Value = serde_json::from_str(&explain("--json").succeeds().stdout).expect("JSON");
    assert_eq!(alone.get("scaling"), None);

    let plot = explain("--hosts 64 --network 1gbit --plot scaling.html").succeeds().stdout;
    assert!(plot.contains("Hosts    64 like this one"), "{plot}");
    let page = scratch.read("scaling.html");
    for title in ["Rate of all hosts", "Efficiency", "Time of a step", "Sent per step"] {
        assert!(page.contains(title) && page.contains("at hosts 64"), "{title}");
    }

    explain("--plot scaling.html").fails(2, &["--hosts <N>"]);
    explain("--network 1gbit").fails(2, &["--hosts <N>"]);
    explain("--hosts 2").fails(2, &["--network <SPEED>"]);
    explain("--latency 5").fails(2, &["--hosts <N>"]);
    explain("--hosts 2 --network 1gbit --latency 5ms").fails(2, &["write milliseconds, from 0 to 60000"]);
    explain("--hosts 0 --network 1gbit").fails(2, &["1..=256"]);
    explain("--hosts 2 --network 1gb").fails(2, &["1gbit?"]);
}

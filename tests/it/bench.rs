//! `pipeline bench` prints what scripts read.
use crate::support::{Scratch, corpus};
use serde_json::{Map, Value};

#[test]
fn one_line_of_json_with_the_keys_that_scripts_read() {
    let scratch = Scratch::new();
    for (batching, precision) in [("batched", "f32"), ("batched", "bf16"), ("batched", "int8"), ("per_sequence", "f32")]
    {
        let options = ["--batching", batching, "--precision", precision];
        let measure = [&["bench", "--shape", "seed", "--steps", "1", "--warmup", "0"], &options[..]].concat();
        let said = scratch.pipeline(&measure).succeeds().stdout;
        assert_eq!(said.lines().count(), 1, "{said}");
        let line: Map<String, Value> = serde_json::from_str(&said).unwrap_or_else(|e| panic!("{e}: {said}"));
        let keys: Vec<&str> = line.keys().map(String::as_str).collect();
        let expected = "shape model dtype batching optimizer workers leaves batch_tokens loss gemm tok_per_sec best_tok_per_sec \
                        mfu gemm_gflops peak_rss_mb cpu_us_per_token balance";
        assert_eq!(keys, expected.split(' ').collect::<Vec<_>>());
        assert_eq!(
            (&line["shape"], &line["dtype"], &line["batching"]),
            (&"seed".into(), &precision.into(), &batching.into())
        );
        let loss = line["loss"].as_f64().unwrap();
        assert!((loss - 10_000f64.ln()).abs() < 0.2, "a fresh model on random tokens: {loss}");
        assert_eq!((&line["leaves"], &line["batch_tokens"]), (&4.into(), &4096.into()));
        for key in [
            "workers",
            "tok_per_sec",
            "best_tok_per_sec",
            "mfu",
            "gemm_gflops",
            "peak_rss_mb",
            "cpu_us_per_token",
            "balance",
        ] {
            assert!(line[key].as_f64().is_some_and(|value| value > 0.0), "{key}: {said}");
        }
    }
}

#[test]
fn every_model_is_measured() {
    let (scratch, mut losses) = (Scratch::new(), Vec::new());
    for model in ["gpt2", "llama", "qwen3", "nanochat"] {
        let step =
            ["bench", "--shape", "seed", "--steps", "1", "--warmup", "0", "--optimizer", "muon", "--model", model];
        let said = scratch.pipeline(&step).succeeds().stdout;
        let line: Value = serde_json::from_str(&said).unwrap_or_else(|e| panic!("{e}: {said}"));
        assert_eq!((&line["model"], &line["optimizer"]), (&model.into(), &"muon".into()));
        let loss = line["loss"].as_f64().unwrap();
        assert!((loss - 10_000f64.ln()).abs() < 0.2, "a fresh {model} on random tokens: {loss}");
        assert!(!losses.contains(&loss), "{model} is another model than those before: {loss}, {losses:?}");
        losses.push(loss);
    }
    scratch.pipeline(&["bench", "--shape", "seed", "--model", "qwen"]).fails(2, &["qwen3"]);
    scratch.pipeline(&["bench", "--sweep", "--model", "qwen3"]).fails(2, &["cannot be used with"]);
    scratch.pipeline(&["bench", "--gemm", "all", "--model", "qwen3"]).fails(2, &["leave out --model"]);
}

#[test]
fn leaves_are_compared_with_two_workers() {
    let measure = ["bench", "--shape", "seed", "--steps", "1", "--warmup", "1", "--workers", "3", "--leaves", "6"];
    let said = Scratch::new().pipeline(&measure).succeeds().stdout;
    let line: Value = serde_json::from_str(&said).unwrap_or_else(|e| panic!("{e}: {said}"));
    // 32 sequences of 128 tokens cannot be divided among six.
    assert_eq!((&line["leaves"], &line["batch_tokens"]), (&6.into(), &(6 * 5 * 128).into()));
    assert!(line["balance"].as_f64().is_some_and(|balance| balance > 0.3 && balance <= 1.0), "{said}");
    assert!(line["cpu_relative_to_2_workers"].as_f64().is_some_and(|ratio| ratio > 0.2 && ratio < 5.0), "{said}");
    for stage in ["forward", "loss", "backward", "reduce", "optimize", "engine"] {
        assert_eq!(line["cpu_seconds"][stage].as_array().map(Vec::len), Some(3), "{stage}: {said}");
    }
}

/// Predictions of a trained model in eight bits are nearly those in f32, on text that it has not seen.
#[test]
fn generation_is_measured_in_every_precision() {
    let scratch = Scratch::new();
    scratch.train("run", &["--set", "run.max_steps=60"]);
    // Every tenth document is held out.
    scratch.write("held-out.txt", corpus(120).into_iter().step_by(10).collect::<Vec<_>>().join("\n\n"));
    let measure = ["bench", "--generate", "run", "--text", "held-out.txt"];
    let said = scratch.pipeline(&[&measure[..], &["--tokens", "1500", "--json"]].concat()).succeeds().stdout;
    let lines: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let precisions: Vec<_> = lines.iter().map(|line| line["precision"].as_str().unwrap()).collect();
    assert_eq!(precisions, ["f32", "bf16", "int8"]);
    let of = |line: usize, key: &str| lines[line][key].as_f64().unwrap_or_else(|| panic!("{key}: {said}"));
    for (line, precision) in precisions.iter().enumerate() {
        assert_eq!((of(line, "tokens"), of(line, "memory_bytes_per_sec")), (1500.0, of(0, "memory_bytes_per_sec")));
        for key in ["workers", "tok_per_sec", "relative_to_f32", "read_bytes_per_sec", "share_of_memory"] {
            assert!(of(line, key) > 0.0, "{key}: {said}");
        }
        let off = (of(line, "loss") - of(0, "loss")).abs();
        assert!(of(line, "agreement") >= 0.97 && off < 0.005, "{precision}: {said}");
    }
    assert_eq!((of(0, "agreement"), of(0, "relative_to_f32")), (1.0, 1.0));
    assert_eq!(of(0, "weight_bytes"), 2.0 * of(1, "weight_bytes"));
    assert!(of(2, "weight_bytes") < of(0, "weight_bytes"), "{said}");
    let said = scratch.pipeline(&[&measure[..], &["--tokens", "40", "--workers", "1"]].concat()).succeeds().stdout;
    assert!(said.contains("precision") && said.contains("int8") && said.lines().all(|line| line.len() <= 80), "{said}");
    // What would have no effect, or is not there.
    scratch.pipeline(&[&measure[..], &["--precision", "int8"]].concat()).fails(2, &["leave out --precision"]);
    scratch.pipeline(&[&measure[..], &["--shape", "seed"]].concat()).fails(2, &["leave out --shape"]);
    scratch.pipeline(&[&measure[..], &["--gemm", "all"]].concat()).fails(2, &["leave out --generate"]);
    scratch.pipeline(&["bench", "--generate", "run"]).fails(2, &["--text"]);
    scratch.pipeline(&["bench", "--shape", "seed", "--text", "a.txt"]).fails(2, &["--generate"]);
    scratch.pipeline(&["bench", "--generate", "rum", "--text", "held-out.txt"]).fails(2, &["similar: run"]);
    scratch.pipeline(&["bench", "--generate", "run", "--text", "none.txt"]).fails(2, &["none.txt cannot be read"]);
    scratch.write("empty.txt", "");
    scratch.pipeline(&["bench", "--generate", "run", "--text", "empty.txt"]).fails(2, &["empty.txt has no text"]);
}

#[test]
fn a_measurement_that_is_not_named_is_refused() {
    let scratch = Scratch::new();
    scratch.pipeline(&["bench"]).fails(2, &["--shape"]);
    scratch.pipeline(&["bench", "--gemm", "all", "--steps", "3"]).fails(2, &["leave out --steps"]);
    let known = ["--gemm", "mkl"];
    scratch.pipeline(&[&["bench", "--shape", "seed"], &known[..]].concat()).fails(2, &["openblas"]);
}

#[test]
fn processes_are_compared_with_threads() {
    let scratch = Scratch::new();
    let measure = ["bench", "--shape", "seed", "--steps", "2", "--warmup", "1", "--processes", "1,2", "--leaves", "6"];
    let said = scratch.pipeline(&[&measure[..], &["--json"]].concat()).succeeds().stdout;
    let rows: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let number = |row: usize, key: &str| rows[row][key].as_f64().unwrap_or_else(|| panic!("{key}: {said}"));
    assert_eq!([number(0, "processes"), number(1, "processes"), number(1, "workers")], [1.0, 2.0, 1.0]);
    assert_eq!((number(0, "ratio"), &rows[0]["sent_bytes"]), (1.0, &vec![0].into()));
    assert!(number(1, "ratio") > 0.1 && number(1, "ratio") < 5.0, "{said}");
    for key in ["tok_per_sec", "threads_tok_per_sec", "predicted_tok_per_sec", "threads_update_seconds", "peak_rss_mb"]
    {
        assert!(number(1, key) > 0.0, "{key}: {said}");
    }
    // Leaves 0..3 and 3..6 of six are 0..2 2 and 3 4..6: two partial sums of each parameter that lives elsewhere, and
    // a total of each that lives here: together three times the parameters for both, with little else.
    let parameters = 128 * 256 + 10_000 * 256 + 2 * (12 * 256 * 256 + 13 * 256) + 2 * 256;
    let sent: f64 = rows[1]["sent_bytes"].as_array().unwrap().iter().map(|bytes| bytes.as_f64().unwrap()).sum();
    let formula = f64::from(4 * 3 * parameters);
    assert!(sent >= formula && sent < 1.02 * formula, "{sent} instead of {formula}");

    let table = scratch.pipeline(&measure).succeeds().stdout;
    assert!(table.lines().all(|line| line.chars().count() <= 80), "{table}");
    assert!(table.contains("processes") && table.contains("each sends per step"), "{table}");
}

#[test]
fn processes_that_cannot_be_compared_are_refused() {
    let scratch = Scratch::new();
    let refuses = |options: &str, pieces: &[&str]| {
        let arguments: Vec<&str> = ["bench"].into_iter().chain(options.split(' ')).collect();
        scratch.pipeline(&arguments).fails(2, pieces);
    };
    refuses("--shape gpt2 --processes 4", &["2 micro-batches", "--leaves"]);
    refuses("--shape seed --processes 2,2", &["--processes has 2 twice"]);
    refuses("--shape seed --processes 0", &["from 1 to 24"]);
    refuses("--processes 2", &["--shape"]);
    refuses("--sweep --processes 2", &["cannot be used with"]);
    refuses("--gemm all --processes 2 --shape seed", &["leave out --shape"]);
    let command = ["bench", "--shape", "seed", "--take-part"];
    scratch.pipeline(&command).fails(1, &["only `bench --processes` starts"]);
}

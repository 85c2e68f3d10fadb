//! `blocks` of `metrics.jsonl`: the gradient and the update of each block of the model at every validation, compared
//! with the checkpoints before and after the update.
use crate::average::tensors;
use crate::support::Scratch;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

const EVERY_STEP: [&str; 6] =
    ["--set", "checkpoint.interval=1", "--set", "checkpoint.keep=9", "--set", "evaluate.interval=2"];

/// The block of a tensor of these tests' models.
fn block(name: &str) -> String {
    let layer = ["transformer.h.", "model.layers."].iter().find_map(|prefix| name.strip_prefix(prefix));
    match (layer, name) {
        (Some(layer), _) => layer[..layer.find('.').unwrap()].to_owned(),
        (None, "lm_head.weight") => "head".into(),
        (None, name) if name.contains("wte") || name.contains("wpe") || name.contains("embed") => "embedding".into(),
        _ => "vectors".into(),
    }
}

/// Squared norms of the parameters of a checkpoint and of their difference to those of another, by block.
fn squares(scratch: &Scratch, run: &str, steps: [u64; 2]) -> BTreeMap<String, [f64; 2]> {
    let [before, after] =
        steps.map(|step| tensors(scratch, &format!("{run}/checkpoints/step-{step:08}/model.safetensors")));
    let mut blocks: BTreeMap<String, [f64; 2]> = BTreeMap::new();
    for (name, values) in &before {
        let sums = blocks.entry(block(name)).or_default();
        for (value, updated) in values.iter().zip(&after[name]) {
            sums[0] += f64::from(*value).powi(2);
            sums[1] += (f64::from(*updated) - f64::from(*value)).powi(2);
        }
    }
    blocks
}

fn blocks(line: &Map<String, Value>) -> Option<&Map<String, Value>> {
    line.get("blocks").and_then(Value::as_object)
}

#[track_caller]
fn assert_close(found: &Value, expected: f64) {
    let found = found.as_f64().unwrap();
    assert!((found / expected - 1.0).abs() < 1e-9, "{found}, not {expected}");
}

#[test]
fn they_are_those_of_the_checkpoints() {
    let scratch = Scratch::new();
    let models: [(&str, &[&str]); 4] = [
        ("gpt2", &[]),
        ("llama", &["--stage", "forward=llama.toml", "--stage", "optimize=muon.toml"]),
        ("qwen3", &["--stage", "forward=qwen3.toml"]),
        ("nanochat", &["--stage", "forward=nanochat.toml", "--stage", "optimize=muon.toml"]),
    ];
    for (run, model) in models {
        scratch.train(run, &[&EVERY_STEP[..], model].concat());
        for line in scratch.metrics(run) {
            let step = line["step"].as_u64().unwrap();
            assert_eq!(blocks(&line).is_some(), step % 2 == 0, "{run}: only at validations, not at step {step}");
            let Some(found) = blocks(&line) else { continue };
            let expected = squares(&scratch, run, [step - 1, step]);
            assert!(found.keys().eq(expected.keys()) && expected.contains_key("1"), "{run}: {found:?}");
            let mut gradient = 0.0;
            for (name, [weight, update]) in expected {
                assert_close(&found[&name]["weight_norm"], weight.sqrt());
                assert_close(&found[&name]["update_ratio"], (update / weight).sqrt());
                gradient += found[&name]["gradient_norm"].as_f64().unwrap().powi(2);
            }
            assert_close(&line["gradient_norm"], gradient.sqrt());
        }
    }
}

/// The embedding has seven sections, whose owners are several workers. A run that was killed and resumed has the same
/// numbers.
#[test]
fn they_do_not_depend_on_workers_and_survive_a_kill() {
    let scratch = Scratch::new();
    scratch.write("gpt2.toml", "type = \"bpe\"\ntokenizer = \"gpt2\"\n");
    let wide = ["--stage", "tokenize=gpt2.toml", "--set", "forward.heads=2", "--set", "run.max_steps=4"];
    let keys = [&EVERY_STEP[..], &wide].concat();
    for workers in ["1", "2", "3"] {
        scratch.train(workers, &[&keys[..], &["--workers", workers]].concat());
        assert_eq!(scratch.numbers(workers), scratch.numbers("1"), "{workers} workers");
    }
    assert!(scratch.numbers("1")[1].contains("\"blocks\":{\"0\":{\"gradient_norm\":"), "{:?}", scratch.numbers("1"));
    for step in [3, 4] {
        std::fs::remove_dir_all(scratch.path(&format!("2/checkpoints/step-{step:08}"))).unwrap();
    }
    scratch.train("2", &[&keys[..], &["--resume"]].concat());
    assert_eq!(scratch.numbers("2"), scratch.numbers("1"));
    scratch.pipeline(&["verify", "2"]).succeeds();
    assert!(scratch.read("1/report.html").contains("The update of step 4; gradients before clipping."));
}

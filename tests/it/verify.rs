//! `pipeline verify`: a run comes out again as it was recorded, or it is said where it does not.
use crate::support::Scratch;
use serde_json::Value;
use std::fs;

const SUMS: &str = "B3SUMS";

fn verified(scratch: &Scratch, options: &str) -> (Option<i32>, Value, String) {
    let line = format!("verify r --json --workers 1 {options}");
    let ran = scratch.pipeline(&line.split_whitespace().collect::<Vec<_>>());
    (ran.code, serde_json::from_str(&ran.stdout).unwrap_or_default(), ran.stderr)
}

#[test]
fn a_run_is_replayed_between_its_checkpoints() {
    let scratch = Scratch::new();
    let train = |directory: &str, more: &str| {
        let line = format!("--workers 2 --set checkpoint.interval=2 --set checkpoint.keep=9 {more}");
        scratch.train(directory, &line.split_whitespace().collect::<Vec<_>>());
    };
    train("r", "");
    let (files, metrics) = (scratch.checkpoint_files("r"), scratch.read("r/metrics.jsonl"));
    let (code, said, stderr) = verified(&scratch, "");
    assert_eq!((code, &said["identical"]), (Some(0), &Value::Bool(true)), "{said} {stderr}");
    let spans: Vec<_> = said["spans"].as_array().unwrap().iter().map(|span| (&span["from"], &span["to"])).collect();
    assert_eq!(format!("{spans:?}"), "[(Number(0), Number(2)), (Number(2), Number(4)), (Number(4), Number(6))]");
    assert!(scratch.checkpoint_files("r") == files && scratch.read("r/metrics.jsonl") == metrics);
    let left = fs::read_dir(scratch.path("r")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert!(left.into_iter().all(|name| !name.starts_with(".verify")));

    // The same seed chooses the same parts.
    let chosen = |seed: &str| verified(&scratch, &format!("--spans 1 --seed {seed}")).1["spans"][0]["from"].clone();
    assert_eq!(chosen("3"), chosen("3"));

    // A loss that was written by hand.
    let line = metrics.lines().nth(4).unwrap();
    let loss = serde_json::from_str::<Value>(line).unwrap()["loss"].clone();
    let forged = metrics.replace(line, &line.replace(&format!("\"loss\":{loss}"), "\"loss\":1.5"));
    scratch.write("r/metrics.jsonl", &forged);
    let (code, said, stderr) = verified(&scratch, "");
    assert!(code == Some(1) && stderr.contains("does not come out as it was recorded"), "{stderr}");
    let found = &said["spans"][2]["first_difference"];
    assert_eq!((&found["step"], &found["metric"]), (&5.into(), &"loss".into()), "{said}");
    assert_eq!((&found["recorded"], &found["replayed"]), (&1.5.into(), &loss));
    assert!(
        said["spans"][1]["first_difference"].is_null() && said["spans"][2]["differing_files"] == serde_json::json!([])
    );
    scratch.write("r/metrics.jsonl", &metrics);

    // Weights of another run, with their hash.
    train("other", "--set run.seed=5");
    let (weights, at) = ("model.safetensors", "checkpoints/step-00000004");
    fs::copy(scratch.path(&format!("other/{at}/{weights}")), scratch.path(&format!("r/{at}/{weights}"))).unwrap();
    let hash = |run: &str| {
        let sums = scratch.read(&format!("{run}/{at}/{SUMS}"));
        sums.lines().find(|line| line.ends_with(weights)).unwrap().to_owned()
    };
    let sums = scratch.read(&format!("r/{at}/{SUMS}")).replace(&hash("r"), &hash("other"));
    scratch.write(&format!("r/{at}/{SUMS}"), &sums);
    let (code, said, _) = verified(&scratch, "");
    assert_eq!((code, &said["spans"][1]["differing_files"]), (Some(1), &serde_json::json!([weights])), "{said}");
    assert_eq!(said["spans"][2]["first_difference"]["step"], 5, "what follows does not come of these weights: {said}");
    let said = scratch.pipeline(&["verify", "r", "--workers", "1"]).fails(1, &["does not come out"]).stdout;
    assert!(said.contains("steps 2 to 4: ") && said.lines().all(|line| line.chars().count() <= 80), "{said}");
}

#[test]
fn what_cannot_be_verified_is_said() {
    let scratch = Scratch::new();
    scratch.pipeline(&["verify", "nowhere"]).fails(2, &["nowhere", "is not a run directory"]);
    scratch.train("r", &["--set", "checkpoint.interval=0"]);
    scratch.pipeline(&["verify", "r"]).fails(2, &["has no checkpoint yet"]);
    scratch.train("s", &[]);
    scratch.write("s/checkpoints/step-00000003/state.json", "{}");
    scratch.pipeline(&["verify", "s"]).fails(1, &["step-00000003 is damaged: its state.json"]);
}

//! A run that is resumed or evaluated from another directory than the one in which it was started.
use crate::support::{Ran, Scratch};
use std::process::Stdio;

/// What `pipeline` does in a directory of its own.
fn elsewhere(scratch: &Scratch, arguments: &[&str]) -> Ran {
    let other = tempfile::tempdir().unwrap();
    let mut process = scratch.command(arguments);
    let output = process.current_dir(other.path()).stdin(Stdio::null()).output().unwrap();
    assert_eq!(std::fs::read_dir(other.path()).unwrap().count(), 0, "something was written there");
    Ran {
        command: format!("pipeline {}", arguments.join(" ")),
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

#[test]
fn a_run_is_resumed_and_evaluated_with_the_files_that_it_was_started_with() {
    let scratch = Scratch::new();
    scratch.train("run", &["--set", "checkpoint.interval=3"]);
    let whole = (scratch.last("run", "model.safetensors"), scratch.numbers("run"));
    let here = scratch.pipeline(&["evaluate", "run", "--json"]).succeeds().stdout;
    std::fs::remove_dir_all(scratch.path("run/checkpoints/step-00000006")).unwrap();

    let path = |name: &str| scratch.path(name).display().to_string();
    let (config, run) = (path("run.toml"), path("run"));
    let again = ["run", &config, "--run-dir", &run, "--set", "checkpoint.interval=3", "--resume"];
    let ran = elsewhere(&scratch, &again).succeeds();
    assert!(ran.stderr.contains("note: relative paths start from "), "{}", ran.stderr);
    assert!(whole == (scratch.last("run", "model.safetensors"), scratch.numbers("run")));

    scratch.pipeline(&["cache", "--clear"]).succeeds();
    let ran = elsewhere(&scratch, &["evaluate", &run, "--json"]).succeeds();
    let without_name = |text: &str| {
        let mut found: serde_json::Value = serde_json::from_str(text).unwrap();
        ["model", "checkpoint"].iter().for_each(|name| drop(found.as_object_mut().unwrap().remove(*name)));
        found
    };
    assert_eq!(without_name(&ran.stdout), without_name(&here));
    let kinds = scratch.pipeline(&["cache"]).succeeds().stdout;
    assert!(kinds.contains("indices") && !kinds.contains("tokenizers"), "trained again: {kinds}");
}

#[test]
fn another_tokenizer_beside_the_run_is_refused() {
    let scratch = Scratch::new();
    scratch.train("run", &[]);
    let other = scratch.read("run/tokenizer.json").replace("\"id\":0", "\"id\": 0");
    scratch.write("run/tokenizer.json", other + " ");
    scratch.pipeline(&["evaluate", "run"]).fails(2, &["content of tokenizer"]);
}

//! `pipeline cache`: what runs leave for the next ones is listed and can be removed.
use crate::support::{Scratch, corpus, tiny};
use serde_json::Value;
use std::process::Stdio;

#[test]
fn the_cache_is_listed_and_cleared() {
    let scratch = Scratch::new();
    let nothing = scratch.pipeline(&["cache"]).succeeds().stdout;
    assert!(nothing.contains("No entries in "), "{nothing}");
    scratch.write("corpus.txt", corpus(120).join("|"));
    scratch.write("run.toml", tiny("paths = [\"corpus.txt\"]\nseparator = \"|\""));
    scratch.train("first", &[]);

    let listed = scratch.pipeline(&["cache"]).succeeds().stdout;
    assert!(listed.lines().all(|line| line.chars().count() <= 80), "{listed}");
    for piece in ["documents", "corpus.txt", "surveys", "indices", "tokenizers", "today", "Total: 4 entries"] {
        assert!(listed.contains(piece), "{piece} in\n{listed}");
    }
    let lines = scratch.pipeline(&["cache", "--json"]).succeeds().stdout;
    let entries: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let kinds: Vec<_> = entries.iter().map(|entry| entry["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["documents", "surveys", "indices", "tokenizers"]);
    assert_eq!(entries[0]["files"].as_array().unwrap().len(), 2);

    let old = scratch.pipeline(&["cache", "--clear", "--older-than", "1"]).succeeds().stdout;
    assert!(old.contains("Removed 0 entries"), "{old}");
    let removed = scratch.pipeline(&["cache", "--clear", "documents"]).succeeds().stdout;
    assert!(removed.contains("Removed 1 entries, "), "{removed}");
    scratch.train("second", &[]);
    assert_eq!(scratch.numbers("first"), scratch.numbers("second"));
    assert!(scratch.pipeline(&["cache", "--clear"]).succeeds().stdout.contains("Removed 4 entries"));
    assert!(scratch.pipeline(&["cache"]).succeeds().stdout.contains("No entries in "));
    scratch.pipeline(&["cache", "--clear", "everything"]).fails(2, &["documents", "surveys", "indices", "tokenizers"]);
}

#[test]
fn what_a_running_process_uses_stays() {
    let scratch = Scratch::new();
    scratch.write("corpus.txt", corpus(120).join("|"));
    scratch.write("run.toml", tiny("paths = [\"corpus.txt\"]\nseparator = \"|\""));
    scratch.train("undisturbed", &["--set", "run.max_steps=400"]);
    let mut command = scratch.command(&["run", "run.toml", "--run-dir", "disturbed", "--set", "run.max_steps=400"]);
    let mut running = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let cleared = loop {
        let said = scratch.pipeline(&["cache", "--clear"]).succeeds().stdout;
        if said.contains("Kept ") || running.try_wait().unwrap().is_some() {
            break said;
        }
    };
    assert!(cleared.contains(" that a running process uses") || cleared.contains(" that running processes use"));
    let found = scratch.pipeline(&["cache", "--json"]).succeeds().stdout;
    assert!(found.contains("\"in_use\":true"), "{found}");
    assert!(running.wait().unwrap().success());
    assert_eq!(scratch.numbers("undisturbed"), scratch.numbers("disturbed"));
    let cleared = scratch.pipeline(&["cache", "--clear"]).succeeds().stdout;
    assert!(!cleared.contains("Kept") && !cleared.contains("Removed 0"), "{cleared}");
}

//! `check` refuses what `run` refuses, in the same words, and before `run` has read anything.
use crate::support::Scratch;

/// Faulty changes of a sound configuration, and a part of the message.
const FAULTY: &[(&[&str], &str)] = &[
    (&["forward.layers=1000000000000"], "`forward.layers`"),
    (&["forward.width=99999999999"], "`forward.width`"),
    (&["forward.layers=-1"], "at least 1"),
    (&["pack.micro_batch_size=65536", "pack.sequence_length=1048576"], "`pack.micro_batch_size`"),
    (&["optimize.learning_rate=-1"], "`optimize.learning_rate`"),
    (&["optimize.learning_rate=nan"], "not a finite number"),
    (&["optimize.head_learning_rate=0.1"], "the model's head is tied to its embedding"),
    (&["optimize.head_weight_decay=0.1"], "`optimize.head_weight_decay`"),
    (&["optimize.decay_fraction=0.5"], "only `schedule = \"wsd\"` decays in a part of the run"),
    (&["run.workers=100000"], "`run.workers`"),
    (&["run.initial_checkpoint=nowhere"], "`run.initial_checkpoint`"),
    (&["run.initial_checkpoint=broken"], "config.json is not JSON"),
    (&["read.paths=[\"nowhere.jsonl\"]"], "`read.paths`"),
    (&["read.cache=run.toml"], "is not a folder"),
    (&["tokenize.tokenizer=nowhere.json"], "`tokenize.tokenizer`"),
    (&["tokenize.tokenizer=gpt2"], "remove it"),
    (&["read.column=txt"], "columns: id, text; similar: text"),
    (&["read.column=id"], "is of type Int64, not string"),
    (&["read.separator=x"], "none of the files is"),
    (&["read.paths=[\"lines.jsonl\"]", "read.column=body"], "no column \"body\" in lines.jsonl; columns: text"),
    // 30 lines of 100 bytes.
    (&["read.paths=[\"lines.jsonl\"]", "pack.sequence_length=3001"], "at most 3001 tokens: fewer than one sequence"),
    (&["read.paths=[\"wide.txt\"]"], "it is UTF-16"),
];

#[test]
fn check_refuses_what_run_refuses() {
    let scratch = Scratch::new();
    std::fs::create_dir(scratch.path("broken")).unwrap();
    scratch.write("broken/config.json", "no JSON");
    scratch.write("broken/model.safetensors", "");
    scratch.write("lines.jsonl", format!("{{\"text\": \"{}\"}}\n", "ka mo ".repeat(15)[..87].to_owned()).repeat(30));
    scratch.write("wide.txt", [0xff, 0xfe, b'a', 0]);
    for (changes, said) in FAULTY {
        let sets: Vec<&str> = changes.iter().flat_map(|change| ["--set", change]).collect();
        let refused = |command: &[&str]| {
            let line: Vec<&str> = command.iter().chain(&sets).copied().collect();
            scratch.pipeline(&line).fails(2, &["error: ", said]).stderr
        };
        let checked = refused(&["check", "run.toml"]);
        for command in [&["run", "run.toml"][..], &["run", "run.toml", "--dry-run"], &["explain", "run.toml"]] {
            assert_eq!(refused(command), checked, "{command:?}");
        }
    }
    assert!(!scratch.path("runs").exists(), "no run was begun");
}

#[test]
fn doubtful_values_are_noted_by_check_and_run() {
    let scratch = Scratch::new();
    let change = ["--set", "optimize.warmup_steps=1000"];
    let note = "longer than the run of";
    let checked = scratch.pipeline(&[&["check", "run.toml"], &change[..]].concat()).succeeds();
    assert!(checked.stderr.contains(note), "{}", checked.stderr);
    assert!(scratch.train("runs/warm", &change).stderr.contains(note));
}

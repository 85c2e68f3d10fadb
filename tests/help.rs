//! Help that helps: each command has examples, and the examples are right.
mod support;
use clap::Parser;
use millrace_pipelines::cli::Cli;
use support::{Scratch, repository, words};

const COMMANDS: [&str; 15] = [
    "run", "check", "explain", "stages", "evaluate", "generate", "runs", "inspect", "report", "bench", "cache", "diff",
    "stat", "export", "import",
];

/// The lines of a help text that show how to call the program.
fn examples(help: &str) -> Vec<String> {
    let shown = help.split_once("Example").expect("an example").1;
    let calls = shown.lines().filter_map(|line| line.find("pipeline ").map(|at| line[at..].trim().to_owned()));
    calls.collect()
}

#[test]
fn every_command_has_examples_that_parse() {
    let scratch = Scratch::new();
    let mut helps = vec![scratch.pipeline(&["--help"]).succeeds().stdout];
    for command in COMMANDS {
        assert!(helps[0].contains(command), "{command} is not listed");
        helps.push(scratch.pipeline(&[command, "--help"]).succeeds().stdout);
    }
    for help in &helps {
        let examples = examples(help);
        assert!(!examples.is_empty(), "{help}");
        for example in examples {
            if let Err(error) = Cli::try_parse_from(words(&example)) {
                panic!("the example `{example}` does not parse:\n{error}");
            }
        }
    }
}

#[test]
fn every_configuration_that_comes_along_is_sound() {
    let scratch = Scratch::new();
    let mut checked = 0;
    for entry in std::fs::read_dir(repository().join("configs")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.ends_with(".toml") && name != "base.toml" {
            scratch.pipeline(&["check", &path.display().to_string()]).succeeds();
            checked += 1;
        }
    }
    assert!(checked >= 3);
}

#[test]
fn every_stage_type_is_listed_and_shown() {
    let scratch = Scratch::new();
    let list = scratch.pipeline(&["stages"]).succeeds().stdout;
    for name in ["documents", "tokens", "bpe", "concat", "gpt2", "cross_entropy", "adamw", "checkpoint", "record"] {
        assert!(list.contains(name), "{name} in {list}");
        let shown = scratch.pipeline(&["stages", name]).succeeds().stdout;
        assert!(shown.contains(&format!("type = \"{name}\"")), "{shown}");
    }
    scratch.pipeline(&["stages", "adam"]).fails(2, &["unknown stage type `adam`", "adamw"]);
}

#[test]
fn what_cannot_be_meant_exits_with_2() {
    let scratch = Scratch::new();
    scratch.pipeline(&[]).fails(2, &["Usage: pipeline"]);
    scratch.pipeline(&["rum"]).fails(2, &["run"]);
    scratch.pipeline(&["evaluate"]).fails(2, &["<RUN>"]);
    scratch.pipeline(&["bench", "--shape", "huge"]).fails(2, &["seed, small, gpt2, long"]);
    scratch.pipeline(&["--version"]).succeeds();
}

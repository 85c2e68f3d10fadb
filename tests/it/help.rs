//! Help that helps: each command has examples, and the examples are right.
use crate::fresh_clone::FreshClone;
use crate::support::{Scratch, repository};
use millrace_pipelines::cli::COMMANDS;

/// The lines of a help text that show how to call the program.
fn examples(help: &str) -> Vec<String> {
    let shown = help.split_once("Example").expect("an example").1;
    let calls = shown.lines().filter_map(|line| line.split_once("pipeline ").map(|(_, call)| call.trim().to_owned()));
    calls.collect()
}

#[test]
fn every_command_has_examples_that_work() {
    let clone = FreshClone::new();
    let pipeline = |arguments: &str| {
        let output = clone.pipeline(arguments);
        let said = String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned();
        assert!(output.status.success(), "`pipeline {arguments}` failed:\n{said}");
        said
    };
    // What examples look at: a run, which is a smaller one only because tests are many, and two versions of a corpus.
    std::fs::write(clone.path().join("configs/wiki.toml"), "extends = \"tiny.toml\"\nrun.name = \"wiki\"\n").unwrap();
    pipeline("run configs/wiki.toml");
    pipeline("run configs/prepare-wiki.toml");
    pipeline("run configs/prepare-wiki.toml --set deduplicate.threshold=0.7");
    let mut helps = vec![pipeline("--help")];
    for command in COMMANDS {
        assert!(helps[0].contains(&format!("\n  {} ", command.name)), "{} is not listed", command.name);
        helps.push(pipeline(&format!("{} --help", command.name)));
    }
    let mut runs = 0;
    for help in &helps {
        let examples = examples(help);
        assert!(!examples.is_empty() && help.lines().all(|line| line.chars().count() <= 80), "{help}");
        for example in examples {
            // Where its output goes is the shell's business.
            let example = example.split(" > ").next().unwrap_or_default();
            let mut example = example.replace("--steps 5", "--steps 1 --warmup 0"); // only because tests are many
            // There is no head to join, but the options are understood: only the backend is refused.
            if example.starts_with("join ") {
                let output = clone.pipeline(&format!("{example} --gemm none"));
                let said = String::from_utf8_lossy(&output.stderr);
                assert!(said.contains("no GEMM backend `none`"), "`pipeline {example}`: {said}");
                continue;
            }
            // It serves until it is interrupted: tests/it/serve.rs. Its options are understood: only the port is refused.
            if example.starts_with("serve") {
                let address = example.split_once("--listen ").map_or("127.0.0.1:7421", |(_, address)| address);
                let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
                let example =
                    example.replace(&format!(" --listen {address}"), "").replace(" runs/learning-rates", " runs");
                let output = clone.pipeline(&format!("{example} --listen {}", taken.local_addr().unwrap()));
                let said = String::from_utf8_lossy(&output.stderr);
                assert!(said.contains("another program listens there"), "`pipeline {example}`: {said}");
                continue;
            }
            // Nobody else may use the port meanwhile.
            example = example.replace("0.0.0.0:7420", "127.0.0.1:0");
            // It would find the directory taken.
            if (example.starts_with("run ") || example.starts_with("launch ")) && !example.contains("--resume") {
                runs += 1;
                example += &format!(" --run-dir runs/{runs}");
            }
            pipeline(&example);
        }
    }
    assert!(helps.len() > 13 && runs > 3, "{} commands, {runs} runs", helps.len() - 1);
}

#[test]
fn every_configuration_that_comes_along_is_sound() {
    let scratch = Scratch::new();
    let mut checked = 0;
    for entry in std::fs::read_dir(repository().join("configs")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.ends_with(".toml") && name != "base.toml" {
            // Their data is not here.
            let data = "read.paths=[\"corpus.parquet\"]";
            let checked_here = scratch.pipeline(&["check", &path.display().to_string(), "--set", data]);
            if name == "wiki-tokens.toml" {
                // Nothing is wrong with it but that these documents have no tokens.
                let said = checked_here.fails(2, &["no column \"tokens\" in corpus.parquet"]).stderr;
                assert_eq!(said.matches("error: ").count(), 1, "{said}");
            } else {
                checked_here.succeeds();
            }
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
    scratch.pipeline(&["evaluate"]).fails(2, &["<MODEL>"]);
    scratch.pipeline(&["bench", "--shape", "huge"]).fails(2, &["seed, small, gpt2, long"]);
    scratch.pipeline(&["--version"]).succeeds();
}

//! Standard output, for every command there is: a closed pipe is a normal end, a full disk an error with a message.
use crate::support::Scratch;
use millrace_pipelines::cli::COMMANDS;
use std::fs::OpenOptions;
use std::process::{Command, Output, Stdio};

/// A line of each command that prints something, of which `{}` is a name that was not used before.
const LINES: &[(&str, &str)] = &[
    ("run", "run run.toml --dry-run"),
    ("experiment", "experiment experiment.toml --dir {}"),
    ("new", "new {}.toml --data corpus.parquet"),
    ("check", "check run.toml"),
    ("explain", "explain run.toml"),
    ("stages", "stages"),
    ("schema", "schema"),
    ("evaluate", "evaluate runs/tiny"),
    ("generate", "generate runs/tiny --prompt ka --max-tokens 3"),
    ("runs", "runs"),
    ("watch", "watch runs/tiny"),
    ("serve", "serve --listen 127.0.0.1:0"),
    ("compare", "compare runs/tiny runs/other"),
    ("status", "status runs/tiny"),
    ("verify", "verify runs/tiny"),
    ("why", "why runs/tiny --step 1"),
    ("forget", "forget runs/tiny --document 3 --dry-run"),
    ("inspect", "inspect runs/tiny"),
    ("report", "report runs/tiny"),
    ("bench", "bench --shape seed --steps 1 --warmup 0"),
    ("diff", "diff corpus/v1 corpus/v1"),
    ("stat", "stat corpus"),
    ("export", "export corpus {} --format nanogpt"),
    ("import", "import ids/train.bin {}.parquet --tokenizer gpt2"),
    ("cache", "cache"),
    ("completions", "completions bash"),
    ("man", "man run"),
];

/// What the commands look at: a run, a corpus, and `.bin` files.
fn scratch() -> Scratch {
    let scratch = Scratch::new();
    scratch.pipeline(&["run", "run.toml"]).succeeds();
    scratch.train("runs/other", &["--set", "run.seed=2"]);
    let experiment = "extends = \"run.toml\"\n[experiment]\nseeds = [1]\n[arm.a]\nrun.max_steps = 2\n";
    scratch.write("experiment.toml", experiment);
    let stages = "[stage.read]\ntype = \"documents\"\npaths = [\"corpus.parquet\"]\n[stage.tokenize]\ntype = \"bpe\"\n\
                  tokenizer = \"gpt2\"\n[stage.write]\ntype = \"parquet\"\nshards = 1\n";
    scratch.write("corpus.toml", format!("[run]\nname = \"corpus\"\n{stages}"));
    scratch.pipeline(&["run", "corpus.toml", "--run-dir", "corpus"]).succeeds();
    scratch.pipeline(&["export", "corpus", "ids", "--format", "nanogpt"]).succeeds();
    scratch
}

fn with_stdout(mut command: Command, stdout: impl Into<Stdio>) -> Output {
    command.stdout(stdout).stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap()
}

#[test]
fn every_command_has_a_line_here() {
    let tested: Vec<&str> = LINES.iter().map(|(name, _)| *name).collect();
    // `join` prints only notes, and `launch`, like a training run, only with --json.
    let prints = |name: &&str| !["launch", "join"].contains(name);
    let all: Vec<&str> = COMMANDS.iter().map(|command| command.name).filter(prints).collect();
    assert_eq!(tested, all);
}

#[test]
fn json_is_one_object_a_line_and_nothing_else() {
    let scratch = scratch();
    // What these print is for other programs already.
    for (_, line) in LINES.iter().filter(|(name, _)| !["completions", "man", "schema", "serve"].contains(name)) {
        let line = format!("{} --json", line.replace("{}", "json"));
        let ran = scratch.pipeline(&line.split(' ').collect::<Vec<_>>()).succeeds();
        assert!(!ran.stdout.is_empty(), "`pipeline {line}`");
        for object in ran.stdout.lines() {
            let parsed = serde_json::from_str(object).unwrap_or_else(|error| panic!("`pipeline {line}`: {error}"));
            assert!(matches!(parsed, serde_json::Value::Object(_)), "`pipeline {line}`: {object}");
        }
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_an_error_with_a_message() {
    let scratch = scratch();
    let full = || OpenOptions::new().write(true).open("/dev/full").unwrap();
    let lines = LINES.iter().flat_map(|(name, line)| [line.replace("{}", "full"), format!("{name} --help")]);
    for line in lines.chain(["--help".into(), "--version".into()]) {
        let words: Vec<&str> = line.split(' ').collect();
        let output = with_stdout(scratch.command(&words), full());
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "`pipeline {line}`: {said}");
        assert!(
            said.ends_with("error: cannot write to standard output: No space left on device (os error 28)\n"),
            "`pipeline {line}`: {said}"
        );
    }
}

#[test]
fn a_closed_pipe_is_a_normal_end() {
    let scratch = scratch();
    let lines = LINES.iter().flat_map(|(name, line)| [line.replace("{}", "closed"), format!("{name} --help")]);
    for line in lines.chain(["--help".into(), "--version".into()]) {
        let words: Vec<&str> = line.split(' ').collect();
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = with_stdout(scratch.command(&words), writer);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "`pipeline {line}`: {said}");
        assert!(!said.contains("error"), "`pipeline {line}`: {said}");
    }
}

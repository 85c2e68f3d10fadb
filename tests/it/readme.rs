//! README.md is true: its `pipeline` commands are run, in order, in a scratch directory; what they would install or
//! download is there already; its other commands, its configuration, its error messages and its links are checked.
//! (Its Rust is a doc test of `pipelines`.)
use crate::fresh_clone::{FreshClone, wiki_dump, write_bzip2};
use crate::serve::Server;
use crate::support::{self, corpus};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const README: &str = include_str!("../../README.md");
const PREPARE: &str = include_str!("../../data/PREPARE.md");
const MIXTURES: &str = include_str!("../../docs/mixtures.md");
const SCALING: &str = include_str!("../../docs/scaling.md");
const LINEAGE: &str = include_str!("../../docs/lineage.md");
const RECORDS: &str = include_str!("../../docs/records.md");
const WATCH: &str = include_str!("../../docs/watch.md");
const EXPERIMENTS: &str = include_str!("../../docs/experiments.md");
/// What is only shortened because tests are many.
const SHORTER: [(&str, &str); 1] = [("--steps 20 --warmup 3", "--steps 1 --warmup 0")];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The contents of README's blocks in `language`.
fn blocks(language: &str) -> Vec<&'static str> {
    blocks_of(README, language)
}

fn blocks_of(document: &'static str, language: &str) -> Vec<&'static str> {
    let fence = format!("```{language}\n");
    document.split(&fence).skip(1).map(|rest| rest.split("\n```").next().unwrap_or(rest)).collect()
}

#[track_caller]
fn check(command: &str, output: Output) {
    let said = [&output.stdout[..], &output.stderr[..]].concat();
    assert!(output.status.success(), "README says `{command}`, which fails:\n{}", String::from_utf8_lossy(&said));
}

fn run(program: &str, arguments: &[&str]) -> Output {
    Command::new(program).args(arguments).current_dir(root()).output().unwrap()
}

#[test]
fn every_command_works() {
    let scratch = FreshClone::new();
    let mut commands = 0;
    for line in blocks("sh").iter().flat_map(|block| block.lines()).filter(|line| !line.is_empty()) {
        commands += 1;
        match line.split_once(' ').unwrap_or((line, "")) {
            ("pipeline", arguments) => {
                let arguments =
                    SHORTER.iter().fold(arguments.to_owned(), |line, (long, short)| line.replace(long, short));
                check(line, scratch.pipeline(&arguments));
            }
            // Installs, downloads or takes long: the target is there, and make knows how.
            ("make", target) => check(line, run("make", &["--dry-run", target])),
            ("data/fetch-wiki.sh", _) => check(line, run("sh", &["-n", "data/fetch-wiki.sh"])),
            ("export", assignment) => assert_eq!(assignment, "PATH=\"$PWD/target/release:$PATH\""),
            _ => panic!("README says `{line}`, and no test knows how to check that"),
        }
    }
    assert!(commands > 15, "only {commands} commands were found");
    // What the README says a run leaves behind.
    for file in ["config.toml", "environment.json", "metrics.jsonl", "tokenizer.json", "checkpoints/step-00000060"] {
        assert!(scratch.path().join("runs/tiny").join(file).exists(), "{file}");
    }
    hugging_face(&scratch);
}

/// Runs README's Python where there is one that can.
fn hugging_face(scratch: &FreshClone) {
    let program = support::python();
    let python = |code: &str| Command::new(&program).args(["-c", code]).current_dir(scratch.path()).output();
    if !python("import torch, transformers").is_ok_and(|found| found.status.success()) {
        return println!("skipped: {program} has no torch and transformers; set MILLRACE_PYTHON to one that has");
    }
    for block in blocks("python") {
        check(block, python(block).unwrap());
    }
}

#[test]
fn the_commands_of_the_page_on_preparation_work() {
    let scratch = FreshClone::new();
    // The next dump: a page less, a page changed.
    let next = scratch.path().join("data/cache/next");
    std::fs::create_dir_all(&next).unwrap();
    let dump = wiki_dump().replacen("<ns>0</ns>", "<ns>1</ns>", 1).replacen("Mill 2'''", "Mill 2''' changed", 1);
    write_bzip2(&next.join("testwiki.xml.bz2"), &dump);
    let mut said = String::new();
    for line in blocks_of(PREPARE, "sh").iter().flat_map(|block| block.lines()) {
        // No argument has a space in it: the shell would only take the quotes away.
        let arguments = line.strip_prefix("pipeline ").unwrap().replace('"', "");
        let output = scratch.pipeline(&arguments);
        said += &String::from_utf8_lossy(&output.stdout);
        check(line, output);
    }
    for file in ["nanogpt/train.bin", "nanogpt/val.bin", "llm.c/train_000000.bin", "train.parquet"] {
        assert!(scratch.path().join("bin").join(file).exists(), "{file}");
    }
    for piece in ["kept", "removed: gone from the input", "replaced: its text has changed"] {
        assert!(said.contains(piece), "{piece}: {said}");
    }
}

#[test]
fn the_page_on_mixtures_is_true() {
    let scratch = FreshClone::new();
    let write = |name: &str, content: &str| std::fs::write(scratch.path().join(name), content).unwrap();
    let books = corpus(60).into_iter().map(|text| format!("{{\"content\": \"{text}\"}}\n"));
    std::fs::create_dir(scratch.path().join("data/books")).unwrap();
    write("data/books/shelf.jsonl", &books.collect::<String>());
    let names = ["mix.toml", "curriculum.toml", "filters.toml", "tokens.toml", "corpus.toml"];
    let configurations = blocks_of(MIXTURES, "toml");
    assert_eq!(configurations.len(), names.len());
    names.iter().zip(configurations).for_each(|(name, content)| write(name, content));
    let mut said = String::new();
    for line in blocks_of(MIXTURES, "sh").iter().flat_map(|block| block.lines()) {
        let output = scratch.pipeline(line.strip_prefix("pipeline ").unwrap());
        said += &String::from_utf8_lossy(&output.stdout);
        said += &String::from_utf8_lossy(&output.stderr);
        check(line, output);
    }
    for piece in ["used up after", "`books` is used up after", "  books: validation loss", "books  "] {
        assert!(said.contains(piece), "{piece}: {said}");
    }
    let on_one_line = said.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(on_one_line.contains("is kept, in this order: `wiki`, `books`."), "{said}");
    let wrong = scratch.pipeline("check mix.toml --set mix.weights={read=0.7,boks=0.3}");
    let message = String::from_utf8(wrong.stderr).unwrap();
    let shown = blocks_of(MIXTURES, "text");
    assert!(shown.contains(&message.trim_end()), "docs/mixtures.md does not show what the program says:\n{message}");
}

#[test]
fn the_commands_of_the_page_on_lineage_work() {
    let scratch = FreshClone::new();
    let train = "run configs/tiny.toml";
    check(train, scratch.pipeline(train));
    for line in blocks_of(LINEAGE, "sh").iter().flat_map(|block| block.lines()) {
        let output = scratch.pipeline(line.strip_prefix("pipeline ").unwrap());
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        check(line, output);
        let expected = match line {
            line if line.contains("forget") => "Without  testwiki-7",
            line if line.contains("--step") => "Mill",
            _ => "Mill 7",
        };
        assert!(said.contains(expected), "{line}: {said}");
    }
}

#[test]
fn the_commands_of_the_page_on_experiments_work() {
    let scratch = FreshClone::new();
    let example = include_str!("../../configs/experiments/optimizers.toml").split_once('\n').unwrap().1;
    let blocks = blocks_of(EXPERIMENTS, "toml");
    let [file, halving] = &blocks[..] else { panic!("the file that is explained, and halving: {blocks:?}") };
    assert_eq!(*file, example.trim());
    let halved = example.replace("[experiment]\nseeds = [1, 2, 3]", halving);
    assert_ne!(halved, example);
    std::fs::write(scratch.path().join("configs/experiments/halved.toml"), halved).unwrap();
    let halved = scratch.pipeline("experiment configs/experiments/halved.toml --dry-run");
    check("halving", halved);
    let mut said = Vec::new();
    for line in blocks_of(EXPERIMENTS, "sh").iter().flat_map(|block| block.lines()) {
        let output = scratch.pipeline(line.strip_prefix("pipeline ").unwrap());
        said.push(String::from_utf8_lossy(&output.stdout).into_owned());
        check(line, output);
    }
    assert_eq!(said.len(), 6);
    assert!(said[0].contains("12 runs; 12 to do"), "{}", said[0]);
    assert!(said[1].contains("Verdict: ") || said[1].contains("No verdict: "), "{}", said[1]);
    assert!(said[2].starts_with("{\"experiment\":\"learning-rates\""), "{}", said[2]);
    assert!(said[3].contains("optimize.learning_rate: 0.001, 0.003"), "{}", said[3]);
}

/// Its server is asked what the page asks it, on a port that is free.
#[test]
fn the_commands_of_the_page_on_watching_work() {
    let scratch = FreshClone::new();
    let (mut server, mut said) = (None, Vec::new());
    for line in blocks_of(WATCH, "sh").iter().flat_map(|block| block.lines()) {
        if let Some(url) = line.strip_prefix("curl \"http://127.0.0.1:7421") {
            let server: &Server = server.as_ref().expect("the server was started before");
            said.push(server.json(url.trim_end_matches('"')).to_string());
        } else if let Some(arguments) = line.strip_prefix("pipeline serve ") {
            let mut command = Command::new(env!("CARGO_BIN_EXE_pipeline"));
            command.args(["serve", arguments, "--listen", "127.0.0.1:0"]).current_dir(scratch.path());
            server = Some(Server::start(command));
        } else {
            let output = scratch.pipeline(line.strip_prefix("pipeline ").unwrap());
            said.push(String::from_utf8_lossy(&output.stdout).into_owned());
            check(line, output);
        }
    }
    assert_eq!(said.len(), 7);
    assert!(said[1].ends_with("runs/tiny is done after step 60 of 60\n") && said[2] == said[1], "{}", said[1]);
    assert!(said[3].starts_with("{\"step\":60,"), "{}", said[3]);
    assert!(said[4].contains("\"name\":\"tiny\"") && said[5].contains("\"validation_loss\":[null,"), "{}", said[4]);
}

#[test]
fn the_commands_of_the_page_on_scaling_work() {
    let scratch = FreshClone::new();
    let said: Vec<String> = blocks_of(SCALING, "sh")
        .iter()
        .flat_map(|block| block.lines())
        .map(|line| {
            // Runs of several hosts are in hosts.rs: of what they call each other, only the options are checked here.
            if line.starts_with("pipeline join ") || line.contains(" --listen ") {
                let understood = millrace_pipelines::cli::definition("0").try_get_matches_from(line.split(' '));
                understood.unwrap_or_else(|error| panic!("docs/scaling.md says `{line}`: {error}"));
                return String::new();
            }
            let shorter = line.replace("--shape small", "--shape seed").replace("--steps 8 --warmup 2", "--steps 1");
            let output = scratch.pipeline(shorter.strip_prefix("pipeline ").unwrap());
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            check(line, output);
            said
        })
        .collect();
    assert!(said[0].contains("Cores    a step keeps at most 16 busy"), "{}", said[0]);
    for key in ["\"balance\":", "\"cpu_relative_to_2_workers\":", "\"cpu_seconds\":{\"backward\":["] {
        assert!(said[1].contains(key), "{key}: {}", said[1]);
    }
    assert_eq!(said.len(), 7);
    assert!(said[5].contains("Hosts    8 like this one"), "{}", said[5]);
    assert!(said[6].contains("Hosts    64 like this one"), "{}", said[6]);
}

/// One of three processes is killed, and the model is that of one process.
#[test]
fn the_page_on_records_is_true() {
    let scratch = FreshClone::new();
    std::fs::write(scratch.path().join("records.toml"), blocks_of(RECORDS, "toml")[0]).unwrap();
    let mut said = String::new();
    for line in blocks_of(RECORDS, "sh").iter().flat_map(|block| block.lines()) {
        let output = scratch.pipeline(line.strip_prefix("pipeline ").unwrap());
        said += &String::from_utf8_lossy(&output.stderr);
        check(line, output);
    }
    assert_eq!(said.matches("Sample after ").count(), 6, "two prompts, three validations: {said}");
    let read = |file: &str| {
        let path = scratch.path().join("runs/records").join(file);
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    let parsed = |line: &str| serde_json::from_str::<Value>(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let [sample, blocks] = blocks_of(RECORDS, "json")[..] else { panic!("two examples of lines") };
    assert_eq!(keys(&parsed(read("samples.jsonl").lines().next().unwrap())), keys(&parsed(sample)));
    let metrics = read("metrics.jsonl");
    let (found, shown) = (&parsed(metrics.lines().nth(19).unwrap())["blocks"], &parsed(blocks)["blocks"]);
    assert_eq!(keys(found), ["0", "1", "embedding", "vectors"]);
    for block in keys(shown) {
        assert_eq!(keys(&found[&block]), keys(&shown[&block]), "{block}");
    }
    let root = scratch.path().join("runs/records");
    assert!(root.join("tb").is_dir() && root.join("mlruns/0/meta.yaml").is_file());
    assert!(read("report.html").contains("The update of step 60"));
}

#[test]
fn the_run_on_several_processes_is_as_shown() {
    if Command::new("pgrep").arg("--version").output().is_err() {
        return println!("skipped: there is no pgrep");
    }
    let scratch = FreshClone::new();
    let [script] = blocks("bash")[..] else { panic!("one script") };
    let output = scratch.bash(script);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let hashes = String::from_utf8_lossy(&output.stdout).into_owned();
    check(script, output);
    for piece in ["training on 3 hosts from step 0", "its connection was closed", "training on 2 hosts from step"] {
        assert!(said.contains(piece), "{piece}: {said}");
    }
    let hashes: Vec<&str> = hashes.lines().filter(|line| line.ends_with("  model.safetensors")).collect();
    assert!(matches!(hashes[..], [one, three] if one == three), "{hashes:?}: {said}");
}

#[test]
fn its_configurations_are_sound() {
    let scratch = FreshClone::new();
    let blocks = blocks("toml");
    assert_eq!(blocks.len(), 2);
    std::fs::write(scratch.path().join("configs/readme.toml"), blocks[0]).unwrap();
    check(blocks[0], scratch.pipeline("check configs/readme.toml"));
    // The second one starts from a model: here from one that has been trained for a step, on the same texts.
    let train = "run configs/tiny.toml --set run.max_steps=1 --run-dir runs/short";
    check(train, scratch.pipeline(train));
    let (model, texts) = ("runs/short/checkpoints/step-00000001", "data/cache/wiki/*.bz2");
    let adapted = blocks[1].replace("some-model", model).replace("my-texts/*.jsonl", texts);
    assert!(adapted.contains(model) && adapted.contains(texts), "{adapted}");
    std::fs::write(scratch.path().join("continue.toml"), adapted).unwrap();
    check(blocks[1], scratch.pipeline("check continue.toml"));
}

#[test]
fn its_error_messages_are_those_of_the_program() {
    let scratch = FreshClone::new();
    let output = scratch.pipeline("check configs/quarter.toml --set forward.heads=7 --set optimise.learning_rate=1e-3");
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(blocks("text").contains(&said.trim_end()), "README does not show what the program says:\n{said}");
}

#[test]
fn every_link_leads_somewhere_and_ci_runs_its_test_command() {
    for document in [
        "README.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "data/README.md",
        "data/PREPARE.md",
        "data/SCHEMA.md",
        "benches/README.md",
        "docs/mixtures.md",
        "docs/experiments.md",
        "docs/lineage.md",
        "docs/watch.md",
        "docs/records.md",
    ] {
        let path = root().join(document);
        let text = std::fs::read_to_string(&path).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target: PathBuf = path.parent().unwrap().join(link.split('#').next().unwrap_or(link));
            assert!(link.starts_with("http") || target.exists(), "{document} links to {link}, which is not there");
        }
    }
    let ci = std::fs::read_to_string(root().join(".ci/run")).unwrap();
    assert_eq!(ci.lines().last(), Some("make test"));
    check(".ci/run", run("bash", &["-n", ".ci/run"]));
    check(".ci/system", run("sh", &["-n", ".ci/system"]));
}

//! Stages of another crate, one of each family, work like those that come with the program: in every command, together
//! in one graph, and none of them longer than it may be.
#[allow(dead_code, reason = "it uses a part of what the tests of the program share")]
#[path = "../../it/support/mod.rs"]
mod support;
use serde_json::Value;
use std::process::Stdio;
use std::time::Duration;
use support::{Scratch, corpus};

/// The stages of this crate: their files, their families, and the most lines that they may have.
const STAGES: [(&str, &str, usize); 5] = [
    ("z_loss", "loss", 20),
    ("capitals", "filter", 30),
    ("lion", "optimizer", 40),
    ("deb822", "source", 60),
    ("relu2_gpt2", "model", 60),
];

/// A graph with all of them.
const GRAPH: &str = r#"
[run]
max_steps = 24

[stage.read]
type = "deb822"
paths = ["records"]
field = "Text"
validation_every = 10
max_bad_fraction = 0.1

[stage.quiet]
type = "capitals"
max_fraction = 0.5

[stage.tokenize]
type = "bpe"
vocabulary_size = 300
inputs = ["quiet"]

[stage.pack]
type = "concat"
sequence_length = 32
micro_batch_size = 2
micro_batches = 3

[stage.forward]
type = "relu2_gpt2"
layers = 2
heads = 2
width = 32

[stage.loss]
type = "z_loss"
weight = 1e-2

[stage.backward]
type = "backward"

[stage.reduce]
type = "tree_sum"

[stage.optimize]
type = "lion"
learning_rate = 2e-3
warmup_steps = 2

[stage.evaluate]
type = "evaluate"
interval = 8

[stage.checkpoint]
type = "checkpoint"
interval = 4
keep = 9

[stage.record]
type = "record"
"#;

/// `run.toml` is [`GRAPH`]; its records are in two files. Every eighth of the 160 shouts, and one has no text.
fn all_of_them() -> Scratch {
    let scratch = Scratch::of(env!("CARGO_BIN_EXE_outside_stage"));
    scratch.write("run.toml", GRAPH);
    std::fs::create_dir(scratch.path("records")).unwrap();
    let record = |(number, text): (usize, &String)| match number {
        100 => "Title: Record 100\n\n".to_owned(),
        n if n % 8 == 7 => format!("Title: Record {n}\nText: {}\n\n", text.to_uppercase()),
        n => format!("# A comment.\nText: {}\nTitle: Record {n}\n\n", text.replacen(' ', "\n ", 3)),
    };
    let records: Vec<String> = corpus(160).iter().enumerate().map(record).collect();
    scratch.write("records/a.deb822", records[..90].concat());
    scratch.write("records/b.deb822", records[90..].concat());
    scratch
}

fn json(scratch: &Scratch, arguments: &[&str]) -> Value {
    let said = scratch.pipeline(arguments).succeeds().stdout;
    serde_json::from_str(said.trim()).unwrap_or_else(|error| panic!("{error}: {said}"))
}

/// `run` and every command that works on its result.
#[test]
fn they_train_together_and_every_command_knows_them() {
    let scratch = all_of_them();
    scratch.pipeline(&["check", "run.toml"]).succeeds();
    let ran = scratch.train("run", &[]);
    let dropped = "20 of 159 documents are dropped: 20 capitals: too many capitals";
    assert!(ran.stderr.contains(dropped), "{}", ran.stderr);
    assert!(ran.stderr.contains("1 no such column"), "{}", ran.stderr);
    assert!(scratch.path("run/quarantine.parquet").exists());
    let lines = scratch.metrics("run");
    for line in &lines {
        let [loss, trained] = ["loss", "trained_loss"].map(|key| line[key].as_f64().unwrap());
        assert!((loss..loss + 1.0).contains(&trained), "1e-2 log² is about 0.3: {line:?}");
    }
    assert!(lines[23]["loss"].as_f64() < lines[0]["loss"].as_f64(), "it learns");
    let optimizer = scratch.last("run", "optimizer.safetensors");
    let optimizer = String::from_utf8_lossy(&optimizer);
    assert!(optimizer.contains("wte.weight.momentum") && !optimizer.contains("wte.weight.v\""));

    let evaluated = json(&scratch, &["evaluate", "run", "--json"]);
    assert_eq!(evaluated["validation_loss"], lines[23]["validation_loss"]);
    let generate = ["generate", "run", "--prompt", "kamo", "--max-tokens", "9", "--json"];
    let text = json(&scratch, &generate)["text"].clone();
    assert_eq!(json(&scratch, &[&generate[..], &["--workers", "1"]].concat())["text"], text);
    let explained = json(&scratch, &["explain", "run.toml", "--json"]);
    assert!(explained["model"].as_str().unwrap().starts_with("GPT-2 with ReLU², 2 layers"), "{explained}");
    let dry = scratch.pipeline(&["run", "run.toml", "--dry-run"]).succeeds().stdout;
    assert!(dry.split_whitespace().collect::<Vec<_>>().join(" ").contains(dropped), "{dry}");
    assert!(scratch.read("run/report.html").contains("20 documents: capitals: too many capitals"));
}

/// What the model computes when it trains is what it computes when it continues a text.
#[test]
fn the_model_generates_what_it_has_learned() {
    let scratch = all_of_them();
    scratch.write("records/a.deb822", "Text: one two three four five six seven eight nine ten.\n\n".repeat(200));
    std::fs::remove_file(scratch.path("records/b.deb822")).unwrap();
    scratch.train("run", &["--set", "run.max_steps=120", "--set", "optimize.learning_rate=5e-3"]);
    let generate =
        ["generate", "run", "--prompt", "one two three", "--temperature", "0", "--max-tokens", "6", "--json"];
    let text = json(&scratch, &generate)["text"].clone();
    assert!(text.as_str().unwrap().starts_with(" four five"), "{text}");
}

#[test]
fn a_killed_run_goes_on_to_the_same_bits_on_any_number_of_workers() {
    let scratch = all_of_them();
    let steps = ["--set", "run.max_steps=200"];
    scratch.train("whole", &[&steps[..], &["--workers", "1"]].concat());
    let arguments = [&["run", "run.toml", "--run-dir", "killed", "--workers", "2"][..], &steps].concat();
    let mut command = scratch.command(&arguments);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts");
    let checkpoint = scratch.path("killed/checkpoints/step-00000012");
    while !checkpoint.exists() {
        assert!(child.try_wait().expect("it can be asked").is_none(), "it ended before its third checkpoint");
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().expect("it can be killed");
    child.wait().expect("it ends");
    assert!(!scratch.checkpoints("killed").contains(&"step-00000200".to_owned()), "it ended before it was killed");
    scratch.train("killed", &[&steps[..], &["--workers", "3", "--resume"]].concat());
    for file in ["model.safetensors", "optimizer.safetensors", "tokenizer.json", "config.json"] {
        assert!(scratch.last("killed", file) == scratch.last("whole", file), "{file} differs");
    }
    assert_eq!(scratch.numbers("killed"), scratch.numbers("whole"));
    let other =
        ["--resume", "--set", "quiet.max_fraction=0.6", "--set", "optimize.beta1=0.8", "--set", "loss.weight=0"];
    let arguments = [&["run", "run.toml", "--run-dir", "killed"][..], &other].concat();
    let differ = ["quiet.max_fraction was 0.5, is 0.6", "optimize.beta1 was 0.9, is 0.8", "loss.weight was 0.01, is 0"];
    scratch.pipeline(&arguments).fails(2, &differ);
}

#[test]
fn source_and_filter_prepare_a_corpus() {
    let scratch = all_of_them();
    let read = GRAPH.split("[stage.pack]").next().unwrap().replace("[run]\nmax_steps = 24\n", "");
    let read = read.replace("validation_every = 10\n", "").replace("vocabulary_size = 300\n", "tokenizer = \"gpt2\"\n");
    scratch.write("prepare.toml", read + "[stage.write]\ntype = \"parquet\"\nshards = 4\n");
    scratch.pipeline(&["run", "prepare.toml", "--run-dir", "version"]).succeeds();
    let stats = scratch.pipeline(&["stat", "version"]).succeeds().stdout;
    assert!(stats.contains("capitals: too many capitals"), "{stats}");
}

#[test]
fn they_are_listed_and_their_settings_are_checked() {
    let scratch = all_of_them();
    let listed = scratch.pipeline(&["stages"]).succeeds().stdout;
    let schema = json(&scratch, &["schema"]);
    for (name, ..) in STAGES {
        assert!(listed.lines().any(|line| line.split_whitespace().next() == Some(name)), "{name}: {listed}");
        let page = json(&scratch, &["stages", name, "--json"]);
        for key in page["keys"].as_array().unwrap() {
            let described = &schema["$defs"][format!("type.{name}")]["properties"][key["key"].as_str().unwrap()];
            assert!(key["description"].as_str().is_some_and(|text| !text.is_empty()), "{name}: {key}");
            assert_eq!(described["description"], key["description"], "{name}: {key}");
        }
    }
    assert_eq!(schema["$defs"]["type.lion"]["properties"]["beta1"]["maximum"], 1);
    assert_eq!(schema["$defs"]["type.lion"]["properties"]["learning_rate"]["default"], 1e-3);
    for (set, said) in [
        ("loss.weight=-1", "`loss.weight` is -1, but must be at least 0"),
        ("loss.wight=1", "similar: weight"),
        ("quiet.max_fraction=2", "`quiet.max_fraction` is 2, but must be from 0 to 1"),
        ("optimize.beta2=1.5", "`optimize.beta2` is 1.5, but must be from 0 to 1"),
        ("optimize.final_fraction=1.5", "`optimize.final_fraction` is 1.5, but must be from 0 to 1"),
        ("optimize.weight_decai=1", "similar: weight_decay"),
        ("forward.heads=3", "3 heads do not divide width 32; these do: 1, 2, 4, 8, 16, 32"),
        ("read.field=\"\"", "is empty"),
        ("read.paths=[]", "is empty; give files, folders or patterns"),
        ("read.column=\"text\"", "unknown key `read.column`"),
    ] {
        scratch.pipeline(&["check", "run.toml", "--set", set]).fails(2, &[said]);
    }
}

#[test]
fn a_sink_has_every_step_once_also_when_a_run_is_resumed() {
    let scratch = all_of_them();
    let sinks = ["--set", "record.sinks=[\"csv\", \"jsonl\"]"];
    scratch.train("run", &sinks);
    let table = scratch.read("run/metrics.csv");
    std::fs::remove_dir_all(scratch.path("run/checkpoints/step-00000024")).unwrap();
    scratch.train("run", &[&sinks[..], &["--resume"]].concat());
    assert_eq!(scratch.read("run/metrics.csv"), table);
    let [mut steps, mut validated] = [0, 0];
    for (row, line) in table.lines().skip(1).zip(scratch.metrics("run")) {
        let validation = line.get("validation_loss").map(Value::to_string).unwrap_or_default();
        assert_eq!(row, format!("{},{},{},{validation}", line["step"], line["tokens"], line["loss"]));
        (steps, validated) = (steps + 1, validated + usize::from(!validation.is_empty()));
    }
    assert_eq!((steps, validated), (24, 3));
    assert!(!scratch.path("run/tb").exists(), "a sink that is not in the list writes nothing");
    let unknown = ["check", "run.toml", "--set", "record.sinks=[\"jsonl\", \"cvs\"]"];
    let said = "there is no sink \"cvs\"; there are \"jsonl\", \"tensorboard\", \"mlflow\", \"csv\"";
    scratch.pipeline(&unknown).fails(2, &[said]);
}

/// Lines of code without imports and tests: what it takes to write a stage.
#[test]
fn none_is_longer_than_it_may_be() {
    for (name, family, most) in STAGES {
        let path = format!("{}/src/{name}.rs", env!("CARGO_MANIFEST_DIR"));
        let source = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let code = source.split("#[cfg(test)]").next().unwrap();
        let counts = |line: &&str| !(line.is_empty() || line.starts_with("//") || line.starts_with("use "));
        let lines = code.lines().map(str::trim).filter(counts).count();
        println!("{family} {name}: {lines} lines");
        assert!(lines <= most, "the {family} {name} has {lines} lines; {most} must do");
    }
}

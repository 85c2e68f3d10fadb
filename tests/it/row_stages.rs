//! Stages between a source and the tokenizer: training with them in the graph is training on what they leave.
use crate::support::{Scratch, corpus, tiny};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::PathBuf;

/// The documents, some of them with leftovers of markup and double spaces, and some empty.
fn documents() -> Vec<String> {
    let mut documents = corpus(160);
    for (i, text) in documents.iter_mut().enumerate() {
        match i % 7 {
            2 => *text = text.replacen(' ', "  ", 5),
            3 => text.push_str("<br>"),
            5 => text.clear(),
            _ => {}
        }
    }
    documents
}

/// A document as stage `clean` leaves it.
fn cleaned(text: &str) -> String {
    text.replace("  ", " ").replace("<br>", "")
}

const FEWEST: usize = 260;

/// `run.toml` reads all documents through `clean` and `length`, `before.toml` a file of what those leave.
fn both() -> Scratch {
    let (scratch, documents) = (Scratch::new(), documents());
    scratch.documents("corpus.parquet", &documents);
    let kept: Vec<String> = documents.iter().map(|text| cleaned(text)).filter(|text| text.len() >= FEWEST).collect();
    assert!((40..120).contains(&kept.len()), "{} are kept", kept.len());
    scratch.documents("kept.parquet", &kept);
    let stages = format!(
        "\n[stage.tidy]\ntype = \"clean\"\ninputs = [\"read\"]\n\
         [stage.long]\ntype = \"length\"\nmin_characters = {FEWEST}\ninputs = [\"tidy\"]\n"
    );
    let inputs = "[stage.tokenize]\ninputs = [\"long\"]\n";
    let all = tiny("paths = [\"corpus.parquet\"]").replace("[stage.tokenize]\n", inputs) + &stages;
    scratch.write("run.toml", all);
    scratch.write("before.toml", tiny("paths = [\"kept.parquet\"]"));
    scratch
}

fn evaluated(scratch: &Scratch, run: &str) -> Value {
    let said = scratch.pipeline(&["evaluate", run, "--json"]).succeeds().stdout;
    let mut found: Value = serde_json::from_str(said.trim()).unwrap();
    found.as_object_mut().unwrap().retain(|key, _| !["model", "checkpoint"].contains(&&**key));
    found
}

/// Weights, tokenizer, every number and the evaluation are the same.
#[track_caller]
fn same(scratch: &Scratch, one: &str, other: &str) {
    for file in ["model.safetensors", "tokenizer.json"] {
        assert!(scratch.last(one, file) == scratch.last(other, file), "{file} differs");
    }
    assert_eq!(scratch.numbers(one), scratch.numbers(other));
    assert_eq!(evaluated(scratch, one), evaluated(scratch, other));
}

#[test]
fn training_through_stages_is_training_on_what_they_leave() {
    let scratch = both();
    let beforehand = ["run", "before.toml", "--run-dir", "before"];
    for split in [["--set", "read.validation_every=10"], ["--set", "read.validation_fraction=0.1"]] {
        let mut arguments = beforehand.to_vec();
        if split[1].contains("fraction") {
            for config in ["run.toml", "before.toml"] {
                scratch.write(config, scratch.read(config).replace("validation_every = 10\n", ""));
            }
        }
        arguments.extend(split);
        scratch.pipeline(&arguments).succeeds();
        for workers in ["1", "3"] {
            scratch.train(workers, &[&split[..], &["--workers", workers]].concat());
            same(&scratch, workers, "before");
            std::fs::remove_dir_all(scratch.path(workers)).unwrap();
        }
        std::fs::remove_dir_all(scratch.path("before")).unwrap();
    }
}

#[test]
fn a_resumed_run_goes_on_through_the_same_stages() {
    let scratch = both();
    scratch.train("whole", &["--set", "run.max_steps=6"]);
    scratch.train("parts", &["--set", "run.max_steps=3", "--set", "optimize.schedule_steps=6"]);
    scratch.train("parts", &["--set", "run.max_steps=6", "--resume"]);
    assert!(scratch.last("whole", "model.safetensors") == scratch.last("parts", "model.safetensors"));
    let other = ["--set", "run.max_steps=9", "--set", "long.min_characters=250", "--resume"];
    let arguments = [&["run", "run.toml", "--run-dir", "parts"][..], &other].concat();
    scratch.pipeline(&arguments).fails(2, &["long.min_characters was 260, is 250"]);
}

#[test]
fn what_stages_drop_is_said_by_reason() {
    let scratch = both();
    let dropped = documents().iter().filter(|text| cleaned(text).len() < FEWEST).count();
    let said = format!("{dropped} of 160 documents are dropped: {dropped} length: too few characters");
    let dry = scratch.pipeline(&["run", "run.toml", "--dry-run"]).succeeds().stdout;
    let flat: String = dry.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(flat.contains(&said), "{dry}");
    let ran = scratch.train("run", &[]);
    assert!(ran.stderr.contains(&said), "{}", ran.stderr);
    let page = scratch.read("run/report.html");
    assert!(page.contains(&format!("{dropped} documents: length: too few characters")));
}

#[test]
fn a_corpus_of_which_stages_leave_nothing_is_an_error() {
    let scratch = both();
    let arguments = ["run", "run.toml", "--run-dir", "none", "--set", "long.min_characters=100000"];
    let dropped = "160 are dropped by stages (160 length: too few characters)";
    scratch.pipeline(&arguments).fails(2, &[dropped, "after `tidy` and `long`: the corpus is empty"]);
}

/// A dry run of `run.toml` says that stages drop `number` of the 160 documents.
#[track_caller]
fn drops(scratch: &Scratch, number: usize) {
    let dry = scratch.pipeline(&["run", "run.toml", "--dry-run"]).succeeds().stdout;
    let flat = dry.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(flat.contains(&format!("{number} of 160 documents are dropped")), "{dry}");
}

/// Documents of which every second one contains "lantern" and every fifth one "anchor".
fn listed() -> Scratch {
    let scratch = Scratch::new();
    let word = |i: usize, n: usize, word: &'static str| if i.is_multiple_of(n) { word } else { "" };
    let documents: Vec<String> = corpus(160)
        .iter()
        .enumerate()
        .map(|(i, text)| format!("{text} {} {}", word(i, 2, "lantern"), word(i, 5, "anchor")))
        .collect();
    scratch.documents("corpus.parquet", &documents);
    let stage = "\n[stage.listed]\ntype = \"block_list\"\npath = \"words.txt\"\ninputs = [\"read\"]\n";
    let tokenize = "[stage.tokenize]\ninputs = [\"listed\"]\n";
    let all = tiny("paths = [\"corpus.parquet\"]").replace("[stage.tokenize]\n", tokenize) + stage;
    scratch.write("run.toml", all);
    scratch.write("words.txt", "lantern\n");
    scratch
}

#[test]
fn a_list_that_was_edited_is_another_list() {
    let scratch = listed();
    drops(&scratch, 80);
    scratch.train("run", &["--set", "run.max_steps=3", "--set", "optimize.schedule_steps=6"]);
    scratch.write("words.txt", "anchor\n");
    drops(&scratch, 32);
    let again = ["run", "run.toml", "--run-dir", "run", "--set", "run.max_steps=6", "--resume"];
    scratch.pipeline(&again).fails(2, &["listed: content of `path` was "]);
    scratch.write("words.txt", "lantern\n");
    std::fs::rename(scratch.path("words.txt"), scratch.path("moved.txt")).unwrap();
    let moved = [&again[..], &["--set", "listed.path=moved.txt"]].concat();
    scratch.pipeline(&moved).succeeds();
    scratch.pipeline(&["check", "run.toml"]).fails(2, &["run.toml:", "words.txt"]);
}

#[test]
fn a_preparation_with_an_edited_list_equals_one_from_nothing() {
    let scratch = listed();
    let prepare = "[stage.read]\ntype = \"documents\"\npaths = [\"corpus.parquet\"]\nvalidation_fraction = 0.2\n\
         [stage.listed]\ntype = \"block_list\"\npath = \"words.txt\"\n[stage.tokenize]\ntype = \"bpe\"\n[stage.write]\ntype = \"parquet\"\nshards = 3\n";
    scratch.write("prepare.toml", prepare);
    let run = |folder| scratch.pipeline(&["run", "prepare.toml", "--run-dir", folder]).succeeds();
    run("updated");
    scratch.write("words.txt", "anchor\n");
    run("updated");
    run("fresh");
    let names = std::fs::read_dir(scratch.path("fresh/v1")).unwrap().map(|entry| entry.unwrap().file_name());
    let shards: Vec<_> =
        names.map(|name| name.into_string().unwrap()).filter(|name| name.ends_with("parquet")).collect();
    assert!(shards.len() >= 3, "{shards:?}");
    for name in shards {
        let [updated, fresh] =
            ["updated/v2", "fresh/v1"].map(|of| std::fs::read(scratch.path(&format!("{of}/{name}"))));
        assert!(updated.unwrap() == fresh.unwrap(), "{name} differs");
    }
}

/// The files of the cache's folder `kind`.
fn cached(scratch: &Scratch, kind: &str) -> BTreeSet<PathBuf> {
    std::fs::read_dir(scratch.path("cache").join(kind)).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// Lets the cache contain for 260 characters what it contains for 200, which is what happens if the code of `length`
/// changes and its version does not.
fn with_counts_of_another_filter(kind: &str) -> Scratch {
    let scratch = both();
    // A tokenizer that does not depend on the documents.
    scratch.write("run.toml", scratch.read("run.toml").replace("vocabulary_size = 300", "tokenizer = \"gpt2\""));
    let fewest = |characters: &str| {
        let set = format!("long.min_characters={characters}");
        scratch.pipeline(&["run", "run.toml", "--dry-run", "--set", &set]).succeeds();
        cached(&scratch, kind)
    };
    let [first, second, third] = ["250", "260", "200"].map(fewest);
    let (ours, others) = (second.difference(&first).next().unwrap(), third.difference(&second).next().unwrap());
    let content = std::fs::read(ours).unwrap();
    std::fs::copy(others, ours).unwrap();
    std::fs::write(others, content).unwrap();
    scratch
}

#[test]
fn a_filter_that_drops_other_rows_than_were_counted_is_an_error_before_training() {
    let scratch = with_counts_of_another_filter("surveys");
    let run = |characters: &str| {
        let set = format!("long.min_characters={characters}");
        scratch.pipeline(&["run", "run.toml", "--run-dir", "run", "--set", &set])
    };
    let next = "the code of `tidy` or `long` has changed since the corpus was counted. Increase `VERSION`";
    run("260").fails(1, &["corpus.parquet was kept, and is dropped now (length: too few characters): ", next]);
    run("200").fails(1, &["corpus.parquet was dropped, and is kept now: ", next]);
    scratch.pipeline(&["cache", "--clear"]).succeeds();
    run("260").succeeds();
}

#[test]
fn a_filter_that_drops_other_rows_than_were_counted_is_an_error_in_training() {
    let scratch = with_counts_of_another_filter("indices");
    let run = ["run", "run.toml", "--run-dir", "run"];
    let next = "tokens is dropped now (length: too few characters): the code of a stage above has changed since";
    scratch.pipeline(&run).fails(1, &[next, "Increase `VERSION`"]);
}

//! `pipeline new`: configurations that pass `check` and train, for every kind of data.
use crate::support::{Scratch, corpus};
use serde_json::{Value, json};
use std::io::Write;

/// Writes a configuration for `data`, which must be sound and is returned.
fn new(scratch: &Scratch, name: &str, data: &str) -> String {
    let file = format!("{name}.toml");
    let said = scratch.pipeline(&["new", &file, "--data", data, "--json"]).succeeds().stdout;
    assert_eq!(serde_json::from_str::<Value>(&said).unwrap()["file"], file.as_str());
    scratch.pipeline(&["check", &file]).succeeds();
    scratch.read(&file)
}

#[test]
fn it_trains_on_parquet() {
    let scratch = Scratch::new();
    let text = new(&scratch, "my", "corpus.parquet");
    assert!(text.contains("extends = \"builtin:base\"") && text.contains("column = \"text\""), "{text}");
    assert!(text.starts_with("# Written by `pipeline new`: a start for 1 file, about "), "{text}");
    scratch.pipeline(&["run", "my.toml", "--set", "run.max_steps=2"]).succeeds();
    assert_eq!(scratch.metrics("runs/my").len(), 2);
}

#[test]
fn it_finds_the_column_of_packed_json_lines() {
    let scratch = Scratch::new();
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    for (id, text) in corpus(120).into_iter().enumerate() {
        writeln!(packed, "{}", json!({ "url": format!("https://example.org/{id}"), "prose": text, "n": id })).unwrap();
    }
    scratch.write("data.jsonl.gz", packed.finish().unwrap());
    let text = new(&scratch, "json", "data.jsonl.gz");
    assert!(text.contains("column = \"prose\"   # others: url\n"), "{text}");
    scratch.pipeline(&["run", "json.toml", "--set", "run.max_steps=1"]).succeeds();
}

#[test]
fn text_and_folders_have_no_column() {
    let scratch = Scratch::new();
    std::fs::create_dir(scratch.path("texts")).unwrap();
    scratch.write("texts/a.txt", corpus(100).join("\n"));
    scratch.write("texts/b.txt", corpus(50).join("\n"));
    let text = new(&scratch, "texts", "texts");
    assert!(text.contains("2 files") && !text.contains("column"), "{text}");
}

#[test]
fn tokens_are_not_tokenized_again() {
    let scratch = Scratch::new();
    let stages = "[stage.read]\ntype = \"documents\"\npaths = [\"corpus.parquet\"]\n[stage.tokenize]\ntype = \"bpe\"\n\
                  tokenizer = \"gpt2\"\n[stage.write]\ntype = \"parquet\"\nshards = 1\n";
    scratch.write("prepare.toml", stages);
    scratch.pipeline(&["run", "prepare.toml", "--run-dir", "prepared"]).succeeds();
    let text = new(&scratch, "tokens", "prepared/v1/documents-*.parquet");
    assert!(text.contains("type = \"tokens\"") && !text.contains("[stage.tokenize]"), "{text}");
    scratch.pipeline(&["explain", "tokens.toml"]).succeeds();
}

#[test]
fn nothing_is_written_over_and_nothing_unsound_is_left() {
    let scratch = Scratch::new();
    scratch.pipeline(&["new", "run.toml", "--data", "corpus.parquet"]).fails(2, &["run.toml already exists"]);
    scratch.pipeline(&["new", ".toml", "--data", "corpus.parquet"]).fails(2, &["`run.name`"]);
    assert!(!scratch.path(".toml").exists());
    scratch.pipeline(&["new", "my.toml", "--data", "corpus.parqet"]).fails(2, &["corpus.parquet"]);
    scratch.write("numbers.jsonl", "{\"n\": 1}\n{\"n\": 2}\n");
    scratch.pipeline(&["new", "my.toml", "--data", "numbers.jsonl"]).fails(2, &["has no column of text"]);
    assert!(!scratch.path("my.toml").exists());
}

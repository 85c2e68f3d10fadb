//! `pipeline inspect`: what is in a file, and what is wrong with it.
use crate::support::{Scratch, corpus, repository};
use serde_json::Value;
use std::path::Path;
use text::{Tokenizer, write_tokens};

fn json(scratch: &Scratch, arguments: &[&str]) -> Value {
    let said = scratch.pipeline(&[&["inspect", "--json"], arguments].concat()).succeeds().stdout;
    assert_eq!(said.lines().count(), 1, "{said}");
    serde_json::from_str(&said).unwrap()
}

#[test]
fn parquet_shows_its_schema_and_rows() {
    let scratch = Scratch::new();
    let said = scratch.pipeline(&["inspect", "corpus.parquet", "--rows", "2"]).succeeds().stdout;
    assert!(said.lines().all(|line| line.chars().count() <= 80), "{said}");
    for piece in ["120 rows, 8 row groups of 16 rows", "text", "Utf8", "Int64", "row 1"] {
        assert!(said.contains(piece), "{piece} in {said}");
    }
    assert!(!said.contains("row 2"));
    let found = json(&scratch, &["corpus.parquet", "--rows", "1"]);
    assert_eq!((&found["kind"], &found["rows"]), (&"parquet".into(), &120.into()));
    assert_eq!(found["first_rows"][0]["text"], corpus(1)[0].as_str());
}

#[test]
fn token_lists_are_decoded_by_the_tokenizer_that_the_file_names() {
    let scratch = Scratch::new();
    scratch.train("r", &[]);
    let tokenizer = Tokenizer::from_file(&scratch.path("r/tokenizer.json"), "<|endoftext|>").unwrap();
    let documents = corpus(3).into_iter().map(|text| tokenizer.encode(&text).unwrap());
    write_tokens(&scratch.path("tokens.parquet"), tokenizer.vocabulary(), documents).unwrap();
    // It was trained by the run, and so is in the cache.
    let found = json(&scratch, &["tokens.parquet"]);
    assert_eq!(found["first_rows"][2]["tokens.text"], corpus(3)[2].as_str());
    assert_eq!(found["metadata"]["millrace.tokenizer"], tokenizer.hash());
    let other = scratch.pipeline(&["inspect", "tokens.parquet", "--tokenizer", "gpt2"]).succeeds().stdout;
    assert!(other.contains("made with another tokenizer than gpt2"), "{other}");
    std::fs::remove_dir_all(scratch.path("cache/tokenizers")).unwrap();
    let unknown = scratch.pipeline(&["inspect", "tokens.parquet"]).succeeds().stdout;
    assert!(unknown.contains("name one with --tokenizer") && !unknown.contains("tokens.text"), "{unknown}");
    let named = json(&scratch, &["tokens.parquet", "--tokenizer", "r/tokenizer.json"]);
    assert_eq!(named["first_rows"], found["first_rows"]);
}

#[test]
fn checkpoints_runs_tensors_and_tokenizers() {
    let scratch = Scratch::new();
    scratch.train("r", &[]);
    let checkpoint = "r/checkpoints/step-00000006";
    let found = json(&scratch, &["r"]);
    assert_eq!(
        (&found["kind"], &found["checkpoint"], &found["step"]),
        (&"checkpoint".into(), &checkpoint.into(), &6.into())
    );
    let environment: Value = serde_json::from_str(&scratch.read("r/environment.json")).unwrap();
    assert_eq!(found["model"]["parameters"], environment["parameters"]);
    assert!(found["position"]["read"]["0"]["position"].is_number(), "{}", found["position"]);
    let gain = &found["model"]["tensors"].as_array().unwrap().iter().find(|t| t["name"] == "transformer.ln_f.weight");
    let gain = gain.unwrap();
    assert_eq!((&gain["dtype"], &gain["shape"]), (&"F32".into(), &serde_json::json!([32])));
    let value = |key: &str| gain[key].as_f64().unwrap();
    assert!(value("min") <= value("mean") && value("mean") <= value("max"));
    assert!((value("norm") - 32f64.sqrt()).abs() < 0.5, "gains are near one: {gain}");
    let said = scratch.pipeline(&["inspect", checkpoint]).succeeds().stdout;
    assert!(said.lines().all(|line| line.chars().count() <= 80), "{said}");
    for piece in ["step      6", "h.0.attn.c_attn.weight", "32×96", "lane 0 of 2", "28 tensors"] {
        assert!(said.contains(piece), "{piece} in {said}");
    }
    let said = scratch.pipeline(&["inspect", &format!("{checkpoint}/optimizer.safetensors")]).succeeds().stdout;
    assert!(said.contains("56 tensors"), "{said}");
    let found = json(&scratch, &["r/tokenizer.json"]);
    assert_eq!((&found["type"], &found["vocabulary_size"]), (&"BPE".into(), &300.into()));
    assert_eq!(found["special_tokens"], serde_json::json!([[0, "<|endoftext|>"]]));
}

#[test]
fn damaged_files_are_named_with_what_is_wrong() {
    let scratch = Scratch::new();
    scratch.train("r", &[]);
    let cut = |name: &str, from: &str, bytes: usize| {
        let whole = scratch.bytes(from);
        scratch.write(name, &whole[..whole.len() - bytes]);
    };
    cut("cut.parquet", "corpus.parquet", 9);
    scratch.pipeline(&["inspect", "cut.parquet"]).fails(1, &["cut.parquet: not a sound Parquet file"]);
    let mut flipped = scratch.bytes("corpus.parquet");
    flipped[4..300].fill(0xff);
    scratch.write("flipped.parquet", flipped);
    scratch
        .pipeline(&["inspect", "flipped.parquet"])
        .fails(1, &["flipped.parquet: its footer is sound, its first rows"]);
    scratch.pipeline(&["inspect", "flipped.parquet", "--rows", "0"]).succeeds();
    cut("cut.safetensors", "r/checkpoints/step-00000006/model.safetensors", 9);
    scratch.pipeline(&["inspect", "cut.safetensors"]).fails(1, &["cut.safetensors: truncated"]);
    cut("tokenizer.json", "r/tokenizer.json", 9);
    scratch.pipeline(&["inspect", "tokenizer.json"]).fails(2, &["tokenizer.json: is not JSON"]);
    scratch.pipeline(&["inspect", "r/environment.json"]).fails(2, &["no tokenizer.json: it has no `model.vocab`"]);
    scratch.pipeline(&["inspect", "run.toml"]).fails(2, &["run.toml cannot be inspected"]);
    scratch.pipeline(&["inspect", "cache"]).fails(2, &["cache is not a checkpoint"]);
    scratch.pipeline(&["inspect", "corpus.parket"]).fails(2, &["corpus.parket is not there; similar: corpus.parquet"]);
    scratch.pipeline(&["inspect", "gone"]).fails(2, &["gone is not there"]);
}

#[test]
fn no_file_of_apaches_collection_makes_it_panic() {
    let folder = repository().join("../shared/data/parquet/apache-parquet-testing");
    let Ok(found) = files(&folder) else { return println!("skipped: {} is not here", folder.display()) };
    let scratch = Scratch::new();
    let mut sound = 0;
    for path in found.iter().filter(|path| path.ends_with(".parquet")) {
        let ran = scratch.pipeline(&["inspect", path]);
        match ran.code {
            Some(0) => sound += 1,
            _ => drop(ran.fails(1, &[path])),
        }
    }
    assert!(sound >= 20, "only {sound} of {} can be read", found.len());
}

fn files(folder: &Path) -> std::io::Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() { found.extend(files(&path)?) } else { found.push(path.display().to_string()) }
    }
    found.sort();
    Ok(found)
}

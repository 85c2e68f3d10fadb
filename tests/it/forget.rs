//! `pipeline forget`: a run becomes one that never had some documents, from the last checkpoint before the first step that
//! they change.
use crate::support::{Scratch, corpus, repository, tiny};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;

const STEPS: u64 = 12;

/// Documents `doc-0` to `doc-119`, every fifth of them in `other.jsonl`, and a tokenizer in a file. A pool of one step, so
/// that a document changes nothing before it is read.
fn scratch() -> Scratch {
    let scratch = Scratch::new();
    let line = |(n, text): (usize, &String)| {
        json!({ "id": format!("doc-{n}"), "title": format!("Title {}", n / 2), "text": text }).to_string() + "\n"
    };
    let texts = corpus(120);
    let of = |is_other: bool| {
        texts.iter().enumerate().filter(|(n, _)| (n % 5 == 0) == is_other).map(line).collect::<String>()
    };
    scratch.write("docs.jsonl", of(false));
    scratch.write("other.jsonl", of(true));
    let paths = "paths = [\"docs.jsonl\", \"other.jsonl\"]";
    scratch.write("run.toml", tiny(paths).replace("validation_every = 10", "validation_fraction = 0.1"));
    scratch.train("t", &["--set", "run.max_steps=1"]);
    let text = scratch.read("run.toml").replace("vocabulary_size = 300", "tokenizer = \"t/tokenizer.json\"");
    let text = text.replace("max_steps = 6", &format!("max_steps = {STEPS}"));
    let text = text.replace("micro_batches = 2", "micro_batches = 4\nlanes = 2\nshuffle_tokens = 256");
    scratch.write("run.toml", text.replace("interval = 3\nkeep = 2", "interval = 2\nkeep = 9"));
    scratch
}

fn json(scratch: &Scratch, arguments: &[&str]) -> Value {
    let said = scratch.pipeline(arguments).succeeds().stdout;
    serde_json::from_str(said.lines().next().unwrap_or_default()).unwrap_or_else(|e| panic!("{e}: {said}"))
}

/// The ids of the documents that are first seen in `step`.
fn first_seen(scratch: &Scratch, run: &str, step: u64) -> Vec<String> {
    let ids = |step: u64| -> BTreeSet<String> {
        let answer = json(scratch, &["why", run, "--json", "--step", &step.to_string()]);
        let documents = answer["documents"].as_array().unwrap().iter();
        documents.map(|document| document["id"].as_str().unwrap().to_owned()).collect()
    };
    let before: BTreeSet<String> = (1..step).flat_map(ids).collect();
    ids(step).difference(&before).cloned().collect()
}

/// All of a run that must be the same: weights and optimizer of the last checkpoint, and the numbers of its metrics.
fn outcome(scratch: &Scratch, run: &str) -> (Vec<u8>, Vec<u8>, Vec<String>) {
    let last = |file: &str| scratch.last(run, file);
    (last("model.safetensors"), last("optimizer.safetensors"), scratch.numbers(run))
}

fn copy(scratch: &Scratch, from: &str, to: &str) {
    let copied = std::process::Command::new("cp").arg("-r").arg(scratch.path(from)).arg(scratch.path(to)).status();
    assert!(copied.unwrap().success());
}

#[test]
fn the_run_is_one_that_never_had_them() {
    let scratch = scratch();
    scratch.train("r", &["--workers", "2"]);
    let held_out = (0..120)
        .map(|n| format!("doc-{n}"))
        .find(|id| json(&scratch, &["why", "r", "--json", "--document", id])["documents"][0]["fate"] == "validation");
    let (early, middle, late) =
        (first_seen(&scratch, "r", 1), first_seen(&scratch, "r", 6), first_seen(&scratch, "r", 12));
    let cases = [
        (vec![early[0].clone()], Some(1)),
        (vec![middle[0].clone()], Some(6)),
        (vec![late[0].clone(), middle[1].clone()], Some(6)),
        (vec![late[0].clone(), late[1].clone()], Some(12)),
        (vec![held_out.unwrap()], None),
    ];
    for (number, (ids, seen)) in cases.into_iter().enumerate() {
        let (run, fresh, list) = (format!("r{number}"), format!("fresh{number}"), format!("list{number}.txt"));
        copy(&scratch, "r", &run);
        let named: Vec<&str> = ids.iter().flat_map(|id| ["--document", id]).collect();
        let before = scratch.checkpoint_files(&run);
        let cost = json(&scratch, &[&["forget", &run, "--dry-run", "--json"], &named[..]].concat());
        // The sequences of a pool may differ one step before those with the document are drawn.
        let first = cost["first_affected"].as_u64();
        assert!(first == seen || seen.is_some_and(|seen| first == Some(seen - 1)), "{cost}");
        let from = first.map_or(STEPS, |first| (first - 1) / 2 * 2);
        assert_eq!(cost["from"], from, "{cost}");
        assert_eq!((cost["done"].as_u64(), cost["repeated_steps"].as_u64()), (Some(STEPS), Some(STEPS - from)));
        assert!(cost["seconds"].as_f64().is_some() && cost["withdrawn"].as_array().unwrap().len() == ids.len());
        assert!(scratch.checkpoint_files(&run) == before, "a dry run changes nothing");
        // On another number of workers.
        assert_eq!(json(&scratch, &[&["forget", &run, "--json", "--workers", "1"], &named[..]].concat()), cost);
        scratch.write(&list, ids.join("\n"));
        scratch.train(&fresh, &["--set", &format!("read.withdraw={list}"), "--workers", "2"]);
        assert!(outcome(&scratch, &run).0 == outcome(&scratch, &fresh).0, "{ids:?}");
        assert!(outcome(&scratch, &run).1 == outcome(&scratch, &fresh).1, "{ids:?}");
        // Also the checkpoint at which it went on, and all later ones.
        let (found, expected) = (scratch.checkpoint_files(&run), scratch.checkpoint_files(&fresh));
        assert_eq!(found.len() as u64, expected.len() as u64 * (STEPS - from.max(2) + 2) / STEPS);
        for (name, bytes) in &found {
            assert!(expected[name] == *bytes, "{name} differs without {ids:?}");
        }
        let verified = scratch.pipeline(&["verify", &run, "--spans", "9"]).succeeds().stdout;
        assert!(verified.contains("identical"), "{verified}");
        // Again: there is nothing to forget, and nothing to train.
        let again = json(&scratch, &[&["forget", &run, "--json"], &named[..]].concat());
        assert_eq!((again["first_affected"].as_u64(), again["repeated_steps"].as_u64()), (None, Some(0)));
        assert!(scratch.checkpoint_files(&run) == found);
        let why = json(&scratch, &["why", &run, "--json", "--document", &ids[0]]);
        assert_eq!(why["documents"][0]["why"], "it is withdrawn (`withdraw`)", "{why}");
    }
}

/// What `best_fit` has in incomplete sequences is made anew too.
#[test]
fn documents_that_are_packed_whole_are_forgotten() {
    let scratch = scratch();
    let best_fit = ["--set", "pack.type=best_fit", "--set", "pack.shuffle_tokens=0"];
    scratch.train("r", &best_fit);
    let id = first_seen(&scratch, "r", 9).remove(0);
    let cost = json(&scratch, &["forget", "r", "--json", "--document", &id]);
    assert!(cost["from"].as_u64().unwrap() > 0 && cost["repeated_steps"].as_u64().unwrap() > 0, "{cost}");
    scratch.write("list.txt", &id);
    scratch.train("fresh", &[&best_fit[..], &["--set", "read.withdraw=list.txt"]].concat());
    assert!(outcome(&scratch, "r") == outcome(&scratch, "fresh"), "{cost}");
}

#[test]
fn a_list_and_files_without_the_documents_are_the_same() {
    let scratch = scratch();
    scratch.train("r", &[]);
    let ids: Vec<String> = (4..9).flat_map(|step| first_seen(&scratch, "r", step)).collect();
    assert!(ids.len() > 5, "{ids:?}");
    scratch.write("list.txt", ids.join("\n") + "\n");
    scratch.pipeline(&["forget", "r", "--list", "list.txt", "--no-train"]).succeeds();
    assert_eq!(scratch.checkpoints("r"), ["step-00000002"]);
    assert_eq!(scratch.read("r/withdrawn/read.txt").lines().count(), ids.len());
    // Resumed with its own configuration, not with one that has the documents.
    let resume = |config: &str| scratch.pipeline(&["run", config, "--run-dir", "r", "--resume"]);
    resume("run.toml").fails(2, &["withdrawn documents were ", "are none: see `withdraw`", "config.toml"]);
    resume("r/config.toml").succeeds();
    for file in ["docs.jsonl", "other.jsonl"] {
        let text = scratch.read(file);
        let is_left = |line: &&str| !ids.iter().any(|id| line.contains(&format!("\"{id}\"")));
        let left: Vec<&str> = text.lines().filter(is_left).rev().collect();
        scratch.write(file, left.join("\n"));
    }
    scratch.train("fresh", &[]);
    assert!(outcome(&scratch, "r") == outcome(&scratch, "fresh"));
}

#[test]
fn sources_of_a_mixture_forget_on_their_own() {
    let scratch = scratch();
    let text =
        scratch.read("run.toml").replace("paths = [\"docs.jsonl\", \"other.jsonl\"]", "paths = [\"docs.jsonl\"]");
    let other = "\n[stage.books]\ntype = \"documents\"\npaths = [\"other.jsonl\"]\nvalidation_fraction = 0.1\n\
                 [stage.mix]\ntype = \"mixture\"\nweights = { read = 0.6, books = 0.4 }\nmax_epochs = { books = 3 }\n";
    let text = text.replace("[stage.tokenize]", "[stage.tokenize]\ninputs = [\"mix\"]") + other;
    scratch.write("run.toml", text);
    scratch.train("r", &[]);
    let of_books =
        |ids: Vec<String>| ids.into_iter().find(|id| id.trim_start_matches("doc-").parse::<u32>().unwrap() % 5 == 0);
    let book = (5..12).find_map(|step| of_books(first_seen(&scratch, "r", step))).unwrap();
    let cost = json(&scratch, &["forget", "r", "--document", &book, "--json"]);
    assert_eq!(cost["withdrawn"], json!([{ "source": "books", "id": book }]));
    scratch.write("list.txt", &book);
    scratch.train("fresh", &["--set", "books.withdraw=list.txt"]);
    assert!(outcome(&scratch, "r") == outcome(&scratch, "fresh"));
    assert!(scratch.read("r/config.toml").contains("r/withdrawn/books.txt"));
}

#[test]
fn what_else_follows_from_the_documents_is_said() {
    let scratch = scratch();
    let fixed = scratch.read("run.toml");
    // A tokenizer that was trained on them.
    scratch.write("run.toml", fixed.replace("tokenizer = \"t/tokenizer.json\"", "vocabulary_size = 300"));
    scratch.train("r", &[]);
    let late = first_seen(&scratch, "r", 11).remove(0);
    let said = scratch.pipeline(&["forget", "r", "--document", &late, "--dry-run"]).succeeds().stdout;
    assert!(
        said.contains("steps 1 to 12 so far: the tokenizer was trained") && said.contains("the beginning"),
        "{said}"
    );
    assert!(said.lines().all(|line| line.chars().count() <= 80), "{said}");
    let cost = json(&scratch, &["forget", "r", "--document", &late, "--json"]);
    assert_eq!((&cost["cause"], &cost["from"], &cost["repeated_steps"]), (&"tokenizer".into(), &0.into(), &12.into()));
    scratch.write("list.txt", &late);
    scratch.train("fresh", &["--set", "read.withdraw=list.txt"]);
    assert!(outcome(&scratch, "r") == outcome(&scratch, "fresh"));
    assert_eq!(scratch.read("r/tokenizer.json"), scratch.read("fresh/tokenizer.json"));
    // The length of the run, and with it the learning rate.
    scratch.write("run.toml", fixed.replace(&format!("max_steps = {STEPS}"), "max_epochs = 0.9"));
    scratch.train("s", &[]);
    let last = scratch.metrics("s").len() as u64;
    let most: Vec<String> = (last - 4..=last).flat_map(|step| first_seen(&scratch, "s", step)).collect();
    scratch.write("list.txt", most.join("\n"));
    let cost = json(&scratch, &["forget", "s", "--list", "list.txt", "--json"]);
    assert_eq!(cost["cause"], "learning_rate", "{cost}");
    scratch.train("fresh-s", &["--set", "read.withdraw=list.txt"]);
    assert!(scratch.metrics("s").len() < last as usize);
    assert!(outcome(&scratch, "s") == outcome(&scratch, "fresh-s"));
}

#[test]
fn a_corpus_that_is_prepared_again_restores_duplicates() {
    let scratch = scratch();
    let mut texts: Vec<Value> =
        scratch.read("docs.jsonl").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let kept = texts[7].clone();
    let (id, other) = (kept["id"].as_str().unwrap(), json!({ "id": "zcopy", "text": kept["text"] }));
    texts.push(other);
    scratch.write("docs.jsonl", texts.iter().map(|text| text.to_string() + "\n").collect::<String>());
    let prepare = "[run]\nname = \"corpus\"\n[stage.read]\ntype = \"documents\"\npaths = [\"docs.jsonl\", \"other.jsonl\"]\n\
                   [stage.deduplicate]\ntype = \"minhash\"\n[stage.tokenize]\ntype = \"bpe\"\ntokenizer = \"t/tokenizer.json\"\n\
                   [stage.write]\ntype = \"parquet\"\nshards = 2\n";
    scratch.write("corpus.toml", prepare);
    scratch.pipeline(&["run", "corpus.toml", "--run-dir", "corpus"]).succeeds();
    let base = repository().join("configs/wiki-tokens.toml");
    let stages = scratch.read("run.toml");
    let stages = &stages[stages.find("[stage.pack]").unwrap()..];
    let read = "[stage.read]\npaths = [\"corpus/v1/documents-*.parquet\"]\nvalidation_fraction = 0.1\n\
                tokenizer = \"t/tokenizer.json\"\n";
    scratch.write("run.toml", format!("extends = {base:?}\n[run]\nmax_steps = {STEPS}\n{read}{stages}"));
    scratch.train("r", &["--stage", "forward=llama.toml"]);
    let forward = ["--stage", "forward=llama.toml"];
    // Only the document itself.
    copy(&scratch, "r", "alone");
    let said = scratch.pipeline(&["forget", "alone", "--document", id]).succeeds().stdout;
    let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(said.contains(&format!("`zcopy` was left out as a duplicate of `{id}`")), "{said}");
    scratch.write("list.txt", id);
    scratch.train("fresh-alone", &[&forward[..], &["--set", "read.withdraw=list.txt"]].concat());
    assert!(outcome(&scratch, "alone") == outcome(&scratch, "fresh-alone"));
    // What deduplication then restores.
    scratch.pipeline(&["run", "corpus.toml", "--run-dir", "corpus", "--set", "read.withdraw=list.txt"]).succeeds();
    scratch.pipeline(&["run", "corpus.toml", "--run-dir", "again", "--set", "read.withdraw=list.txt"]).succeeds();
    for file in ["documents-train-00000.parquet", "documents-train-00001.parquet"] {
        let of = |version: &str| scratch.bytes(&format!("{version}/{file}"));
        assert!(of("corpus/v2") == of("again/v1"), "an update equals a preparation that never had it: {file}");
    }
    let paths = "read.paths=[\"corpus/v2/documents-*.parquet\"]";
    let cost = json(&scratch, &["forget", "r", "--set", paths, "--json"]);
    assert_eq!(
        (&cost["removed_documents"], &cost["added_documents"]),
        (&0.into(), &0.into()),
        "the text stays: {cost}"
    );
    scratch.train("fresh", &[&forward[..], &["--set", paths]].concat());
    assert!(outcome(&scratch, "r") == outcome(&scratch, "fresh"));
    scratch
        .pipeline(&["forget", "r", "--set", "optimize.learning_rate=1.0"])
        .fails(2, &["`optimize.learning_rate` would change"]);
}

#[test]
fn what_cannot_be_forgotten_is_said() {
    let scratch = scratch();
    scratch.train("r", &["--set", "run.max_steps=2", "--set", "optimize.schedule_steps=12"]);
    let forget = |arguments: &[&str]| scratch.pipeline(&[&["forget", "r"], arguments].concat());
    forget(&[]).fails(2, &["--document", "--list", "--set"]);
    forget(&["--document", "doc-200"]).fails(2, &["r has no document `doc-200`", "similar: doc-20"]);
    forget(&["--document", "Title 3"])
        .fails(2, &["`Title 3` is the title or URL of 2 documents (doc-6, doc-7): give ids"]);
    scratch.pipeline(&["forget", "nowhere", "--document", "a"]).fails(2, &["nowhere", "is not a run directory"]);
    scratch.write("list.txt", "\n");
    forget(&["--list", "list.txt"]).fails(2, &["list.txt names no document"]);
    // A file that is not of the run stays, and is named.
    scratch.write("r/model.gguf", "weights");
    let said = forget(&["--document", "doc-3", "--dry-run"]).succeeds().stdout;
    assert!(said.contains("model.gguf"), "{said}");
    // The key says what is wrong with its file.
    let train = |list: &str| {
        scratch.pipeline(&["run", "run.toml", "--run-dir", "x", "--set", &format!("read.withdraw={list}")])
    };
    train("nowhere.txt").fails(2, &["read.withdraw", "nowhere.txt"]);
    train("list.txt").fails(2, &["names no document"]);
    scratch.write("list.txt", "doc-3\ndoc-300\n");
    train("list.txt").fails(2, &["list.txt", "`doc-300` is not the id of a document here", "similar: doc-30"]);
    fs::write(scratch.path("docs.jsonl"), scratch.read("docs.jsonl").replace("doc-3\"", "doc-three\"")).unwrap();
    forget(&["--document", "doc-4"]).fails(2, &["content of documents was", "must still be there"]);
}

//! Preparation of a corpus: an update gives the same files as a run from scratch, for any edits and number of workers.
mod clusters;
mod ids;
mod readers;
mod rows_without_text;
mod sources;
mod versions;
use crate::support::{Ran, Random, Scratch, corpus};
use arrow::array::{ArrayRef, RecordBatch, StringArray};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

const PLAN: &str = r#"
[stage.read]
type = "documents"
paths = ["in.parquet"]
validation_fraction = 0.2

[stage.deduplicate]
type = "minhash"
threshold = 0.5
shingle_words = 2

[stage.tokenize]
type = "bpe"

[stage.write]
type = "parquet"
shards = 5
sequence_length = 64
"#;

type Documents = BTreeMap<String, String>;

fn write(scratch: &Scratch, name: &str, documents: &Documents) {
    let ids: ArrayRef = Arc::new(StringArray::from_iter_values(documents.keys()));
    let texts: ArrayRef = Arc::new(StringArray::from_iter_values(documents.values()));
    write_columns(scratch, name, [("id", ids), ("text", texts)]);
}

fn write_columns<const N: usize>(scratch: &Scratch, name: &str, columns: [(&str, ArrayRef); N]) {
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let mut writer =
        ArrowWriter::try_new(std::fs::File::create(scratch.path(name)).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

fn prepare(scratch: &Scratch, out: &str, more: &[&str]) -> Ran {
    scratch.pipeline(&[&["run", "prepare.toml", "--run-dir", out], more].concat())
}

/// Names and contents of a version's files.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    entries
        .map(|e| e.unwrap())
        .map(|e| (e.file_name().into_string().unwrap(), std::fs::read(e.path()).unwrap()))
        .collect()
}

#[track_caller]
fn same(scratch: &Scratch, one: &str, other: &str) {
    let (one, other) = (files(&scratch.path(one)), files(&scratch.path(other)));
    assert_eq!(one.keys().collect::<Vec<_>>(), other.keys().collect::<Vec<_>>());
    for (name, content) in &one {
        assert!(*content == other[name], "{name} differs");
    }
}

/// Kills preparations into `out` after each of these times in milliseconds: its first version must not change. One that
/// then runs to its end writes the same as one from nothing, and leaves no drafts behind.
#[track_caller]
fn assert_kills_leave_no_trace(scratch: &Scratch, waits: &[u64]) {
    let before = files(&scratch.path("out/v1"));
    for wait in waits {
        let mut command = scratch.command(&["run", "prepare.toml", "--run-dir", "out"]);
        let mut child = command.stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(*wait));
        let _ = child.kill();
        let _ = child.wait();
        assert!(files(&scratch.path("out/v1")) == before, "killed after {wait} ms");
    }
    prepare(scratch, "out", &[]).succeeds();
    prepare(scratch, "fresh", &[]).succeeds();
    let entries = std::fs::read_dir(scratch.path("out")).unwrap();
    let names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert!(names.iter().all(|name| !name.starts_with(".draft")), "{names:?}");
    let last = names.iter().filter(|name| name.starts_with('v')).max().unwrap();
    same(scratch, &format!("out/{last}"), "fresh/v1");
}

/// Documents, of which some are copies and some near-duplicates of others.
fn documents(count: usize, random: &mut Random) -> Documents {
    let mut texts = corpus(count);
    for at in 1..count {
        match random.below(4) {
            0 => texts[at] = texts[random.below(at)].clone(),
            1 => texts[at] = edited(&texts[random.below(at)], random),
            _ => {}
        }
    }
    texts.into_iter().enumerate().map(|(at, text)| (format!("doc-{at:03}"), text)).collect()
}

/// A text with one word replaced.
fn edited(text: &str, random: &mut Random) -> String {
    let mut words: Vec<String> = text.split(' ').map(str::to_owned).collect();
    let at = random.below(words.len());
    words[at] = format!("edit{}", random.below(1000));
    words.join(" ")
}

/// Edits, adds, deletes and duplicates some documents.
fn edit(documents: &mut Documents, random: &mut Random) {
    for round in 0..12 {
        let ids: Vec<String> = documents.keys().cloned().collect();
        let (id, other) = (ids[random.below(ids.len())].clone(), ids[random.below(ids.len())].clone());
        match random.below(4) {
            0 => drop(documents.remove(&id)),
            1 => drop(documents.insert(id, edited(&documents[&other], random))),
            2 => drop(documents.insert(format!("new-{}-{round}", random.below(1000)), documents[&other].clone())),
            _ => drop(documents.insert(id.clone(), edited(&documents[&id], random))),
        }
    }
}

#[test]
fn an_update_equals_a_run_from_nothing() {
    let scratch = Scratch::new();
    scratch.write("prepare.toml", PLAN);
    let mut random = Random(3);
    let mut corpus = documents(60, &mut random);
    for version in 1..=4 {
        write(&scratch, "in.parquet", &corpus);
        let workers = (version % 3 + 1).to_string();
        prepare(&scratch, "updated", &["--workers", &workers]).succeeds();
        let fresh = format!("fresh{version}");
        prepare(&scratch, &fresh, &["--workers", "1"]).succeeds();
        same(&scratch, &format!("updated/v{version}"), &format!("{fresh}/v1"));
        edit(&mut corpus, &mut random);
    }
    // Another threshold, and back; what was dropped comes back.
    prepare(&scratch, "updated", &["--set", "deduplicate.threshold=0.9"]).succeeds();
    prepare(&scratch, "strict", &["--set", "deduplicate.threshold=0.9"]).succeeds();
    same(&scratch, "updated/v5", "strict/v1");
    let kept = |out: &str| scratch.pipeline(&["stat", out, "--json"]).succeeds().stdout;
    assert_ne!(kept("updated/v4"), kept("updated/v5"));
    prepare(&scratch, "updated", &[]).succeeds();
    same(&scratch, "updated/v6", "updated/v4");
}

#[test]
fn one_two_and_four_workers_write_the_same_files() {
    let scratch = Scratch::new();
    scratch.write("prepare.toml", PLAN);
    let (mut random, keep) = (Random(21), ["--set", "write.keep_dropped=true"]);
    let mut corpus = documents(300, &mut random);
    for version in 1..=2 {
        write(&scratch, "in.parquet", &corpus);
        for workers in ["1", "2", "4"] {
            prepare(&scratch, workers, &[&keep[..], &["--workers", workers]].concat()).succeeds();
            same(&scratch, &format!("{workers}/v{version}"), &format!("1/v{version}"));
        }
        edit(&mut corpus, &mut random);
    }
}

#[test]
fn what_is_dropped_can_be_kept_and_filtered_rows_have_reasons() {
    let scratch = Scratch::new();
    scratch.write("prepare.toml", PLAN);
    let mut random = Random(5);
    let mut corpus = documents(40, &mut random);
    corpus.insert("empty".into(), String::new());
    for version in 1..=2 {
        write(&scratch, "in.parquet", &corpus);
        prepare(&scratch, "updated", &["--set", "write.keep_dropped=true"]).succeeds();
        let fresh = format!("fresh{version}");
        prepare(&scratch, &fresh, &["--set", "write.keep_dropped=true"]).succeeds();
        same(&scratch, &format!("updated/v{version}"), &format!("{fresh}/v1"));
        edit(&mut corpus, &mut random);
    }
    let reasons = rows(&scratch, "updated/v2", "dropped", "dropped");
    assert!(reasons.contains(&"empty".to_owned()) && reasons.contains(&"near duplicate".to_owned()), "{reasons:?}");
}

/// The values of a string column in all files whose names begin with `kind`.
fn rows(scratch: &Scratch, version: &str, kind: &str, column: &str) -> Vec<String> {
    use arrow::array::AsArray;
    let mut found = Vec::new();
    for name in files(&scratch.path(version)).keys().filter(|name| name.starts_with(kind)) {
        let file = std::fs::File::open(scratch.path(&format!("{version}/{name}"))).unwrap();
        for batch in ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap() {
            found.extend(batch.unwrap()[column].as_string::<i32>().iter().flatten().map(str::to_owned));
        }
    }
    found
}

#[test]
fn stages_may_have_any_name() {
    let scratch = Scratch::new();
    let names = [("read", "scan_rows"), ("deduplicate", "signatures"), ("tokenize", "results"), ("write", "kept")];
    let named = names
        .iter()
        .fold(PLAN.to_owned(), |plan, (from, to)| plan.replace(&format!("[stage.{from}]"), &format!("[stage.{to}]")));
    scratch.write("prepare.toml", named);
    write(&scratch, "in.parquet", &documents(30, &mut Random(1)));
    prepare(&scratch, "out", &[]).succeeds();
    scratch.pipeline(&["explain", "prepare.toml"]).succeeds();
}

//! A preparation makes versions: an update equals a run from nothing, whatever was edited and whoever computed.
use crate::support;
use crate::support::{Ran, Scratch, corpus, repository};
use arrow::array::{ArrayRef, RecordBatch, StringArray};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// A deterministic stream of numbers.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }
}

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
    let batch = RecordBatch::try_from_iter([("id", ids), ("text", texts)]).unwrap();
    let mut writer =
        ArrowWriter::try_new(std::fs::File::create(scratch.path(name)).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

fn prepare(scratch: &Scratch, out: &str, more: &[&str]) -> Ran {
    scratch.pipeline(&[&["run", "prepare.toml", "--run-dir", out], more].concat())
}

/// Names and contents of a version's files; of `version.json` what does not say how it was made.
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

/// Documents among which some are others' copies, and some others' near-copies.
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

/// Some documents edited, added, deleted, or made alike.
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

/// Of every document that is kept in place of others: those others.
fn clusters(scratch: &Scratch, version: &str) -> BTreeMap<String, Vec<String>> {
    let column = |name| rows(scratch, version, "duplicates", name);
    let mut clusters: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (id, kept) in column("id").into_iter().zip(column("kept")) {
        clusters.entry(kept).or_default().push(id);
    }
    clusters
}

/// While other documents are edited in any way: two clusters are joined by a document that is like members of both, the
/// one kept is deleted, and what has been joined is split again.
#[test]
fn clusters_join_lose_the_one_kept_and_split() {
    for seed in 1..=3 {
        let (scratch, mut random) = (Scratch::new(), Random(seed));
        scratch.write("prepare.toml", PLAN.replace("threshold = 0.5", "threshold = 0.3\nbands = 40\nband_rows = 1"));
        let text = |cluster: usize| (0..40).map(|word| format!("c{cluster}w{word}")).collect::<Vec<_>>().join(" ");
        let mut alike = Documents::new();
        for (cluster, copy) in [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)] {
            alike.insert(format!("a-{cluster}{copy}"), edited(&text(cluster), &mut random));
        }
        let mut others = documents(20, &mut random);
        let mut version = 0;
        let mut next = |alike: &Documents| {
            version += 1;
            let mut all = alike.clone();
            all.extend(others.clone());
            write(&scratch, "in.parquet", &all);
            let workers = (1 + random.below(4)).to_string();
            prepare(&scratch, "updated", &["--workers", &workers]).succeeds();
            let fresh = format!("fresh{version}");
            prepare(&scratch, &fresh, &["--workers", "1"]).succeeds();
            same(&scratch, &format!("updated/v{version}"), &format!("{fresh}/v1"));
            edit(&mut others, &mut random);
            let mut found = clusters(&scratch, &format!("updated/v{version}"));
            found.retain(|kept, _| kept.starts_with("a-"));
            found.into_iter().map(|(kept, gone)| format!("{kept}: {}", gone.join(" "))).collect::<Vec<_>>()
        };
        assert_eq!(next(&alike), ["a-00: a-01 a-02", "a-10: a-11 a-12"], "seed {seed}");
        alike.insert("a-between".into(), format!("{} {}", text(0), text(1)));
        assert_eq!(next(&alike), ["a-00: a-01 a-02 a-10 a-11 a-12 a-between"], "seed {seed}");
        alike.remove("a-00");
        assert_eq!(next(&alike), ["a-01: a-02 a-10 a-11 a-12 a-between"], "seed {seed}");
        alike.remove("a-between");
        assert_eq!(next(&alike), ["a-01: a-02", "a-10: a-11 a-12"], "seed {seed}");
    }
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

/// A string column of all files of a kind.
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
fn only_shards_that_change_are_written_and_diff_says_what_has_changed() {
    let scratch = Scratch::new();
    scratch.write("prepare.toml", PLAN);
    let mut corpus: Documents =
        corpus(40).into_iter().enumerate().map(|(at, text)| (format!("doc-{at:03}"), text)).collect();
    corpus.insert("zzz-copy".into(), corpus["doc-007"].clone());
    write(&scratch, "in.parquet", &corpus);
    prepare(&scratch, "out", &[]).succeeds();
    corpus.remove("doc-007");
    write(&scratch, "in.parquet", &corpus);
    let ran = prepare(&scratch, "out", &[]).succeeds();
    assert!(ran.stderr.contains("shards are the same"), "{}", ran.stderr);
    use std::os::unix::fs::MetadataExt;
    let links = files(&scratch.path("out/v2"));
    let links = links.keys().filter(|n| {
        n.starts_with("documents") && std::fs::metadata(scratch.path(&format!("out/v2/{n}"))).unwrap().nlink() > 1
    });
    assert!(links.count() >= 3);
    let found: serde_json::Value =
        serde_json::from_str(&scratch.pipeline(&["diff", "out/v1", "out/v2", "--json"]).succeeds().stdout).unwrap();
    assert_eq!((&found["added"]["documents"], &found["removed"]["documents"]), (&1.into(), &1.into()));
    let documents = found["documents"].as_array().unwrap();
    assert_eq!((&documents[0]["id"], &documents[0]["why"]), (&"doc-007".into(), &"gone from the input".into()));
    assert_eq!((&documents[1]["id"], &documents[1]["why"]), (&"zzz-copy".into(), &"was exact duplicate".into()));
    assert_eq!(documents[1]["other"], "doc-007");
    assert_eq!(documents[0]["tokens_before"], documents[1]["tokens"]);
    let said = scratch.pipeline(&["diff", "out/v1", "out/v2"]).succeeds().stdout;
    assert!(said.contains("removed: gone from the input") && said.lines().all(|l| l.chars().count() <= 80), "{said}");
    let said = scratch.pipeline(&["stat", "out"]).succeeds().stdout;
    assert!(
        said.contains("out/v2") && said.contains("kept") && said.lines().all(|l| l.chars().count() <= 80),
        "{said}"
    );
    // Nothing has changed: all shards are taken over.
    let ran = prepare(&scratch, "out", &[]).succeeds();
    assert!(ran.stderr.contains("5 shards are the same, 0 are written anew"), "{}", ran.stderr);
}

#[test]
fn a_corpus_under_another_name_is_the_same_corpus() {
    let scratch = Scratch::new();
    scratch.write("prepare.toml", PLAN);
    write(&scratch, "in.parquet", &documents(40, &mut Random(5)));
    prepare(&scratch, "out", &[]).succeeds();
    std::fs::rename(scratch.path("in.parquet"), scratch.path("moved.parquet")).unwrap();
    let moved = ["--set", "read.paths=['moved.parquet']"];
    prepare(&scratch, "out", &moved).succeeds();
    prepare(&scratch, "anew", &moved).succeeds();
    same(&scratch, "out/v2", "anew/v1");
    let hashes = |version: &str| {
        let file = std::fs::File::open(scratch.path(&format!("{version}/catalog.parquet"))).unwrap();
        let batches = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
        batches.map(|batch| batch.unwrap()["input_hash"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(hashes("out/v1"), hashes("out/v2"), "no row is worked on again");
}

#[test]
fn tokens_train_as_the_text_does() {
    let scratch = Scratch::new();
    scratch.write("prepare.toml", PLAN);
    write(&scratch, "in.parquet", &documents(60, &mut Random(9)));
    prepare(&scratch, "out", &[]).succeeds();
    let base = repository().join("configs/tiny.toml");
    let rest = "[stage.pack]\nsequence_length = 16\nmicro_batch_size = 2\nmicro_batches = 2\n\
                [stage.forward]\nlayers = 1\nheads = 2\nwidth = 16\n[run]\nmax_steps = 4\n\
                [stage.evaluate]\ninterval = 2\n[stage.checkpoint]\ninterval = 4\n";
    let read = "paths = [\"out/v1/documents-*.parquet\"]\nvalidation_fraction = 0.2\n";
    scratch.write("run.toml", format!("extends = {base:?}\n{rest}\n[stage.read]\n{read}[stage.tokenize]\nvocabulary_size = 50257\ntokenizer = \"gpt2\"\n"));
    scratch.train("text", &[]);
    let tokens = std::fs::read_to_string(repository().join("configs/wiki-tokens.toml")).unwrap();
    scratch.write("tokens.toml", tokens);
    scratch.write("run.toml", format!("extends = \"tokens.toml\"\n{rest}\n[stage.read]\n{read}[stage.optimize]\nlearning_rate = 3e-3\nwarmup_steps = 10\n"));
    scratch.train("tokens", &[]);
    assert_eq!(scratch.numbers("text"), scratch.numbers("tokens"));
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

#[test]
fn what_is_wrong_is_said() {
    let scratch = Scratch::new();
    scratch.write("prepare.toml", PLAN);
    write(&scratch, "in.parquet", &documents(30, &mut Random(1)));
    let set = |more: &[&str]| prepare(&scratch, "out", more);
    set(&["--set", "deduplicate.threshold=1.5"]).fails(2, &["threshold", "1.5 is not above 0 and up to 1"]);
    set(&["--set", "write.shards=0"]).fails(2, &["shards", "0 is not from 1 to 4096"]);
    set(&["--set", "tokenize.vocabulary_size=300"]).fails(2, &["tokenizer.json"]);
    set(&["--set", "read.validation_every=10"]).fails(2, &["validation_every", "use `validation_fraction`"]);
    scratch.write(
        "both.toml",
        PLAN.replace("validation_fraction = 0.2", "validation_fraction = 0.2\nvalidation_every = 10"),
    );
    scratch.pipeline(&["check", "both.toml"]).fails(2, &["both.toml:", "`read.validation_every`", "give one"]);
    set(&["--set", "write.tokenz=1"]).fails(2, &["tokenz", "similar: tokens"]);
    scratch.write("file", "x");
    prepare(&scratch, "file/out", &[]).fails(1, &["cannot make the output folder file/out"]);
    scratch.pipeline(&["stat", "nowhere"]).fails(2, &["nowhere holds no version"]);
    scratch.pipeline(&["diff", "nowhere", "out"]).fails(2, &["nowhere is not a version"]);
    // A damaged version is not built upon.
    set(&[]).succeeds();
    let catalog = scratch.path("out/v1/catalog.parquet");
    let mut bytes = std::fs::read(&catalog).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&catalog, bytes).unwrap();
    let ran = set(&[]).succeeds();
    assert!(ran.stderr.contains("out/v1 is damaged, so everything is made anew"), "{}", ran.stderr);
    prepare(&scratch, "fresh", &[]).succeeds();
    same(&scratch, "out/v2", "fresh/v1");
}

#[test]
fn a_run_that_is_killed_leaves_what_was_there() {
    let scratch = Scratch::new();
    scratch.write("prepare.toml", PLAN);
    let mut random = Random(7);
    let mut corpus = documents(400, &mut random);
    write(&scratch, "in.parquet", &corpus);
    prepare(&scratch, "out", &[]).succeeds();
    let before = files(&scratch.path("out/v1"));
    edit(&mut corpus, &mut random);
    write(&scratch, "in.parquet", &corpus);
    for wait in [0, 20, 60, 120, 250] {
        let mut child = scratch
            .command(&["run", "prepare.toml", "--run-dir", "out"])
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_millis(wait));
        let _ = child.kill();
        let _ = child.wait();
        assert!(files(&scratch.path("out/v1")) == before, "killed after {wait} ms");
    }
    prepare(&scratch, "out", &[]).succeeds();
    prepare(&scratch, "fresh", &[]).succeeds();
    let last = std::fs::read_dir(scratch.path("out")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let last = last.filter(|name| name.starts_with('v')).max().unwrap();
    same(&scratch, &format!("out/{last}"), "fresh/v1");
    assert!(
        std::fs::read_dir(scratch.path("out")).unwrap().all(|e| !e
            .unwrap()
            .file_name()
            .to_string_lossy()
            .starts_with(".draft"))
    );
}

/// Needs a Python with pyarrow, duckdb and datasets: `$MILLRACE_PYTHON`, or `python3`.
#[test]
fn pyarrow_duckdb_and_datasets_read_what_is_written() {
    let program = support::python();
    let python = |arguments: &[&str]| std::process::Command::new(&program).args(arguments).output();
    if !python(&["-c", "import pyarrow, duckdb, datasets"]).is_ok_and(|found| found.status.success()) {
        println!("skipped: {program} has no pyarrow, duckdb and datasets; set MILLRACE_PYTHON to one that has");
        return;
    }
    let scratch = Scratch::new();
    scratch.write("prepare.toml", PLAN);
    write(&scratch, "in.parquet", &documents(40, &mut Random(11)));
    prepare(&scratch, "out", &[]).succeeds();
    let script = repository().join("tests/it/prepared_elsewhere.py");
    let (version, cache) = (scratch.path("out/v1"), scratch.path("hf"));
    let arguments = [&script, &version, &cache].map(|path| path.to_string_lossy().into_owned());
    let output = python(&arguments.each_ref().map(String::as_str)).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

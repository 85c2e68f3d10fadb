//! Versions: what an update writes again, what `diff` reports, and what is left when it fails.
use super::{Documents, PLAN, assert_kills_leave_no_trace, documents, edit, files, prepare, same, write};
use crate::support::{Random, Scratch, corpus};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

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
fn what_is_wrong_is_said() {
    let scratch = Scratch::new();
    scratch.write("prepare.toml", PLAN);
    write(&scratch, "in.parquet", &documents(30, &mut Random(1)));
    let set = |more: &[&str]| prepare(&scratch, "out", more);
    set(&["--set", "deduplicate.threshold=1.5"]).fails(2, &["threshold", "is 1.5, but must be above 0 and at most 1"]);
    set(&["--set", "write.shards=0"]).fails(2, &["shards", "is 0, but must be from 1 to 4096"]);
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
    // A folder of something else is left as it is.
    std::fs::create_dir_all(scratch.path("other/.draft-mine")).unwrap();
    scratch.write("other/config.toml", "");
    scratch.write("other/.draft-mine/text", "mine");
    for more in [&[][..], &["--dry-run"]] {
        prepare(&scratch, "other", more)
            .fails(2, &["other is not a folder of versions; it contains .draft-mine, config"]);
    }
    assert_eq!(scratch.read("other/.draft-mine/text"), "mine");
    for (folder, file) in [("a", ".lock"), ("b", ".draft-v3/x"), ("c", "v1/main.c"), ("d", "v+1/x"), ("e", ".env")] {
        std::fs::create_dir_all(scratch.path(&format!("{folder}/{file}")).parent().unwrap()).unwrap();
        scratch.write(&format!("{folder}/{file}"), "precious");
        prepare(&scratch, folder, &[]).fails(2, &["is not a folder of versions"]);
        assert_eq!(scratch.read(&format!("{folder}/{file}")), "precious");
    }
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
    edit(&mut corpus, &mut random);
    write(&scratch, "in.parquet", &corpus);
    assert_kills_leave_no_trace(&scratch, &[0, 20, 60, 120, 250]);
}

#[test]
fn an_export_leaves_no_files_of_an_earlier_one() {
    let scratch = Scratch::new();
    scratch.write("prepare.toml", PLAN);
    write(&scratch, "in.parquet", &documents(30, &mut Random(1)));
    prepare(&scratch, "out", &[]).succeeds();
    let export =
        |format, more: &[&str]| scratch.pipeline(&[&["export", "out", "ids", "--format", format], more].concat());
    export("llm.c", &[]).succeeds();
    scratch.write("ids/notes.txt", "mine");
    export("nanogpt", &[]).fails(2, &["ids/train_000000.bin is of an earlier export", "--overwrite"]);
    export("nanogpt", &["--overwrite"]).succeeds();
    let names = std::fs::read_dir(scratch.path("ids")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    assert_eq!(names, ["notes.txt", "train.bin", "val.bin"]);
    export("nanogpt", &["--overwrite"]).succeeds();
}

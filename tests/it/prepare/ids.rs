//! Identity of documents: generated ids, ids as they are written, and ids that repeat.
use super::{files, prepare, same};
use crate::support::Scratch;
use arrow::array::AsArray;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

/// The columns `id` and `text` of the documents that a version keeps.
fn kept(scratch: &Scratch, version: &str) -> Vec<(String, String)> {
    let mut kept = Vec::new();
    for (name, _) in files(&scratch.path(version)).range("documents-".to_owned().."documents.".to_owned()) {
        let file = std::fs::File::open(scratch.path(version).join(name)).unwrap();
        for batch in ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap() {
            let batch = batch.unwrap();
            let (ids, texts) = (batch["id"].as_string::<i32>(), batch["text"].as_string::<i64>());
            kept.extend(ids.iter().zip(texts).map(|(id, text)| (id.unwrap().to_owned(), text.unwrap().to_owned())));
        }
    }
    kept.sort();
    kept
}

/// A plan without deduplication and tokens, which reads `paths`.
fn plain(paths: &str, more: &str) -> String {
    format!(
        "[stage.read]\ntype = \"documents\"\npaths = {paths}\n[stage.out]\ntype = \"parquet\"\nshards = 2\ntokens = false\n{more}"
    )
}

#[test]
fn rows_without_ids_are_named_by_path_and_row() {
    let scratch = Scratch::new();
    let names = ["hf/en/train-00000-of-00001.jsonl", "hf/fr/train-00000-of-00001.jsonl"];
    let siblings = ["c4/c4-train.00000-of-01024.json", "c4/c4-train.00001-of-01024.json"];
    let mut expected = Vec::new();
    for name in names.iter().chain(&siblings) {
        std::fs::create_dir_all(scratch.path(name).parent().unwrap()).unwrap();
        let text = |row: u64| format!("Text {row} of {name}.");
        let line = |row: u64| format!("{{\"text\": \"{}\"}}\n", text(row));
        scratch.write(name, (0..20).map(line).collect::<String>());
        expected.extend((0..20).map(|row| (format!("{name}/{row}"), text(row))));
    }
    expected.sort();
    scratch.write("prepare.toml", plain("[\"hf/*/*.jsonl\", \"c4\"]", ""));
    let said = prepare(&scratch, "out", &[]).succeeds();
    assert_eq!(kept(&scratch, "out/v1"), expected, "datatrove's ids: the path and the number of the row");
    assert!(!said.stderr.contains("repeat"), "{}", said.stderr);
    // The same folders elsewhere: every file of rows is the same.
    std::fs::create_dir(scratch.path("moved")).unwrap();
    for folder in ["hf", "c4"] {
        std::fs::rename(scratch.path(folder), scratch.path("moved").join(folder)).unwrap();
    }
    let moved = plain("[\"moved/hf/*/*.jsonl\", \"moved/c4\"]", "");
    scratch.write("prepare.toml", moved);
    prepare(&scratch, "anew", &[]).succeeds();
    let but_paths = |version: &str| {
        let mut files = files(&scratch.path(version));
        files.remove("version.json");
        files
    };
    assert_eq!(but_paths("out/v1"), but_paths("anew/v1"));
}

#[test]
fn documents_of_one_id_are_dropped_with_a_warning_or_kept_or_an_error() {
    let scratch = Scratch::new();
    // 2^64 + 1 and 2^64 + 2 are one float of 64 bits.
    let rows =
        [("18446744073709551617", "one"), ("7", "two"), ("18446744073709551618", "three"), ("7", "four"), ("7", "two")];
    let line = |(id, text): &(&str, &str)| format!("{{\"id\": {id}, \"text\": \"{text}\"}}\n");
    scratch.write("in.jsonl", rows.iter().map(line).collect::<String>());
    let said = |out: &str, policy: &str| {
        scratch.write("prepare.toml", plain("[\"in.jsonl\"]", policy));
        prepare(&scratch, out, &[])
    };
    let texts = |version: &str| kept(&scratch, version).into_iter().map(|(_, text)| text).collect::<Vec<_>>();
    let dropped = said("out", "").succeeds().stderr;
    assert_eq!(texts("out/v1"), ["one", "three", "two"]);
    assert!(dropped.contains("warning: 1 document has the id of an earlier one but another text, for example `7` in row 1 of in.jsonl and in row 3 of in.jsonl"), "{dropped}");
    assert!(dropped.contains("`out.repeated_ids = \"keep\"` keeps all"), "{dropped}");
    said("out", "repeated_ids = \"keep\"\n").succeeds();
    assert_eq!(texts("out/v2"), ["one", "three", "four", "two"], "by id; the row that is the same twice is kept once");
    said("anew", "repeated_ids = \"keep\"\n").succeeds();
    same(&scratch, "out/v2", "anew/v1");
    said("none", "repeated_ids = \"error\"\n").fails(1, &["`7` in row 1 of in.jsonl and in row 3 of in.jsonl"]);
    // Documents of one id are duplicates of each other like any others.
    let minhash = "inputs = [\"deduplicate\"]\nrepeated_ids = \"keep\"\n[stage.deduplicate]\ntype = \"minhash\"\nthreshold = 1.0\n";
    scratch.write(
        "in.jsonl",
        "{\"id\": 1, \"text\": \"a\"}\n{\"id\": 1, \"text\": \"b\"}\n{\"id\": 2, \"text\": \"b\"}\n",
    );
    said("near", minhash).succeeds();
    assert_eq!(kept(&scratch, "near/v1"), [("1", "a"), ("1", "b")].map(|(id, text)| (id.to_owned(), text.to_owned())));
}

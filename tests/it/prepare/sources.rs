//! Several sources in one preparation: an update equals a run from nothing whatever moves between them, what `stat` says
//! of each, filters of one source and of all, and what is refused.
use super::{
    Documents, PLAN, assert_kills_leave_no_trace, documents, edit, edited, prepare, rows, same, write, write_columns,
};
use crate::support::{Random, Scratch, python};
use arrow::array::BinaryArray;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The stages above the mixture: Parquet with a column `text` and a filter of its own, and JSON Lines with a key
/// `content`.
const SOURCES: &str = r#"
[stage.wiki]
type = "documents"
paths = ["wiki.parquet"]
validation_fraction = 0.2

[stage.long]
type = "length"
min_characters = 100

[stage.books]
type = "documents"
paths = ["books.jsonl"]
column = "content"
validation_fraction = 0.1
"#;

/// The stages below it, before those that a corpus of one source has too.
const MIXTURE: &str = r#"
[stage.mix]
type = "mixture"
inputs = ["books", "long"]

[stage.tidy]
type = "clean"

"#;

/// The whole configuration.
fn plan() -> String {
    format!("{SOURCES}{MIXTURE}{}", &PLAN[PLAN.find("[stage.deduplicate]").unwrap()..])
}

/// A third source.
const NOTES: &str = "[stage.notes]\ntype = \"documents\"\npaths = [\"notes.parquet\"]\n";

fn write_lines(scratch: &Scratch, name: &str, documents: &Documents) {
    let line = |(id, text): (&String, &String)| format!("{}\n", serde_json::json!({ "id": id, "content": text }));
    scratch.write(name, documents.iter().map(line).collect::<String>());
}

/// Two corpora with documents and near-duplicates in common, some under the same id.
fn two_corpora(random: &mut Random) -> (Documents, Documents) {
    let (wiki, mut books) = (documents(60, random), documents(40, random));
    let ids: Vec<String> = wiki.keys().cloned().collect();
    for round in 0..12 {
        let text = wiki[&ids[random.below(ids.len())]].clone();
        let text = if round % 2 == 0 { text } else { edited(&text, random) };
        books.insert(format!("from-wiki-{round}"), text);
    }
    (wiki, books)
}

/// Moves some documents from one source to the other.
fn exchange(one: &mut Documents, other: &mut Documents, random: &mut Random) {
    for _ in 0..4 {
        let ids: Vec<String> = one.keys().cloned().collect();
        let id = &ids[random.below(ids.len())];
        other.extend(one.remove_entry(id));
        std::mem::swap(one, other);
    }
}

fn stat(scratch: &Scratch, version: &str) -> Value {
    serde_json::from_str(&scratch.pipeline(&["stat", version, "--json"]).succeeds().stdout).unwrap()
}

#[test]
fn an_update_of_several_sources_equals_a_run_from_nothing() {
    for seed in 1..=2 {
        let (scratch, mut random) = (Scratch::new(), Random(seed));
        let (mut wiki, mut books) = two_corpora(&mut random);
        let notes = documents(20, &mut random);
        write(&scratch, "notes.parquet", &notes);
        let plan = plan();
        let three = plan.replace("[stage.mix]", &format!("{NOTES}[stage.mix]"));
        let with_notes = three.replace(r#"["books", "long"]"#, r#"["books", "notes", "long"]"#);
        let reordered = three.replace(r#"["books", "long"]"#, r#"["long", "books", "notes"]"#);
        let stricter = reordered.replace("min_characters = 100", "min_characters = 300");
        let only_books = plan.replace(r#"["books", "long"]"#, r#"["books"]"#);
        let only_books = only_books.replace(SOURCES, &SOURCES[SOURCES.find("[stage.books]").unwrap()..]);
        let long = "[stage.long]\ntype = \"length\"\nmin_characters = 100\n";
        let below = plan.replace(long, "").replace(r#"["books", "long"]"#, r#"["books", "wiki"]"#);
        let below = below.replace("[stage.tidy]\n", &format!("{long}\n[stage.tidy]\n"));
        assert!(below.find("[stage.long]") > below.find("[stage.mix]"), "{below}");
        let plans = [&plan, &plan, &with_notes, &reordered, &stricter, &only_books, &plan, &below];
        for (plan, version) in plans.iter().zip(1..) {
            scratch.write("prepare.toml", plan);
            write(&scratch, "wiki.parquet", &wiki);
            write_lines(&scratch, "books.jsonl", &books);
            let workers = (1 + random.below(4)).to_string();
            prepare(&scratch, "updated", &["--workers", &workers]).succeeds();
            let fresh = format!("fresh{version}");
            let workers = (1 + random.below(2)).to_string();
            prepare(&scratch, &fresh, &["--workers", &workers]).succeeds();
            same(&scratch, &format!("updated/v{version}"), &format!("{fresh}/v1"));
            let last = stat(&scratch, &fresh);
            let sum = |of: &dyn Fn(&Value) -> u64| last["sources"].as_array().unwrap().iter().map(of).sum::<u64>();
            for part in ["read", "kept", "train", "validation"] {
                for unit in ["documents", "bytes", "tokens"] {
                    assert_eq!(sum(&|source| source[part][unit].as_u64().unwrap()), last[part][unit], "{part} {unit}");
                }
            }
            // One source changes, documents move, both change, …
            match version % 3 {
                0 => edit(&mut wiki, &mut random),
                1 => exchange(&mut wiki, &mut books, &mut random),
                _ => [&mut wiki, &mut books].into_iter().for_each(|corpus| edit(corpus, &mut random)),
            }
        }
    }
}

#[test]
fn of_duplicates_the_document_of_the_first_source_is_kept_and_stat_counts_them() {
    let scratch = Scratch::new();
    let text = |at: u64| crate::support::corpus(30)[at as usize].clone();
    let of = |texts: &[(&str, u64)]| texts.iter().map(|(id, at)| ((*id).to_owned(), text(*at))).collect::<Documents>();
    // The same ids in both; `a` of wiki is `z` of books, `b` is twice in wiki, `c` is another text in each.
    write(&scratch, "wiki.parquet", &of(&[("a", 1), ("b", 2), ("bb", 2), ("c", 3)]));
    write_lines(&scratch, "books.jsonl", &of(&[("b", 4), ("c", 5), ("z", 1)]));
    scratch.write("prepare.toml", plan().replace("min_characters = 100", "min_characters = 1"));
    let said = prepare(&scratch, "out", &[]).succeeds().stderr;
    assert!(said.contains("wiki: 2 of 4 documents are kept") && !said.contains("earlier one"), "{said}");
    let kept = |version: &str| rows(&scratch, version, "documents", "id").into_iter().collect::<BTreeSet<_>>();
    let expected = ["books/b", "books/c", "books/z", "wiki/b", "wiki/c"].map(str::to_owned);
    assert_eq!(kept("out/v1"), BTreeSet::from(expected));
    for kind in ["documents", "catalog"] {
        let (ids, stages) = (rows(&scratch, "out/v1", kind, "id"), rows(&scratch, "out/v1", kind, "source_stage"));
        let of_ids: Vec<&str> = ids.iter().map(|id| id.split_once('/').unwrap().0).collect();
        assert_eq!(of_ids, stages, "{kind}");
    }
    let found = stat(&scratch, "out");
    let [books, wiki] = [0, 1].map(|source| &found["sources"][source]);
    assert_eq!((&books["source"], &wiki["source"]), (&"books".into(), &"wiki".into()), "in the order of `inputs`");
    assert_eq!(wiki["duplicates"], serde_json::json!({ "books": 1, "wiki": 1 }));
    assert_eq!(books["duplicates"], serde_json::json!({}));
    assert_eq!(wiki["dropped"]["exact duplicate"]["documents"], 2);
    let shown = scratch.pipeline(&["stat", "out"]).succeeds().stdout;
    for piece in ["\nwiki ", "\nbooks ", "duplicates in", "itself"] {
        assert!(shown.contains(piece), "{piece}: {shown}");
    }
    assert!(shown.lines().all(|line| line.chars().count() <= 80), "{shown}");
    // The other order, and `diff` between both.
    let other = scratch.read("prepare.toml").replace(r#"["books", "long"]"#, r#"["long", "books"]"#);
    scratch.write("prepare.toml", other);
    prepare(&scratch, "out", &[]).succeeds();
    assert!(kept("out/v2").contains("wiki/a") && !kept("out/v2").contains("books/z"), "{:?}", kept("out/v2"));
    let difference = scratch.pipeline(&["diff", "out/v1", "out/v2", "--json"]).succeeds().stdout;
    let difference: Value = serde_json::from_str(&difference).unwrap();
    assert_eq!(difference["documents"][0]["id"], "books/z");
    assert_eq!(difference["documents"][0]["other"], "wiki/a");
    // Withdrawn under either name.
    for id in ["a", "wiki/a"] {
        scratch.write("withdrawn.txt", id);
        prepare(&scratch, "out", &["--set", "wiki.withdraw=withdrawn.txt"]).succeeds();
    }
    assert!(kept("out/v3") == kept("out/v1") && kept("out/v4") == kept("out/v1"), "{:?}", kept("out/v4"));
}

/// The catalog's input hashes of the rows of each source.
fn hashes(scratch: &Scratch, version: &str) -> BTreeMap<String, BTreeSet<Vec<u8>>> {
    use arrow::array::AsArray;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
    let file = std::fs::File::open(scratch.path(&format!("{version}/catalog.parquet"))).unwrap();
    let mut found: BTreeMap<String, BTreeSet<Vec<u8>>> = BTreeMap::new();
    for batch in ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap() {
        let batch = batch.unwrap();
        let (stages, hashes) = (batch["source_stage"].as_string::<i32>(), batch["input_hash"].as_fixed_size_binary());
        for (stage, hash) in stages.iter().zip(hashes.iter()) {
            found.entry(stage.unwrap().to_owned()).or_default().insert(hash.unwrap().to_owned());
        }
    }
    found
}

#[test]
fn another_filter_of_a_source_works_on_no_row_of_the_others() {
    let (scratch, mut random) = (Scratch::new(), Random(8));
    let (wiki, books) = two_corpora(&mut random);
    write(&scratch, "wiki.parquet", &wiki);
    write_lines(&scratch, "books.jsonl", &books);
    scratch.write("prepare.toml", plan());
    prepare(&scratch, "out", &[]).succeeds();
    prepare(&scratch, "out", &["--set", "long.min_characters=300"]).succeeds();
    let dropped = |version: &str, source: usize| stat(&scratch, version)["sources"][source]["dropped"].clone();
    let reasons = [0, 1].map(|source| dropped("out/v2", source).to_string());
    assert!(!reasons[0].contains("length") && reasons[1].contains("length"), "{reasons:?}");
    let (first, second) = (hashes(&scratch, "out/v1"), hashes(&scratch, "out/v2"));
    assert_eq!(first["books"], second["books"]);
    // What all rows depend on is the same, so those of the books are taken from the first version.
    let chain = |version: &str| -> Value {
        serde_json::from_str::<Value>(&scratch.read(&format!("{version}/version.json"))).unwrap()["chain"].clone()
    };
    assert!(chain("out/v1").is_string());
    assert_eq!(chain("out/v1"), chain("out/v2"));
    assert!(first["wiki"].is_disjoint(&second["wiki"]));
    // A row is known again only in its source.
    assert!(first["wiki"].is_disjoint(&first["books"]));
}

#[test]
fn limits_and_unreadable_rows_are_those_of_a_source() {
    let (scratch, mut random) = (Scratch::new(), Random(4));
    let (wiki, books) = two_corpora(&mut random);
    write(&scratch, "wiki.parquet", &wiki);
    write_lines(&scratch, "books.jsonl", &books);
    let lines = scratch.read("books.jsonl");
    scratch.write("books.jsonl", format!("{lines}not JSON\n"));
    scratch.write("prepare.toml", plan());
    prepare(&scratch, "out", &[]).succeeds();
    let found = stat(&scratch, "out");
    assert_eq!(found["unreadable"], serde_json::json!({ "not JSON": 1 }));
    assert_eq!(found["sources"][0]["unreadable"], found["unreadable"]);
    assert_eq!(found["sources"][1]["unreadable"], serde_json::json!({}));
    // Of all documents it is less than one in a hundred, of the books more.
    let limit = format!("books.max_bad_fraction={}", 1.0 / 60.0);
    prepare(&scratch, "none", &["--set", &limit]).fails(1, &["stage `books`", "1 of 53 documents cannot be read"]);
    prepare(&scratch, "none", &["--set", "wiki.max_bad_fraction=0.0"]).succeeds();
    // A text that is not UTF-8, in the other source.
    let texts: Vec<&[u8]> = vec![b"a text of this source", b"\xff\xfe", b"another text"];
    write_columns(&scratch, "wiki.parquet", [("text", Arc::new(BinaryArray::from_vec(texts)))]);
    prepare(&scratch, "bytes", &["--set", "wiki.max_bad_fraction=0.5"]).succeeds();
    let found = stat(&scratch, "bytes");
    let unreadable: Vec<&Value> = [0, 1].iter().map(|source| &found["sources"][source]["unreadable"]).collect();
    assert_eq!(unreadable[0], &serde_json::json!({ "not JSON": 1 }));
    assert_eq!(unreadable[1], &serde_json::json!({ "not UTF-8": 1 }));
    let said = scratch.pipeline(&["stat", "bytes"]).succeeds().stdout;
    assert!(said.contains("wiki: could not be read") && said.contains("books: could not be read"), "{said}");
    prepare(&scratch, "none", &["--set", "books.max_bad_fraction=0.5", "--set", "wiki.on_bad_data=\"stop\""])
        .fails(1, &["stage `wiki`"]);
    write(&scratch, "wiki.parquet", &Documents::new());
    prepare(&scratch, "none", &[]).fails(2, &["stage `wiki`", "its files have no rows"]);
}

#[test]
fn a_preparation_of_several_sources_that_is_killed_leaves_what_was_there() {
    let (scratch, mut random) = (Scratch::new(), Random(7));
    let (mut wiki, books) = (documents(300, &mut random), documents(200, &mut random));
    scratch.write("prepare.toml", plan());
    write(&scratch, "wiki.parquet", &wiki);
    write_lines(&scratch, "books.jsonl", &books);
    prepare(&scratch, "out", &[]).succeeds();
    edit(&mut wiki, &mut random);
    write(&scratch, "wiki.parquet", &wiki);
    assert_kills_leave_no_trace(&scratch, &[20, 120, 400]);
}

#[test]
fn explain_draws_the_sources_and_the_card_has_the_licence_of_each() {
    let (scratch, mut random) = (Scratch::new(), Random(2));
    let (wiki, books) = two_corpora(&mut random);
    for (folder, licence) in [("w", "CC BY-SA 4.0"), ("b", "public domain")] {
        std::fs::create_dir(scratch.path(folder)).unwrap();
        scratch
            .write(&format!("{folder}/SOURCE.json"), format!("{{\"name\": \"{folder}\", \"licence\": \"{licence}\"}}"));
    }
    write(&scratch, "w/wiki.parquet", &wiki);
    write_lines(&scratch, "b/books.jsonl", &books);
    let plan = plan().replace("\"wiki.par", "\"w/wiki.par").replace("\"books.js", "\"b/books.js");
    scratch.write("prepare.toml", plan);
    let said = scratch.pipeline(&["explain", "prepare.toml"]).succeeds().stdout;
    for piece in ["`books` and `wiki` read", "│ wiki ", "│ long ", "│ books ", "│ mix ", "in this order: `books`"]
    {
        assert!(said.split_whitespace().collect::<Vec<_>>().join(" ").contains(piece.trim()), "{piece}: {said}");
    }
    let said = scratch.pipeline(&["run", "prepare.toml", "--run-dir", "out", "--dry-run"]).succeeds().stdout;
    assert!(said.contains("w/wiki.parquet (") && said.contains("b/books.jsonl ("), "{said}");
    prepare(&scratch, "out", &[]).succeeds();
    let card = scratch.read("out/v1/README.md");
    assert!(card.contains("### books\n\n- b\n  - licence: public domain\n"), "{card}");
    assert!(card.contains("### wiki\n\n- w\n  - licence: CC BY-SA 4.0\n") && card.contains("| wiki | "), "{card}");
    // What training says of a document that the preparation has dropped.
    let dropped = rows(&scratch, "out/v1", "duplicates", "id");
    let train = crate::support::tiny("paths = [\"out/v1/documents-*.parquet\"]");
    scratch.write("train.toml", train);
    scratch.pipeline(&["run", "train.toml", "--run-dir", "trained", "--set", "run.max_steps=2"]).succeeds();
    let said = scratch.pipeline(&["why", "trained", "--document", &dropped[0]]).succeeds().stdout;
    assert!(said.contains("duplicate of books/") || said.contains("duplicate of wiki/"), "{said}");
}

/// Needs a Python with datasets: `$MILLRACE_PYTHON`, or `python3`.
#[test]
fn datasets_reads_a_corpus_of_several_sources() {
    let program = python();
    let run = |arguments: &[&str]| std::process::Command::new(&program).args(arguments).output();
    if !run(&["-c", "import datasets"]).is_ok_and(|found| found.status.success()) {
        println!("skipped: {program} has no datasets; set MILLRACE_PYTHON to one that has");
        return;
    }
    let (scratch, mut random) = (Scratch::new(), Random(6));
    let (wiki, books) = two_corpora(&mut random);
    write(&scratch, "wiki.parquet", &wiki);
    write_lines(&scratch, "books.jsonl", &books);
    scratch.write("prepare.toml", plan());
    prepare(&scratch, "out", &[]).succeeds();
    let script = "import sys, collections, datasets\n\
                  found = datasets.load_dataset(sys.argv[1], cache_dir=sys.argv[2])\n\
                  for part in ('train', 'validation'):\n    \
                      for stage, n in sorted(collections.Counter(found[part]['source_stage']).items()):\n        \
                          print(part, stage, n)\n";
    let (version, cache) = (scratch.path("out/v1"), scratch.path("hf"));
    let output = run(&["-c", script, &version.to_string_lossy(), &cache.to_string_lossy()]).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found = stat(&scratch, "out");
    let mut expected = Vec::new();
    for part in ["train", "validation"] {
        for source in found["sources"].as_array().unwrap() {
            let documents = &source[part]["documents"];
            assert!(documents.as_u64() > Some(0), "{source}");
            expected.push(format!("{part} {} {documents}", source["source"].as_str().unwrap()));
        }
    }
    assert_eq!(String::from_utf8(output.stdout).unwrap().lines().collect::<Vec<_>>(), expected);
}

#[test]
fn what_is_refused_of_several_sources() {
    let scratch = Scratch::new();
    let plan = plan();
    write(&scratch, "wiki.parquet", &documents(5, &mut Random(1)));
    write_lines(&scratch, "books.jsonl", &documents(5, &mut Random(2)));
    let refused = |plan: &str, pieces: &[&str]| {
        scratch.write("prepare.toml", plan);
        scratch.pipeline(&["check", "prepare.toml"]).fails(2, pieces);
    };
    let keys = |keys: &str| plan.replace("[\"books\", \"long\"]", &format!("[\"books\", \"long\"]\n{keys}"));
    refused(&keys("weights = { wiki = 1, books = 2 }"), &["`mix.weights` is for training: a preparation reads every"]);
    refused(&keys("max_epochs = { wiki = 1 }"), &["`mix.max_epochs` is for training"]);
    refused(&keys("interpolate = \"linear\""), &["`mix.interpolate` is for training"]);
    let one = plan.replace("[\"books\", \"long\"]", "[\"books\"]");
    refused(&one, &["`long` and `mix` both give rows: which does `tidy` take?"]);
    let late =
        plan.replace("inputs = [\"books\", \"long\"]\n", "") + "[stage.late]\ntype = \"documents\"\npaths = [\"x\"]\n";
    refused(&late, &["no stage uses the rows of `late`", "move it above `mix`, or name it in mix.inputs"]);
    let above =
        plan.replace("[stage.long]\ntype = \"length\"\nmin_characters = 100", "[stage.long]\ntype = \"minhash\"");
    refused(
        &above,
        &["`long` stands above `mix`, and would compare the documents of one source only", "move it below"],
    );
    let tokens = "[stage.wiki]\ntype = \"tokens\"\npaths = [\"x\"]\n[stage.books]\ntype = \"tokens\"\npaths = [\"y\"]\n\
                  [stage.mix]\ntype = \"mixture\"\n[stage.read]\ntype = \"documents\"\npaths = [\"wiki.parquet\"]\n\
                  [stage.write]\ntype = \"parquet\"\n";
    refused(tokens, &["`mix` mixes tokens, and a preparation mixes rows", "tokenize below `mix`"]);
    let without = plan.replace(SOURCES, "").replace("inputs = [\"books\", \"long\"]\n", "");
    refused(&without, &["`mix` has no source to mix"]);
    refused(&plan.replace("\"books\", \"long\"", "\"boks\", \"long\""), &["a stage `boks` that is not there"]);
    let unmixed = plan.replace("[stage.mix]\ntype = \"mixture\"\ninputs = [\"books\", \"long\"]\n", "");
    refused(&unmixed, &["`long` and `books` both give rows: which does `tidy` take?"]);
}

#[test]
fn sources_may_have_any_names_and_share_a_file() {
    let scratch = Scratch::new();
    write(&scratch, "wiki.parquet", &documents(12, &mut Random(3)));
    let twice = "[stage.read]\ntype = \"documents\"\npaths = [\"wiki.parquet\"]\n\
                 [stage.kept]\ntype = \"documents\"\npaths = [\"wiki.parquet\"]\n\
                 [stage.signatures]\ntype = \"mixture\"\n\
                 [stage.write]\ntype = \"parquet\"\nshards = 2\ntokens = false\n";
    scratch.write("prepare.toml", twice);
    prepare(&scratch, "out", &[]).succeeds();
    let ids = rows(&scratch, "out/v1", "documents", "id");
    assert_eq!((ids.len(), ids.iter().filter(|id| id.starts_with("kept/")).count()), (24, 12), "{ids:?}");
    scratch.write(
        "prepare.toml",
        format!("{twice}[stage.same]\ntype = \"minhash\"\n")
            .replace("tokens = false", "tokens = false\ninputs = [\"same\"]"),
    );
    prepare(&scratch, "out", &[]).succeeds();
    let ids = rows(&scratch, "out/v2", "documents", "id");
    assert!(!ids.is_empty() && ids.iter().all(|id| id.starts_with("read/")), "the first source has priority: {ids:?}");
}

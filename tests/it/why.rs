//! `pipeline why`: the documents of a step, the steps of a document or a text, and what has become of the others.
use crate::support::{Scratch, corpus, repository, tiny};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// `docs.jsonl` with ids, titles and URLs: the third document is empty, the fourth short enough to be dropped.
fn scratch() -> Scratch {
    let scratch = Scratch::new();
    let mut texts = corpus(80);
    texts[2] = String::new();
    texts[3] = "too short".into();
    texts[4] += " a sentence that occurs once only";
    let line = |(n, text): (usize, &String)| json!({ "id": format!("doc-{n}"), "title": format!("Title {}", n / 2), "url": format!("https://x.org/{n}"), "text": text });
    let lines: Vec<String> = texts.iter().enumerate().map(|document| line(document).to_string()).collect();
    scratch.write("docs.jsonl", lines.join("\n"));
    let filter = "\n[stage.long]\ntype = \"length\"\nmin_words = 5\n";
    let inputs = "[stage.tokenize]\ninputs = [\"long\"]\n";
    scratch.write("run.toml", tiny("paths = [\"docs.jsonl\"]").replace("[stage.tokenize]\n", inputs) + filter);
    scratch.train("r", &["--set", "pack.shuffle_tokens=1024"]);
    scratch
}

fn why(scratch: &Scratch, run: &str, arguments: &[&str]) -> Value {
    let said = scratch.pipeline(&[&["why", run, "--json"], arguments].concat()).succeeds().stdout;
    serde_json::from_str(said.trim()).unwrap()
}

fn list<'a>(value: &'a Value, key: &str) -> &'a Vec<Value> {
    value[key].as_array().unwrap_or_else(|| panic!("{key} in {value}"))
}

#[test]
fn steps_and_documents_agree() {
    let scratch = scratch();
    // By document: its passages in all steps.
    let mut passages = BTreeMap::<String, Vec<Value>>::new();
    for step in 1..=6 {
        let answer = why(&scratch, "r", &["--step", &step.to_string()]);
        assert_eq!((&answer["trained"], &answer["sequences"]), (&true.into(), &4.into()));
        let mut tokens = 0;
        for document in list(&answer, "documents") {
            let id = document["id"].as_str().unwrap();
            let number: usize = id.strip_prefix("doc-").unwrap().parse().unwrap();
            assert_eq!(document["title"], format!("Title {}", number / 2));
            assert_eq!(document["url"], format!("https://x.org/{number}"));
            assert_eq!((&document["source"], &document["row"]), (&"read".into(), &number.into()));
            for passage in list(document, "passages") {
                let [from, to] = [0, 1].map(|end| passage["tokens"][end].as_u64().unwrap());
                assert!(from < to && to <= document["document_tokens"].as_u64().unwrap());
                tokens += to - from;
                let mut seen = passage.clone();
                seen["step"] = step.into();
                passages.entry(id.to_owned()).or_default().push(seen);
            }
        }
        assert_eq!(tokens, 4 * 33, "a sequence is 32 tokens and the one after them");
    }
    for (id, expected) in passages.iter().take(5) {
        let answer = why(&scratch, "r", &["--document", id]);
        let [document] = &list(&answer, "documents")[..] else { panic!("{answer}") };
        assert_eq!((&document["fate"], &document["seen"]), (&"train".into(), &Value::from(expected.clone())), "{id}");
    }
    let said = scratch.pipeline(&["why", "r", "--step", "2"]).succeeds().stdout;
    assert!(said.starts_with("step 2 of 6: 4 sequences of 32 tokens, of "), "{said}");
    assert!(said.contains("https://x.org/") && said.lines().all(|line| line.chars().count() <= 80), "{said}");
}

#[test]
fn what_has_become_of_a_document() {
    let scratch = scratch();
    let of = |name: &str| why(&scratch, "r", &["--document", name]);
    for (name, fate, reason) in [
        ("doc-2", "not used", "its text is empty"),
        ("doc-3", "not used", "dropped: "),
        ("https://x.org/3", "not used", "dropped: "),
    ] {
        let answer = of(name);
        let document = &list(&answer, "documents")[0];
        let why = document["why"].as_str().unwrap();
        assert!(document["fate"] == fate && why.starts_with(reason), "{document}");
        assert!(list(document, "seen").is_empty());
    }
    let titled = of("Title 3");
    let ids: Vec<&Value> = list(&titled, "documents").iter().map(|document| &document["id"]).collect();
    assert_eq!(ids, ["doc-6", "doc-7"]);
    let fates: Vec<Value> = (5..80).map(|n| of(&format!("doc-{n}"))["documents"][0]["fate"].clone()).collect();
    assert!(fates.contains(&"validation".into()) && fates.contains(&"train".into()), "{fates:?}");
    scratch.pipeline(&["why", "r", "--document", "doc-99"]).fails(2, &["has no document `doc-99`", "--step 1"]);
}

#[test]
fn a_text_is_found_with_the_steps_that_have_seen_it() {
    let scratch = scratch();
    let whole = why(&scratch, "r", &["--document", "doc-4"]);
    let answer = why(&scratch, "r", &["--text", "a sentence that occurs once only"]);
    let [document] = &list(&answer, "documents")[..] else { panic!("{answer}") };
    assert_eq!((&document["id"], &document["times"]), (&"doc-4".into(), &1.into()));
    assert!(document["excerpt"].as_str().unwrap().ends_with("a sentence that occurs once only"));
    let [from, to] = [0, 1].map(|end| document["tokens"][end].as_u64().unwrap());
    // The text ends the document: only the token that ends it comes after.
    assert!(from < to && to + 1 == document["document_tokens"].as_u64().unwrap_or(0).max(to + 1), "{document}");
    let all = list(&whole["documents"][0], "seen");
    let overlaps =
        |seen: &&Value| seen["tokens"][0].as_u64().unwrap() < to && from < seen["tokens"][1].as_u64().unwrap();
    let expected: Vec<&Value> = all.iter().filter(overlaps).collect();
    assert_eq!(list(document, "seen").iter().collect::<Vec<_>>(), expected);
    scratch.pipeline(&["why", "r", "--text", "no such words"]).fails(2, &["on no document with `no such words`"]);
    scratch.pipeline(&["why", "r", "--text", ""]).fails(2, &["--text is empty"]);
}

#[test]
fn what_cannot_be_derived_is_said() {
    let scratch = scratch();
    scratch.pipeline(&["why", "nowhere", "--step", "1"]).fails(2, &["nowhere", "is not a run directory"]);
    scratch.pipeline(&["why", "r"]).fails(2, &["--step", "--document", "--text"]);
    scratch.pipeline(&["why", "r", "--step", "7"]).fails(2, &["r has 6 steps, so there is no step 7"]);
    // A run that has only begun says what it will train on.
    let three: Vec<String> = scratch.read("r/metrics.jsonl").lines().take(3).map(str::to_owned).collect();
    scratch.write("r/metrics.jsonl", three.join("\n") + "\n");
    assert_eq!(why(&scratch, "r", &["--step", "4"])["trained"], false);
    let changed = scratch.read("docs.jsonl").replace("occurs once only", "occurs once");
    scratch.write("docs.jsonl", changed);
    let pieces = ["with other settings, data or code", "content of documents", "Restore these"];
    scratch.pipeline(&["why", "r", "--step", "1"]).fails(2, &pieces);
}

#[test]
fn documents_that_a_preparation_has_dropped_are_known_to_runs_on_its_corpus() {
    let scratch = Scratch::new();
    let mut texts = corpus(60);
    texts[9] = texts[8].clone();
    let line = |(n, text): (usize, &String)| json!({ "id": format!("doc-{n:02}"), "text": text }).to_string();
    scratch.write("docs.jsonl", texts.iter().enumerate().map(line).collect::<Vec<_>>().join("\n"));
    let prepare = "[run]\nname = \"corpus\"\n[stage.read]\ntype = \"documents\"\npaths = [\"docs.jsonl\"]\n\
                   [stage.deduplicate]\ntype = \"minhash\"\n[stage.tokenize]\ntype = \"bpe\"\ntokenizer = \"gpt2\"\n\
                   [stage.write]\ntype = \"parquet\"\nshards = 2\n";
    scratch.write("corpus.toml", prepare);
    scratch.pipeline(&["run", "corpus.toml", "--run-dir", "corpus"]).succeeds();
    let base = repository().join("configs/wiki-tokens.toml");
    let read = "[stage.read]\npaths = [\"corpus/v1/documents-*.parquet\"]\nvalidation_fraction = 0.1\n";
    let model = "[stage.forward]\nlayers = 1\nheads = 2\nwidth = 32\n";
    let pack = "[stage.pack]\nsequence_length = 32\nmicro_batches = 2\n";
    scratch.write("run.toml", format!("extends = {base:?}\n{read}{pack}{model}"));
    scratch.train("r", &[]);
    let answer = why(&scratch, "r", &["--document", "doc-09"]);
    let document = &list(&answer, "documents")[0];
    assert_eq!((&document["fate"], &document["duplicate_of"]), (&"not used".into(), &"doc-08".into()), "{document}");
    assert!(document["why"].as_str().unwrap().contains("of doc-08"), "{document}");
    let kept = why(&scratch, "r", &["--document", "doc-08"]);
    assert_ne!(kept["documents"][0]["fate"], "not used", "{kept}");
    scratch.pipeline(&["why", "r", "--text", "a"]).fails(2, &["tokens without their texts"]);
}

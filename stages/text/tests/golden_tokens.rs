//! The built-in GPT-2 tokenizer against every golden vector of the shared data.
mod common;
use common::shared;
use millrace_text::corpus::train_tokenizer::{no_progress, train_tokenizer};
use millrace_text::corpus::withdrawal::WithdrawnRows;
use millrace_text::input::ingest::DocumentFile;
use millrace_text::parquet::documents::DocumentStore;
use millrace_text::tokenizer::END_OF_TEXT;
use millrace_text::{Cache, RowStages, SourceRows, Split, Survey, Tokenizer, silent};
use sha2::{Digest, Sha256};
use std::sync::{Arc, LazyLock};

static GPT2: LazyLock<Tokenizer> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    Tokenizer::gpt2(&Cache::new(folder.path().to_str()), END_OF_TEXT).unwrap()
});

fn check<'a>(name: &str, expected: usize, vectors: impl Iterator<Item = (&'a str, Vec<u32>)>) {
    let mut count = 0;
    for (text, ids) in vectors {
        assert_eq!(GPT2.encode(text).unwrap(), ids, "{name}: {text:?}");
        assert_eq!(GPT2.decode(&ids).unwrap(), text, "{name}");
        count += 1;
    }
    assert_eq!(count, expected, "{name}");
}

#[test]
fn built_in_gpt2_is_the_shared_tokenizer_json() {
    let Some(path) = shared("tokenizer/gpt2/tokenizer.json") else { return };
    let theirs = Tokenizer::from_file(&path, END_OF_TEXT).unwrap();
    assert_eq!(GPT2.vocabulary(), theirs.vocabulary(), "to the last byte of its tokenizer.json");
}

#[test]
fn gpt2_comes_from_the_cache_the_second_time() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::new(folder.path().to_str());
    let hash = Tokenizer::gpt2(&cache, END_OF_TEXT).unwrap().hash().to_string();
    let kept = cache.file("tokenizers", "gpt2-1", "json");
    assert_eq!(blake3::hash(&std::fs::read(&kept).unwrap()).to_hex().as_str(), hash);
    assert_eq!(Tokenizer::gpt2(&cache, END_OF_TEXT).unwrap().hash(), hash);
    // A damaged one is made anew.
    std::fs::write(&kept, b"{").unwrap();
    assert_eq!(Tokenizer::gpt2(&cache, END_OF_TEXT).unwrap().hash(), hash);
}

#[test]
fn vectors_of_llama_cpp() {
    let (Some(inputs), Some(outputs)) =
        (shared("tokenizer/golden/ggml-vocab-gpt-2.gguf.inp"), shared("tokenizer/golden/ggml-vocab-gpt-2.gguf.out"))
    else {
        return;
    };
    let (inputs, outputs) = (std::fs::read_to_string(inputs).unwrap(), std::fs::read_to_string(outputs).unwrap());
    let ids = outputs.split('\n').map(|line| line.split_whitespace().map(|id| id.parse().unwrap()).collect());
    check("ggml", 47, inputs.split("\n__ggml_vocab_test__\n").zip(ids));
}

#[test]
fn vectors_of_sharp_token() {
    let Some(path) = shared("tokenizer/golden/SharpToken-TestPlans.txt") else { return };
    let plans = std::fs::read_to_string(path).unwrap().replace("\r\n", "\n");
    let plans = plans.split("EncodingName: ").filter_map(|plan| plan.strip_prefix("r50k_base\nSample: "));
    let vectors = plans.map(|plan| {
        let (text, rest) = plan.rsplit_once("\nEncoded: ").unwrap();
        (text, serde_json::from_str(rest.trim()).unwrap())
    });
    check("SharpToken", 67, vectors);
}

#[test]
fn vectors_of_real_text() {
    #[derive(serde::Deserialize)]
    struct Vector {
        text: String,
        ids: Vec<u32>,
    }
    let Some(path) = shared("tokenizer/golden/gpt2-real-text.jsonl") else { return };
    let lines = std::fs::read_to_string(path).unwrap();
    let vectors: Vec<Vector> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    check("real text", 136, vectors.iter().map(|v| (v.text.as_str(), v.ids.clone())));
}

#[test]
fn every_document_of_the_corpus() {
    let (Some(corpus), Some(hashes)) =
        (shared("corpus/wiki-en-dev.parquet"), shared("tokenizer/golden/gpt2-dev-doc-hashes.tsv"))
    else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::new(folder.path().to_str());
    let open = |column: &str| {
        let file = DocumentFile::new(&corpus, column);
        DocumentStore::open(&[file], &cache).unwrap()
    };
    let (names, texts) = (open("id"), open("text"));
    let golden = std::fs::read_to_string(hashes).unwrap();
    let golden: std::collections::HashMap<&str, (usize, &str)> = golden
        .lines()
        .skip(1)
        .map(|line| {
            let fields: Vec<&str> = line.split('\t').collect();
            (fields[0], (fields[1].parse().unwrap(), fields[2]))
        })
        .collect();
    assert_eq!((texts.rows(), golden.len()), (14_472, 14_472));
    let half = texts.rows() / 2;
    let tokens = |rows: std::ops::Range<u64>| {
        let mut total = 0;
        for row in rows {
            let ids = GPT2.encode(&texts.get(row).unwrap().unwrap()).unwrap();
            let bytes: Vec<u8> = ids.iter().flat_map(|id| (*id as u16).to_le_bytes()).collect();
            let hash: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
            let name = names.get(row).unwrap().unwrap();
            assert_eq!((ids.len(), hash.as_str()), golden[name.as_str()], "{name}");
            total += ids.len();
        }
        total
    };
    let total = std::thread::scope(|scope| {
        let other = scope.spawn(|| tokens(half..texts.rows()));
        tokens(0..half) + other.join().unwrap()
    });
    assert_eq!(total, 7_525_804);
}

#[test]
fn training_gives_the_merges_of_hugging_face() {
    let (Some(corpus), Some(theirs)) =
        (shared("corpus/wiki-en-dev.parquet"), shared("../peers/wiki-10k.tokenizer.json"))
    else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::new(folder.path().to_str());
    let file = DocumentFile::new(corpus, "text");
    let store = DocumentStore::open(&[file], &cache).unwrap();
    let survey = Survey::of(&store, Split::Fraction(0.0), &mut silent()).unwrap();
    let sources = [SourceRows {
        id: "read".into(),
        store: Arc::new(store),
        stages: RowStages::default(),
        chunks: Default::default(),
        survey,
        all: None,
        withdrawn: WithdrawnRows::default(),
        split: Split::Fraction(0.0),
        cache: cache.clone(),
        unreadable: 0,
    }];
    let ours = train_tokenizer(&sources, 10_000, END_OF_TEXT, &cache, &mut no_progress()).unwrap();
    let model = |json: &str| serde_json::from_str::<serde_json::Value>(json).unwrap()["model"].clone();
    let (ours, theirs) = (model(ours.json()), model(&std::fs::read_to_string(theirs).unwrap()));
    assert_eq!(ours["merges"].as_array().unwrap().len(), 9_743);
    assert!(ours["merges"] == theirs["merges"] && ours["vocab"] == theirs["vocab"]);
}

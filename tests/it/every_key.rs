//! Every key of every stage that comes with the program changes something: a key whose value nobody uses would be a
//! promise that is not kept.
mod rows;

use crate::support::{Scratch, corpus};
use contract::StageType;
use millrace_pipelines::STAGES;
use serde_json::json;
use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Keys of the stages of the graph in `run.toml`, as `type.key`, with changes that both runs have and the change itself.
const GRAPH_KEYS: &[(&str, &[&str], &str)] = &[
    ("documents.paths", &[], "read.paths=[\"other.parquet\"]"),
    ("documents.column", &[], "read.column=other"),
    ("documents.sample", &[], "read.sample=60"),
    ("documents.validation_fraction", FRACTION, "read.validation_fraction=0.3"),
    ("documents.validation_every", &[], "read.validation_every=5"),
    ("documents.withdraw", &[], "read.withdraw=withdrawn.txt"),
    ("documents.separator", PLAIN, "read.separator=ka"),
    ("documents.cache", &[], "read.cache=elsewhere"),
    ("documents.on_bad_data", BAD, "read.on_bad_data=stop"),
    ("documents.max_bad_fraction", BAD, "read.max_bad_fraction=0.0"),
    ("bpe.tokenizer", &[], "tokenize.tokenizer=gpt2"),
    ("bpe.vocabulary_size", &[], "tokenize.vocabulary_size=280"),
    ("bpe.end_of_text", &[], "tokenize.end_of_text=<end>"),
    ("concat.sequence_length", &[], "pack.sequence_length=16"),
    ("concat.micro_batch_size", &[], "pack.micro_batch_size=3"),
    ("concat.micro_batches", &[], "pack.micro_batches=3"),
    ("concat.lanes", &[], "pack.lanes=1"),
    ("concat.document_mask", &[], "pack.document_mask=true"),
    ("concat.shuffle_tokens", &[], "pack.shuffle_tokens=0"),
    ("best_fit.sequence_length", BEST_FIT, "pack.sequence_length=16"),
    ("best_fit.micro_batch_size", BEST_FIT, "pack.micro_batch_size=3"),
    ("best_fit.micro_batches", BEST_FIT, "pack.micro_batches=3"),
    ("best_fit.lanes", BEST_FIT, "pack.lanes=1"),
    ("best_fit.document_mask", BEST_FIT, "pack.document_mask=true"),
    ("best_fit.shuffle_tokens", BEST_FIT, "pack.shuffle_tokens=0"),
    ("gpt2.layers", &[], "forward.layers=1"),
    ("gpt2.heads", &[], "forward.heads=4"),
    ("gpt2.width", &[], "forward.width=16"),
    ("gpt2.feed_forward", &[], "forward.feed_forward=48"),
    ("gpt2.context", &[], "forward.context=64"),
    ("gpt2.vocabulary", &[], "forward.vocabulary=320"),
    ("gpt2.precision", &[], "forward.precision=bf16"),
    ("llama.layers", LLAMA, "forward.layers=1"),
    ("llama.heads", LLAMA, "forward.heads=8"),
    ("llama.kv_heads", LLAMA, "forward.kv_heads=4"),
    ("llama.width", LLAMA, "forward.width=16"),
    ("llama.head_width", LLAMA, "forward.head_width=10"),
    ("llama.feed_forward", LLAMA, "forward.feed_forward=48"),
    ("llama.context", LLAMA, "forward.context=64"),
    ("llama.vocabulary", LLAMA, "forward.vocabulary=320"),
    ("llama.tied_head", LLAMA, "forward.tied_head=true"),
    ("llama.rms_epsilon", LLAMA, "forward.rms_epsilon=0.1"),
    ("llama.rope_theta", LLAMA, "forward.rope_theta=100.0"),
    ("llama.rope_scaling", LLAMA, "forward.rope_scaling={type=\"linear\", factor=2.0}"),
    ("llama.precision", LLAMA, "forward.precision=bf16"),
    ("qwen3.layers", QWEN3, "forward.layers=1"),
    ("qwen3.heads", QWEN3, "forward.heads=8"),
    ("qwen3.kv_heads", QWEN3, "forward.kv_heads=4"),
    ("qwen3.width", QWEN3, "forward.width=16"),
    ("qwen3.head_width", QWEN3, "forward.head_width=10"),
    ("qwen3.feed_forward", QWEN3, "forward.feed_forward=48"),
    ("qwen3.context", QWEN3, "forward.context=64"),
    ("qwen3.vocabulary", QWEN3, "forward.vocabulary=320"),
    ("qwen3.tied_head", QWEN3, "forward.tied_head=true"),
    ("qwen3.rms_epsilon", QWEN3, "forward.rms_epsilon=0.1"),
    ("qwen3.rope_theta", QWEN3, "forward.rope_theta=100.0"),
    ("qwen3.rope_scaling", QWEN3, "forward.rope_scaling={type=\"linear\", factor=2.0}"),
    ("qwen3.precision", QWEN3, "forward.precision=bf16"),
    ("nanochat.layers", NANOCHAT, "forward.layers=1"),
    ("nanochat.heads", NANOCHAT, "forward.heads=8"),
    ("nanochat.kv_heads", NANOCHAT, "forward.kv_heads=4"),
    ("nanochat.width", NANOCHAT, "forward.width=16"),
    ("nanochat.context", NANOCHAT, "forward.context=64"),
    ("nanochat.vocabulary", NANOCHAT, "forward.vocabulary=320"),
    ("nanochat.logit_softcap", NANOCHAT, "forward.logit_softcap=1.0"),
    ("nanochat.feed_forward", NANOCHAT, "forward.feed_forward=48"),
    ("nanochat.tied_head", NANOCHAT, "forward.tied_head=true"),
    ("nanochat.rms_epsilon", NANOCHAT, "forward.rms_epsilon=0.1"),
    ("nanochat.rope_theta", NANOCHAT, "forward.rope_theta=100.0"),
    ("nanochat.precision", NANOCHAT, "forward.precision=bf16"),
    ("adamw.learning_rate", &[], "optimize.learning_rate=0.02"),
    ("adamw.embedding_learning_rate", &[], "optimize.embedding_learning_rate=0.02"),
    ("adamw.head_learning_rate", LLAMA, "optimize.head_learning_rate=0.02"),
    ("adamw.vector_learning_rate", &[], "optimize.vector_learning_rate=0.02"),
    ("adamw.warmup_steps", &[], "optimize.warmup_steps=3"),
    ("adamw.schedule", &[], "optimize.schedule=constant"),
    ("adamw.schedule_steps", &[], "optimize.schedule_steps=4"),
    ("adamw.decay_fraction", WSD, "optimize.decay_fraction=0.5"),
    ("adamw.final_fraction", &[], "optimize.final_fraction=0.5"),
    ("adamw.beta1", &[], "optimize.beta1=0.5"),
    ("adamw.beta2", &[], "optimize.beta2=0.5"),
    ("adamw.epsilon", &[], "optimize.epsilon=0.1"),
    ("adamw.weight_decay", &[], "optimize.weight_decay=0.0"),
    ("adamw.embedding_weight_decay", &[], "optimize.embedding_weight_decay=0.0"),
    ("adamw.head_weight_decay", LLAMA, "optimize.head_weight_decay=0.0"),
    ("adamw.weight_decay_schedule", &[], "optimize.weight_decay_schedule=learning_rate"),
    ("adamw.clip_norm", &[], "optimize.clip_norm=0.01"),
    ("adamw.average_decay", &[], "optimize.average_decay=0.9"),
    ("muon.learning_rate", MUON, "optimize.learning_rate=0.02"),
    ("muon.embedding_learning_rate", MUON, "optimize.embedding_learning_rate=0.02"),
    ("muon.head_learning_rate", MUON_LLAMA, "optimize.head_learning_rate=0.02"),
    ("muon.vector_learning_rate", MUON, "optimize.vector_learning_rate=0.02"),
    ("muon.warmup_steps", MUON, "optimize.warmup_steps=3"),
    ("muon.schedule", MUON, "optimize.schedule=constant"),
    ("muon.schedule_steps", MUON, "optimize.schedule_steps=4"),
    ("muon.decay_fraction", MUON_WSD, "optimize.decay_fraction=0.5"),
    ("muon.final_fraction", MUON, "optimize.final_fraction=0.5"),
    ("muon.momentum", MUON, "optimize.momentum=0.5"),
    ("muon.momentum_warmup_steps", MUON, "optimize.momentum_warmup_steps=4"),
    ("muon.initial_momentum", MUON_WARMUP, "optimize.initial_momentum=0.5"),
    ("muon.beta1", MUON, "optimize.beta1=0.5"),
    ("muon.beta2", MUON, "optimize.beta2=0.5"),
    ("muon.epsilon", MUON, "optimize.epsilon=0.1"),
    ("muon.weight_decay", MUON, "optimize.weight_decay=0.0"),
    ("muon.embedding_weight_decay", MUON, "optimize.embedding_weight_decay=0.0"),
    ("muon.head_weight_decay", MUON_LLAMA, "optimize.head_weight_decay=0.0"),
    ("muon.weight_decay_schedule", MUON, "optimize.weight_decay_schedule=learning_rate"),
    ("muon.clip_norm", MUON, "optimize.clip_norm=0.01"),
    ("muon.average_decay", MUON, "optimize.average_decay=0.9"),
    ("mixture.weights", MIXED, "mix.weights={read=0.2, books=0.8}"),
    ("mixture.interpolate", CURRICULUM, "mix.interpolate=linear"),
    ("mixture.max_epochs", MIXED, "mix.max_epochs={books=0.01}"),
    ("evaluate.interval", &[], "evaluate.interval=2"),
    ("evaluate.stride", &[], "evaluate.stride=8"),
    ("evaluate.prompts", &[], "evaluate.prompts=[\"kamo\"]"),
    ("evaluate.sample_tokens", SAMPLE, "evaluate.sample_tokens=3"),
    ("evaluate.temperature", SAMPLE, "evaluate.temperature=9.0"),
    ("evaluate.top_k", SAMPLE, "evaluate.top_k=1"),
    ("record.sinks", &[], "record.sinks=[\"jsonl\"]"),
    ("checkpoint.interval", &[], "checkpoint.interval=2"),
    ("checkpoint.keep", &[], "checkpoint.keep=1"),
    ("tokens.paths", TOKENS, "read.paths=[\"version/v1/documents-train-00001.parquet\"]"),
    ("tokens.sample", TOKENS, "read.sample=1"),
    ("tokens.tokenizer", TOKENS, "read.tokenizer=other.json"),
    ("tokens.end_of_text", TOKENS, "read.end_of_text=<other>"),
    ("tokens.validation_fraction", TOKENS, "read.validation_fraction=0.5"),
    ("tokens.validation_every", TOKENS, "read.validation_every=3"),
    ("tokens.withdraw", TOKENS, "read.withdraw=withdrawn.txt"),
    ("tokens.cache", TOKENS, "read.cache=elsewhere"),
];
/// Other configurations that both runs have.
const BEST_FIT: &[&str] = &["pack.type=best_fit"];
const LLAMA: &[&str] = &["--stage", "forward=llama.toml"];
const QWEN3: &[&str] = &["--stage", "forward=qwen3.toml"];
const NANOCHAT: &[&str] = &["--stage", "forward=nanochat.toml"];
const MUON: &[&str] = &["--stage", "optimize=muon.toml"];
const MUON_LLAMA: &[&str] = &["--stage", "optimize=muon.toml", "--stage", "forward=llama.toml"];
const MUON_WARMUP: &[&str] = &["--stage", "optimize=muon.toml", "optimize.momentum_warmup_steps=4"];
const MUON_WSD: &[&str] = &["--stage", "optimize=muon.toml", "optimize.schedule=wsd"];
const WSD: &[&str] = &["optimize.schedule=wsd"];
const TOKENS: &[&str] = &["--config", "tokens.toml"];
const SAMPLE: &[&str] = &["--config", "sample.toml"];
const MIXED: &[&str] = &["--config", "mixed.toml"];
const CURRICULUM: &[&str] =
    &["--config", "mixed.toml", "mix.weights=[[0, {read=0.9, books=0.1}], [4, {read=0.2, books=0.8}]]"];
const FRACTION: &[&str] = &["--config", "fraction.toml"];
const PLAIN: &[&str] = &["read.paths=[\"plain.txt\"]"];
const BAD: &[&str] = &["read.paths=[\"bad.jsonl\"]"];
/// Keys that change no result, and whose effect other tests show.
const ELSEWHERE: &[&str] = &[
    "gpt2.batching",  // how fast: tests/it/bench.rs
    "llama.batching", // the same
    "qwen3.batching",
    "nanochat.batching",
    "block_list.path",   // a file: stages/text/tests/filters.rs
    "minhash.threshold", // preparations: tests/it/near_duplicates.rs, stages/text/src/prepare/deduplicate
    "minhash.bands",
    "minhash.band_rows",
    "minhash.shingle_words",
    "parquet.shards", // preparations: tests/it/prepare.rs
    "parquet.tokens",
    "parquet.sequence_length",
    "parquet.keep_dropped",
    "parquet.repeated_ids",
];

#[test]
fn no_key_is_left_out() {
    let rows = rows::keys().into_iter().map(|(stage, key, ..)| format!("{stage}.{key}"));
    let tried = rows.chain(GRAPH_KEYS.iter().map(|(key, ..)| (*key).to_owned()));
    let tried: BTreeSet<String> = tried.chain(ELSEWHERE.iter().map(|key| (*key).to_owned())).collect();
    let keys = |stage: &StageType| {
        let name = stage.name;
        stage.defaults().as_object().unwrap().keys().map(|key| format!("{name}.{key}")).collect::<Vec<_>>()
    };
    let all: BTreeSet<String> = STAGES.iter().flat_map(keys).collect();
    assert_eq!(all.difference(&tried).collect::<Vec<_>>(), Vec::<&String>::new(), "keys that no test changes");
    assert_eq!(tried.difference(&all).collect::<Vec<_>>(), Vec::<&String>::new(), "keys that are gone");
}

/// Everything that two runs can differ in: how they end, weights, tokenizer, numbers, checkpoints, what is said of failures, and
/// what is in the other cache.
fn outcome(scratch: &Scratch, base: &[&str], change: Option<&str>) -> String {
    let (mut config, mut arguments) = ("run.toml", Vec::new());
    let mut base = base.iter();
    while let Some(word) = base.next() {
        match *word {
            "--config" => config = base.next().unwrap(),
            "--stage" => arguments.extend(["--stage", base.next().unwrap()]),
            set => arguments.extend(["--set", set]),
        }
    }
    arguments.extend(change.into_iter().flat_map(|change| ["--set", change]));
    let _ = std::fs::remove_dir_all(scratch.path("out"));
    let _ = std::fs::remove_dir_all(scratch.path("elsewhere"));
    let ran = scratch.pipeline(&[&["run", config, "--run-dir", "out"], &arguments[..]].concat());
    if ran.code != Some(0) {
        assert!(!ran.stderr.contains("unknown key"), "{}", ran.stderr);
        return ran.stderr;
    }
    let mut weights = DefaultHasher::new();
    for file in ["model.safetensors", "config.json", "tokenizer.json"] {
        scratch.last("out", file).hash(&mut weights);
    }
    let weights = weights.finish();
    let exists = ["elsewhere", "out/tb", "out/samples.jsonl"].map(|name| scratch.path(name).exists());
    let samples = if exists[2] { scratch.read("out/samples.jsonl") } else { String::new() };
    format!("{weights} {:?} {:?} {exists:?} {samples:?}", scratch.checkpoints("out"), scratch.numbers("out"))
}

const TRAIN_ON_TOKENS: &str = r#"
[run]
max_steps = 4
[stage.read]
type = "tokens"
paths = ["version/v1/documents-*.parquet"]
tokenizer = "gpt2"
[stage.pack]
type = "concat"
sequence_length = 16
micro_batch_size = 2
micro_batches = 2
[stage.forward]
type = "gpt2"
layers = 1
heads = 2
width = 8
[stage.loss]
type = "cross_entropy"
[stage.backward]
type = "backward"
[stage.reduce]
type = "tree_sum"
[stage.optimize]
type = "adamw"
[stage.evaluate]
type = "evaluate"
interval = 2
[stage.checkpoint]
type = "checkpoint"
[stage.record]
type = "record"
"#;

#[test]
fn every_key_of_a_training_graph_changes_a_run() {
    let scratch = Scratch::new();
    let texts = corpus(120);
    scratch.documents("other.parquet", &texts[..80]);
    scratch.write("withdrawn.txt", (1..9).map(|id| format!("{id}\n")).collect::<String>());
    scratch.write("plain.txt", texts.join("\n\n"));
    let lines = texts.iter().map(|text| json!({ "text": text }).to_string()).chain(["not JSON".into()]);
    scratch.write("bad.jsonl", lines.collect::<Vec<_>>().join("\n"));
    scratch.write(
        "sample.toml",
        scratch.read("run.toml").replace("[stage.evaluate]\n", "[stage.evaluate]\nprompts = [\"\"]\n"),
    );
    scratch.write("fraction.toml", scratch.read("run.toml").replace("validation_every = 10\n", ""));
    let mixed = "[stage.books]\ntype = \"documents\"\npaths = [\"other.parquet\"]\nvalidation_every = 9\n\
                 [stage.mix]\ntype = \"mixture\"\nweights = { read = 0.6, books = 0.4 }\n";
    let run = scratch.read("run.toml").replace("[stage.tokenize]\n", "[stage.tokenize]\ninputs = [\"mix\"]\n");
    scratch.write("mixed.toml", run + mixed);
    let gpt2 = text::Tokenizer::gpt2(&text::Cache::new(scratch.path("gpt2").to_str()), "<|endoftext|>").unwrap();
    scratch.write("other.json", gpt2.json().replacen("\u{120}the", "\u{120}eht", 1));
    let prepare = "[stage.read]\ntype = \"documents\"\npaths = [\"corpus.parquet\"]\n[stage.tokenize]\ntype = \"bpe\"\n\
                   [stage.write]\ntype = \"parquet\"\nshards = 2\n";
    scratch.write("prepare.toml", prepare);
    scratch.pipeline(&["run", "prepare.toml", "--run-dir", "version"]).succeeds();
    scratch.write("tokens.toml", TRAIN_ON_TOKENS);
    let mut known: Vec<(&[&str], String)> = Vec::new();
    for (key, base, change) in GRAPH_KEYS {
        let without = match known.iter().find(|(other, _)| other == base) {
            Some((_, outcome)) => outcome.clone(),
            None => outcome(&scratch, base, None),
        };
        assert_ne!(without, outcome(&scratch, base, Some(change)), "{key} changes nothing");
        known.push((base, without));
    }
}

//! A model folder is followed in all its parts, by `generate` and by a run that starts from it, or refused.
use crate::support::{Ran, Scratch};
use serde_json::{Value, json};

const LLAMA: [&str; 2] = ["--stage", "forward=llama.toml"];

/// A scratch directory with a trained Llama, copied to `model`.
fn trained() -> Scratch {
    let scratch = Scratch::new();
    scratch.train("first", &LLAMA);
    let from = scratch.path("first/checkpoints/step-00000006");
    std::fs::create_dir(scratch.path("model")).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        std::fs::copy(entry.path(), scratch.path("model").join(entry.file_name())).unwrap();
    }
    scratch
}

fn configure(scratch: &Scratch, key: &str, value: Value) {
    let mut config: Value = serde_json::from_str(&scratch.read("model/config.json")).unwrap();
    config[key] = value;
    scratch.write("model/config.json", config.to_string());
}

fn generate(scratch: &Scratch) -> Ran {
    let most_probable = ["--temperature", "0", "--max-tokens", "6", "--json"];
    scratch.pipeline(&[&["generate", "model", "--prompt", "kamo"][..], &most_probable].concat())
}

fn tokens(ran: Ran) -> (Vec<u64>, String) {
    let answer: Value = serde_json::from_str(&ran.succeeds().stdout).unwrap();
    let tokens = answer["tokens"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect();
    (tokens, answer["stop"].as_str().unwrap().to_owned())
}

#[test]
fn every_token_that_ends_a_text_ends_it() {
    let scratch = trained();
    let (whole, stop) = tokens(generate(&scratch));
    assert_eq!((whole.len(), &*stop), (6, "max_tokens"));
    let first = whole.iter().position(|id| *id == whole[3]).unwrap();
    let until_then = (whole[..=first].to_vec(), "end_of_text".to_owned());
    std::fs::remove_file(scratch.path("model/generation_config.json")).unwrap();
    configure(&scratch, "eos_token_id", json!([299, whole[3]]));
    assert_eq!(tokens(generate(&scratch)), until_then);
    // What is said of generation comes first.
    scratch.write("model/generation_config.json", "{\"eos_token_id\": 299}");
    assert_eq!(tokens(generate(&scratch)).0, whole);
    configure(&scratch, "eos_token_id", json!(299));
    scratch.write("model/generation_config.json", json!({ "eos_token_id": [whole[3]] }).to_string());
    assert_eq!(tokens(generate(&scratch)), until_then);
}

#[test]
fn a_head_that_differs_from_the_embedding_is_not_tied() {
    let scratch = trained();
    let untied = tokens(generate(&scratch));
    configure(&scratch, "tie_word_embeddings", json!(true));
    assert_eq!(tokens(generate(&scratch)), untied);
}

#[test]
fn tensors_of_another_model_are_refused() {
    let scratch = trained();
    configure(&scratch, "num_hidden_layers", json!(1));
    generate(&scratch).fails(1, &["tensors that are no part of a model of type \"llama\"", "model.layers.1."]);
}

#[test]
fn a_token_that_begins_every_text_begins_the_prompt() {
    let scratch = trained();
    let without = tokens(generate(&scratch)).0;
    let mut tokenizer: Value = serde_json::from_str(&scratch.read("model/tokenizer.json")).unwrap();
    let end = tokenizer["added_tokens"][0]["content"].clone();
    let id = tokenizer["added_tokens"][0]["id"].clone();
    tokenizer["post_processor"] = json!({
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": end, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": { end.as_str().unwrap(): {"id": end, "ids": [id], "tokens": [end]} },
    });
    scratch.write("model/tokenizer.json", tokenizer.to_string());
    let answer: Value = serde_json::from_str(&generate(&scratch).succeeds().stdout).unwrap();
    // The same as the token spelled out in front of the prompt, by a tokenizer that adds none.
    tokenizer["post_processor"] = Value::Null;
    scratch.write("model/tokenizer.json", tokenizer.to_string());
    let prompt = format!("{}kamo", end.as_str().unwrap());
    let spelled = ["generate", "model", "--prompt", &prompt, "--temperature", "0", "--max-tokens", "6", "--json"];
    let spelled: Value = serde_json::from_str(&scratch.pipeline(&spelled).succeeds().stdout).unwrap();
    assert_eq!(answer["tokens"], spelled["tokens"]);
    assert_eq!(answer["prompt_tokens"], spelled["prompt_tokens"]);
    assert_eq!(tokens(generate(&scratch)).0, without);
}

#[test]
fn weights_that_would_mean_something_else_in_a_run_are_refused() {
    let scratch = trained();
    let start = |directory: &str, more: &[&str]| {
        let run = ["run", "run.toml", "--run-dir", directory, "--set", "run.max_steps=1"];
        let from = ["--set", "run.initial_checkpoint=model"];
        scratch.pipeline(&[&run[..], &LLAMA, &from, more].concat())
    };
    for (set, said) in [
        ("forward.rms_epsilon=0.1", "rms_norm_eps is 0.00001 in the model, 0.1 in the run"),
        ("forward.rope_theta=500000.0", "rope_theta"),
        ("forward.tied_head=true", "tie_word_embeddings is false in the model, true in the run"),
        ("forward.heads=2", "num_attention_heads is 4 in the model, 2 in the run"),
        ("tokenize.vocabulary_size=299", "the tokenizers differ: 300 and 299 tokens"),
    ] {
        let more = if set == "forward.heads=2" { vec!["--set", "forward.kv_heads=1"] } else { vec![] };
        let ran = start("refused", &[&["--set", set][..], &more].concat());
        ran.fails(2, &["would mean something else in this run", said, "run.accept_differences"]);
    }
    start("same", &[]).succeeds();
    let changed = ["--set", "forward.rms_epsilon=0.1", "--set", "run.accept_differences=[\"rms_norm_eps\"]"];
    let said = start("accepted", &changed).succeeds().stderr;
    assert!(said.contains("note: rms_norm_eps is 0.00001 in the model, 0.1 in the run"), "{said}");
    let nothing = ["--set", "run.accept_differences=[\"rope_theta\"]"];
    start("refused", &nothing).fails(2, &["names \"rope_theta\", which does not differ from model"]);
    assert!(!scratch.path("refused/checkpoints").exists());
}

/// A configuration that says nothing of the model.
const CONTINUE: &str = "
extends = \"builtin:base\"
[run]
initial_checkpoint = \"model\"
max_steps = 2
[stage.read]
paths = [\"corpus.parquet\"]
validation_every = 10
[stage.pack]
sequence_length = 32
micro_batch_size = 2
micro_batches = 2
";

#[test]
fn a_run_has_the_shape_and_the_tokenizer_of_the_model_that_it_starts_from() {
    let scratch = trained();
    scratch.write("continue.toml", CONTINUE);
    let go_on = |directory: &str, more: &[&str]| {
        scratch.pipeline(&[&["run", "continue.toml", "--run-dir", directory][..], more].concat())
    };
    go_on("short", &[]).succeeds();
    // The same as with everything spelled out.
    scratch.write("first.toml", "type = \"bpe\"\ntokenizer = \"model/tokenizer.json\"\n");
    let all = ["--stage", "forward=llama.toml", "--stage", "tokenize=first.toml"];
    go_on("long", &all).succeeds();
    assert_eq!(scratch.numbers("short"), scratch.numbers("long"));
    assert_eq!(scratch.last("short", "model.safetensors"), scratch.last("long", "model.safetensors"));
    let config = scratch.read("short/config.toml");
    assert!(config.contains("kv_heads = 2") && config.contains("model/config.json"), "{config}");
    go_on("short", &["--resume"]).succeeds();
    scratch.pipeline(&["check", "continue.toml"]).succeeds();
    // What contradicts the model is an error, and so is a context that it does not have.
    let wrong = go_on("wrong", &["--set", "forward.width=64", "--set", "forward.heads=8"]);
    wrong.fails(2, &["hidden_size is 32 in the model, 64 in the run", "num_attention_heads is 4 in the model, 8 in"]);
    let other = "extends = \"builtin:base\"\n[stage.forward]\ntype = \"gpt2\"\n";
    scratch.write("other.toml", CONTINUE.replace("extends = \"builtin:base\"\n", other));
    scratch.pipeline(&["run", "other.toml"]).fails(2, &["model_type is \"llama\" in the model, \"gpt2\" in the run"]);
    go_on("wrong", &["--set", "forward.context=16"])
        .fails(2, &["`forward.context` is 16, but a sequence has 32 tokens"]);
    let few = go_on("wrong", &["--set", "forward.vocabulary=299"]);
    few.fails(2, &["`forward.vocabulary` is 299, but the tokenizer has 300 ids"]);
    // Rotary positions are not limited to those of the model.
    go_on("longer", &["--set", "pack.sequence_length=48"]).succeeds();
}

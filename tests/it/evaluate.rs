//! Validation: every token of every held-out document counts once, with the context that `evaluate.stride` says.
use crate::support::{Scratch, corpus};
use compute::models::config::end_of_text;
use compute::models::{Gpt2Shape, LlamaShape, Model, Transformer};
use contract::{Parameters, Precision};
use serde_json::{Value, json};
use std::sync::Arc;
use text::Tokenizer;
use train::weights::{Start, StartFiles};

/// The loss of each held-out document is recorded at the end of a run: together they are the validation loss, and they do
/// not depend on how the documents were cut and distributed.
#[test]
fn the_losses_of_documents_are_those_of_the_run() {
    let scratch = Scratch::new();
    let documents = |run: &str| -> Vec<(u64, f64)> {
        let text = scratch.read(&format!("{run}/documents.jsonl"));
        let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()).enumerate();
        let checked = lines.map(|(number, line)| {
            assert_eq!(line["document"], number);
            (line["tokens"].as_u64().unwrap(), line["nats"].as_f64().unwrap())
        });
        checked.collect()
    };
    scratch.train("a", &["--workers", "1"]);
    scratch.train("b", &["--workers", "2"]);
    scratch.train("c", &["--set", "pack.lanes=1"]);
    let losses = documents("a");
    // Every tenth of 120 documents.
    assert_eq!(losses.len(), 12);
    assert_eq!(scratch.bytes("a/documents.jsonl"), scratch.bytes("b/documents.jsonl"));
    let lengths = |run: &str| documents(run).into_iter().map(|(tokens, _)| tokens).collect::<Vec<_>>();
    assert_eq!(lengths("a"), lengths("c"), "the same documents have the same numbers");
    let (tokens, nats) = losses.iter().fold((0, 0.0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    let validation = scratch.metrics("a").pop().unwrap()["validation_loss"].as_f64().unwrap();
    assert!((nats / tokens as f64 - validation).abs() < 1e-9, "{nats} / {tokens} is not {validation}");
}

#[test]
fn evaluate_measures_what_the_run_measured_last() {
    let scratch = Scratch::new();
    scratch.train("r", &[]);
    let said = scratch.pipeline(&["evaluate", "r", "--json"]).succeeds().stdout;
    assert_eq!(said.lines().count(), 1, "{said}");
    let found: Value = serde_json::from_str(&said).unwrap();
    let last = scratch.metrics("r").pop().unwrap();
    assert_eq!(found["step"], 6);
    assert_eq!(found["validation_loss"], last["validation_loss"]);
    assert_eq!(found["bits_per_byte"], last["bits_per_byte"]);
    assert_eq!(found["documents"], 12);
    let said = scratch.pipeline(&["evaluate", "r"]).succeeds().stdout;
    assert!(said.contains("validation loss") && said.contains("bits per byte"), "{said}");
    scratch.pipeline(&["evaluate", "nowhere"]).fails(2, &["nowhere is not a run"]);
    // What is missing is reported as `run` reports it, before any work.
    std::fs::remove_file(scratch.path("corpus.parquet")).unwrap();
    let missing = "`read.paths`: there is no file or folder corpus.parquet";
    scratch.pipeline(&["evaluate", "r"]).fails(2, &[missing, "r/config.toml:"]);
}

/// The precision is that of the run, or f32 for files, unless another one is asked for; the answer names it.
#[test]
fn a_precision_can_be_asked_for() {
    let scratch = Scratch::new();
    scratch.train("r", &["--set", "forward.precision=\"bf16\"", "--set", "run.max_steps=12"]);
    let evaluate = |more: &[&str]| -> (String, f64) {
        let said = scratch.pipeline(&[&["evaluate", "r", "--json"], more].concat()).succeeds().stdout;
        let found: Value = serde_json::from_str(&said).unwrap();
        (found["precision"].as_str().unwrap().to_owned(), found["validation_loss"].as_f64().unwrap())
    };
    let last = scratch.metrics("r").pop().unwrap()["validation_loss"].as_f64().unwrap();
    assert_eq!(evaluate(&[]), ("bf16".to_owned(), last));
    let data = &["--data", "corpus.parquet"][..];
    assert_eq!(evaluate(data).0, "f32");
    for held_out in [&[], data] {
        let in_precision = |precision: &str| {
            let (name, loss) = evaluate(&[held_out, &["--precision", precision]].concat());
            assert_eq!(name, precision);
            loss
        };
        let [f32, bf16, int8] = ["f32", "bf16", "int8"].map(in_precision);
        assert!(f32 != bf16 && bf16 != int8 && f32 != int8, "{f32} {bf16} {int8}");
        assert!((f32 - bf16).abs() < 0.005 && (f32 - int8).abs() < 0.01, "{f32} {bf16} {int8}");
    }
    let said = scratch.pipeline(&["evaluate", "r", "--precision", "int8"]).succeeds().stdout;
    assert!(said.contains("precision        int8"), "{said}");
    scratch.pipeline(&["evaluate", "r", "--precision", "auto"]).fails(2, &["auto", "f32, bf16, int8"]);
}

/// The model and the tokenizer in a folder.
fn open(scratch: &Scratch, folder: &str) -> (Transformer, Parameters, Tokenizer) {
    let config: Value = serde_json::from_str(&scratch.read(&format!("{folder}/config.json"))).unwrap();
    let model = match config["model_type"].as_str() {
        Some("gpt2") => Gpt2Shape::from_config(&config).unwrap().model(),
        _ => LlamaShape::from_config(&config).unwrap().model(),
    };
    let files = StartFiles::open(&Start::Weights(scratch.path(folder)), 0).unwrap();
    let parameters = model.facts().parameters.iter().map(|spec| Arc::new(files.parameter(spec).unwrap())).collect();
    let tokenizer = Tokenizer::from_folder(&scratch.path(folder), end_of_text(&config)).unwrap();
    (model, Parameters(parameters), tokenizer)
}

/// Number of tokens and their mean loss: each is predicted by a decoder that has been fed its context and nothing else.
fn naive(scratch: &Scratch, folder: &str, texts: &[String], length: usize, stride: usize) -> (usize, f64) {
    let (model, parameters, tokenizer) = open(scratch, folder);
    let end = tokenizer.end_of_text();
    let (mut count, mut sum) = (0, 0.0);
    for text in texts {
        let tokens = [&[end][..], &tokenizer.encode(text).unwrap(), &[end]].concat();
        let mut scored = 0;
        for start in (0..).step_by(stride) {
            let last = (start + length).min(tokens.len() - 1);
            let mut decoder = model.decoder(Precision::F32, &mut parameters.load()).unwrap();
            for at in start..last {
                let logits: Vec<f64> = decoder.feed(&tokens[at..=at]).iter().map(|x| f64::from(*x)).collect();
                if at >= scored {
                    let most = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    let exponentials: f64 = logits.iter().map(|x| (x - most).exp()).sum();
                    sum += exponentials.ln() + most - logits[tokens[at + 1] as usize];
                    count += 1;
                }
            }
            scored = last;
            if scored == tokens.len() - 1 {
                break;
            }
        }
    }
    (count, sum / count as f64)
}

#[test]
fn the_loss_is_that_of_each_token_in_its_context() {
    for model in [&[][..], &["--stage", "forward=llama.toml"]] {
        let scratch = Scratch::new();
        let held_out: Vec<String> = corpus(120).into_iter().step_by(10).collect();
        for (run, stride) in [("whole", 32), ("half", 16)] {
            let stride_is = format!("evaluate.stride={stride}");
            scratch.train(run, &[model, &["--set", &stride_is, "--set", "run.max_steps=12"]].concat());
            let (tokens, expected) =
                naive(&scratch, &format!("{run}/checkpoints/step-00000012"), &held_out, 32, stride);
            let found = scratch.metrics(run).pop().unwrap()["validation_loss"].as_f64().unwrap();
            assert!((found - expected).abs() < 1e-5, "{run}: {found}, expected {expected}");
            let evaluated = scratch.pipeline(&["evaluate", run, "--json"]).succeeds().stdout;
            let evaluated: Value = serde_json::from_str(&evaluated).unwrap();
            assert_eq!((&evaluated["tokens"], &evaluated["documents"]), (&tokens.into(), &12.into()));
            assert_eq!(evaluated["validation_loss"], found);
        }
        // A validation changes nothing that is trained.
        assert_eq!(scratch.last("whole", "model.safetensors"), scratch.last("half", "model.safetensors"));
    }
}

/// One document that is shorter than a sequence, in one of two lanes.
#[test]
fn one_short_held_out_document_is_enough() {
    let scratch = Scratch::new();
    let texts: Vec<String> = std::iter::once("ka mo ri".to_owned()).chain(corpus(120)).collect();
    scratch.documents("corpus.parquet", &texts);
    scratch.train("r", &["--set", "read.validation_every=1000", "--set", "evaluate.stride=7"]);
    let loss = scratch.metrics("r").pop().unwrap()["validation_loss"].as_f64().unwrap();
    let (tokens, expected) = naive(&scratch, "r/checkpoints/step-00000006", &texts[..1], 32, 32);
    assert!(tokens < 32 && (loss - expected).abs() < 1e-5, "{loss}, expected {expected}");
    let bits = scratch.metrics("r").pop().unwrap()["bits_per_byte"].as_f64().unwrap();
    let expected = expected * tokens as f64 / std::f64::consts::LN_2 / texts[0].len() as f64;
    assert!((bits - expected).abs() < 1e-5 * expected, "{bits}, expected {expected}");
}

/// The answer of `pipeline evaluate`.
fn evaluate(scratch: &Scratch, arguments: &[&str]) -> Value {
    let ran = scratch.pipeline(&[&["evaluate"], arguments, &["--json"]].concat()).succeeds();
    serde_json::from_str(&ran.stdout).unwrap()
}

#[test]
fn any_model_is_evaluated_on_any_file() {
    let scratch = Scratch::new();
    scratch.train("r", &[]);
    let held_out: Vec<String> = corpus(120).into_iter().step_by(10).collect();
    let lines: String = held_out.iter().map(|text| format!("{}\n", json!({ "body": text }))).collect();
    scratch.write("texts.jsonl", lines);
    scratch.write("text.txt", &held_out[0]);
    // All documents of a file: here those that the run holds out.
    let of_file = ["r", "--data", "texts.jsonl", "--column", "body", "--stride", "20"];
    let (run, file) = (evaluate(&scratch, &["r", "--stride", "20"]), evaluate(&scratch, &of_file));
    for key in ["documents", "tokens", "bytes", "context", "stride", "step"] {
        assert_eq!(run[key], file[key], "{key}");
    }
    for key in ["validation_loss", "bits_per_byte"] {
        let (run, file) = (run[key].as_f64().unwrap(), file[key].as_f64().unwrap());
        assert!((run - file).abs() < 1e-6, "{key}: {run} and {file}");
    }
    for workers in ["1", "3"] {
        assert_eq!(evaluate(&scratch, &[&of_file[..], &["--workers", workers]].concat()), file);
    }
    // Several files, and a folder with a model instead of a run.
    let last = "r/checkpoints/step-00000006";
    let both = evaluate(&scratch, &[last, "--data", "text.txt", "corpus.parquet"]);
    assert_eq!((&both["documents"], &both["step"]), (&121.into(), &6.into()));
    let said = scratch.pipeline(&["evaluate", last, "--data", "text.txt"]).succeeds().stdout;
    assert!(said.contains("text.txt: 1 documents") && said.contains("windows          32 tokens\n"), "{said}");
}

#[test]
fn what_is_wrong_with_an_evaluation() {
    let scratch = Scratch::new();
    scratch.train("run", &[]);
    let last = "run/checkpoints/step-00000006";
    scratch.write("text.txt", "ka mo ri");
    scratch.write("empty.jsonl", "");
    let wrong = |arguments: &[&str], said: &[&str]| {
        scratch.pipeline(&[&["evaluate"], arguments].concat()).fails(2, said);
    };
    wrong(&[last], &["is a model without held-out documents", "--data"]);
    wrong(&["run", "--data", "tex.txt"], &["--data: there is no file or folder tex.txt", "text.txt"]);
    wrong(&["rum", "--data", "text.txt"], &["there is no run or checkpoint rum", "similar: run"]);
    wrong(&["run", "--data", "corpus.parquet", "--column", "txet"], &["--column: ", "txet", "text"]);
    wrong(&["run", "--data", "text.txt", "--column", "body"], &["--column: is for Parquet and JSON Lines"]);
    wrong(&["run", "--column", "body"], &["--data"]);
    wrong(&["run", "--stride", "33"], &["--stride 33 is longer than a window of 32 tokens"]);
    wrong(&["run", "--stride", "0"], &["--stride"]);
    wrong(&["run", "--data", "empty.jsonl"], &["empty.jsonl"]);
    std::fs::remove_file(scratch.path(&format!("{last}/tokenizer.json"))).unwrap();
    wrong(&[last, "--data", "text.txt"], &["cannot evaluate", "has neither tokenizer.json nor vocab.json"]);
}

//! `pipeline generate`: a trained run continues a text, the same every time, and says what is wrong when it cannot.
use crate::support;
use crate::support::{Ran, Scratch};
use serde_json::Value;

/// A trained run in `run`.
fn trained() -> Scratch {
    let scratch = Scratch::new();
    scratch.train("run", &["--set", "run.max_steps=40"]);
    scratch
}

fn generate(scratch: &Scratch, model: &str, more: &[&str]) -> Ran {
    let mut arguments = vec!["generate", model, "--prompt", "kamo rite"];
    arguments.extend(more);
    scratch.pipeline(&arguments)
}

fn json(scratch: &Scratch, model: &str, more: &[&str]) -> Value {
    let more = [&["--json"], more].concat();
    serde_json::from_str(&generate(scratch, model, &more).succeeds().stdout).expect("one line of JSON")
}

#[test]
fn text_comes_with_its_prompt_and_speeds_apart() {
    let scratch = trained();
    let ran = generate(&scratch, "run", &["--max-tokens", "12"]).succeeds();
    let found = json(&scratch, "run", &["--max-tokens", "12"]);
    assert_eq!(ran.stdout, format!("kamo rite{}\n", found["text"].as_str().unwrap()));
    assert!(ran.stderr.contains("Text: 12 tokens") && ran.stderr.contains("tok/s"), "{}", ran.stderr);
    assert_eq!(found["tokens"].as_array().unwrap().len(), 12);
    assert_eq!(found["stop"], "max_tokens");
    let tokenizer = text::Tokenizer::from_json("trained", scratch.read("run/tokenizer.json"), "<|endoftext|>").unwrap();
    let ids: Vec<u32> = found["tokens"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
    assert_eq!(found["text"], tokenizer.decode(&ids).unwrap());
    // A checkpoint is as good as its run.
    let last = scratch.checkpoints("run").pop().unwrap();
    assert_eq!(json(&scratch, &format!("run/checkpoints/{last}"), &["--max-tokens", "12"])["text"], found["text"]);
}

#[test]
fn a_seed_gives_one_text_whatever_the_workers() {
    let scratch = trained();
    let text = |more: &[&str]| json(&scratch, "run", more)["text"].clone();
    let first = text(&["--seed", "3", "--temperature", "1.5"]);
    assert_eq!(text(&["--seed", "3", "--temperature", "1.5", "--workers", "1"]), first);
    assert_eq!(text(&["--seed", "3", "--temperature", "1.5", "--workers", "3"]), first);
    assert_ne!(text(&["--seed", "4", "--temperature", "1.5"]), first);
    let greedy = text(&["--temperature", "0"]);
    assert_eq!(text(&["--temperature", "0", "--seed", "9"]), greedy);
    assert_eq!(text(&["--top-k", "1", "--seed", "9"]), greedy);
    assert_eq!(text(&["--top-p", "1e-9", "--top-k", "0", "--seed", "9"]), greedy);
}

/// Precisions give texts of their own, each the same on any number of workers, and f32 is the default.
#[test]
fn a_precision_has_one_text_whatever_the_workers() {
    let scratch = trained();
    let with = |precision: &str, more: &[&str]| {
        let found = json(&scratch, "run", &[&["--precision", precision, "--temperature", "1.2"], more].concat());
        assert_eq!(found["precision"], precision);
        found["tokens"].clone()
    };
    let default = json(&scratch, "run", &["--temperature", "1.2"]);
    assert_eq!((&default["precision"], &default["tokens"]), (&"f32".into(), &with("f32", &[])));
    for precision in ["f32", "bf16", "int8"] {
        let first = with(precision, &["--workers", "1"]);
        assert_eq!(with(precision, &["--workers", "2"]), first);
        assert_eq!(with(precision, &["--workers", "3"]), first);
    }
    generate(&scratch, "run", &["--precision", "q4"]).fails(2, &["q4", "f32, bf16, int8"]);
}

/// The samples of a run are what `generate` makes of its checkpoints, and they change no weights.
#[test]
fn a_run_shows_samples() {
    let scratch = Scratch::new();
    let keys = "[stage.evaluate]\nprompts = [\"kamo rite\", \"\"]\nsample_tokens = 12\n";
    let sampling = scratch.read("run.toml").replace("interval = 4\n", "interval = 3\n");
    scratch.train("plain", &[]);
    assert!(!scratch.path("plain/samples.jsonl").exists());
    scratch.write("run.toml", sampling.replace("[stage.evaluate]\n", keys));
    let ran = scratch.train("run", &["--workers", "2"]);
    assert_eq!(scratch.last("run", "model.safetensors"), scratch.last("plain", "model.safetensors"));
    let mut expected = String::new();
    for step in [3, 6] {
        for prompt in ["kamo rite", ""] {
            let folder = format!("run/checkpoints/step-0000000{step}");
            let more = ["generate", &folder, "--prompt", prompt, "--max-tokens", "12", "--json"];
            let found: Value = serde_json::from_str(&scratch.pipeline(&more).succeeds().stdout).unwrap();
            let text = found["text"].as_str().unwrap();
            let said = format!("{prompt}{text}").trim_end().replace('\n', "\n  ");
            assert!(ran.stderr.contains(&format!("Sample after {step} steps: {said}")), "{said}\n{}", ran.stderr);
            let [prompt, text] = [prompt, text].map(Value::from);
            expected += &format!("{{\"step\":{step},\"prompt\":{prompt},\"text\":{text}}}\n");
        }
    }
    assert_eq!(scratch.read("run/samples.jsonl"), expected);
    assert_eq!(ran.stderr.matches("Sample after").count(), 4);
    let (validated, sample) = (ran.stderr.find("Step 3: validation loss"), ran.stderr.find("Sample after 3 steps"));
    assert!(validated < sample, "samples follow the validation: {}", ran.stderr);
    // Neither the number of workers nor a kill makes a difference. The model that is resumed is validated again.
    scratch.train("alone", &["--workers", "1"]);
    assert_eq!(scratch.read("alone/samples.jsonl"), expected);
    std::fs::remove_dir_all(scratch.path("run/checkpoints/step-00000006")).unwrap();
    scratch.train("run", &["--resume"]);
    assert_eq!(scratch.read("run/samples.jsonl"), expected);
    scratch.pipeline(&["verify", "run"]).succeeds();
}

#[test]
fn prompts_must_fit_and_keys_for_samples_need_them() {
    let scratch = Scratch::new();
    let prompt = "kamo rite ".repeat(50);
    let long = format!("evaluate.prompts=[\"kamo\", {prompt:?}]");
    let ran = scratch.pipeline(&["run", "run.toml", "--run-dir", "long", "--set", &long]);
    ran.fails(1, &["stage `evaluate`: `prompts`, item 2: the prompt has", "but the model's context is 32"]);
    // The model's context may be longer than the sequences that it is trained on.
    let ran = scratch.train("longer", &["--set", &long, "--set", "forward.context=512"]);
    assert!(ran.stderr.contains(&format!("Sample after 6 steps: {prompt}")), "{}", ran.stderr);
    let check = |set: &[&str]| {
        let set = set.iter().flat_map(|set| ["--set", set]);
        scratch.pipeline(&["check", "run.toml"].into_iter().chain(set).collect::<Vec<_>>())
    };
    let said = "`evaluate.top_k`: there are no samples without `prompts`: leave it out, or set that";
    check(&["evaluate.top_k=1"]).fails(2, &[said]);
    check(&["evaluate.prompts=[\"\"]", "evaluate.interval=0"])
        .fails(2, &["`evaluate.prompts`: samples are generated at"]);
    check(&["evaluate.prompts=kamo"]).fails(2, &["`evaluate.prompts`", "expected a list"]);
}

/// What transformers gave, kept by `tests/golden/make_golden_greedy.py`: GPT-2 with `vocab.json` and `merges.txt`, the
/// others with `tokenizer.json`.
#[test]
fn greedy_text_is_the_200_tokens_of_transformers() {
    let scratch = Scratch::new();
    let golden = support::repository().join("tests/golden");
    let known: Value = serde_json::from_slice(&std::fs::read(golden.join("greedy.json")).unwrap()).unwrap();
    for model in ["gpt2", "llama", "qwen3", "nanochat"] {
        let folder = golden.join(format!("greedy-{model}")).display().to_string();
        let greedy =
            ["--temperature", "0", "--max-tokens", "200", "--json", "--prompt", known["prompt"].as_str().unwrap()];
        let ran = scratch.pipeline(&[&["generate", &folder][..], &greedy].concat()).succeeds();
        let found: Value = serde_json::from_str(&ran.stdout).expect("one line of JSON");
        assert_eq!(
            found["prompt_tokens"].as_u64(),
            known["prompt_ids"].as_array().map(|ids| ids.len() as u64),
            "{model}"
        );
        assert_eq!(found["tokens"].as_array().map(Vec::len), Some(200), "{model}");
        assert_eq!(found["tokens"], known[model], "{model}");
    }
}

#[test]
fn it_ends_where_the_context_does_and_says_so() {
    let scratch = trained();
    let found = json(&scratch, "run", &["--max-tokens", "500", "--temperature", "1.5", "--top-k", "0", "--seed", "5"]);
    // 32 positions; the last token is not fed any more.
    let (stop, tokens) = (found["stop"].as_str().unwrap(), found["tokens"].as_array().unwrap().len() as u64);
    match stop {
        "context" => assert_eq!(found["prompt_tokens"].as_u64().unwrap() + tokens, 33),
        "end_of_text" => assert!(found["prompt_tokens"].as_u64().unwrap() + tokens <= 33),
        other => panic!("stopped by {other}"),
    }
    let ran = generate(&scratch, "run", &["--max-tokens", "500", "--temperature", "0"]).succeeds();
    assert!(ran.stderr.contains("fills the model's context of 32 tokens"), "{}", ran.stderr);
    let long = "kamo ".repeat(40);
    scratch.pipeline(&["generate", "run", "--prompt", &long]).fails(2, &["the model's context is 32"]);
    scratch.pipeline(&["generate", "run", "--prompt", "", "--max-tokens", "3"]).succeeds();
}

#[test]
fn what_is_wrong_is_said() {
    let scratch = trained();
    generate(&scratch, "rum", &[]).fails(2, &["there is no run or checkpoint rum", "similar: run"]);
    scratch.write("run/checkpoints/notes.txt", "");
    generate(&scratch, "run/checkpoints", &[]).fails(2, &["is neither a run nor a checkpoint"]);
    std::fs::create_dir(scratch.path("empty")).unwrap();
    scratch.write("empty/config.toml", "");
    generate(&scratch, "empty", &[]).fails(2, &["empty has no checkpoint yet"]);
    let last =
        format!("run/checkpoints/{}", scratch.checkpoints("run").into_iter().rfind(|c| c != "notes.txt").unwrap());
    let config = scratch.read(&format!("{last}/config.json"));
    scratch.write(&format!("{last}/config.json"), config.replace("\"gpt2\"", "\"bert\""));
    generate(&scratch, &last, &[]).fails(1, &[&last, "models of type `bert`"]);
    scratch.write(&format!("{last}/config.json"), config.replace("\"n_layer\": 2", "\"n_layer\": 3"));
    generate(&scratch, &last, &[]).fails(1, &["transformer.h.2.ln_1.weight", "no such tensor"]);
    scratch.write(&format!("{last}/config.json"), &config);
    std::fs::remove_file(scratch.path(&format!("{last}/tokenizer.json"))).unwrap();
    generate(&scratch, &last, &[]).fails(2, &["has neither tokenizer.json nor vocab.json"]);
}

#[test]
fn whoever_has_read_enough_may_go() {
    let scratch = trained();
    let mut command = scratch.command(&["generate", "run", "--prompt", "kamo", "--max-tokens", "25"]);
    let mut child = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

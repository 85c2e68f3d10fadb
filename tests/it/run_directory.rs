//! What a run leaves behind, and what people see while it runs.
use crate::support::Scratch;
use safetensors::SafeTensors;
use serde_json::Value;

#[test]
fn the_resolved_configuration_runs_again_to_the_same_bits() {
    let scratch = Scratch::new();
    scratch.train("a", &["--set", "optimize.learning_rate=2e-2", "--workers", "1"]);
    let config = scratch.read("a/config.toml");
    assert!(config.contains("# --set optimize.learning_rate=2e-2"), "origins are comments: {config}");
    assert!(config.contains("# default"), "{config}");
    scratch.pipeline(&["run", "a/config.toml", "--run-dir", "b"]).succeeds();
    assert_eq!(scratch.numbers("a"), scratch.numbers("b"));
    assert!(scratch.last("a", "model.safetensors") == scratch.last("b", "model.safetensors"));
}

#[test]
fn without_a_name_for_it_the_directory_is_runs_and_the_runs_name() {
    let scratch = Scratch::new();
    scratch.pipeline(&["run", "run.toml", "--set", "run.name=named", "--epochs", "0.01"]).succeeds();
    for file in ["config.toml", "environment.json", "metrics.jsonl", "tokenizer.json", "checkpoints"] {
        assert!(scratch.path("runs/named").join(file).exists(), "{file} is missing");
    }
}

#[test]
fn environment_says_what_the_run_ran_on() {
    let scratch = Scratch::new();
    scratch.train("r", &["--workers", "2"]);
    let environment: Value = serde_json::from_str(&scratch.read("r/environment.json")).unwrap();
    for key in ["program", "cpu", "cores", "workers", "blas_kernel", "command", "directory"] {
        assert!(environment.get(key).is_some_and(|value| !value.is_null()), "{key}: {environment}");
    }
    assert_eq!(environment["workers"], 2);
}

#[test]
fn every_step_has_a_line_of_metrics() {
    let scratch = Scratch::new();
    scratch.train("r", &[]);
    let lines = scratch.metrics("r");
    assert_eq!(lines.len(), 6);
    const ALWAYS: [&str; 10] = [
        "step",
        "epoch",
        "tokens",
        "loss",
        "learning_rate",
        "gradient_norm",
        "tok_per_sec",
        "mfu",
        "data_wait_ms",
        "time",
    ];
    for (index, line) in lines.iter().enumerate() {
        let step = index as u64 + 1;
        let mut expected = ALWAYS.to_vec();
        if step == 4 || step == 6 {
            expected.extend(["validation_loss", "bits_per_byte", "blocks"]);
        }
        let keys: Vec<&str> = line.keys().map(String::as_str).collect();
        assert_eq!(keys, expected, "step {step}");
        let numbers = line.iter().all(|(key, value)| value.is_number() || key == "blocks");
        assert!(numbers, "step {step}: {line:?}");
        assert_eq!((line["step"].as_u64(), line["tokens"].as_u64()), (Some(step), Some(step * 128)));
    }
    assert_eq!(lines[0]["learning_rate"], 0.005, "half of the way to the peak after one of two steps");
}

#[test]
fn the_loss_falls_with_a_tokenizer_trained_on_the_corpus() {
    let scratch = Scratch::new();
    scratch.train("r", &["--set", "run.max_steps=30"]);
    let losses = scratch.losses("r");
    assert!((losses[0] - 300f64.ln()).abs() < 0.2, "a fresh model knows nothing: {}", losses[0]);
    assert!(losses[29] < losses[0] - 1.5, "{losses:?}");
    let validation = |step: usize| scratch.metrics("r")[step - 1]["validation_loss"].as_f64().unwrap();
    assert!(validation(28) < validation(4), "held-out documents are learned too");
}

#[test]
fn a_checkpoint_has_the_files_and_tensor_names_of_hugging_face() {
    let scratch = Scratch::new();
    scratch.train("r", &[]);
    let bytes = scratch.last("r", "model.safetensors");
    let model = SafeTensors::deserialize(&bytes).unwrap();
    let shape = |name: &str| model.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}")).shape().to_vec();
    assert_eq!(shape("transformer.wte.weight"), [300, 32]);
    assert_eq!(shape("transformer.wpe.weight"), [32, 32]);
    assert_eq!(shape("transformer.h.1.attn.c_attn.weight"), [32, 96]);
    assert_eq!(shape("transformer.h.1.mlp.c_proj.weight"), [128, 32]);
    assert_eq!(shape("transformer.ln_f.bias"), [32]);
    assert_eq!(model.len(), 2 + 2 * 12 + 2);
    let config: Value = serde_json::from_slice(&scratch.last("r", "config.json")).unwrap();
    assert_eq!((&config["model_type"], &config["vocab_size"]), (&"gpt2".into(), &300.into()));
    let bytes = scratch.last("r", "optimizer.safetensors");
    assert_eq!(SafeTensors::deserialize(&bytes).unwrap().len(), 2 * model.len());
    assert_eq!(scratch.last("r", "tokenizer.json"), scratch.bytes("r/tokenizer.json"));
}

#[test]
fn a_run_starts_from_the_weights_of_another() {
    let scratch = Scratch::new();
    scratch.train("a", &["--set", "run.max_steps=30"]);
    let from = "run.initial_checkpoint=a/checkpoints/step-00000030";
    scratch.train("b", &["--set", from, "--set", "run.max_steps=2"]);
    let (a, b) = (scratch.losses("a"), scratch.losses("b"));
    assert!(b[0] < a[0] - 1.0, "began at {} although {} had been reached", b[0], a[29]);
    let wrong = ["--set", from, "--set", "forward.width=64"];
    let arguments = [&["run", "run.toml", "--run-dir", "c"][..], &wrong].concat();
    scratch.pipeline(&arguments).fails(2, &["would mean something else", "n_embd is 32 in the model, 64 in the run"]);
}

#[test]
fn sample_takes_some_documents_and_epochs_become_steps() {
    let scratch = Scratch::new();
    let said = scratch.train("r", &["--sample", "40", "--epochs", "1"]).stderr;
    assert!(said.contains("40/40 documents"), "{said}");
    let last = scratch.metrics("r").pop().unwrap();
    let epoch = last["epoch"].as_f64().unwrap();
    assert!((1.0..1.2).contains(&epoch), "one pass, rounded up to a step: {epoch}");
}

#[test]
fn a_pipe_gets_plain_lines_and_the_time_of_each_stage() {
    let scratch = Scratch::new();
    let ran = scratch.train("r", &[]);
    assert!(!ran.stderr.contains(['\r', '\x1b']), "no terminal codes: {:?}", ran.stderr);
    let line = ran.stderr.lines().rfind(|line| line.starts_with("Training [")).expect("a progress line");
    for piece in ["█", "6/6 (100.0%) | Loss: ", " tok/s | Batch: 4", "MFU: ", "Wait: "] {
        assert!(line.contains(piece), "{piece:?} in {line}");
    }
    assert!(!line.contains("Val: "), "the loss of an earlier validation in {line}");
    let products = compute::kernels::gemm::description(contract::Precision::F32);
    for piece in ["CPU", &products[..], "GPT-2, 2 layers", "The model is in r/checkpoints/step-00000006"] {
        assert!(ran.stderr.contains(piece), "{piece:?} in {}", ran.stderr);
    }
    let table: Vec<&str> = ran.stderr.lines().skip_while(|line| !line.starts_with("stage ")).collect();
    for stage in ["read", "tokenize", "pack", "forward", "loss", "backward", "reduce", "optimize", "checkpoint"] {
        assert!(table.iter().any(|line| line.starts_with(stage)), "{stage} in {table:#?}");
    }
}

#[test]
fn the_banner_and_the_checkpoint_name_what_multiplies_in_less_than_f32() {
    use contract::Precision::{Bf16, Int8};
    let scratch = Scratch::new();
    let llama = ["--stage", "forward=llama.toml"];
    for (name, stage, precision) in [("gpt2", &[][..], Bf16), ("llama", &llama, Bf16), ("int8", &llama, Int8)] {
        let kernel = compute::kernels::gemm::description(precision);
        let precision = format!("forward.precision={precision}");
        let ran = scratch.train(name, &[stage, &["--set", &precision, "--set", "run.max_steps=1"]].concat());
        assert!(ran.stderr.contains(&kernel), "{kernel:?} in {}", ran.stderr);
        let said = scratch.pipeline(&["inspect", &format!("{name}/checkpoints/step-00000001")]).succeeds().stdout;
        assert!(said.contains(&kernel), "{kernel:?} in {said}");
    }
}

#[test]
fn no_color_leaves_no_colour() {
    let scratch = Scratch::new();
    let output = scratch.command(&["run", "run.toml"]).env("NO_COLOR", "1").output().unwrap();
    assert!(output.status.success());
    assert!(!output.stderr.contains(&0x1b) && !output.stdout.contains(&0x1b));
    let output = scratch.command(&["run", "--help"]).env("NO_COLOR", "1").output().unwrap();
    assert!(!output.stdout.contains(&0x1b));
}

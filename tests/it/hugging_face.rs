//! Checkpoints are Hugging Face's: transformers loads ours, and we start from those it saves.
//!
//! Needs a Python with torch and transformers: `$MILLRACE_PYTHON`, or `python3`.
mod descriptions;
mod greedy_text;

use crate::support;
use crate::support::Scratch;
use compute::models::{Gpt2Shape, LlamaShape, Model, RopeScaling, Transformer};
use contract::parameters::splitmix64;
use contract::{ParameterSpec, Tensor};
use serde_json::{Value, json};

/// Runs a script; `None` without torch or transformers.
fn python(scratch: &Scratch, script: &str) -> Option<Value> {
    support::script(scratch, "torch, transformers, safetensors", script)
}

/// Every document the same sentence, one a lane and sequence: the validation loss is that of a batch which Python makes
/// too.
const LOSS: &str = "
import json, torch, transformers
from transformers import AutoModelForCausalLM
from tokenizers import Tokenizer
folder = 'FOLDER'
model, about = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
wrong = {key: list(about[key]) for key in ('missing_keys', 'unexpected_keys', 'mismatched_keys')}
assert not any(wrong.values()), wrong
tokenizer = Tokenizer.from_file(folder + '/tokenizer.json')
ids = tokenizer.encode(open('sentence.txt').read(), add_special_tokens=False).ids + [0]
stream = (ids * 40)[:33]
x, y = torch.tensor([stream[:-1]]), torch.tensor([stream[1:]])
with torch.no_grad():
    logits = model(x).logits
loss = torch.nn.functional.cross_entropy(logits.view(-1, logits.shape[-1]), y.view(-1))
print(json.dumps({'loss': loss.item(), 'ids': len(ids)}))
";

/// A sentence whose tokens, with end of text, are 32: then every sequence of the corpus is the same.
fn sentence(scratch: &Scratch) -> String {
    let json = scratch.read("first/tokenizer.json");
    let tokenizer = text::Tokenizer::from_json("trained", json, "<|endoftext|>").expect("a tokenizer");
    let mut sentence = String::new();
    for word in support::corpus(3).join(" ").split(' ') {
        let longer = format!("{sentence}{}{word}", if sentence.is_empty() { "" } else { " " });
        match tokenizer.encode(&longer).expect("tokens").len() {
            ..31 => sentence = longer,
            31 => return longer,
            _ => {}
        }
    }
    panic!("no words that fill 31 tokens");
}

#[test]
fn transformers_loads_a_checkpoint_and_computes_the_same_loss() {
    let scratch = Scratch::new();
    scratch.train("first", &["--set", "run.max_steps=20"]);
    let sentence = sentence(&scratch);
    scratch.write("sentence.txt", &sentence);
    let script = LOSS.replace("FOLDER", "first/checkpoints/step-00000020");
    let Some(theirs) = python(&scratch, &script) else { return };
    assert_eq!(theirs["ids"], 32, "the tokenizer of the checkpoint counts as ours");
    // A run of one step from that checkpoint says the loss before it: of sequences that are all the same.
    scratch.documents("corpus.parquet", &vec![sentence; 100]);
    scratch.write("same.toml", "type = \"bpe\"\ntokenizer = \"first/tokenizer.json\"\n");
    let from = "run.initial_checkpoint=first/checkpoints/step-00000020";
    scratch.train("again", &["--stage", "tokenize=same.toml", "--set", from, "--set", "run.max_steps=1"]);
    let (ours, theirs) = (scratch.losses("again")[0], theirs["loss"].as_f64().unwrap());
    assert!((ours - theirs).abs() < 1e-4, "ours {ours}, transformers {theirs}");
}

#[test]
fn a_run_starts_from_a_model_that_transformers_saved() {
    let scratch = Scratch::new();
    scratch.train("first", &[]);
    let sentence = sentence(&scratch);
    scratch.write("sentence.txt", &sentence);
    let make = "
import transformers, shutil, torch
torch.manual_seed(1)
config = transformers.GPT2Config(vocab_size=300, n_positions=32, n_embd=32, n_layer=2, n_head=2)
transformers.GPT2LMHeadModel(config).save_pretrained('theirs')
shutil.copy('first/tokenizer.json', 'theirs/tokenizer.json')
";
    let Some(theirs) = python(&scratch, &format!("{make}{}", LOSS.replace("FOLDER", "theirs"))) else { return };
    scratch.documents("corpus.parquet", &vec![sentence; 100]);
    scratch.write("same.toml", "type = \"bpe\"\ntokenizer = \"first/tokenizer.json\"\n");
    let more = ["--stage", "tokenize=same.toml", "--set", "run.initial_checkpoint=theirs", "--set", "run.max_steps=1"];
    scratch.train("ours", &more);
    let (ours, theirs) = (scratch.losses("ours")[0], theirs["loss"].as_f64().unwrap());
    assert!((ours - theirs).abs() < 1e-4, "ours {ours}, transformers {theirs}");
}

/// Models of every kind, with more positions and rows of the embedding than the run needs.
const SAVE_ALL: &str = "
import json, shutil, torch, transformers
torch.manual_seed(1)
sizes = dict(vocab_size=320, bos_token_id=0, eos_token_id=0, initializer_range=0.3)
gpt2 = transformers.GPT2Config(n_positions=64, n_embd=48, n_layer=2, n_head=4, n_inner=80, **sizes)
sizes |= dict(hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)
sizes |= dict(max_position_embeddings=64)
llama3 = dict(rope_type='llama3', low_freq_factor=1.0, high_freq_factor=4.0, rope_theta=1e4, factor=4.0,
              original_max_position_embeddings=16)
models = dict(
    gpt2=transformers.GPT2LMHeadModel(gpt2),
    tied=transformers.LlamaForCausalLM(transformers.LlamaConfig(tie_word_embeddings=True, rms_norm_eps=1e-3, **sizes)),
    llama3=transformers.LlamaForCausalLM(transformers.LlamaConfig(rope_parameters=llama3, head_dim=16, **sizes)),
    mistral=transformers.MistralForCausalLM(transformers.MistralConfig(sliding_window=None, head_dim=16, **sizes)),
    qwen3=transformers.Qwen3ForCausalLM(transformers.Qwen3Config(head_dim=20, **sizes)),
    nanochat=transformers.NanoChatForCausalLM(transformers.NanoChatConfig(**sizes)),
)
for folder, model in models.items():
    model.save_pretrained(folder)
    shutil.copy('first/tokenizer.json', folder + '/tokenizer.json')
";

#[test]
fn continued_pretraining_begins_with_the_loss_of_transformers() {
    let scratch = Scratch::new();
    scratch.train("first", &[]);
    let sentence = sentence(&scratch);
    scratch.write("sentence.txt", &sentence);
    scratch.documents("same.parquet", &vec![sentence; 100]);
    let mut make = SAVE_ALL;
    for folder in ["gpt2", "tied", "llama3", "mistral", "qwen3", "nanochat"] {
        let Some(theirs) = python(&scratch, &format!("{make}{}", LOSS.replace("FOLDER", folder))) else { return };
        make = "";
        let config = format!(
            "extends = \"builtin:base\"\nrun = {{ initial_checkpoint = \"{folder}\", max_steps = 1 }}\n\
             stage.read.paths = [\"same.parquet\"]\nstage.pack = {{ sequence_length = 32, micro_batch_size = 2 }}\n\
             stage.evaluate.interval = 0\n"
        );
        scratch.write("continue.toml", config);
        let run = format!("from-{folder}");
        scratch.pipeline(&["run", "continue.toml", "--run-dir", &run]).succeeds();
        let (ours, theirs) = (scratch.losses(&run)[0], theirs["loss"].as_f64().unwrap());
        assert!((ours - theirs).abs() < 1e-4, "{folder}: ours {ours}, transformers {theirs}");
        // What is written is again a model that transformers loads, with all positions.
        let config: Value = serde_json::from_slice(&scratch.last(&run, "config.json")).unwrap();
        let positions = if folder == "gpt2" { "n_positions" } else { "max_position_embeddings" };
        assert_eq!((&config[positions], &config["vocab_size"]), (&64.into(), &320.into()), "{folder}");
    }
}

/// The loss of each token of documents, as in transformers' guide to perplexity, and every token counts once: the input
/// of a window is at most `length` tokens, and the first of a document is the token that begins a text.
const PERPLEXITY: &str = "
import json, torch
from transformers import AutoModelForCausalLM
from tokenizers import Tokenizer
documents = json.load(open('documents.json'))
answer = {}
for folder in FOLDERS:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = Tokenizer.from_file(folder + '/tokenizer.json')
    length = model.config.max_position_embeddings
    for stride in (length, length // 2):
        nats, scored_tokens = 0.0, 0
        for document in documents:
            ids = tokenizer.encode(document, add_special_tokens=False).ids
            ids = [model.config.bos_token_id] + ids + [model.config.eos_token_id]
            scored = 0
            for begin in range(0, len(ids), stride):
                last = min(begin + length, len(ids) - 1)
                with torch.no_grad():
                    logits = model(torch.tensor([ids[begin:last]])).logits[0, scored - begin:].double()
                targets = torch.tensor(ids[scored + 1:last + 1])
                nats += torch.nn.functional.cross_entropy(logits, targets, reduction='sum').item()
                scored_tokens += len(targets)
                scored = last
                if scored == len(ids) - 1:
                    break
        bits = nats / 0.6931471805599453 / sum(len(document.encode()) for document in documents)
        answer[f'{folder} {stride}'] = [nats / scored_tokens, bits, scored_tokens]
print(json.dumps(answer))
";

#[test]
fn the_validation_loss_is_that_of_transformers() {
    let scratch = Scratch::new();
    let documents: Vec<String> = support::corpus(120).into_iter().step_by(10).collect();
    scratch.write("documents.json", serde_json::to_string(&documents).unwrap());
    scratch.write(
        "documents.jsonl",
        documents.iter().map(|text| format!("{}\n", json!({ "text": text }))).collect::<String>(),
    );
    let models = ["gpt2", "llama", "qwen3", "nanochat"];
    for model in models {
        let stage = format!("forward={model}.toml");
        let stage = if model == "gpt2" { vec![] } else { vec!["--stage", &stage] };
        scratch.train(model, &[&stage[..], &["--set", "run.max_steps=20"]].concat());
    }
    let folders = models.map(|model| format!("{model}/checkpoints/step-00000020"));
    let Some(theirs) = python(&scratch, &PERPLEXITY.replace("FOLDERS", &format!("{folders:?}"))) else { return };
    for (model, folder) in models.iter().zip(&folders) {
        for stride in ["32", "16"] {
            let theirs = &theirs[format!("{folder} {stride}")];
            // On the held-out documents of the run, and on the same documents in a file.
            for more in [&[][..], &["--data", "documents.jsonl"]] {
                let evaluate = [&["evaluate", model, "--stride", stride, "--json"], more].concat();
                let ours: Value = serde_json::from_str(&scratch.pipeline(&evaluate).succeeds().stdout).unwrap();
                for (name, theirs) in ["validation_loss", "bits_per_byte"].iter().zip(theirs.as_array().unwrap()) {
                    let (ours, theirs) = (ours[name].as_f64().unwrap(), theirs.as_f64().unwrap());
                    assert!((ours - theirs).abs() < 1e-5, "{model} {stride} {name}: {ours}, transformers {theirs}");
                }
                assert_eq!(ours["tokens"], theirs[2]);
            }
        }
    }
}

/// Loss and bits per byte of the models that [`made_up`] writes, for windows that do not overlap and for windows that
/// overlap by half, as transformers 5.24 computes them on the held-out documents of [`support::corpus`].
const OF_MADE_UP_MODELS: [(&str, &str, [f64; 2]); 4] = [
    ("gpt2", "32", [6.844_330_549_6, 3.188_042_673_6]),
    ("gpt2", "16", [6.821_731_657_1, 3.177_516_263_0]),
    ("llama", "32", [6.620_682_866_9, 3.083_869_102_3]),
    ("llama", "16", [6.625_179_173_1, 3.085_963_451_2]),
];

/// Writes a model whose weights are the same on every machine, with the tokenizer of the run `first`.
fn made_up(scratch: &Scratch, folder: &str, model: &Transformer) {
    std::fs::create_dir(scratch.path(folder)).unwrap();
    scratch.write(&format!("{folder}/config.json"), model.facts().config.to_string());
    scratch.write(&format!("{folder}/tokenizer.json"), scratch.read("first/tokenizer.json"));
    let tensor = |(number, spec): (u64, &ParameterSpec)| {
        let gain = if spec.name.contains("norm") || spec.name.contains(".ln_") {
            f32::from(spec.name.ends_with("weight"))
        } else {
            0.0
        };
        let value = |i| gain + (splitmix64(number, i) % 10_001) as f32 / 12_500.0 - 0.4;
        let values: Vec<f32> = (0..spec.len() as u64).map(value).collect();
        (spec.name.clone(), Tensor::from_values(spec.shape.clone(), &values))
    };
    let tensors: Vec<(String, Tensor)> = (0..).zip(&model.facts().parameters).map(tensor).collect();
    let tensors = tensors.iter().map(|(name, tensor)| (name.clone(), tensor)).collect();
    train::weights::write(&scratch.path(&format!("{folder}/model.safetensors")), tensors).unwrap();
}

#[test]
fn the_loss_of_made_up_models_is_that_of_transformers() {
    let scratch = Scratch::new();
    scratch.train("first", &["--set", "run.max_steps=1"]);
    let documents: Vec<String> = support::corpus(120).into_iter().step_by(10).collect();
    scratch.write("documents.json", serde_json::to_string(&documents).unwrap());
    scratch.documents("documents.parquet", &documents);
    let (layers, heads, width, vocabulary, length, end_of_text) = (2, 4, 32, 300, 32, 0);
    let feed_forward = 48;
    let gpt2 = Gpt2Shape { layers, heads, width, feed_forward, vocabulary, length, end_of_text };
    made_up(&scratch, "gpt2", &gpt2.model());
    let llama = LlamaShape {
        layers,
        heads,
        kv_heads: 2,
        head_width: 8,
        width,
        feed_forward,
        vocabulary,
        length,
        tied_head: false,
        rms_epsilon: 1e-5,
        rope_theta: 1e4,
        rope_scaling: RopeScaling::None,
        end_of_text,
    };
    made_up(&scratch, "llama", &llama.model());
    // A token of its own begins each document.
    scratch.write(
        "llama/config.json",
        scratch.read("llama/config.json").replace("\"bos_token_id\":0", "\"bos_token_id\":7"),
    );
    let theirs = python(&scratch, &PERPLEXITY.replace("FOLDERS", "['gpt2', 'llama']"));
    println!("transformers: {theirs:?}");
    for (model, stride, golden) in OF_MADE_UP_MODELS {
        let evaluate = ["evaluate", model, "--stride", stride, "--data", "documents.parquet", "--json"];
        let ours: Value = serde_json::from_str(&scratch.pipeline(&evaluate).succeeds().stdout).unwrap();
        for (index, (name, golden)) in ["validation_loss", "bits_per_byte"].into_iter().zip(golden).enumerate() {
            let ours = ours[name].as_f64().unwrap();
            assert!((ours - golden).abs() < 1e-5, "{model} {stride} {name}: {ours}, golden {golden}");
            let Some(theirs) = &theirs else { continue };
            let theirs = theirs[format!("{model} {stride}")][index].as_f64().unwrap();
            assert!((theirs - golden).abs() < 1e-6, "{model} {stride} {name}: golden {golden}, transformers {theirs}");
        }
    }
}

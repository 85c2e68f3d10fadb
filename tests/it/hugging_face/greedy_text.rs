//! Greedy text of a model is that of transformers.
use super::{LOSS, python, sentence};
use crate::support::Scratch;
use serde_json::Value;

/// What transformers adds to the prompt's ids, greedily.
const GREEDY: &str = "
import json, torch
from transformers import AutoModelForCausalLM
from tokenizers import Tokenizer
model, about = AutoModelForCausalLM.from_pretrained('FOLDER', dtype=torch.float32, output_loading_info=True)
wrong = {key: list(about[key]) for key in ('missing_keys', 'unexpected_keys', 'mismatched_keys')}
assert not any(wrong.values()), wrong
ids = torch.tensor([Tokenizer.from_file('first/tokenizer.json').encode('kamo rite', add_special_tokens=False).ids])
out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=200, do_sample=False, pad_token_id=0)
print(json.dumps({'tokens': out[0, ids.shape[1]:].tolist()}))
";

/// Both add the same tokens to a prompt.
fn greedy_texts_are_the_same(scratch: &Scratch, folder: &str, make: &str) {
    let script = format!("{make}{}", GREEDY.replace("FOLDER", folder));
    let Some(theirs) = python(scratch, &script) else { return };
    let theirs: Vec<u64> = serde_json::from_value(theirs["tokens"].clone()).expect("ids");
    let arguments = ["--prompt", "kamo rite", "--max-tokens", "200", "--temperature", "0", "--json"];
    let ran = scratch.pipeline(&[&["generate", folder][..], &arguments].concat()).succeeds();
    let ours: Value = serde_json::from_str(&ran.stdout).expect("JSON");
    let tokens: Vec<u64> = serde_json::from_value(ours["tokens"].clone()).expect("ids");
    // Both list the token that ends a text.
    assert!(tokens.len() == 200 || ours["stop"] == "end_of_text", "{folder}");
    assert_eq!(tokens, theirs, "{folder}");
    assert!(tokens.len() >= 30, "only {} tokens were compared", tokens.len());
}

/// Enough positions for 200 tokens, and more than one way to go on.
const LONG: [&str; 6] =
    ["--set", "pack.sequence_length=256", "--set", "run.max_steps=30", "--set", "optimize.learning_rate=3e-3"];

#[test]
fn greedy_text_of_a_checkpoint_is_that_of_transformers() {
    let scratch = Scratch::new();
    scratch.train("first", &LONG);
    greedy_texts_are_the_same(&scratch, "first/checkpoints/step-00000030", "");
}

#[test]
fn greedy_text_of_what_transformers_saved_is_that_of_transformers() {
    let scratch = Scratch::new();
    scratch.train("first", &[]);
    let save = "
import json, os, shutil, torch, transformers
torch.manual_seed(1)
sizes = dict(vocab_size=300, bos_token_id=0, eos_token_id=0, initializer_range=0.3)
gpt2 = transformers.GPT2Config(n_positions=256, n_embd=48, n_layer=2, n_head=4, **sizes)
transformers.GPT2LMHeadModel(gpt2).save_pretrained('gpt2')
tokenizer = json.load(open('first/tokenizer.json'))['model']
json.dump(tokenizer['vocab'], open('gpt2/vocab.json', 'w'))
open('gpt2/merges.txt', 'w').write('#version: 0.2\\n' + ''.join(' '.join(pair) + '\\n' for pair in tokenizer['merges']))
sizes |= dict(hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)
for tied in (False, True):
    folder = 'tied' if tied else 'untied'
    llama = transformers.LlamaConfig(max_position_embeddings=256, tie_word_embeddings=tied, rope_theta=5e4, **sizes)
    transformers.LlamaForCausalLM(llama).save_pretrained(folder)
    shutil.copy('first/tokenizer.json', folder + '/tokenizer.json')
    # In bfloat16, and in several files.
    transformers.LlamaForCausalLM(llama).bfloat16().save_pretrained(folder + '-bf16', max_shard_size='20KB')
    shutil.copy('first/tokenizer.json', folder + '-bf16/tokenizer.json')
    assert os.path.exists(folder + '-bf16/model.safetensors.index.json')
sizes |= dict(max_position_embeddings=256)
near = dict(rope_theta=1e4, factor=4.0, original_max_position_embeddings=64)
for folder, model in dict(
    mistral=transformers.MistralForCausalLM(transformers.MistralConfig(sliding_window=None, head_dim=16, **sizes)),
    linear=transformers.LlamaForCausalLM(transformers.LlamaConfig(
        rope_parameters=dict(rope_type='linear', rope_theta=1e4, factor=2.0), **sizes)),
    llama3=transformers.LlamaForCausalLM(transformers.LlamaConfig(
        rope_parameters=dict(rope_type='llama3', low_freq_factor=1.0, high_freq_factor=4.0, **near), head_dim=16, **sizes)),
).items():
    model.save_pretrained(folder)
    shutil.copy('first/tokenizer.json', folder + '/tokenizer.json')
";
    greedy_texts_are_the_same(&scratch, "gpt2", save);
    greedy_texts_are_the_same(&scratch, "untied", "");
    greedy_texts_are_the_same(&scratch, "tied", "");
    greedy_texts_are_the_same(&scratch, "untied-bf16", "");
    greedy_texts_are_the_same(&scratch, "tied-bf16", "");
    for scaled_or_wider in ["mistral", "linear", "llama3"] {
        greedy_texts_are_the_same(&scratch, scaled_or_wider, "");
    }
}

#[test]
fn transformers_loads_other_models_and_computes_the_same_loss_and_text() {
    for (stage, head) in [
        ("forward=llama.toml", "forward.tied_head=false"),
        ("forward=llama.toml", "forward.tied_head=true"),
        ("forward=qwen3.toml", "forward.head_width=10"),
        ("forward=nanochat.toml", "forward.tied_head=false"),
        ("forward=nanochat.toml", "forward.tied_head=true"),
    ] {
        let scratch = Scratch::new();
        let model = ["--stage", stage, "--set", head];
        scratch.train("first", &[&model[..], &["--set", "run.max_steps=20"]].concat());
        let sentence = sentence(&scratch);
        scratch.write("sentence.txt", &sentence);
        let script = LOSS.replace("FOLDER", "first/checkpoints/step-00000020");
        let Some(theirs) = python(&scratch, &script) else { return };
        scratch.documents("same.parquet", &vec![sentence; 100]);
        scratch.write("same.toml", "type = \"bpe\"\ntokenizer = \"first/tokenizer.json\"\n");
        let from = "run.initial_checkpoint=first/checkpoints/step-00000020";
        let one = ["--set", "run.max_steps=1", "--set", "read.paths=[\"same.parquet\"]"];
        scratch.train("again", &[&model[..], &["--stage", "tokenize=same.toml", "--set", from], &one].concat());
        let (ours, theirs) = (scratch.losses("again")[0], theirs["loss"].as_f64().unwrap());
        assert!((ours - theirs).abs() < 1e-4, "ours {ours}, transformers {theirs}");
        std::fs::remove_dir_all(scratch.path("first")).unwrap();
        scratch.train("first", &[&model[..], &LONG].concat());
        greedy_texts_are_the_same(&scratch, "first/checkpoints/step-00000030", "");
    }
}

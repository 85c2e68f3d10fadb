//! The files beside the weights: what transformers must know about the tokenizer and about generation.
use super::python;
use crate::support::Scratch;
use serde_json::{Value, json};

/// The configuration of a small model of each type.
const MODELS: [(&str, &[&str]); 4] = [
    ("gpt2", &[]),
    ("llama", &["--stage", "forward=llama.toml"]),
    ("qwen3", &["--stage", "forward=qwen3.toml"]),
    ("nanochat", &["--stage", "forward=nanochat.toml"]),
];

/// A token that transformers does not know.
const OTHER_END: [&str; 2] = ["--set", "tokenize.end_of_text=\"<the end>\""];

#[test]
fn a_checkpoint_describes_its_tokenizer_and_generation() {
    for (model, stage) in MODELS {
        let scratch = Scratch::new();
        scratch.write("SOURCE.json", r#"{"name": "Made-up words", "licence": "CC0", "language": "tlh"}"#);
        scratch.train("first", &[stage, &OTHER_END].concat());
        let json = |name: &str| -> Value { serde_json::from_slice(&scratch.last("first", name)).expect("JSON") };
        let tokenizer = json("tokenizer_config.json");
        let expected = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<the end>",
            "eos_token": "<the end>",
            "pad_token": "<the end>",
            "padding_side": "left",
            "model_max_length": 32,
            "model_input_names": ["input_ids", "attention_mask"],
            "clean_up_tokenization_spaces": false,
        });
        assert_eq!(tokenizer, expected, "{model}");
        let (config, end) = (json("config.json"), json("tokenizer.json")["model"]["vocab"]["<the end>"].clone());
        assert_eq!((&config["bos_token_id"], &config["eos_token_id"]), (&end, &end), "{model}");
        let expected = json!({ "bos_token_id": end, "eos_token_id": end, "pad_token_id": end, "max_length": 32 });
        assert_eq!(json("generation_config.json"), expected, "{model}");
        let card = String::from_utf8(scratch.last("first", "README.md")).expect("UTF-8");
        for piece in [
            "---\nlibrary_name: transformers\n",
            "language:\n- tlh\nlicense: other\n",
            &format!("| type | `{model}` |"),
            "| updates | 6 |\n| training tokens | 768 |",
            "- Made-up words\n  - licence: CC0",
            "optimize.learning_rate = 0.01\n",
        ] {
            assert!(card.contains(piece), "{piece}: {card}");
        }
    }
}

/// Loads a checkpoint in the ways that people do; each text of a batch is continued as it is alone.
const USES: &str = "
import json, torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline
folder, positions = 'FOLDER', 32
tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
end = tokenizer.convert_tokens_to_ids('END')
assert len(tokenizer) == model.config.vocab_size == model.get_input_embeddings().num_embeddings
assert [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id] == [end] * 3
for config in (model.config, model.generation_config):
    assert config.bos_token_id == config.eos_token_id == end, config
assert model.generation_config.pad_token_id == end and model.get_input_embeddings().padding_idx is None
assert tokenizer.model_max_length == positions
text = 'kamo  rite , su .END vi'
ids = tokenizer(text)['input_ids']
assert ids == Tokenizer.from_file(folder + '/tokenizer.json').encode(text, add_special_tokens=False).ids
assert end in ids and tokenizer.decode(ids) == text, tokenizer.decode(ids)
prompts = ['kamo', 'kamo rite suno la', 'vi su']
batch = tokenizer(prompts, padding=True, return_tensors='pt')
assert sorted(batch) == ['attention_mask', 'input_ids']
greedy = dict(max_new_tokens=8, do_sample=False)
together = tokenizer.batch_decode(model.generate(**batch, **greedy), skip_special_tokens=True)
alone = [model.generate(**tokenizer(prompt, return_tensors='pt'), **greedy) for prompt in prompts]
alone = [tokenizer.decode(ids[0], skip_special_tokens=True) for ids in alone]
assert together == alone, (together, alone)
generate = pipeline('text-generation', folder)
texts = [out[0]['generated_text'] for out in generate(prompts, batch_size=3, **greedy)]
assert texts == alone, (texts, alone)
# Without a length it goes on to the end of the context, not beyond.
whole = generate('kamo', do_sample=False, return_full_text=True)[0]['generated_text']
assert len(tokenizer(whole)['input_ids']) <= positions + 1, whole
# Each row of the embedding is trained.
out = model(torch.tensor([[end, 1, 2]]), labels=torch.tensor([[end, 1, 2]]))
out.loss.backward()
assert model.get_input_embeddings().weight.grad[end].abs().sum() > 0
print(json.dumps(texts))
";

#[test]
fn transformers_finds_the_tokenizer_of_a_checkpoint() {
    for (model, stage) in MODELS {
        for (end, set) in [("<|endoftext|>", &[][..]), ("<the end>", &OTHER_END)] {
            let scratch = Scratch::new();
            scratch.train("first", &[stage, set].concat());
            let uses = USES.replace("FOLDER", "first/checkpoints/step-00000006").replace("END", end);
            let Some(texts) = python(&scratch, &uses) else { return };
            assert_eq!(texts.as_array().map(Vec::len), Some(3), "{model}");
        }
    }
}

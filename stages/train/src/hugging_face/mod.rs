//! The files beside the weights in Hugging Face's layout: what transformers must know about the tokenizer and about
//! generation, and a model card.
mod card;
pub mod sources;

pub use card::ModelCard;

use serde_json::{Map, Value, json};

/// The model's type and sizes.
pub const CONFIG_FILE: &str = "config.json";
/// The tokenizer, as Hugging Face's library `tokenizers` writes it.
pub const TOKENIZER_FILE: &str = "tokenizer.json";
/// Which class of transformers reads [`TOKENIZER_FILE`], and its special tokens.
pub const TOKENIZER_CONFIG_FILE: &str = "tokenizer_config.json";
/// The tokens at which generation starts and ends, and the longest text.
pub const GENERATION_CONFIG_FILE: &str = "generation_config.json";
/// The model card.
pub const CARD_FILE: &str = "README.md";

/// The longest sequence of the model that `config` (the content of `config.json`) describes, in tokens.
pub fn context_length(config: &Value) -> Option<u64> {
    ["max_position_embeddings", "n_positions"].into_iter().find_map(|key| config[key].as_u64())
}

/// The content of `tokenizer_config.json` for a model with this `config.json`. `end_of_text` is how the token that ends
/// a text is spelled.
///
/// That token is also the first one of a text and the padding: there is no other special token. Without this file
/// transformers would guess special tokens from the type of the model, and add those that the vocabulary lacks, with
/// ids that the embedding has no rows for. Texts of a batch are padded on the left, so that all of them can be continued.
pub fn tokenizer_config(end_of_text: &str, config: &Value) -> Value {
    json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": end_of_text,
        "eos_token": end_of_text,
        "pad_token": end_of_text,
        "padding_side": "left",
        "model_max_length": context_length(config),
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": false,
    })
}

/// The content of `generation_config.json` for a model with this `config.json`. Texts end at each of `ends`, or else at
/// the configuration's `eos_token_id`, and where the context does.
///
/// The id for padding is here, and not in `config.json`: transformers would not train the embedding of a `pad_token_id`
/// there, and here it is that of the token that ends a text.
pub fn generation_config(config: &Value, ends: &[u32]) -> Value {
    let end = match ends {
        [] => config["eos_token_id"].clone(),
        [one] => json!(one),
        several => json!(several),
    };
    let first = end.as_array().map_or(&end, |several| &several[0]).clone();
    let entries = [
        ("bos_token_id", config["bos_token_id"].clone()),
        ("eos_token_id", end),
        ("pad_token_id", first),
        ("max_length", json!(context_length(config))),
    ];
    let known = entries.into_iter().filter(|(_, value)| !value.is_null());
    Value::Object(known.map(|(key, value)| (key.to_owned(), value)).collect::<Map<_, _>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_that_ends_a_text_is_every_special_token() {
        let config = json!({ "n_positions": 64, "bos_token_id": 7, "eos_token_id": 7 });
        let tokenizer = tokenizer_config("<end>", &config);
        for token in ["bos_token", "eos_token", "pad_token"] {
            assert_eq!(tokenizer[token], "<end>");
        }
        assert_eq!(tokenizer["model_max_length"], 64);
        let expected = json!({ "bos_token_id": 7, "eos_token_id": 7, "pad_token_id": 7, "max_length": 64 });
        assert_eq!(generation_config(&config, &[]), expected);
        assert_eq!(generation_config(&config, &[7]), expected);
        let several = generation_config(&config, &[9, 7]);
        assert_eq!((&several["eos_token_id"], &several["pad_token_id"]), (&json!([9, 7]), &json!(9)));
    }

    #[test]
    fn what_a_configuration_does_not_say_is_left_out() {
        assert_eq!(generation_config(&json!({ "model_type": "other" }), &[]), json!({}));
        let config = json!({ "max_position_embeddings": 128, "eos_token_id": [3, 4] });
        let expected = json!({ "eos_token_id": [3, 4], "pad_token_id": 3, "max_length": 128 });
        assert_eq!(generation_config(&config, &[]), expected);
    }
}

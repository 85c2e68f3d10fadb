//! Models from the `config.json` of a Hugging Face checkpoint, written either by transformers or by this program from
//! [`ModelFacts::config`](contract::ModelFacts).
use super::{Gpt2Shape, LlamaShape, NanoChatShape, Qwen3Shape};
use crate::kernels::rotary::RopeScaling;
use anyhow::{Context, bail, ensure};
use contract::Result;
use serde_json::Value;

impl Gpt2Shape {
    /// The GPT-2 that `config` describes.
    ///
    /// # Errors
    /// If a size is missing, or a property has an unsupported value.
    pub fn from_config(config: &Value) -> Result<Self> {
        must_be(config, "activation_function", &["gelu_new".into(), "gelu_pytorch_tanh".into()])?;
        must_be(config, "layer_norm_epsilon", &[1e-5.into()])?;
        must_be(config, "tie_word_embeddings", &[true.into()])?;
        must_be(config, "scale_attn_weights", &[true.into()])?;
        must_be(config, "scale_attn_by_inverse_layer_idx", &[false.into()])?;
        let (width, heads) = (size(config, "n_embd")?, size(config, "n_head")?);
        ensure!(width.is_multiple_of(heads), "{heads} heads (`n_head`) do not divide width {width} (`n_embd`)");
        Ok(Self {
            layers: size(config, "n_layer")?,
            heads,
            width,
            feed_forward: optional_size(config, "n_inner")?.unwrap_or(4 * width),
            vocabulary: size(config, "vocab_size")?,
            length: size(config, "n_positions")?,
            end_of_text: end_of_text(config).unwrap_or(0),
        })
    }
}

impl LlamaShape {
    /// The Llama, or the Mistral, that `config` describes. A Mistral is a Llama unless its attention has a window that is
    /// shorter than its context.
    ///
    /// # Errors
    /// If a size is missing, or a property has an unsupported value.
    pub fn from_config(config: &Value) -> Result<Self> {
        let length = size(config, "max_position_embeddings")?;
        // The default of transformers, for Mistral only.
        let window = &config["sliding_window"];
        let default =
            config["model_type"] == "mistral" && !config.as_object().is_some_and(|c| c.contains_key("sliding_window"));
        let window = if default { Some(4096) } else { window.as_u64() };
        if let Some(window) = window.filter(|window| *window < length as u64) {
            bail!(
                "`sliding_window` is {window}, shorter than the context of {length} tokens \
                 (`max_position_embeddings`); models here attend to the whole context"
            );
        }
        let (width, (heads, _)) = (size(config, "hidden_size")?, heads(config)?);
        let head_width = optional_size(config, "head_dim")?.map_or_else(|| heads_of(width, heads), Ok)?;
        Self::gated(config, head_width)
    }

    /// With heads of this width, and SwiGLU.
    fn gated(config: &Value, head_width: usize) -> Result<Self> {
        must_be(config, "hidden_act", &["silu".into()])?;
        must_be(config, "mlp_bias", &[false.into()])?;
        Self::with_head_width(config, head_width)
    }

    /// What `config` says about all but the width of the heads and the activation function.
    fn with_head_width(config: &Value, head_width: usize) -> Result<Self> {
        ensure!(head_width.is_multiple_of(2), "`head_dim` is {head_width}; rotary positions need an even width");
        must_be(config, "attention_bias", &[false.into()])?;
        let (heads, kv_heads) = heads(config)?;
        Ok(Self {
            layers: size(config, "num_hidden_layers")?,
            heads,
            kv_heads,
            head_width,
            width: size(config, "hidden_size")?,
            feed_forward: size(config, "intermediate_size")?,
            vocabulary: size(config, "vocab_size")?,
            length: size(config, "max_position_embeddings")?,
            tied_head: config["tie_word_embeddings"].as_bool().unwrap_or(false),
            rms_epsilon: config["rms_norm_eps"].as_f64().unwrap_or(1e-6),
            rope_theta: rope_theta(config),
            rope_scaling: rope_scaling(config)?,
            end_of_text: end_of_text(config).unwrap_or(0),
        })
    }
}

impl Qwen3Shape {
    /// The Qwen 3 that `config` describes.
    ///
    /// # Errors
    /// If a size is missing, or a property has an unsupported value.
    pub fn from_config(config: &Value) -> Result<Self> {
        must_be(config, "use_sliding_window", &[false.into()])?;
        for kind in config["layer_types"].as_array().into_iter().flatten() {
            ensure!(kind == "full_attention", "`layer_types` has {kind}; models here have \"full_attention\"");
        }
        // The default of transformers does not depend on the other sizes.
        let head_width = optional_size(config, "head_dim")?.unwrap_or(128);
        Ok(Self(LlamaShape::gated(config, head_width)?))
    }
}

impl NanoChatShape {
    /// The NanoChat that `config` describes.
    ///
    /// # Errors
    /// If a size is missing, or a property has an unsupported value.
    pub fn from_config(config: &Value) -> Result<Self> {
        must_be(config, "hidden_act", &["relu2".into()])?;
        let head_width = heads_of(size(config, "hidden_size")?, heads(config)?.0)?;
        must_be(config, "head_dim", &[head_width.into()])?;
        let llama = LlamaShape::with_head_width(config, head_width)?;
        let scaled = llama.rope_scaling != RopeScaling::None;
        ensure!(!scaled, "scaled rotary frequencies are not supported in a NanoChat");
        let softcap = &config["final_logit_softcapping"];
        let logit_softcap = softcap.as_f64().filter(|cap| *cap > 0.0 && (*cap as f32).is_finite());
        ensure!(
            softcap.is_null() || logit_softcap.is_some(),
            "`final_logit_softcapping` is {softcap}, which is no limit"
        );
        Ok(Self { llama, logit_softcap })
    }
}

/// The number of query heads, and of key heads, which divides it.
fn heads(config: &Value) -> Result<(usize, usize)> {
    let heads = size(config, "num_attention_heads")?;
    let kv_heads = optional_size(config, "num_key_value_heads")?.unwrap_or(heads);
    ensure!(
        heads.is_multiple_of(kv_heads),
        "{kv_heads} heads of keys and values (`num_key_value_heads`) do not divide {heads} heads \
         (`num_attention_heads`)"
    );
    Ok((heads, kv_heads))
}

/// The even width of each of `heads` heads that share `width`.
fn heads_of(width: usize, heads: usize) -> Result<usize> {
    ensure!(
        width.is_multiple_of(2 * heads),
        "{heads} heads (`num_attention_heads`) do not divide width {width} (`hidden_size`) into an even width each"
    );
    Ok(width / heads)
}

/// The base of the rotary frequencies. Recent versions of transformers write it into a table.
fn rope_theta(config: &Value) -> f64 {
    [config, &config["rope_parameters"]].into_iter().find_map(|of| of["rope_theta"].as_f64()).unwrap_or(1e4)
}

/// The scaling of the rotary frequencies, which older versions of transformers write into another table, with another
/// name of its type.
fn rope_scaling(config: &Value) -> Result<RopeScaling> {
    let Some(key) = ["rope_parameters", "rope_scaling"].into_iter().find(|key| !config[key].is_null()) else {
        return Ok(RopeScaling::None);
    };
    let rope = &config[key];
    let number = |name: &str| {
        let found = rope[name].as_f64().filter(|number| *number > 0.0 && number.is_finite());
        found.with_context(|| format!("`{key}.{name}` is {}, which is no positive number", rope[name]))
    };
    let kind = if rope["rope_type"].is_null() { &rope["type"] } else { &rope["rope_type"] };
    match kind.as_str() {
        None if kind.is_null() => Ok(RopeScaling::None),
        Some("default") => Ok(RopeScaling::None),
        Some("linear") => Ok(RopeScaling::Linear { factor: number("factor")? }),
        Some("llama3") => {
            let (low, high) = (number("low_freq_factor")?, number("high_freq_factor")?);
            ensure!(low < high, "`{key}.low_freq_factor` is {low}, not less than `high_freq_factor`, {high}");
            let original = number("original_max_position_embeddings")?;
            Ok(RopeScaling::Llama3 { factor: number("factor")?, low, high, original })
        }
        _ => bail!("`rope_type` is {kind} in `{key}`; models here have \"default\", \"linear\" or \"llama3\""),
    }
}

/// Id of the end-of-text token, if `config` has one.
pub fn end_of_text(config: &Value) -> Option<u32> {
    let id = &config["eos_token_id"];
    id.as_array().map_or(id, |several| &several[0]).as_u64()?.try_into().ok()
}

/// Checks that a property is missing or has one of these values.
fn must_be(config: &Value, key: &str, values: &[Value]) -> Result<()> {
    let found = &config[key];
    let list: Vec<String> = values.iter().map(Value::to_string).collect();
    let same = |value: &Value| value == found || value.as_f64().is_some_and(|v| found.as_f64() == Some(v));
    let known = if list.is_empty() { "none".into() } else { list.join(" or ") };
    ensure!(found.is_null() || values.iter().any(same), "`{key}` is {found}; models here have {known}");
    Ok(())
}

fn size(config: &Value, key: &str) -> Result<usize> {
    optional_size(config, key)?.with_context(|| format!("it has no `{key}`"))
}

fn optional_size(config: &Value, key: &str) -> Result<Option<usize>> {
    let found = &config[key];
    if found.is_null() {
        return Ok(None);
    }
    let size = found.as_u64().filter(|n| (1..1 << 32).contains(n));
    Ok(Some(size.with_context(|| format!("`{key}` is {found}, which is no size"))? as usize))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::Model;

    /// Parses `config` and returns the configuration of the resulting model.
    fn from_config(config: &Value) -> Result<Value> {
        let model = match config["model_type"].as_str() {
            Some("gpt2") => Gpt2Shape::from_config(config)?.model(),
            Some("qwen3") => Qwen3Shape::from_config(config)?.model(),
            Some("nanochat") => NanoChatShape::from_config(config)?.model(),
            _ => LlamaShape::from_config(config)?.model(),
        };
        Ok(model.facts().config.clone())
    }

    fn gpt2() -> Value {
        let (layers, heads, width, feed_forward, vocabulary, length, end_of_text) = (3, 2, 8, 20, 30, 7, 29);
        let shape = Gpt2Shape { layers, heads, width, feed_forward, vocabulary, length, end_of_text };
        shape.model().facts().config.clone()
    }

    fn llama_shape(tied_head: bool) -> LlamaShape {
        LlamaShape {
            layers: 3,
            heads: 4,
            kv_heads: 2,
            head_width: 4,
            width: 16,
            feed_forward: 20,
            vocabulary: 30,
            length: 7,
            tied_head,
            rms_epsilon: 1e-5,
            rope_theta: 5e5,
            rope_scaling: RopeScaling::None,
            end_of_text: 29,
        }
    }

    fn llama(tied_head: bool) -> Value {
        llama_shape(tied_head).model().facts().config.clone()
    }

    fn qwen3() -> Value {
        Qwen3Shape(LlamaShape { head_width: 6, ..llama_shape(true) }).model().facts().config.clone()
    }

    fn nanochat(logit_softcap: Option<f64>) -> Value {
        let llama = LlamaShape { rms_epsilon: 1e-6, ..llama_shape(false) };
        NanoChatShape { llama, logit_softcap }.model().facts().config.clone()
    }

    #[test]
    fn the_configuration_of_a_model_round_trips() {
        let scaled = |rope_scaling| LlamaShape { rope_scaling, ..llama_shape(true) }.model().facts().config.clone();
        let linear = scaled(RopeScaling::Linear { factor: 2.0 });
        let llama3 = scaled(RopeScaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 8192.0 });
        let others = [qwen3(), nanochat(None), nanochat(Some(15.0)), linear, llama3];
        for config in [gpt2(), llama(false), llama(true)].into_iter().chain(others) {
            assert_eq!(from_config(&config).unwrap(), config);
            assert_eq!(end_of_text(&config), Some(29));
        }
    }

    /// Its window is at most 4,096 tokens unless the configuration says otherwise.
    #[test]
    fn a_mistral_is_a_llama_if_its_window_does_not_matter() {
        let mut mistral = llama(false);
        mistral["model_type"] = "mistral".into();
        assert_eq!(from_config(&mistral).unwrap(), llama(false));
        mistral["max_position_embeddings"] = 8192.into();
        assert!(from_config(&mistral).err().unwrap().to_string().contains("`sliding_window` is 4096"));
        mistral["sliding_window"] = Value::Null;
        assert_eq!(from_config(&mistral).unwrap()["max_position_embeddings"], 8192);
    }

    #[test]
    fn unsupported_values_are_rejected() {
        for (config, key, value, said) in [
            (gpt2(), "activation_function", "relu".into(), "`activation_function` is \"relu\""),
            (gpt2(), "layer_norm_epsilon", 1e-6.into(), "layer_norm_epsilon"),
            (gpt2(), "n_embd", Value::Null, "no `n_embd`"),
            (gpt2(), "n_layer", 0.into(), "`n_layer` is 0"),
            (gpt2(), "n_layer", (1u64 << 40).into(), "no size"),
            (gpt2(), "n_head", 3.into(), "3 heads"),
            (llama(true), "num_key_value_heads", 3.into(), "3 heads of keys and values"),
            (nanochat(None), "num_attention_heads", 16.into(), "16 heads"),
            (llama(true), "head_dim", 5.into(), "`head_dim` is 5"),
            (llama(true), "sliding_window", 6.into(), "`sliding_window` is 6, shorter than the context of 7"),
            (qwen3(), "head_dim", 7.into(), "`head_dim` is 7"),
            (qwen3(), "use_sliding_window", true.into(), "`use_sliding_window` is true"),
            (qwen3(), "layer_types", serde_json::json!(["full_attention", "sliding_attention"]), "sliding_attention"),
            (nanochat(None), "hidden_act", "silu".into(), "`hidden_act` is \"silu\""),
            (nanochat(None), "final_logit_softcapping", 0.into(), "`final_logit_softcapping` is 0"),
            (
                nanochat(None),
                "rope_parameters",
                serde_json::json!({"rope_type": "linear", "factor": 2}),
                "scaled rotary",
            ),
            (llama(true), "rope_scaling", serde_json::json!({"type": "linear"}), "`rope_scaling.factor` is null"),
            (llama(true), "rope_parameters", serde_json::json!({"rope_type": "yarn"}), "`rope_type` is \"yarn\""),
        ] {
            let mut changed = config;
            changed[key] = value;
            let error = from_config(&changed).err().unwrap().to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}

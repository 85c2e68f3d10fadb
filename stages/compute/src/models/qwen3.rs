//! Qwen 3 (Yang et al. 2025) with Hugging Face's names and layouts: a [Llama](super::llama) that normalises queries and
//! keys.
use super::architecture::Architecture;
use super::llama::LlamaShape;
use super::norm::Norm;
use super::transformer::Transformer;
use serde_json::Value;

/// The sizes and constants of a Qwen 3.
#[derive(Clone, Debug)]
pub struct Qwen3Shape(pub LlamaShape);

impl Qwen3Shape {
    /// The model of these sizes, in f32.
    ///
    /// # Panics
    /// If the width of the heads is odd, or `kv_heads` does not divide the heads.
    pub fn model(&self) -> Transformer {
        let LlamaShape { layers, heads, kv_heads, width, .. } = self.0;
        let summary = format!("Qwen 3, {layers} layers, width {width}, {heads} heads, {kv_heads} of keys and values");
        Transformer::new(self.architecture(), self.config(), summary)
    }

    /// The description of the architecture.
    pub fn architecture(&self) -> Architecture {
        let query_key_norm = Some(Norm::Rms { epsilon: self.0.rms_epsilon as f32 });
        Architecture { query_key_norm, ..self.0.architecture() }
    }

    /// The content of Hugging Face's `config.json`.
    pub fn config(&self) -> Value {
        let mut config = self.0.config();
        config["architectures"] = Value::from(vec!["Qwen3ForCausalLM"]);
        config["model_type"] = "qwen3".into();
        config["use_sliding_window"] = false.into();
        if let Some(table) = config.as_object_mut() {
            table.remove("mlp_bias");
        }
        config
    }
}

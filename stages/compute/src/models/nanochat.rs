//! NanoChat (Karpathy 2025) with Hugging Face's names and layouts: RMS normalisation without gains, also of the
//! embeddings and of queries and keys; rotary positions, ReLU², a soft cap of the logits, no biases.
use super::activation::{Activation, RELU2};
use super::architecture::{Architecture, InitialWeights, Names, Positions};
use super::llama::LlamaShape;
use super::norm::Norm;
use super::transformer::Transformer;
use crate::kernels::rotary::RopeScaling;
use contract::Init;
use serde_json::{Value, json};

/// The sizes and constants of a NanoChat.
#[derive(Clone, Debug)]
pub struct NanoChatShape {
    /// What it shares with Llama; its frequencies are not scaled.
    pub llama: LlamaShape,
    /// Logits are limited to ±this number.
    pub logit_softcap: Option<f64>,
}

const NAMES: Names = Names {
    tokens: "model.embed_tokens",
    positions: "",
    block: "model.layers",
    norm_1: "",
    qkv: &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    query_key_norms: ["", ""],
    out: "self_attn.o_proj",
    norm_2: "",
    up: &["mlp.fc1"],
    down: "mlp.fc2",
    norm: "",
    head: "lm_head",
};

impl NanoChatShape {
    /// The model of these sizes, in f32.
    ///
    /// # Panics
    /// If the width of the heads is odd, or `kv_heads` does not divide the heads.
    pub fn model(&self) -> Transformer {
        let LlamaShape { layers, heads, kv_heads, width, .. } = self.llama;
        let of_keys = if kv_heads == heads { String::new() } else { format!(", {kv_heads} of keys and values") };
        let summary = format!("NanoChat, {layers} layers, width {width}, {heads} heads{of_keys}");
        Transformer::new(self.architecture(), self.config(), summary)
    }

    /// The description of the architecture.
    pub fn architecture(&self) -> Architecture {
        let epsilon = self.llama.rms_epsilon as f32;
        let norm = Norm::UnitRms { epsilon };
        Architecture {
            norm,
            query_key_norm: Some(norm),
            embedding_epsilon: Some(epsilon),
            logit_softcap: self.logit_softcap.map(|cap| cap as f32),
            positions: Positions::Rotary { theta: self.llama.rope_theta, scaling: RopeScaling::None, clockwise: true },
            activation: Activation::Pointwise(&RELU2),
            initial: self.initial(),
            names: &NAMES,
            ..self.llama.architecture()
        }
    }

    /// As in nanochat's training code: projections are uniform with variance `1 / width`; those onto the residual
    /// stream start at zero, so that each block starts as the identity. The scale of the embeddings is normalised
    /// away, so it only sets how fast they learn; as a tied head they must be small.
    fn initial(&self) -> InitialWeights {
        InitialWeights {
            embeddings: Init::Normal(if self.llama.tied_head { 0.02 } else { 1.0 }),
            head: Init::Normal(0.001),
            projections: Init::Uniform((3.0 / self.llama.width as f32).sqrt()),
            onto_residual: Init::Zeros,
        }
    }

    /// The content of Hugging Face's `config.json`.
    pub fn config(&self) -> Value {
        let &LlamaShape { layers, heads, kv_heads, width, feed_forward, vocabulary, length, .. } = &self.llama;
        let &LlamaShape { tied_head, rms_epsilon, rope_theta, end_of_text, .. } = &self.llama;
        json!({
            "architectures": ["NanoChatForCausalLM"],
            "model_type": "nanochat",
            "vocab_size": vocabulary,
            "max_position_embeddings": length,
            "hidden_size": width,
            "intermediate_size": feed_forward,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "hidden_act": "relu2",
            "rms_norm_eps": rms_epsilon,
            "rope_parameters": { "rope_theta": rope_theta, "rope_type": "default" },
            "final_logit_softcapping": self.logit_softcap,
            "attention_bias": false,
            "attention_dropout": 0.0,
            "initializer_range": 0.02,
            "bos_token_id": end_of_text,
            "eos_token_id": end_of_text,
            "pad_token_id": null,
            "tie_word_embeddings": tied_head,
            "torch_dtype": "float32",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::Model;

    #[test]
    fn normalisations_have_no_parameters() {
        let llama = LlamaShape {
            layers: 2,
            heads: 4,
            kv_heads: 2,
            head_width: 4,
            width: 16,
            feed_forward: 64,
            vocabulary: 100,
            length: 8,
            tied_head: false,
            rms_epsilon: 1e-6,
            rope_theta: 10_000.0,
            rope_scaling: RopeScaling::None,
            end_of_text: 0,
        };
        let model = NanoChatShape { llama, logit_softcap: Some(15.0) }.model();
        let facts = model.facts();
        let names: Vec<&str> = facts.parameters.iter().map(|spec| &*spec.name).collect();
        assert_eq!(names.len(), 2 + 2 * 6);
        assert_eq!(names[7], "model.layers.1.self_attn.q_proj.weight");
        assert_eq!(names[facts.head], "lm_head.weight");
        // Two embeddings of 100 × 16, and per block 16 × (16 + 8 + 8 + 16) and twice 16 × 64.
        assert_eq!(facts.parameter_count(), 2 * 1600 + 2 * (16 * 48 + 2 * 1024));
        assert_eq!(facts.logit_softcap, Some(15.0));
    }
}

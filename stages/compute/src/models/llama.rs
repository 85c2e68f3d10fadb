//! Llama (Touvron et al. 2023) with Hugging Face's names and layouts: RMS normalisation, rotary positions,
//! grouped-query attention, SwiGLU, no biases; the head is tied to the token embedding or separate.
use super::activation::{Activation, SWIGLU};
use super::architecture::{Architecture, InitialWeights, Matrices, Names, Positions, WeightLayout};
use super::norm::Norm;
use super::transformer::Transformer;
use crate::kernels::rotary::RopeScaling;
use serde_json::{Value, json};

/// The sizes and constants of a Llama.
#[derive(Clone, Debug)]
pub struct LlamaShape {
    /// Number of blocks.
    pub layers: usize,
    /// Number of query heads.
    pub heads: usize,
    /// Number of key heads and of value heads; divides `heads`.
    pub kv_heads: usize,
    /// Columns per head, usually `width / heads`; even.
    pub head_width: usize,
    /// Width of the residual stream.
    pub width: usize,
    /// Width of the feed-forward layer.
    pub feed_forward: usize,
    /// Number of token ids.
    pub vocabulary: usize,
    /// Longest sequence, in tokens.
    pub length: usize,
    /// Whether the head is the token embedding instead of a separate matrix.
    pub tied_head: bool,
    /// Added to the mean square in RMSNorm.
    pub rms_epsilon: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// How the rotary frequencies are scaled.
    pub rope_scaling: RopeScaling,
    /// Id of the end-of-text token, for `config.json`.
    pub end_of_text: u32,
}

const NAMES: Names = Names {
    tokens: "model.embed_tokens",
    positions: "",
    block: "model.layers",
    norm_1: "input_layernorm",
    qkv: &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    query_key_norms: ["self_attn.q_norm", "self_attn.k_norm"],
    out: "self_attn.o_proj",
    norm_2: "post_attention_layernorm",
    up: &["mlp.gate_proj", "mlp.up_proj"],
    down: "mlp.down_proj",
    norm: "model.norm",
    head: "lm_head",
};

impl LlamaShape {
    /// The model of these sizes, in f32.
    ///
    /// # Panics
    /// If the width of the heads is odd, or `kv_heads` does not divide the heads.
    pub fn model(&self) -> Transformer {
        let &Self { layers, heads, kv_heads, width, .. } = self;
        let summary = format!("Llama, {layers} layers, width {width}, {heads} heads, {kv_heads} of keys and values");
        Transformer::new(self.architecture(), self.config(), summary)
    }

    /// The description of the architecture.
    pub fn architecture(&self) -> Architecture {
        let &Self { layers, heads, kv_heads, width, feed_forward, vocabulary, length, tied_head, .. } = self;
        Architecture {
            layers,
            heads,
            kv_heads,
            head_width: self.head_width,
            width,
            inner: feed_forward,
            vocabulary,
            length,
            norm: Norm::Rms { epsilon: self.rms_epsilon as f32 },
            query_key_norm: None,
            embedding_epsilon: None,
            logit_softcap: None,
            positions: Positions::Rotary { theta: self.rope_theta, scaling: self.rope_scaling, clockwise: false },
            activation: Activation::Gated(&SWIGLU),
            weights: WeightLayout::OutIn,
            bias: false,
            tied_head,
            initial: InitialWeights::gpt2(layers),
            matrices: Matrices::PerHead,
            names: &NAMES,
        }
    }

    /// The content of Hugging Face's `config.json`.
    pub fn config(&self) -> Value {
        let &Self { layers, heads, kv_heads, width, feed_forward, vocabulary, length, tied_head, .. } = self;
        let mut config = json!({
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": vocabulary,
            "max_position_embeddings": length,
            "hidden_size": width,
            "intermediate_size": feed_forward,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "head_dim": self.head_width,
            "hidden_act": "silu",
            "rms_norm_eps": self.rms_epsilon,
            "rope_theta": self.rope_theta,
            "attention_bias": false,
            "mlp_bias": false,
            "attention_dropout": 0.0,
            "initializer_range": 0.02,
            "bos_token_id": self.end_of_text,
            "eos_token_id": self.end_of_text,
            "tie_word_embeddings": tied_head,
            "torch_dtype": "float32",
        });
        if let Some(scaling) = self.rope_parameters() {
            config["rope_parameters"] = scaling;
        }
        config
    }

    /// The table of scaled rotary frequencies.
    fn rope_parameters(&self) -> Option<Value> {
        let rope_theta = self.rope_theta;
        match self.rope_scaling {
            RopeScaling::None => None,
            RopeScaling::Linear { factor } => {
                Some(json!({ "rope_type": "linear", "rope_theta": rope_theta, "factor": factor }))
            }
            RopeScaling::Llama3 { factor, low, high, original } => Some(json!({
                "rope_type": "llama3",
                "rope_theta": rope_theta,
                "factor": factor,
                "low_freq_factor": low,
                "high_freq_factor": high,
                "original_max_position_embeddings": original as u64,
            })),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::Model;
    use contract::Group;

    fn shape() -> LlamaShape {
        LlamaShape {
            layers: 2,
            heads: 8,
            kv_heads: 2,
            head_width: 8,
            width: 64,
            feed_forward: 96,
            vocabulary: 100,
            length: 16,
            tied_head: false,
            rms_epsilon: 1e-5,
            rope_theta: 10_000.0,
            rope_scaling: RopeScaling::None,
            end_of_text: 0,
        }
    }

    #[test]
    fn an_untied_head_is_a_separate_tensor() {
        let shape = shape();
        let untied = shape.model().facts().clone();
        let tied = LlamaShape { tied_head: true, ..shape }.model().facts().clone();
        assert_eq!((untied.head, &*untied.parameters[untied.head].name), (20, "lm_head.weight"));
        assert_eq!((tied.head, &*tied.parameters[tied.head].name), (0, "model.embed_tokens.weight"));
        assert_eq!(untied.parameter_count() - tied.parameter_count(), 6_400);
        assert_eq!(untied.flops_per_token, tied.flops_per_token);
        assert_eq!(untied.parameters[3].name, "model.layers.0.self_attn.k_proj.weight");
        assert_eq!(untied.parameters[3].shape, [16, 64]);
    }

    /// A matrix for each head, and for each group of hidden units as wide as a head. The last group has six.
    #[test]
    fn linear_layers_consist_of_the_matrices_of_heads() {
        let model = LlamaShape { head_width: 10, ..shape() }.model();
        let of = |name: &str| model.facts().parameters.iter().find(|spec| spec.name.contains(name)).unwrap();
        for (name, shape, matrix) in [
            ("q_proj", [80, 64], [10, 64]),
            ("k_proj", [20, 64], [10, 64]),
            ("v_proj", [20, 64], [10, 64]),
            ("o_proj", [64, 80], [64, 10]),
            ("gate_proj", [96, 64], [10, 64]),
            ("up_proj", [96, 64], [10, 64]),
            ("down_proj", [64, 96], [64, 10]),
        ] {
            assert_eq!((&of(name).shape[..], of(name).group), (&shape[..], Group::Matrix(matrix)), "{name}");
        }
    }
}

//! GPT-2 (Radford et al. 2019) with Hugging Face's names and layouts.
use super::activation::{Activation, GELU};
use super::architecture::{Architecture, InitialWeights, Matrices, Names, Positions, WeightLayout};
use super::norm::Norm;
use super::transformer::Transformer;
use serde_json::{Value, json};

/// The sizes of a GPT-2.
#[derive(Clone, Copy, Debug)]
pub struct Gpt2Shape {
    /// Number of blocks.
    pub layers: usize,
    /// Number of attention heads; divides the width.
    pub heads: usize,
    /// Width of the residual stream.
    pub width: usize,
    /// Width of the feed-forward layer, usually 4 × `width`.
    pub feed_forward: usize,
    /// Number of token ids.
    pub vocabulary: usize,
    /// Longest sequence, in tokens.
    pub length: usize,
    /// Id of the end-of-text token, for `config.json`.
    pub end_of_text: u32,
}

const NAMES: Names = Names {
    tokens: "transformer.wte",
    positions: "transformer.wpe",
    block: "transformer.h",
    norm_1: "ln_1",
    qkv: &["attn.c_attn"],
    query_key_norms: ["attn.q_norm", "attn.k_norm"],
    out: "attn.c_proj",
    norm_2: "ln_2",
    up: &["mlp.c_fc"],
    down: "mlp.c_proj",
    norm: "transformer.ln_f",
    head: "lm_head",
};

impl Gpt2Shape {
    /// The model of these sizes, in f32.
    ///
    /// # Panics
    /// If the heads do not divide the width.
    pub fn model(&self) -> Transformer {
        let &Self { layers, heads, width, .. } = self;
        let summary = format!("GPT-2, {layers} layers, width {width}, {heads} heads");
        Transformer::new(self.architecture(), self.config(), summary)
    }

    /// The description of the architecture.
    pub fn architecture(&self) -> Architecture {
        let &Self { layers, heads, width, feed_forward, vocabulary, length, .. } = self;
        Architecture {
            layers,
            heads,
            kv_heads: heads,
            head_width: width / heads,
            width,
            inner: feed_forward,
            vocabulary,
            length,
            norm: Norm::Layer,
            query_key_norm: None,
            embedding_epsilon: None,
            logit_softcap: None,
            positions: Positions::Learned,
            activation: Activation::Pointwise(&GELU),
            weights: WeightLayout::InOut,
            bias: true,
            tied_head: true,
            initial: InitialWeights::gpt2(layers),
            // It learns less per step with those of heads (benches/README.md).
            matrices: Matrices::Whole,
            names: &NAMES,
        }
    }

    /// The content of Hugging Face's `config.json`.
    pub fn config(&self) -> Value {
        let &Self { layers, heads, width, feed_forward, vocabulary, length, end_of_text, .. } = self;
        json!({
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            "vocab_size": vocabulary,
            "n_positions": length,
            "n_ctx": length,
            "n_embd": width,
            "n_layer": layers,
            "n_head": heads,
            "n_inner": feed_forward,
            "activation_function": "gelu_new",
            "layer_norm_epsilon": 1e-5,
            "initializer_range": 0.02,
            "embd_pdrop": 0.0,
            "attn_pdrop": 0.0,
            "resid_pdrop": 0.0,
            "bos_token_id": end_of_text,
            "eos_token_id": end_of_text,
            "tie_word_embeddings": true,
            "torch_dtype": "float32",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::Model;
    use contract::Group;

    fn shape(layers: usize, heads: usize, width: usize, vocabulary: usize, length: usize) -> Gpt2Shape {
        let (feed_forward, end_of_text) = (4 * width, 0);
        Gpt2Shape { layers, heads, width, feed_forward, vocabulary, length, end_of_text }
    }

    #[test]
    fn flops_per_token_include_attention() {
        for (shape, millions) in [
            (shape(2, 8, 256, 10_000, 128), 25.6),
            (shape(6, 6, 384, 16_384, 256), 108.5),
            (shape(12, 12, 768, 50_257, 256), 769.0),
        ] {
            let flops = shape.model().facts().flops_per_token;
            assert!((flops / 1e6 / millions - 1.0).abs() < 1e-3, "{flops}");
        }
    }

    #[test]
    fn gpt2_has_its_124_million_parameters_and_names() {
        let model = shape(12, 12, 768, 50_257, 1024).model();
        let facts = model.facts();
        assert_eq!(facts.parameter_count(), 124_439_808);
        assert_eq!(facts.parameters.len(), 148);
        assert_eq!(facts.parameters[2 + 12 + 10].name, "transformer.h.1.mlp.c_proj.weight");
        assert_eq!(facts.parameters[2 + 12 + 10].shape, [3072, 768]);
        assert_eq!(facts.parameters[147].name, "transformer.ln_f.bias");
        assert!(facts.parameters.iter().all(|p| p.decays() == (p.shape.len() == 2)));
    }

    /// A matrix each for queries, keys, values and the other projections.
    #[test]
    fn linear_layers_consist_of_whole_matrices() {
        let model = Gpt2Shape { feed_forward: 36, ..shape(1, 4, 32, 100, 16) }.model();
        let of = |name: &str| model.facts().parameters.iter().find(|spec| spec.name.ends_with(name)).unwrap();
        for (name, shape, matrix) in [
            ("attn.c_attn.weight", [32, 96], [32, 32]),
            ("attn.c_proj.weight", [32, 32], [32, 32]),
            ("mlp.c_fc.weight", [32, 36], [32, 36]),
            ("mlp.c_proj.weight", [36, 32], [36, 32]),
        ] {
            assert_eq!((&of(name).shape[..], of(name).group), (&shape[..], Group::Matrix(matrix)), "{name}");
        }
    }
}

//! The model `nanochat` (Karpathy 2025).
use crate::forward::llama::{check_even_heads, check_kv_heads};
use crate::forward::{ModelType, Sizes};
use anyhow::Result;
use compute::models::{LlamaShape, NanoChatShape, RopeScaling, Transformer};
use contract::{Facts, Problem, StageKeys};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The member `nanochat`.
#[derive(Clone, Debug, Serialize, Deserialize, StageKeys)]
#[serde(default)]
pub struct NanoChat {
    /// Heads of keys and of values per block; must divide `heads`. The same number as `heads` if not given.
    #[key(min = 1, max = 65_536)]
    pub kv_heads: Option<usize>,
    /// Width of the feed-forward layer; 4 × `width` if not given.
    #[key(min = 1, max = 1_048_576)]
    pub feed_forward: Option<usize>,
    /// The output head shares the token embedding instead of having a matrix of its own.
    pub tied_head: bool,
    /// Logits are limited to ± this number; 0: no limit.
    #[key(default = 15.0, min = 0, max = 1e6)]
    pub logit_softcap: f64,
    /// Added to the mean square in RMSNorm.
    #[key(default = 1e-6, min = 0, max = 1)]
    pub rms_epsilon: f64,
    /// Base of the rotary frequencies.
    #[key(default = 10_000.0, min = 1, max = 1e12)]
    pub rope_theta: f64,
}

impl ModelType for NanoChat {
    const SUMMARY: &'static str = "NanoChat (Karpathy 2025): RMSNorm without gains, also of queries, keys and \
                                   embeddings; rotary positions, ReLU²";
    const EXAMPLE: &'static str = "type = \"nanochat\"\nlayers = 6\nheads = 6\nwidth = 384\n";

    fn check_heads(&self, sizes: &Sizes) -> Option<Problem> {
        check_even_heads(sizes)
    }

    fn check(&self, sizes: &Sizes) -> Vec<Problem> {
        check_kv_heads(sizes, self.kv_heads).into_iter().collect()
    }

    fn model(&self, sizes: &Sizes, facts: &Facts) -> Transformer {
        let &Sizes { layers, heads, width } = sizes;
        let &Facts { vocabulary, length, end_of_text } = facts;
        let llama = LlamaShape {
            layers,
            heads,
            kv_heads: self.kv_heads.unwrap_or(heads),
            head_width: width / heads,
            width,
            feed_forward: self.feed_forward.unwrap_or(4 * width),
            vocabulary,
            length,
            tied_head: self.tied_head,
            rms_epsilon: self.rms_epsilon,
            rope_theta: self.rope_theta,
            rope_scaling: RopeScaling::None,
            end_of_text,
        };
        NanoChatShape { llama, logit_softcap: (self.logit_softcap > 0.0).then_some(self.logit_softcap) }.model()
    }

    fn from_config(config: &Value) -> Option<Result<Transformer>> {
        (config["model_type"] == "nanochat").then(|| Ok(NanoChatShape::from_config(config)?.model()))
    }

    fn keys_from_config(config: &Value) -> Option<(Sizes, Self)> {
        let shape = Self::from_config(config).and(NanoChatShape::from_config(config).ok())?;
        let NanoChatShape { llama, logit_softcap } = shape;
        let keys = Self {
            kv_heads: Some(llama.kv_heads),
            feed_forward: Some(llama.feed_forward),
            tied_head: llama.tied_head,
            logit_softcap: logit_softcap.unwrap_or(0.0),
            rms_epsilon: llama.rms_epsilon,
            rope_theta: llama.rope_theta,
        };
        Some((Sizes { layers: llama.layers, heads: llama.heads, width: llama.width }, keys))
    }
}

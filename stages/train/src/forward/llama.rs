//! The model `llama` (Touvron et al. 2023).
use crate::forward::{ModelType, Sizes, candidates};
use anyhow::Result;
use compute::models::{LlamaShape, RopeScaling, Transformer};
use contract::{Facts, Problem, StageKeys};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The member `llama`.
#[derive(Clone, Debug, Serialize, Deserialize, StageKeys)]
#[serde(default)]
pub struct Llama {
    /// Heads of keys and of values per block; must divide `heads`. The same number as `heads` if not given.
    #[key(min = 1, max = 65_536)]
    pub kv_heads: Option<usize>,
    /// Width of the feed-forward layer; 8/3 × `width`, rounded up to a multiple of 32, if not given.
    #[key(min = 1, max = 1_048_576)]
    pub feed_forward: Option<usize>,
    /// The output head shares the token embedding instead of having a matrix of its own.
    pub tied_head: bool,
    /// Added to the mean square in RMSNorm.
    #[key(default = 1e-5, min = 0, max = 1)]
    pub rms_epsilon: f64,
    /// Base of the rotary frequencies.
    #[key(default = 10_000.0, min = 1, max = 1e12)]
    pub rope_theta: f64,
}

impl ModelType for Llama {
    const SUMMARY: &'static str = "Llama (Touvron et al. 2023): RMSNorm, rotary positions, grouped queries, SwiGLU";
    const EXAMPLE: &'static str = "type = \"llama\"\nlayers = 6\nheads = 6\nkv_heads = 2\nwidth = 384\n";

    fn check_heads(&self, sizes: &Sizes) -> Option<Problem> {
        check_even_heads(sizes)
    }

    fn check(&self, sizes: &Sizes) -> Vec<Problem> {
        check_kv_heads(sizes, self.kv_heads).into_iter().collect()
    }

    fn model(&self, sizes: &Sizes, facts: &Facts) -> Transformer {
        self.shape(sizes, facts).model()
    }

    fn from_config(config: &Value) -> Option<Result<Transformer>> {
        let known = config["model_type"] == "llama" || config["model_type"] == "mistral";
        known.then(|| Ok(LlamaShape::from_config(config)?.model()))
    }
}

impl Llama {
    /// The model shape that these settings describe.
    pub fn shape(&self, sizes: &Sizes, facts: &Facts) -> LlamaShape {
        let &Sizes { layers, heads, width } = sizes;
        let &Facts { vocabulary, length, end_of_text } = facts;
        LlamaShape {
            layers,
            heads,
            kv_heads: self.kv_heads.unwrap_or(heads),
            head_width: width / heads,
            width,
            feed_forward: self.feed_forward.unwrap_or((8 * width).div_ceil(3).next_multiple_of(32)),
            vocabulary,
            length,
            tied_head: self.tied_head,
            rms_epsilon: self.rms_epsilon,
            rope_theta: self.rope_theta,
            rope_scaling: RopeScaling::None,
            end_of_text,
            document_mask: false,
        }
    }
}

/// A problem if the heads do not share the width evenly, with an even width each for rotary positions.
pub(super) fn check_even_heads(sizes: &Sizes) -> Option<Problem> {
    let &Sizes { heads, width, .. } = sizes;
    if heads == 0 || width.is_multiple_of(heads.saturating_mul(2)) {
        return None;
    }
    let near = candidates(width, |heads| width.is_multiple_of(2 * heads));
    let message = format!("{heads} heads do not divide width {width} into an even width each; {near}");
    Some(Problem::at("heads", message))
}

/// A problem if query heads cannot be divided among `kv_heads`.
pub(super) fn check_kv_heads(sizes: &Sizes, kv_heads: Option<usize>) -> Option<Problem> {
    let heads = sizes.heads;
    let kv_heads = kv_heads.filter(|n| *n > 0 && !heads.is_multiple_of(*n))?;
    let near = candidates(heads, |n| heads.is_multiple_of(n));
    Some(Problem::at("kv_heads", format!("{kv_heads} do not divide {heads} heads; {near}")))
}

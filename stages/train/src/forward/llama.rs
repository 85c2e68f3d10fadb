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
    /// Columns per head, an even number; `width / heads` if not given.
    #[key(min = 2, max = 65_536)]
    pub head_width: Option<usize>,
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
    /// How the rotary frequencies are scaled for a longer context, if they are: `{ type = "linear", factor = 2 }`, or
    /// `{ type = "llama3", … }` with `factor`, `low_freq_factor`, `high_freq_factor` and
    /// `original_max_position_embeddings` as in the `config.json` of a Llama 3.
    pub rope_scaling: Option<Scaling>,
}

/// The value of [`Llama::rope_scaling`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Scaling {
    /// See [`RopeScaling::Linear`].
    Linear {
        /// Longer by this factor.
        factor: f64,
    },
    /// See [`RopeScaling::Llama3`].
    Llama3 {
        /// Longer by this factor.
        factor: f64,
        /// Frequencies with fewer periods than this in the original context are low.
        low_freq_factor: f64,
        /// Frequencies with more periods than this in the original context are high.
        high_freq_factor: f64,
        /// The original context, in tokens.
        original_max_position_embeddings: f64,
    },
}

impl From<Scaling> for RopeScaling {
    fn from(scaling: Scaling) -> Self {
        match scaling {
            Scaling::Linear { factor } => Self::Linear { factor },
            Scaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
                let (low, high, original) = (low_freq_factor, high_freq_factor, original_max_position_embeddings);
                Self::Llama3 { factor, low, high, original }
            }
        }
    }
}

impl Scaling {
    fn of(scaling: RopeScaling) -> Option<Self> {
        match scaling {
            RopeScaling::None => None,
            RopeScaling::Linear { factor } => Some(Self::Linear { factor }),
            RopeScaling::Llama3 { factor, low: low_freq_factor, high: high_freq_factor, original } => {
                let original_max_position_embeddings = original;
                Some(Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings })
            }
        }
    }

    /// A problem if a number is not positive, or the frequencies between low and high are none.
    fn check(self) -> Option<Problem> {
        let (numbers, ordered) = match self {
            Self::Linear { factor } => ([factor, 1.0, 1.0, 1.0], true),
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => (
                [factor, low_freq_factor, high_freq_factor, original_max_position_embeddings],
                low_freq_factor < high_freq_factor,
            ),
        };
        let why = match () {
            () if !numbers.iter().all(|number| *number > 0.0 && number.is_finite()) => "all numbers must be positive",
            () if !ordered => "`low_freq_factor` must be less than `high_freq_factor`",
            () => return None,
        };
        Some(Problem::at("rope_scaling", why))
    }
}

impl ModelType for Llama {
    const SUMMARY: &'static str = "Llama (Touvron et al. 2023): RMSNorm, rotary positions, grouped queries, SwiGLU";
    const EXAMPLE: &'static str = "type = \"llama\"\nlayers = 6\nheads = 6\nkv_heads = 2\nwidth = 384\n";

    fn check_heads(&self, sizes: &Sizes) -> Option<Problem> {
        match self.head_width {
            None => check_even_heads(sizes),
            Some(width) if !width.is_multiple_of(2) => {
                Some(Problem::at("head_width", format!("{width} is odd: rotary positions need pairs of columns")))
            }
            Some(_) => None,
        }
    }

    fn check(&self, sizes: &Sizes) -> Vec<Problem> {
        let scaling = self.rope_scaling.and_then(Scaling::check);
        check_kv_heads(sizes, self.kv_heads).into_iter().chain(scaling).collect()
    }

    fn model(&self, sizes: &Sizes, facts: &Facts) -> Transformer {
        self.shape(sizes, facts).model()
    }

    fn from_config(config: &Value) -> Option<Result<Transformer>> {
        let known = config["model_type"] == "llama" || config["model_type"] == "mistral";
        known.then(|| Ok(LlamaShape::from_config(config)?.model()))
    }

    fn keys_from_config(config: &Value) -> Option<(Sizes, Self)> {
        let shape = Self::from_config(config).and(LlamaShape::from_config(config).ok())?;
        Some(Self::of(&shape))
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
            head_width: self.head_width.unwrap_or(width / heads),
            width,
            feed_forward: self.feed_forward.unwrap_or((8 * width).div_ceil(3).next_multiple_of(32)),
            vocabulary,
            length,
            tied_head: self.tied_head,
            rms_epsilon: self.rms_epsilon,
            rope_theta: self.rope_theta,
            rope_scaling: self.rope_scaling.map_or(RopeScaling::None, RopeScaling::from),
            end_of_text,
        }
    }

    /// The sizes and keys that describe `shape`.
    pub fn of(shape: &LlamaShape) -> (Sizes, Self) {
        let &LlamaShape { layers, heads, width, .. } = shape;
        let keys = Self {
            kv_heads: Some(shape.kv_heads),
            head_width: Some(shape.head_width),
            feed_forward: Some(shape.feed_forward),
            tied_head: shape.tied_head,
            rms_epsilon: shape.rms_epsilon,
            rope_theta: shape.rope_theta,
            rope_scaling: Scaling::of(shape.rope_scaling),
        };
        (Sizes { layers, heads, width }, keys)
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

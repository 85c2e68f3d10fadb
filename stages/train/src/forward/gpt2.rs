//! The model `gpt2` (Radford et al. 2019).
use crate::forward::{ModelType, Sizes};
use anyhow::Result;
use compute::models::{Gpt2Shape, Transformer};
use contract::{Facts, StageKeys};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The member `gpt2`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, StageKeys)]
#[serde(default)]
pub struct Gpt2 {
    /// Width of the feed-forward layer; 4 × `width` if not given.
    #[key(min = 1, max = 1_048_576)]
    pub feed_forward: Option<usize>,
}

impl Gpt2 {
    /// The model shape that these settings describe.
    pub fn shape(&self, sizes: &Sizes, facts: &Facts) -> Gpt2Shape {
        let &Sizes { layers, heads, width } = sizes;
        let &Facts { vocabulary, length, end_of_text } = facts;
        let feed_forward = self.feed_forward.unwrap_or(4 * width);
        Gpt2Shape { layers, heads, width, feed_forward, vocabulary, length, end_of_text }
    }
}

impl ModelType for Gpt2 {
    const SUMMARY: &'static str = "GPT-2 (Radford et al. 2019): pre-norm blocks, learned positions, tied head";
    const EXAMPLE: &'static str = "type = \"gpt2\"\nlayers = 6\nheads = 6\nwidth = 384\n";

    fn model(&self, sizes: &Sizes, facts: &Facts) -> Transformer {
        self.shape(sizes, facts).model()
    }

    fn from_config(config: &Value) -> Option<Result<Transformer>> {
        (config["model_type"] == "gpt2").then(|| Ok(Gpt2Shape::from_config(config)?.model()))
    }

    fn keys_from_config(config: &Value) -> Option<(Sizes, Self)> {
        let shape = Self::from_config(config).and(Gpt2Shape::from_config(config).ok())?;
        let Gpt2Shape { layers, heads, width, feed_forward, .. } = shape;
        Some((Sizes { layers, heads, width }, Self { feed_forward: Some(feed_forward) }))
    }
}

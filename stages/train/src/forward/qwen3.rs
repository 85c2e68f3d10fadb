//! The model `qwen3` (Yang et al. 2025).
use crate::forward::llama::{Llama, check_even_heads, check_kv_heads};
use crate::forward::{ModelType, Sizes};
use anyhow::Result;
use compute::models::{LlamaShape, Qwen3Shape, Transformer};
use contract::{Facts, Problem, StageKeys};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The member `qwen3`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, StageKeys)]
pub struct Qwen3 {
    /// Columns per head, an even number; `width / heads` if not given.
    #[key(min = 2, max = 65_536)]
    pub head_width: Option<usize>,
    /// What it shares with Llama.
    #[serde(flatten)]
    pub llama: Llama,
}

impl ModelType for Qwen3 {
    const SUMMARY: &'static str =
        "Qwen 3 (Yang et al. 2025): Llama with normalised queries and keys, heads of any width";
    const EXAMPLE: &'static str = "type = \"qwen3\"\nlayers = 6\nheads = 6\nkv_heads = 2\nwidth = 384\n";

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
        check_kv_heads(sizes, self.llama.kv_heads).into_iter().collect()
    }

    fn model(&self, sizes: &Sizes, facts: &Facts) -> Transformer {
        let head_width = self.head_width.unwrap_or(sizes.width / sizes.heads);
        Qwen3Shape(LlamaShape { head_width, ..self.llama.shape(sizes, facts) }).model()
    }

    fn from_config(config: &Value) -> Option<Result<Transformer>> {
        (config["model_type"] == "qwen3").then(|| Ok(Qwen3Shape::from_config(config)?.model()))
    }
}

//! The model `qwen3` (Yang et al. 2025).
use crate::forward::llama::Llama;
use crate::forward::{ModelType, Sizes};
use anyhow::Result;
use compute::models::{Qwen3Shape, Transformer};
use contract::{Facts, Problem, StageKeys};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The member `qwen3`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, StageKeys)]
pub struct Qwen3 {
    /// What it shares with Llama.
    #[serde(flatten)]
    pub llama: Llama,
}

impl ModelType for Qwen3 {
    const SUMMARY: &'static str =
        "Qwen 3 (Yang et al. 2025): Llama with normalised queries and keys, heads of any width";
    const EXAMPLE: &'static str = "type = \"qwen3\"\nlayers = 6\nheads = 6\nkv_heads = 2\nwidth = 384\n";

    fn check_heads(&self, sizes: &Sizes) -> Option<Problem> {
        self.llama.check_heads(sizes)
    }

    fn check(&self, sizes: &Sizes) -> Vec<Problem> {
        self.llama.check(sizes)
    }

    fn model(&self, sizes: &Sizes, facts: &Facts) -> Transformer {
        Qwen3Shape(self.llama.shape(sizes, facts)).model()
    }

    fn from_config(config: &Value) -> Option<Result<Transformer>> {
        (config["model_type"] == "qwen3").then(|| Ok(Qwen3Shape::from_config(config)?.model()))
    }

    fn keys_from_config(config: &Value) -> Option<(Sizes, Self)> {
        let shape = Self::from_config(config).and(Qwen3Shape::from_config(config).ok())?;
        let (sizes, llama) = Llama::of(&shape.0);
        Some((sizes, Self { llama }))
    }
}

//! `forward` with `type = "llama"`: its settings; the stage is [`Forward`], as with every model.
use crate::forward::{Batching, Forward, ports};
use anyhow::Result;
use compute::models::{LlamaShape, Model, Transformer};
use contract::{
    Built, Env, Facts, Kind, Memory, ModelFacts, Port, Precision, Problem, Settings, StageKeys, StageSettings,
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Settings of `type = "llama"`.
#[derive(Clone, Debug, Serialize, Deserialize, StageKeys)]
#[serde(default, deny_unknown_fields)]
pub struct LlamaForward {
    /// Transformer blocks.
    pub layers: usize,
    /// Query heads a block; they divide `width` into an even width each.
    pub heads: usize,
    /// Key and value heads a block; they divide `heads`; as many as `heads` if not given.
    pub kv_heads: Option<usize>,
    /// Width of the residual stream.
    pub width: usize,
    /// Width of the feed-forward layer; 8/3 × `width`, rounded up to a multiple of 32, if not given.
    pub feed_forward: Option<usize>,
    /// The output head shares the token embedding instead of having a matrix of its own.
    pub tied_head: bool,
    /// Added to the mean square in RMSNorm.
    pub rms_epsilon: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Attend only within a token's own document.
    pub document_mask: bool,
    /// "batched", or "per_sequence": one sequence at a time, to measure what batching is worth.
    pub batching: Batching,
    /// "f32", or "bf16": operands of products are rounded to bfloat16, sums are in f32.
    pub precision: Precision,
}

impl Default for LlamaForward {
    fn default() -> Self {
        Self {
            layers: 2,
            heads: 8,
            kv_heads: None,
            width: 256,
            feed_forward: None,
            tied_head: false,
            rms_epsilon: 1e-5,
            rope_theta: 10_000.0,
            document_mask: false,
            batching: Batching::default(),
            precision: Precision::default(),
        }
    }
}

impl StageSettings for LlamaForward {
    const SUMMARY: &'static str = "Llama (Touvron et al. 2023): RMSNorm, rotary positions, grouped queries, SwiGLU";
    const EXAMPLE: &'static str = "type = \"llama\"\nlayers = 6\nheads = 6\nkv_heads = 2\nwidth = 384\n";
}

impl LlamaForward {
    fn model_of(&self, facts: &Facts) -> Transformer {
        LlamaShape {
            layers: self.layers,
            heads: self.heads,
            kv_heads: self.kv_heads.unwrap_or(self.heads),
            width: self.width,
            feed_forward: self.feed_forward.unwrap_or((8 * self.width).div_ceil(3).next_multiple_of(32)),
            vocabulary: facts.vocabulary,
            length: facts.length,
            tied_head: self.tied_head,
            rms_epsilon: self.rms_epsilon,
            rope_theta: self.rope_theta,
            end_of_text: facts.end_of_text,
            document_mask: self.document_mask,
        }
        .model()
        .with_precision(self.precision)
    }
}

impl Settings for LlamaForward {
    fn takes(&self) -> Vec<Port> {
        ports()
    }

    fn gives(&self) -> Vec<Kind> {
        vec![Kind::Activations]
    }

    fn check(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let sizes = [
            ("layers", Some(self.layers)),
            ("heads", Some(self.heads)),
            ("kv_heads", self.kv_heads),
            ("width", Some(self.width)),
            ("feed_forward", self.feed_forward),
        ];
        for (key, _) in sizes.iter().filter(|(_, size)| *size == Some(0)) {
            problems.push(Problem::at(key, format!("`{key}` is 0: at least 1 is needed")));
        }
        let those = |of: usize, fits: &dyn Fn(usize) -> bool| {
            let near: Vec<String> = (1..=of).filter(|n| fits(*n)).map(|n| n.to_string()).collect();
            if near.is_empty() { "none do".into() } else { format!("these do: {}", near.join(", ")) }
        };
        let (heads, width) = (self.heads, self.width);
        if heads > 0 && !width.is_multiple_of(2 * heads) {
            let near = those(width, &|heads| width.is_multiple_of(2 * heads));
            let message = format!("{heads} heads do not divide width {width} into an even width each; {near}");
            problems.push(Problem::at("heads", message));
        }
        if let Some(kv_heads) = self.kv_heads.filter(|n| *n > 0 && !heads.is_multiple_of(*n)) {
            let near = those(heads, &|n| heads.is_multiple_of(n));
            problems.push(Problem::at("kv_heads", format!("{kv_heads} do not divide {heads} heads; {near}")));
        }
        for (key, value, low, high) in
            [("rms_epsilon", self.rms_epsilon, 0.0, 1.0), ("rope_theta", self.rope_theta, 1.0, 1e12)]
        {
            if !(low..=high).contains(&value) {
                problems.push(Problem::at(key, format!("`{key}` is {value}: it must be from {low} to {high}")));
            }
        }
        problems
    }

    fn model(&self, facts: &Facts) -> Option<ModelFacts> {
        Some(self.model_of(facts).facts().clone())
    }

    fn build(&self, env: &Env) -> Result<Built> {
        let facts = env.resource::<Facts>("what the tokenizer says of its vocabulary")?;
        let stage = Forward::new(Arc::new(self.model_of(&facts)), self.batching);
        Ok(Built::Stage(Box::new(stage)))
    }

    fn memory(&self, env: &Env) -> Memory {
        let model = env.resources.get::<Facts>().map(|facts| self.model_of(&facts));
        model.map_or_else(Memory::default, |model| crate::forward::memory(&model, env))
    }
}

//! Training of any [`Architecture`]: forward and backward on whole micro-batches.
//!
//! - `context`: the state that all blocks share while a batch is computed
//! - `linear`: linear layers; `attention`, `feed_forward`: the two parts of a block
//! - `head_norm`: normalisation of queries and keys
//! - `tape`: the backward pass
mod attention;
mod context;
mod feed_forward;
mod head_norm;
mod linear;
mod tape;

use super::architecture::{Architecture, Positions};
use super::compact::CompactActivation;
use super::{ActivationMemory, Decoder, Forward, Model, decode, memory};
use crate::kernels::embedding;
use crate::kernels::rotary::Rotary;
use attention::SavedAttention;
use context::BlockContext;
use contract::{Batch, Load, ModelFacts, Parameters, Precision, Result, Tape, Tensor};
use feed_forward::SavedFeedForward;
use serde_json::Value;
use std::sync::Arc;
use tape::{EmbeddingNorm, LastNorm, TransformerTape};

/// A transformer: its description and values derived from it.
#[derive(Clone)]
pub struct Transformer {
    architecture: Arc<Architecture>,
    rotary: Option<Arc<Rotary>>,
    facts: ModelFacts,
}

impl Transformer {
    /// The model that `architecture` describes, in f32. `config` is its Hugging Face configuration, `summary` a
    /// one-line description.
    ///
    /// # Panics
    /// If the description is inconsistent.
    pub fn new(architecture: Architecture, config: Value, summary: String) -> Self {
        architecture.check();
        let facts = ModelFacts {
            parameters: architecture.parameters(),
            head: architecture.head(),
            context: architecture.length,
            flops_per_token: architecture.flops_per_token(),
            logit_softcap: architecture.logit_softcap,
            precision: Precision::F32,
            config,
            summary,
        };
        let rotary = match architecture.positions {
            Positions::Learned => None,
            Positions::Rotary { theta, scaling, clockwise } => {
                let rotary = Rotary::new(architecture.head_width, architecture.length, theta, scaling);
                Some(Arc::new(if clockwise { rotary.reversed() } else { rotary }))
            }
        };
        Self { architecture: Arc::new(architecture), rotary, facts }
    }

    /// The same model with operands of matrix products rounded to `precision`.
    #[must_use]
    pub fn with_precision(self, precision: Precision) -> Self {
        Self { facts: ModelFacts { precision, ..self.facts }, ..self }
    }

    /// `[rows, width]`: the embeddings of the batch's tokens.
    fn embed(&self, parameters: &[Arc<Tensor>], batch: &Batch) -> Tensor {
        let width = self.architecture.width;
        let mut x_rc = Tensor::scratch([batch.sequences * batch.length, width]);
        let tokens = &parameters[0].data;
        match self.architecture.positions {
            Positions::Learned => {
                let positions = &parameters[1].data;
                embedding::forward(&batch.tokens, batch.length, tokens, positions, width, &mut x_rc.data);
            }
            Positions::Rotary { .. } => {
                for (row, token) in x_rc.data.chunks_exact_mut(width).zip(&batch.tokens[..]) {
                    row.copy_from_slice(&tokens[*token as usize * width..][..width]);
                }
            }
        }
        x_rc
    }
}

impl Model for Transformer {
    fn facts(&self) -> &ModelFacts {
        &self.facts
    }

    fn forward(&self, parameters: &Parameters, batch: &Batch, keep: bool) -> Forward {
        let (architecture, all) = (&self.architecture, &parameters.0);
        assert_eq!(all.len(), self.facts.parameters.len(), "one tensor per parameter of this model");
        assert!(batch.length <= architecture.length, "sequences fit the model's context");
        let context = BlockContext {
            batch: batch.clone(),
            architecture: Arc::clone(architecture),
            layout: architecture.block(),
            rotary: self.rotary.clone(),
            precision: self.facts.precision,
            // Without a backward pass nothing is saved, so it need not be rounded.
            saving: if keep { self.facts.precision } else { Precision::F32 },
            key: 0,
        };
        let (mut x_rc, embedding_norm) = normalise_embeddings(&context, self.embed(all, batch));
        let (first, last) = (architecture.embeddings(), architecture.first_of_block(architecture.layers));
        let mut blocks = Vec::new();
        for weights in all[first..last].chunks_exact(context.layout.tensors) {
            let (out_rc, block) = SavedBlock::forward(&context, weights, x_rc);
            x_rc = out_rc;
            if keep {
                blocks.push(block);
            }
        }
        let parameters = &all[last..last + architecture.norm.tensors()];
        let mut hidden = Tensor::scratch(x_rc.shape.clone());
        let mut statistics = Tensor::scratch([context.rows() * architecture.norm.statistics()]);
        architecture.norm.forward(parameters, architecture.width, &x_rc.data, &mut hidden.data, &mut statistics.data);
        let tape = keep.then(|| -> Box<dyn Tape> {
            let last = LastNorm { x_rc, statistics, parameters: parameters.to_vec() };
            Box::new(TransformerTape::new(context, embedding_norm, blocks, last))
        });
        Forward { hidden, tape }
    }

    fn activations(&self, sequences: usize, length: usize) -> ActivationMemory {
        memory::activations(&self.architecture, self.facts.precision, sequences * length)
    }

    fn decoder(&self, precision: Precision, parameters: &mut Load) -> Result<Decoder> {
        decode::load(&self.architecture, self.rotary.as_ref(), precision, parameters)
    }
}

/// Normalises the embeddings `x_rc` if the model does that; returns also what backward needs.
fn normalise_embeddings(context: &BlockContext, x_rc: Tensor) -> (Tensor, Option<EmbeddingNorm>) {
    let Some(norm) = context.architecture.embedding_norm() else { return (x_rc, None) };
    let mut normal_rc = Tensor::scratch(x_rc.shape.clone());
    let mut statistics = Tensor::scratch([context.rows() * norm.statistics()]);
    norm.forward(&[], context.architecture.width, &x_rc.data, &mut normal_rc.data, &mut statistics.data);
    (normal_rc, Some(EmbeddingNorm { x_rc: CompactActivation::new(context.saving, x_rc), statistics }))
}

/// The activations that a block saves for backward, which recomputes the outputs of normalisations and of the
/// activation function.
struct SavedBlock {
    weights: Vec<Arc<Tensor>>,
    attention: SavedAttention,
    feed_forward: SavedFeedForward,
}

impl SavedBlock {
    /// The output of the block, and the activations that backward needs.
    fn forward(context: &BlockContext, weights: &[Arc<Tensor>], x_rc: Tensor) -> (Tensor, Self) {
        let (middle_rc, attention) = SavedAttention::forward(context, weights, x_rc);
        let (out_rc, feed_forward) = SavedFeedForward::forward(context, weights, middle_rc);
        (out_rc, Self { weights: weights.to_vec(), attention, feed_forward })
    }

    /// Turns `d_rc` from the gradient of the block's output into that of its input, and passes the gradients of its
    /// tensors to `give` by their index in the block.
    fn backward(self, context: &BlockContext, d_rc: &mut Tensor, give: &mut dyn FnMut(usize, Tensor)) {
        let mut d_normal_rc = Tensor::scratch(d_rc.shape.clone());
        self.feed_forward.backward(context, &self.weights, d_rc, &mut d_normal_rc, give);
        self.attention.backward(context, &self.weights, d_rc, &mut d_normal_rc, give);
    }
}

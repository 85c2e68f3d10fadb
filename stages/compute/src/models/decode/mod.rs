//! Decoding of one sequence with a key-value cache, so that a new token costs one pass over the weights.
//!
//! - [`Linear`]: linear layers, distributed over threads; `weights`: their matrices in f32, bfloat16 or eight bits
//! - [`cache`]: the key-value cache, and attention to it
//! - `load`: a model's parameters, arranged for decoding
//!
//! A [`Decoder`] reads the same [`Architecture`] as training. In f32, its results equal those of
//! [`Model::forward`](super::Model::forward) up to rounding (sums are taken in another order). They do not depend on the
//! number of threads, which is that of the current rayon pool.
//!
//! The matrices of linear layers, the head and the token embedding are held once, in the precision of the decoder;
//! everything else, the key-value cache included, is f32. In bfloat16, what matrices are multiplied with is rounded too. In
//! eight bits, it becomes integers of sixteen bits, or with several tokens at once (a prompt) bfloat16.
pub mod cache;
mod linear;
mod load;
mod weights;

use super::activation::Activation;
use super::architecture::Architecture;
use super::norm::Norm;
use crate::kernels::rotary::Rotary;
use crate::kernels::softcap;
use crate::kernels::sum::add;
use cache::{Cache, Heads};
use contract::{Buffer, Decode, Tensor};
pub use linear::Linear;
pub(super) use load::load;
use std::sync::Arc;
use weights::Weights;

/// The weights of a block.
struct Block {
    norm_1: Vec<Arc<Tensor>>,
    /// The projections to queries, keys and values, side by side.
    qkv: Linear,
    /// The normalisations of query heads and of key heads.
    query_key_norms: [Vec<Arc<Tensor>>; 2],
    /// The projection of the heads' outputs.
    out: Linear,
    norm_2: Vec<Arc<Tensor>>,
    /// The projections into the feed-forward layer: up, or gate and up side by side. The activation function adds the
    /// bias.
    up: Linear,
    /// `[inner]`: the bias, or zeros.
    up_bias: Arc<Tensor>,
    /// The projection back to the residual stream.
    down: Linear,
}

/// A model and the keys and values of the tokens processed so far.
pub struct Decoder {
    architecture: Arc<Architecture>,
    rotary: Option<Arc<Rotary>>,
    /// `[vocabulary, width]`: the token embedding, if it is not that of the head.
    tokens: Option<Weights>,
    /// `[length, width]`: added to the token embeddings if positions are learned.
    positions: Option<Arc<Tensor>>,
    blocks: Vec<Block>,
    /// The final normalisation.
    norm: Vec<Arc<Tensor>>,
    head: Linear,
    caches: Vec<Cache>,
    /// Tokens fed so far.
    length: usize,
}

impl Decoder {
    /// Tokens fed so far.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Largest number of tokens that can be fed: the model's context length.
    pub fn capacity(&self) -> usize {
        self.architecture.length
    }

    /// Number of token ids.
    pub fn vocabulary(&self) -> usize {
        self.head.weights().rows()
    }

    /// Bytes of the matrices that a token is multiplied with: what is read of them for each token.
    pub fn weight_bytes(&self) -> usize {
        let layers = self.blocks.iter().flat_map(|block| [&block.qkv, &block.out, &block.up, &block.down]);
        layers.chain([&self.head]).map(|layer| layer.weights().bytes()).sum()
    }

    /// Forgets all tokens.
    pub fn restart(&mut self) {
        self.length = 0;
    }

    fn heads(&self) -> Heads {
        let architecture = &self.architecture;
        Heads {
            queries: architecture.heads,
            keys: architecture.kv_heads,
            width: architecture.head_width,
            capacity: architecture.length,
        }
    }

    /// Processes the next tokens, all at once, and returns the logits `[vocabulary]` of the token after them.
    ///
    /// # Panics
    /// If `tokens` is empty, a token is not in the vocabulary, or the total exceeds the model's context length.
    pub fn feed(&mut self, tokens: &[u32]) -> Buffer {
        assert!(!tokens.is_empty() && self.length + tokens.len() <= self.capacity(), "tokens fit the context");
        let (heads, norm, width) = (self.heads(), self.architecture.norm, self.architecture.width);
        let mut x = self.embed(tokens);
        for (block, cache) in self.blocks.iter().zip(&mut self.caches) {
            let mut qkv = block.qkv.apply(&normalise(norm, &block.norm_1, width, &x));
            if let Some(norm) = self.architecture.query_key_norm {
                block.normalise_heads(norm, heads, &mut qkv);
            }
            if let Some(rotary) = &self.rotary {
                let Heads { queries, keys, width, .. } = heads;
                for (position, row) in (self.length..).zip(qkv.chunks_exact_mut((queries + 2 * keys) * width)) {
                    rotary.rotate(&mut row[..(queries + keys) * width], position);
                }
            }
            let attended = block.out.apply(&cache.attend(&qkv, self.length));
            add(&mut x, &attended);
            let out = block.feed_forward(self.architecture.activation, &normalise(norm, &block.norm_2, width, &x));
            add(&mut x, &out);
        }
        self.length += tokens.len();
        let mut logits = self.head.apply(&normalise(norm, &self.norm, width, &x[x.len() - width..]));
        if let Some(cap) = self.architecture.logit_softcap {
            softcap::forward(cap, &mut logits);
        }
        logits
    }

    /// `[tokens, width]`
    fn embed(&self, tokens: &[u32]) -> Buffer {
        let width = self.architecture.width;
        let mut x = Buffer::scratch(tokens.len() * width);
        let embedding = self.tokens.as_ref().unwrap_or(self.head.weights());
        for (position, (x, token)) in (self.length..).zip(x.chunks_exact_mut(width).zip(tokens)) {
            embedding.row(*token as usize, x);
            if let Some(positions) = &self.positions {
                add(x, &positions.data[position * width..][..width]);
            }
        }
        match self.architecture.embedding_norm() {
            Some(norm) => normalise(norm, &[], width, &x),
            None => x,
        }
    }
}

impl Decode for Decoder {
    fn feed(&mut self, tokens: &[u32]) -> Buffer {
        self.feed(tokens)
    }

    fn length(&self) -> usize {
        self.length()
    }

    fn capacity(&self) -> usize {
        self.capacity()
    }

    fn vocabulary(&self) -> usize {
        self.vocabulary()
    }

    fn weight_bytes(&self) -> usize {
        self.weight_bytes()
    }

    fn restart(&mut self) {
        self.restart();
    }
}

impl Block {
    /// Normalises the queries and keys of each row of `qkv`.
    fn normalise_heads(&self, norm: Norm, heads: Heads, qkv: &mut [f32]) {
        let Heads { queries, keys, width, .. } = heads;
        for row in qkv.chunks_exact_mut((queries + 2 * keys) * width) {
            let (queries, rest) = row.split_at_mut(queries * width);
            for (part, parameters) in [queries, &mut rest[..keys * width]].into_iter().zip(&self.query_key_norms) {
                let normal = normalise(norm, parameters, width, part);
                part.copy_from_slice(&normal);
            }
        }
    }

    fn feed_forward(&self, activation: Activation, x: &[f32]) -> Buffer {
        let up = self.up.apply(x);
        let width = self.up_bias.data.len();
        let mut inner = Buffer::scratch(up.len() / activation.projections());
        match activation {
            Activation::Pointwise(kernel) => (kernel.forward)(&up, &self.up_bias.data, &mut inner),
            Activation::Gated(kernel) => (kernel.forward)(&up, width, &mut inner),
        }
        self.down.apply(&inner)
    }
}

fn normalise(norm: Norm, parameters: &[Arc<Tensor>], width: usize, x: &[f32]) -> Buffer {
    let mut out = Buffer::scratch(x.len());
    let mut statistics = Buffer::scratch(norm.statistics() * x.len() / width);
    norm.forward(parameters, width, x, &mut out, &mut statistics);
    out
}

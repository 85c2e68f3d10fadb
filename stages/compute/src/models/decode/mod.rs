//! One sequence, continued: keys and values are kept, so that a new token costs one pass over the weights.
//!
//! - [`Linear`]: products with weights, shared out among threads
//! - [`cache`]: keys, values, and attention to them
//!
//! A [`Decoder`] is any model of pre-norm blocks; [`Model::decoder`](super::Model::decoder) says which. Its numbers are
//! those of [`Model::forward`](super::Model::forward) up to rounding (products are taken in another order), and do not
//! depend on the number of threads, which is that of the current rayon pool.
pub mod cache;
mod linear;

use crate::kernels::rotary::Rotary;
use crate::kernels::sum::add;
use crate::kernels::{gelu, layer_norm, rms_norm, swiglu};
use cache::{Cache, Heads};
use contract::{Buffer, Tensor};
pub use linear::Linear;
use std::sync::Arc;

/// Rows to rows of the same width.
pub enum Norm {
    /// See [`layer_norm`].
    Layer {
        /// `[width]`
        gain: Arc<Tensor>,
        /// `[width]`
        bias: Arc<Tensor>,
    },
    /// See [`rms_norm`].
    Rms {
        /// `[width]`
        gain: Arc<Tensor>,
        /// Added to the mean square.
        epsilon: f32,
    },
}

/// How a model knows where a token stands.
pub enum Positions {
    /// A vector a position `[positions, width]`, added to the token's.
    Learned(Arc<Tensor>),
    /// Queries and keys turn.
    Rotary(Arc<Rotary>),
}

/// The part of a block that looks at one token at a time.
pub enum FeedForward {
    /// `down(gelu(up x + bias))`
    Gelu {
        /// Without its bias.
        up: Linear,
        /// `[feed forward]`
        bias: Arc<Tensor>,
        /// Back to the width.
        down: Linear,
    },
    /// `down(silu(gate x) · up x)`
    SwiGlu {
        /// Side by side.
        gate_up: Linear,
        /// Back to the width.
        down: Linear,
    },
}

/// A block: `x + out(attention(norm_1 x))`, then the same with the feed-forward part.
pub struct Block {
    /// Before attention.
    pub norm_1: Norm,
    /// To queries, keys and values, side by side.
    pub qkv: Linear,
    /// From what the heads found.
    pub out: Linear,
    /// Before the feed-forward part.
    pub norm_2: Norm,
    /// The feed-forward part.
    pub feed_forward: FeedForward,
}

/// What a [`Decoder`] is made of.
pub struct Parts {
    /// `[vocabulary, width]`
    pub tokens: Arc<Tensor>,
    /// Where they stand.
    pub positions: Positions,
    /// From the first to the last.
    pub blocks: Vec<Block>,
    /// After the last block.
    pub norm: Norm,
    /// To logits.
    pub head: Linear,
    /// Of all blocks.
    pub heads: Heads,
}

/// A model with the keys and values of the tokens it has been fed.
pub struct Decoder {
    parts: Parts,
    width: usize,
    caches: Vec<Cache>,
    length: usize,
}

impl Decoder {
    /// One that has seen nothing.
    pub fn new(parts: Parts) -> Self {
        let caches = parts.blocks.iter().map(|_| Cache::new(parts.heads)).collect();
        Self { width: parts.tokens.shape[1], parts, caches, length: 0 }
    }

    /// Tokens fed so far.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Tokens that can be fed in all: the model's positions.
    pub fn capacity(&self) -> usize {
        self.parts.heads.capacity
    }

    /// Token ids there are.
    pub fn vocabulary(&self) -> usize {
        self.parts.head.outputs()
    }

    /// Feeds the next tokens, all at once, and gives the logits `[vocabulary]` of what follows the last.
    ///
    /// # Panics
    /// If there is no token, one is not in the vocabulary, or they are more than the model has positions for.
    pub fn feed(&mut self, tokens: &[u32]) -> Buffer {
        let (parts, width) = (&self.parts, self.width);
        assert!(!tokens.is_empty() && self.length + tokens.len() <= parts.heads.capacity, "tokens that have room");
        let mut x = Buffer::scratch(tokens.len() * width);
        for (position, (x, token)) in (self.length..).zip(x.chunks_exact_mut(width).zip(tokens)) {
            x.copy_from_slice(&parts.tokens.data[*token as usize * width..][..width]);
            if let Positions::Learned(positions) = &parts.positions {
                add(x, &positions.data[position * width..][..width]);
            }
        }
        for (block, cache) in parts.blocks.iter().zip(&mut self.caches) {
            let mut qkv = block.qkv.apply(&block.norm_1.apply(&x));
            if let Positions::Rotary(rotary) = &parts.positions {
                let Heads { queries, keys, width, .. } = parts.heads;
                for (position, row) in (self.length..).zip(qkv.chunks_exact_mut((queries + 2 * keys) * width)) {
                    rotary.turn(&mut row[..(queries + keys) * width], position);
                }
            }
            let attended = block.out.apply(&cache.attend(&qkv, self.length));
            add(&mut x, &attended);
            let looked = block.feed_forward.apply(&block.norm_2.apply(&x));
            add(&mut x, &looked);
        }
        self.length += tokens.len();
        parts.head.apply(&parts.norm.apply(&x[x.len() - width..]))
    }
}

impl Norm {
    fn apply(&self, x: &[f32]) -> Buffer {
        let mut out = Buffer::scratch(x.len());
        match self {
            Norm::Layer { gain, bias } => {
                let mut statistics = Buffer::scratch(2 * x.len() / gain.data.len());
                layer_norm::forward(x, &gain.data, &bias.data, &mut out, &mut statistics);
            }
            Norm::Rms { gain, epsilon } => {
                let mut factors = Buffer::scratch(x.len() / gain.data.len());
                rms_norm::forward(x, &gain.data, *epsilon, &mut out, &mut factors);
            }
        }
        out
    }
}

impl FeedForward {
    fn apply(&self, x: &[f32]) -> Buffer {
        match self {
            FeedForward::Gelu { up, bias, down } => {
                let up = up.apply(x);
                let mut inner = Buffer::scratch(up.len());
                gelu::forward(&up, &bias.data, &mut inner);
                down.apply(&inner)
            }
            FeedForward::SwiGlu { gate_up, down } => {
                let gate_up = gate_up.apply(x);
                let mut inner = Buffer::scratch(gate_up.len() / 2);
                let width = inner.len() / (x.len() / down.outputs());
                swiglu::forward(&gate_up, width, &mut inner);
                down.apply(&inner)
            }
        }
    }
}

//! GPT-2 as parts of a [`Decoder`].
use super::layer::{DOWN, NORM_1, NORM_2, OUT, QKV, TENSORS, UP};
use super::{EMBEDDINGS, Gpt2Shape};
use crate::models::decode::cache::Heads;
use crate::models::decode::{Block, Decoder, FeedForward, Linear, Norm, Parts, Positions};
use contract::{Parameters, Tensor};
use std::sync::Arc;

/// Each tensor that is turned over is let go of at once.
pub fn decoder(shape: &Gpt2Shape, parameters: Parameters) -> Decoder {
    let mut all = parameters.0;
    let norm = |mut gain_and_bias: Vec<Arc<Tensor>>| {
        let (bias, gain) = (gain_and_bias.pop(), gain_and_bias.pop());
        let (gain, bias) = gain.zip(bias).expect("two tensors");
        Norm::Layer { gain, bias }
    };
    let last = norm(all.split_off(all.len() - 2));
    let mut blocks = Vec::new();
    while all.len() > EMBEDDINGS {
        let tensors = all.split_off(all.len() - TENSORS);
        let pair = |at: usize| norm(tensors[at..at + 2].to_vec());
        let linear = |at: usize| Linear::transposed(&tensors[at], Some(Arc::clone(&tensors[at + 1])));
        blocks.push(Block {
            norm_1: pair(NORM_1),
            qkv: linear(QKV),
            out: linear(OUT),
            norm_2: pair(NORM_2),
            feed_forward: FeedForward::Gelu {
                up: Linear::transposed(&tensors[UP], None),
                bias: Arc::clone(&tensors[UP + 1]),
                down: linear(DOWN),
            },
        });
    }
    blocks.reverse();
    let [tokens, positions] = [&all[0], &all[1]].map(Arc::clone);
    let (queries, width) = (shape.heads, shape.width / shape.heads);
    Decoder::new(Parts {
        head: Linear::new(Arc::clone(&tokens)),
        tokens,
        positions: Positions::Learned(positions),
        blocks,
        norm: last,
        heads: Heads { queries, keys: queries, width, capacity: shape.length },
    })
}

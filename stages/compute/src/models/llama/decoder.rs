//! Llama as parts of a [`Decoder`].
use super::LlamaShape;
use super::layer::{DOWN, GATE, NORM_1, NORM_2, OUT, Q, TENSORS};
use crate::kernels::rotary::Rotary;
use crate::models::decode::cache::Heads;
use crate::models::decode::{Block, Decoder, FeedForward, Linear, Norm, Parts, Positions};
use contract::{Parameters, Tensor};
use std::sync::Arc;

pub fn decoder(shape: &LlamaShape, rotary: &Arc<Rotary>, head: usize, parameters: Parameters) -> Decoder {
    let mut all = parameters.0;
    let head = Linear::new(Arc::clone(&all[head]));
    let norm = |gain: &Arc<Tensor>| Norm::Rms { gain: Arc::clone(gain), epsilon: shape.rms_epsilon as f32 };
    all.truncate(2 + shape.layers * TENSORS);
    let last = norm(&all[1 + shape.layers * TENSORS]);
    let blocks = all[1..=shape.layers * TENSORS].chunks_exact(TENSORS).map(|tensors| Block {
        norm_1: norm(&tensors[NORM_1]),
        qkv: Linear::stacked(&tensors[Q..OUT]),
        out: Linear::new(Arc::clone(&tensors[OUT])),
        norm_2: norm(&tensors[NORM_2]),
        feed_forward: FeedForward::SwiGlu {
            gate_up: Linear::stacked(&tensors[GATE..DOWN]),
            down: Linear::new(Arc::clone(&tensors[DOWN])),
        },
    });
    Decoder::new(Parts {
        blocks: blocks.collect(),
        tokens: Arc::clone(&all[0]),
        positions: Positions::Rotary(Arc::clone(rotary)),
        norm: last,
        head,
        heads: Heads {
            queries: shape.heads,
            keys: shape.kv_heads,
            width: shape.width / shape.heads,
            capacity: shape.length,
        },
    })
}

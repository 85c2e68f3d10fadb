//! Rearranges a model's parameters for decoding: matrices `[out, in]`, those with the same input stacked.
use super::cache::Cache;
use super::{Block, Decoder, Linear};
use crate::kernels::rotary::Rotary;
use crate::models::architecture::{Architecture, LinearLayout, Positions, WeightLayout};
use crate::models::norm::Norm;
use contract::{Parameters, Tensor};
use std::sync::Arc;

/// A decoder with an empty cache. Tensors that have to be rearranged are dropped block by block.
pub fn load(architecture: &Arc<Architecture>, rotary: Option<&Arc<Rotary>>, parameters: Parameters) -> Decoder {
    let mut all = parameters.0;
    let head = Linear::new(Arc::clone(&all[architecture.head()]));
    let tokens = Arc::clone(&all[0]);
    let positions = (architecture.positions == Positions::Learned).then(|| Arc::clone(&all[1]));
    let mut norm = all.split_off(architecture.first_of_block(architecture.layers));
    norm.truncate(architecture.norm.tensors());
    let mut blocks = Vec::new();
    for index in (0..architecture.layers).rev() {
        let weights = all.split_off(architecture.first_of_block(index));
        blocks.push(block(architecture, &weights));
    }
    blocks.reverse();
    let mut decoder = Decoder {
        architecture: Arc::clone(architecture),
        rotary: rotary.map(Arc::clone),
        tokens,
        positions,
        blocks,
        norm,
        head,
        caches: Vec::new(),
        length: 0,
    };
    decoder.caches = decoder.blocks.iter().map(|_| Cache::new(decoder.heads())).collect();
    decoder
}

fn block(architecture: &Architecture, weights: &[Arc<Tensor>]) -> Block {
    let layout = architecture.block();
    let norm = |first: usize| weights[first..first + architecture.norm.tensors()].to_vec();
    let per_head = architecture.query_key_norm.map_or(0, Norm::tensors);
    let biased = |layout: LinearLayout| linear(layout, weights, layout.bias);
    let up_bias = match layout.up.bias {
        true => Arc::clone(&weights[layout.up.matrix(0) + 1]),
        false => Arc::new(Tensor::zeros([architecture.inner])),
    };
    Block {
        norm_1: norm(layout.norm_1),
        qkv: biased(layout.qkv),
        query_key_norms: layout.query_key_norms.map(|first| weights[first..first + per_head].to_vec()),
        out: biased(layout.out),
        norm_2: norm(layout.norm_2),
        up: linear(layout.up, weights, false),
        up_bias,
        down: biased(layout.down),
    }
}

fn linear(layout: LinearLayout, weights: &[Arc<Tensor>], bias: bool) -> Linear {
    let matrices: Vec<_> = (0..layout.projections).map(|p| Arc::clone(&weights[layout.matrix(p)])).collect();
    let biases: Vec<_> = (0..layout.projections).filter(|_| bias).map(|p| &weights[layout.matrix(p) + 1]).collect();
    let bias = match biases[..] {
        [] => None,
        [one] => Some(Arc::clone(one)),
        _ => {
            let all: Vec<f32> = biases.iter().flat_map(|bias| bias.data.iter().copied()).collect();
            Some(Arc::new(Tensor::from_values([all.len()], &all)))
        }
    };
    Linear::stacked(matrices, layout.weights == WeightLayout::InOut, bias)
}

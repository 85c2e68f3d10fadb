//! Takes a model's parameters one after the other and arranges them for decoding: matrices `[out, in]`, those with the
//! same input stacked.
use super::cache::Cache;
use super::weights::Weights;
use super::{Block, Decoder, Linear};
use crate::kernels::rotary::Rotary;
use crate::models::architecture::{Architecture, LinearLayout, Positions, WeightLayout};
use crate::models::norm::Norm;
use contract::{Load, Precision, Tensor};
use std::sync::Arc;

/// A decoder with an empty cache and weights in `precision`. Beside what it has stored, there are at most the parameters
/// of one block at a time, or an embedding.
///
/// # Errors
/// Those of `parameters`.
pub fn load(
    architecture: &Arc<Architecture>,
    rotary: Option<&Arc<Rotary>>,
    precision: Precision,
    parameters: &mut Load,
) -> anyhow::Result<Decoder> {
    let (layers, tied) = (architecture.layers, architecture.head() == 0);
    let tokens = if tied { None } else { Some(Weights::new(parameters(0)?, precision)) };
    // The largest matrix first: what it has in f32 is then free for those of the blocks.
    let head = Linear::new(parameters(architecture.head())?, precision);
    let positions = (architecture.positions == Positions::Learned).then(|| parameters(1)).transpose()?;
    let blocks = (0..layers).map(|index| {
        let tensors = architecture.first_of_block(index)..architecture.first_of_block(index + 1);
        let weights: Vec<_> = tensors.map(&mut *parameters).collect::<anyhow::Result<_>>()?;
        Ok(block(architecture, precision, &weights))
    });
    let blocks = blocks.collect::<anyhow::Result<Vec<_>>>()?;
    let norm = architecture.first_of_block(layers);
    let norm = (norm..norm + architecture.norm.tensors()).map(&mut *parameters).collect::<anyhow::Result<_>>()?;
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
    Ok(decoder)
}

fn block(architecture: &Architecture, precision: Precision, weights: &[Arc<Tensor>]) -> Block {
    let layout = architecture.block();
    let norm = |first: usize| weights[first..first + architecture.norm.tensors()].to_vec();
    let per_head = architecture.query_key_norm.map_or(0, Norm::tensors);
    let biased = |layout: LinearLayout| linear(layout, precision, weights, layout.bias);
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
        up: linear(layout.up, precision, weights, false),
        up_bias,
        down: biased(layout.down),
    }
}

fn linear(layout: LinearLayout, precision: Precision, weights: &[Arc<Tensor>], bias: bool) -> Linear {
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
    Linear::stacked(matrices, layout.weights == WeightLayout::InOut, bias, precision)
}

//! Normalisation of each query head and each key head.
use super::context::BlockContext;
use crate::models::compact::CompactActivation;
use crate::models::norm::Norm;
use contract::Tensor;
use std::ops::Range;
use std::sync::Arc;

/// The activations that the normalisations of queries and of keys save for backward.
pub struct SavedHeadNorms {
    norm: Norm,
    saved: [SavedHeads; 2],
}

/// Of the heads in some columns of the projections.
struct SavedHeads {
    /// `[rows, columns]`: the heads before the normalisation.
    heads: CompactActivation,
    /// Statistics of the normalisation, for each row and head.
    statistics: Tensor,
}

impl SavedHeadNorms {
    /// Normalises the queries and keys in `projected` `[rows, (heads + 2 · kv_heads) · head width]`; `None` if the model
    /// does not do that.
    pub fn forward(context: &BlockContext, weights: &[Arc<Tensor>], projected: &mut Tensor) -> Option<Self> {
        let norm = context.architecture.query_key_norm?;
        let width = context.architecture.head_width;
        let mut normalise = |columns: Range<usize>, first: usize| {
            let heads = copied(projected, &columns);
            let mut statistics = Tensor::scratch([heads.data.len() / width * norm.statistics()]);
            let mut normal = Tensor::scratch(heads.shape.clone());
            norm.forward(&weights[first..], width, &heads.data, &mut normal.data, &mut statistics.data);
            replace(projected, &columns, &normal);
            SavedHeads { heads: CompactActivation::new(context.saving, heads), statistics }
        };
        let ([queries, keys], [of_queries, of_keys]) = (columns(context), context.layout.query_key_norms);
        Some(Self { norm, saved: [normalise(queries, of_queries), normalise(keys, of_keys)] })
    }

    /// Turns the queries and keys in `d_projected` from the gradient of the normalised heads into that of the heads.
    pub fn backward(
        self,
        context: &BlockContext,
        weights: &[Arc<Tensor>],
        d_projected: &mut Tensor,
        give: &mut dyn FnMut(usize, Tensor),
    ) {
        let width = context.architecture.head_width;
        let parts = columns(context).into_iter().zip(context.layout.query_key_norms);
        for ((columns, first), SavedHeads { heads, statistics }) in parts.zip(self.saved) {
            let (heads, d_normal) = (heads.widen(), copied(d_projected, &columns));
            let mut d_heads = Tensor::zeros(heads.shape.clone());
            let give = &mut |index: usize, gradient: Tensor| give(first + index, gradient);
            let (x, d_x) = (&heads.data, &mut d_heads.data);
            self.norm.backward(&weights[first..], width, x, &statistics.data, &d_normal.data, d_x, give);
            replace(d_projected, &columns, &d_heads);
        }
    }
}

/// The columns of all query heads, and those of all key heads.
fn columns(context: &BlockContext) -> [Range<usize>; 2] {
    let (queries, keys) = (context.architecture.query_width(), context.architecture.kv_width());
    [0..queries, queries..queries + keys]
}

/// `[rows, columns]`: a copy of some columns of `all`.
fn copied(all: &Tensor, columns: &Range<usize>) -> Tensor {
    let stride = all.shape[1];
    let mut some = Tensor::scratch([all.shape[0], columns.len()]);
    for (some, row) in some.data.chunks_exact_mut(columns.len()).zip(all.data.chunks_exact(stride)) {
        some.copy_from_slice(&row[columns.clone()]);
    }
    some
}

/// Writes `some` `[rows, columns]` over these columns of `all`.
fn replace(all: &mut Tensor, columns: &Range<usize>, some: &Tensor) {
    let stride = all.shape[1];
    for (some, row) in some.data.chunks_exact(columns.len()).zip(all.data.chunks_exact_mut(stride)) {
        row[columns.clone()].copy_from_slice(some);
    }
}

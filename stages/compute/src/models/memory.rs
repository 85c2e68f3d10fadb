//! Estimates the memory that the activations of a batch need, from the description of the model.
use super::activation::Activation;
use super::architecture::Architecture;
use super::norm::Norm;
use super::{ActivationMemory, Positions, compact, saved};
use contract::Precision;

/// Memory for the activations of a batch of `rows` tokens. `tests/activations*.rs` compare it with actual allocations.
pub fn activations(architecture: &Architecture, precision: Precision, rows: usize) -> ActivationMemory {
    let &Architecture { layers, heads, width: c, inner, norm, .. } = architecture;
    let q = architecture.query_width();
    let projections = architecture.activation.projections();
    let up = projections * inner;
    // A layer saves statistics and log-sums in f32, and in `precision` the inputs of its two parts, the inputs (not in
    // eight bits) and the output of attention, and the input of the activation function. The tape saves its input and
    // that of the head.
    let layer = rows * (2 * norm.statistics() + heads)
        + of_head_norms(architecture, precision, rows)
        + saved::floats(precision, rows * 3 * q)
        + compact::floats(precision, rows * (2 * c + q + up));
    // The gradients of the residual stream and of the normalised activations reuse the memory of the tape's input and
    // of the head's. The peak in addition is either the output of the activation function and its gradient, or …
    let feed_forward = match (architecture.activation, precision) {
        (Activation::Pointwise(_), _) | (Activation::Gated(_), Precision::Int8) => 2 * inner,
        (Activation::Gated(_), Precision::F32) => inner,
        (Activation::Gated(_), Precision::Bf16) => 3 * inner / 2,
    };
    // … the gradient of the inputs of attention (and, in bfloat16 and eight bits, the output of attention in f32), when
    // the feed-forward part of the layer has been freed, while gradients of matrices wait to be reduced.
    let attention = match (precision, architecture.positions) {
        (Precision::F32, _) => (2 * q).saturating_sub(up),
        (Precision::Bf16, Positions::Learned) => (3 * q).saturating_sub(up / 2),
        (Precision::Bf16, Positions::Rotary { .. }) => (7 * q / 2).saturating_sub(up / 2),
        (Precision::Int8, Positions::Learned) => (3 * q).saturating_sub(up / 4),
        (Precision::Int8, Positions::Rotary { .. }) => (7 * q / 2).saturating_sub(up / 4),
    };
    let waiting = (projections + 1) * c * inner + c * q;
    let temporary = (rows * feed_forward).max(rows * attention + waiting);
    let all = waiting + c * (q + 2 * architecture.kv_width());
    let embedding_norm =
        architecture.embedding_norm().map_or(0, |norm| rows * norm.statistics() + compact::floats(precision, rows * c));
    ActivationMemory {
        saved: layers * layer + rows * (2 * c + norm.statistics()) + embedding_norm,
        temporary: temporary + saved::waiting_gradients(layers, layer, all),
    }
}

/// Floats that a layer saves if queries and keys are normalised: the heads before that, and statistics.
fn of_head_norms(architecture: &Architecture, precision: Precision, rows: usize) -> usize {
    let &Architecture { heads, kv_heads, query_key_norm, .. } = architecture;
    let of = |norm: Norm| {
        rows * (heads + kv_heads) * norm.statistics()
            + compact::floats(precision, rows * (architecture.query_width() + architecture.kv_width()))
    };
    query_key_norm.map_or(0, of)
}

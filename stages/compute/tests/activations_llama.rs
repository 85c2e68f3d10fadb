//! Compares Llama's estimate of activation memory with actual allocations. A separate test binary, since the buffer
//! pool is shared by a process.
mod common;
use common::check_memory_estimate;
use contract::Precision;
use millrace_compute::models::{Architecture, LlamaShape, Norm, Transformer};

#[test]
fn llama_memory_matches_the_estimate() {
    // Shapes with distinct sizes, since the pool reuses buffers of equal size.
    let (vocabulary, end_of_text, document_mask) = (311, 0, false);
    let (tied_head, rms_epsilon, rope_theta) = (true, 1e-5, 1e4);
    for (layers, heads, kv_heads, width, feed_forward, sequences, length) in
        [(2, 4, 2, 136, 318, 4, 91), (5, 4, 4, 208, 450, 2, 113), (1, 8, 1, 336, 900, 7, 67)]
    {
        let shape = LlamaShape {
            layers,
            heads,
            kv_heads,
            width,
            feed_forward,
            vocabulary,
            length,
            tied_head,
            rms_epsilon,
            rope_theta,
            end_of_text,
            document_mask,
        };
        for precision in [Precision::F32, Precision::Bf16] {
            check_memory_estimate(&shape.model().with_precision(precision), sequences, length, vocabulary);
            let query_key_norm = Some(Norm::Rms { epsilon: 1e-6 });
            let architecture = Architecture { query_key_norm, ..shape.architecture() };
            let normalised = Transformer::new(architecture, shape.config(), "with norms of heads".into());
            check_memory_estimate(&normalised.with_precision(precision), sequences, length, vocabulary);
        }
    }
}

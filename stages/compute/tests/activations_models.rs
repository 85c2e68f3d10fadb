//! Compares the estimates of activation memory of Llama, Qwen 3 and NanoChat with actual allocations. A separate test
//! binary, since the buffer pool is shared by a process.
mod common;
use common::check_memory_estimate;
use contract::Precision;
use millrace_compute::models::{LlamaShape, NanoChatShape, Qwen3Shape, RopeScaling};

#[test]
fn memory_matches_the_estimate() {
    // Shapes with distinct sizes, since the pool reuses buffers of equal size.
    let (vocabulary, end_of_text) = (311, 0);
    let (tied_head, rms_epsilon, rope_theta) = (true, 1e-5, 1e4);
    for (layers, heads, kv_heads, width, feed_forward, sequences, length) in
        [(2, 4, 2, 136, 318, 4, 91), (5, 4, 4, 208, 450, 2, 113), (1, 8, 1, 336, 900, 7, 67)]
    {
        let shape = LlamaShape {
            layers,
            heads,
            kv_heads,
            head_width: width / heads,
            width,
            feed_forward,
            vocabulary,
            length,
            tied_head,
            rms_epsilon,
            rope_theta,
            rope_scaling: RopeScaling::None,
            end_of_text,
        };
        for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
            check_memory_estimate(&shape.model().with_precision(precision), sequences, length, vocabulary);
            let qwen3 = Qwen3Shape(LlamaShape { head_width: width / heads + 10, ..shape.clone() });
            check_memory_estimate(&qwen3.model().with_precision(precision), sequences, length, vocabulary);
            let nanochat = NanoChatShape { llama: shape.clone(), logit_softcap: Some(15.0) };
            check_memory_estimate(&nanochat.model().with_precision(precision), sequences, length, vocabulary);
        }
    }
}

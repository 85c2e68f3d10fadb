//! Compares GPT-2's estimate of activation memory with actual allocations. A separate test binary, since the buffer
//! pool is shared by a process.
mod common;
use common::check_memory_estimate;
use contract::Precision;
use millrace_compute::models::Gpt2Shape;

#[test]
fn gpt2_memory_matches_the_estimate() {
    // Shapes with distinct sizes, since the pool reuses buffers of equal size.
    let (vocabulary, end_of_text) = (311, 0);
    for (layers, heads, width, feed_forward, sequences, length) in
        [(2, 2, 128, 512, 4, 90), (5, 4, 192, 400, 2, 109), (1, 8, 320, 1280, 7, 65)]
    {
        let shape = Gpt2Shape { layers, heads, width, feed_forward, vocabulary, length, end_of_text };
        for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
            check_memory_estimate(&shape.model().with_precision(precision), sequences, length, vocabulary);
        }
    }
}

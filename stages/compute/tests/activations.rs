//! What GPT-2 says that a batch takes is what it takes. Alone in its process: the pool is the process's.
mod common;
use common::takes_what_it_says;
use contract::Precision;
use millrace_compute::models::Gpt2Shape;

#[test]
fn gpt2_takes_what_it_says() {
    // Sizes that no other shape here shares: buffers are kept by size.
    let (vocabulary, end_of_text, document_mask) = (311, 0, false);
    for (layers, heads, width, feed_forward, sequences, length) in
        [(2, 2, 128, 512, 4, 90), (5, 4, 192, 400, 2, 109), (1, 8, 320, 1280, 7, 65)]
    {
        let shape = Gpt2Shape { layers, heads, width, feed_forward, vocabulary, length, end_of_text, document_mask };
        for precision in [Precision::F32, Precision::Bf16] {
            takes_what_it_says(&shape.model().with_precision(precision), sequences, length, vocabulary);
        }
    }
}

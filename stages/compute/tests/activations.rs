//! What a model says that a batch takes is what it takes. Alone in its process: the pool is the process's.
use contract::tensor::pooled_bytes;
use contract::{Batch, Parameters, Precision, Purpose, Tensor, Turn};
use millrace_compute::kernels::cross_entropy::CrossEntropy;
use millrace_compute::kernels::head::{head_loss, rows_alive};
use millrace_compute::models::{Gpt2, Gpt2Shape, Llama, LlamaShape, Model};
use std::sync::Arc;

/// Floats that products of these sizes pack their operands into, which no model can know.
const PACKED: usize = 1_000_000;

#[test]
fn models_take_what_they_say() {
    // Sizes that no other shape here shares: buffers are kept by size.
    let (vocabulary, end_of_text, document_mask) = (311, 0, false);
    for (layers, heads, width, feed_forward, sequences, length) in
        [(2, 2, 128, 512, 4, 90), (5, 4, 192, 400, 2, 109), (1, 8, 320, 1280, 7, 65)]
    {
        let shape = Gpt2Shape { layers, heads, width, feed_forward, vocabulary, length, end_of_text, document_mask };
        takes_what_it_says(&Gpt2::new(shape), sequences, length, vocabulary);
    }
    for (layers, heads, kv_heads, width, feed_forward, sequences, length) in
        [(2, 4, 2, 136, 318, 4, 91), (5, 4, 4, 208, 450, 2, 113), (1, 8, 1, 336, 900, 7, 67)]
    {
        let (tied_head, rms_epsilon, rope_theta) = (true, 1e-5, 1e4);
        takes_what_it_says(
            &Llama::new(LlamaShape {
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
            }),
            sequences,
            length,
            vocabulary,
        );
    }
}

fn takes_what_it_says(model: &dyn Model, sequences: usize, length: usize, vocabulary: usize) {
    let (summary, rows) = (&model.facts().summary, sequences * length);
    let parameters: Vec<_> = model.facts().parameters.iter().map(|spec| Arc::new(spec.initial(1))).collect();
    let ids: Vec<u32> = (0..rows as u32).map(|i| i * 7 % vocabulary as u32).collect();
    let batch = Batch {
        leaf: 0,
        purpose: Purpose::Train,
        part: 0,
        sequences,
        length,
        tokens: ids.clone().into(),
        targets: ids.clone().into(),
        document_starts: vec![0; rows].into(),
    };
    let before = pooled_bytes();
    drop(model.forward(&Parameters(parameters.clone()), &batch, false));
    let passing = (pooled_bytes() - before) / 4;
    let forward = model.forward(&Parameters(parameters.clone()), &batch, true);
    let (hidden, mut tape) = (forward.hidden, forward.tape.unwrap());
    let (_, d_hidden, d_head) = head_loss(&CrossEntropy, &hidden, &parameters[0], &ids, None, Precision::F32);
    drop(hidden);
    tape.start(d_hidden, d_head);
    let mut gradients: Vec<Tensor> = Vec::new();
    while tape.turn(&mut |_, gradient| gradients.push(gradient)).unwrap() == Turn::More {}
    let taken = (pooled_bytes() - before) / 4;
    let apart = model.facts().parameter_count() + rows_alive(rows, vocabulary, None) * vocabulary;
    for (taken, said) in [
        (passing, model.activations(sequences, length, false)),
        (taken, model.activations(sequences, length, true) + apart),
    ] {
        assert!(taken as f64 > 0.93 * said as f64, "{summary}: {said} floats were said, {taken} taken");
        let packed = taken as f64 - 1.07 * said as f64;
        assert!(packed < PACKED as f64, "{summary}: {said} floats were said, {taken} taken");
    }
}

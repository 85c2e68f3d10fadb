//! Helpers for comparisons with PyTorch: golden files, a full forward and backward pass, and relative errors.
#![allow(dead_code)] // each test file uses only some of these
use contract::{Batch, HeadGradient, ModelFacts, Parameters, Purpose, Tensor, Turn, pool};
use millrace_compute::kernels::cross_entropy::CrossEntropy;
use millrace_compute::kernels::gemm::{available, matrix, matrix_mut, product, with_backend};
use millrace_compute::kernels::head::{Logits, gradient_later, head_loss, rows_alive};
use millrace_compute::kernels::softcap;
use millrace_compute::models::{ActivationMemory, Forward, Model};
use safetensors::SafeTensors;
use std::path::Path;
use std::sync::Arc;

/// A file of `tests/golden`.
pub fn bytes(file: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(file);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn words(file: &[u8], name: &str) -> Vec<[u8; 4]> {
    let tensors = SafeTensors::deserialize(file).expect("a safetensors file");
    let tensor = tensors.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}"));
    tensor.data().as_chunks::<4>().0.to_vec()
}

/// A tensor of f32.
pub fn floats(file: &[u8], name: &str) -> Vec<f32> {
    words(file, name).into_iter().map(f32::from_le_bytes).collect()
}

/// A tensor of i32; -1 becomes `IGNORED`.
pub fn ids(file: &[u8], name: &str) -> Vec<u32> {
    words(file, name).into_iter().map(u32::from_le_bytes).collect()
}

/// Runs `test` on every GEMM backend that this CPU can run, which always includes OpenBLAS, with the backend's name.
pub fn on_every_backend(test: impl Fn(&'static str)) {
    let backends = available();
    assert!(backends.contains(&"openblas"), "{backends:?}");
    for backend in backends {
        println!("on {backend}");
        with_backend(backend, || test(backend)).expect("the backend is available");
    }
}

/// Loss, number of targets, and all gradients of the summed loss; `head` is the index of the head.
pub fn learn(forward: Forward, parameters: &Parameters, facts: &ModelFacts, batch: &Batch) -> (f64, u64, Vec<Tensor>) {
    let Forward { hidden, tape } = forward;
    let mut tape = tape.expect("forward was called with keep");
    let logits = Logits {
        softcap: facts.logit_softcap,
        precision: facts.precision,
        ..Logits::new(&hidden, &parameters[facts.head])
    };
    let (loss, d_hidden, d_head) = head_loss(&CrossEntropy, &logits, &batch.targets);
    tape.start(d_hidden, d_head);
    let mut gradients: Vec<Vec<f32>> = parameters.0.iter().map(|_| Vec::new()).collect();
    let mut give = |index: usize, part: Tensor| {
        assert_eq!(part.shape[1..], parameters[index].shape[1..]);
        gradients[index].extend_from_slice(&part.data);
    };
    while tape.backward_layer(&mut give).expect("backward succeeds") == Turn::More {}
    let whole = |(gradient, parameter): (Vec<f32>, &Arc<Tensor>)| {
        assert_eq!(gradient.len(), parameter.data.len(), "every tensor has one gradient");
        Tensor::from_values(parameter.shape.clone(), &gradient)
    };
    (loss.trained, loss.targets, gradients.into_iter().zip(&parameters.0).map(whole).collect())
}

/// ‖actual · scale - expected‖ / ‖expected‖
pub fn relative_error(actual: &[f32], expected: &[f32], scale: f64) -> f64 {
    assert_eq!(actual.len(), expected.len());
    let (mut off, mut norm) = (0.0, 0.0);
    for (a, e) in actual.iter().zip(expected) {
        off += (f64::from(*a) * scale - f64::from(*e)).powi(2);
        norm += f64::from(*e).powi(2);
    }
    (off / norm).sqrt()
}

/// Asserts that `got`, the gradients of the loss summed over `targets`, are those of its mean that `expected` has under
/// the names of parameters, up to a [`relative_error`] of `most`. Returns how many have one above 1e-4.
pub fn assert_gradients(
    what: &str,
    facts: &ModelFacts,
    got: &[Tensor],
    targets: u64,
    expected: impl Fn(&str) -> Vec<f32>,
    most: f64,
) -> usize {
    let mut inexact = 0;
    for (spec, got) in facts.parameters.iter().zip(got) {
        let error = relative_error(&got.data, &expected(&spec.name), 1.0 / targets as f64);
        println!("{error:.1e} {what} {}", spec.name);
        assert!(error <= most, "{what} {}: {error}", spec.name);
        inexact += usize::from(error > 1e-4);
    }
    inexact
}

/// Asserts that the logits of the first rows equal `expected` within 2e-5 of the largest.
pub fn assert_logits(hidden: &Tensor, parameters: &Parameters, facts: &ModelFacts, expected: &[f32]) {
    let head = &parameters[facts.head];
    let (vocabulary, width) = (head.shape[0], head.shape[1]);
    let rows = expected.len() / vocabulary;
    let mut logits = vec![0.0; expected.len()];
    let (hidden, head) = (matrix(&hidden.data[..rows * width], width), matrix(&head.data, width));
    product(1.0, hidden, head.reversed_axes(), 0.0, matrix_mut(&mut logits, vocabulary));
    if let Some(cap) = facts.logit_softcap {
        softcap::forward(cap, &mut logits);
    }
    let largest = expected.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    let off = logits.iter().zip(expected).fold(0.0f32, |m, (a, e)| m.max((a - e).abs()));
    println!("logits off by {:.1e} of the largest", off / largest);
    assert!(off <= 2e-5 * largest, "{off} of {largest}");
}

/// Floats of buffers for packed operands, which the estimate does not include.
const PACKED: usize = 1_000_000;

/// Asserts that the peak memory until the loss, and that of the whole step, match the estimate of `model`.
pub fn check_memory_estimate(model: &dyn Model, sequences: usize, length: usize, vocabulary: usize) {
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
        document_starts: Vec::new().into(),
        documents: Vec::new().into(),
    };
    let before = pool::watch();
    let taken = || (pool::most_bytes() - before) as usize / size_of::<f32>();
    let forward = model.forward(&Parameters(parameters.clone()), &batch, true);
    let (hidden, mut tape) = (forward.hidden, forward.tape.unwrap());
    let facts = model.facts();
    let logits = Logits { precision: facts.precision, ..Logits::new(&hidden, &parameters[facts.head]) };
    let (_, d_hidden, d_head) = head_loss(&CrossEntropy, &logits, &ids);
    drop(hidden);
    let head = match &d_head {
        HeadGradient::Whole(d_head) => d_head.data.len(),
        HeadGradient::Later { .. } => {
            gradient_later(facts.precision, rows, vocabulary, parameters[facts.head].shape[1])
                .expect("the gradient is computed later")
        }
    };
    let until_loss = taken();
    tape.start(d_hidden, d_head);
    // The gradients of a layer are alive until the next layer is done, since they are reduced meanwhile.
    let (mut before, mut given) = (Vec::new(), Vec::new());
    while tape.backward_layer(&mut |_, gradient| given.push(gradient)).unwrap() == Turn::More {
        before = std::mem::take(&mut given);
    }
    drop(before);
    let ActivationMemory { saved, temporary } = model.activations(sequences, length);
    let logits =
        rows_alive(rows, vocabulary, None, model.facts().precision) * vocabulary + rows * parameters[0].shape[1];
    for (phase, taken, estimate) in
        [("until the loss", until_loss, saved + logits + head), ("all", taken(), saved + head + logits.max(temporary))]
    {
        let (most, least) = (1.07 * estimate as f64 + PACKED as f64, 0.93 * estimate as f64);
        let fits = taken as f64 > least && (taken as f64) < most;
        println!("{summary}, {:?}, {phase}: {estimate} floats estimated, {taken} allocated", model.facts().precision);
        assert!(
            fits,
            "{summary}, {:?}, {phase}: {estimate} floats estimated, {taken} allocated",
            model.facts().precision
        );
    }
}

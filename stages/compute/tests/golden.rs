//! Compares GPT-2 with PyTorch: logits, gradients and ten steps. The expected numbers come from
//! `tests/golden/make_golden.py`.
mod common;
use common::{assert_gradients, assert_logits, bytes, floats, ids, learn, on_every_backend, relative_error};
use compute::kernels::adamw::{AdamW, adamw};
use compute::kernels::cross_entropy::CrossEntropy;
use compute::kernels::gemm::with_backend;
use compute::kernels::head::{Logits, head_value};
use compute::kernels::sum::{add, block_squares};
use compute::models::{Gpt2Shape, Model, Transformer, forward_per_sequence};
use contract::{Batch, IGNORED, Parameters, Precision, Purpose, Tensor};
use millrace_compute as compute;
use safetensors::SafeTensors;
use std::sync::Arc;

const LENGTH: usize = 40;
const WIDTH: usize = 72;
const VOCABULARY: usize = 1009;
const SEQUENCES: usize = 4;

fn model() -> Transformer {
    Gpt2Shape {
        layers: 3,
        heads: 6,
        width: WIDTH,
        feed_forward: 288,
        vocabulary: VOCABULARY,
        length: LENGTH,
        end_of_text: 1008,
    }
    .model()
}

fn parameters(model: &dyn Model) -> Parameters {
    let file = bytes("weights.safetensors");
    let specs = &model.facts().parameters;
    Parameters(specs.iter().map(|p| Arc::new(Tensor::from_values(p.shape.clone(), &floats(&file, &p.name)))).collect())
}

/// Sequences `from..to` of step `step`.
fn batch(step: usize, from: usize, to: usize, masked: bool) -> Batch {
    let file = bytes("batches.safetensors");
    let cut =
        |x: Vec<u32>, step: usize| x[(step * SEQUENCES + from) * LENGTH..(step * SEQUENCES + to) * LENGTH].to_vec();
    let targets = if masked { cut(ids(&file, "masked_targets"), 0) } else { cut(ids(&file, "targets"), step) };
    Batch {
        leaf: 0,
        purpose: Purpose::Train,
        part: 0,
        sequences: to - from,
        length: LENGTH,
        tokens: cut(ids(&file, "tokens"), step).into(),
        targets: targets.into(),
        document_starts: (if masked { cut(ids(&file, "document_starts"), 0) } else { Vec::new() }).into(),
        documents: Vec::new().into(),
    }
}

#[test]
fn logits_and_all_gradients_match_pytorch() {
    on_every_backend(|_| {
        let (model, gradients) = (model(), bytes("gradients.safetensors"));
        let parameters = parameters(&model);
        let batch = batch(0, 0, SEQUENCES, false);
        let forward = model.forward(&parameters, &batch, true);
        assert_logits(&forward.hidden, &parameters, model.facts(), &floats(&bytes("logits.safetensors"), "plain"));
        let (_, targets, got) = learn(forward, &parameters, model.facts(), &batch);
        assert_gradients("f32", model.facts(), &got, targets, |name| floats(&gradients, name), 1e-4);
    });
}

/// bfloat16 has 8 significant bits: products of rounded operands have errors of some tenths of a percent, gradients of
/// a few times that.
#[test]
fn gradients_in_bfloat16_are_close_to_f32() {
    on_every_backend(|_| {
        let model = model().with_precision(Precision::Bf16);
        let (gradients, parameters, batch) =
            (bytes("gradients.safetensors"), parameters(&model), batch(0, 0, SEQUENCES, false));
        let (_, targets, got) = learn(model.forward(&parameters, &batch, true), &parameters, model.facts(), &batch);
        let expected = |name: &str| floats(&gradients, name);
        let rounded = assert_gradients("bf16", model.facts(), &got, targets, expected, 2e-2);
        assert!(rounded > 20, "too few gradients differ from f32: {rounded}");
    });
}

/// The errors of products in eight bits are about a percent, those of gradients several times that. They are the same whenever the key is, and others with another key.
#[test]
fn gradients_in_eight_bits_are_close_to_f32() {
    on_every_backend(|_| {
        let model = model().with_precision(Precision::Int8);
        let (gradients, parameters, batch) =
            (bytes("gradients.safetensors"), parameters(&model), batch(0, 0, SEQUENCES, false));
        let learn = |key: u64| {
            let mut forward = model.forward(&parameters, &batch, true);
            forward.tape.as_mut().expect("it is kept").round_with(key);
            learn(forward, &parameters, model.facts(), &batch)
        };
        let (loss, targets, got) = learn(1);
        let expected = |name: &str| floats(&gradients, name);
        let rounded = assert_gradients("int8", model.facts(), &got, targets, expected, 1.2e-1);
        assert!(rounded > 20, "too few gradients differ from f32: {rounded}");
        let data = |gradients: &[Tensor]| gradients.iter().map(|g| g.data.to_vec()).collect::<Vec<_>>();
        let (again, other) = (learn(1), learn(2));
        assert_eq!((loss, data(&got)), (again.0, data(&again.2)));
        assert!(loss == other.0 && data(&got) != data(&other.2), "only gradients depend on the key");
    });
}

#[test]
fn documents_are_masked_and_ignored_targets_do_not_count() {
    on_every_backend(|_| {
        let (model, gradients) = (model(), bytes("gradients.safetensors"));
        let golden: serde_json::Value = serde_json::from_slice(&bytes("golden.json")).expect("golden.json");
        let parameters = parameters(&model);
        let batch = batch(0, 0, SEQUENCES, true);
        assert!(batch.targets.contains(&IGNORED));
        let forward = model.forward(&parameters, &batch, true);
        assert_logits(&forward.hidden, &parameters, model.facts(), &floats(&bytes("logits.safetensors"), "masked"));
        let (loss, targets, got) = learn(forward, &parameters, model.facts(), &batch);
        assert_eq!(targets, golden["masked_targets"].as_u64().expect("a count"));
        let expected = golden["masked_loss"].as_f64().expect("a loss");
        assert!((loss / targets as f64 - expected).abs() < 1e-5 * expected);
        let norm = got.iter().flat_map(|g| block_squares(&g.data)).sum::<f64>().sqrt() / targets as f64;
        assert!((norm / golden["masked_norm"].as_f64().expect("a norm") - 1.0).abs() < 1e-5);
        let mut compared = 0;
        for (spec, got) in model.facts().parameters.iter().zip(got) {
            let name = format!("masked.{}", spec.name);
            if SafeTensors::deserialize(&gradients).expect("a safetensors file").tensor(&name).is_ok() {
                let error = relative_error(&got.data, &floats(&gradients, &name), 1.0 / targets as f64);
                assert!(error <= 1e-4, "{name}: {error}");
                compared += 1;
            }
        }
        assert!(compared > 12);
    });
}

#[test]
fn ten_steps_match_pytorch() {
    on_every_backend(|_| {
        let golden: serde_json::Value = serde_json::from_slice(&bytes("golden.json")).expect("golden.json");
        let of = |name: &str, step: usize| golden[name][step].as_f64().expect("a number");
        let option = |name: &str| golden["optimizer"][name].as_f64().expect("a number");
        let model = model();
        let mut parameters = parameters(&model);
        let zeros =
            || -> Vec<Tensor> { model.facts().parameters.iter().map(|p| Tensor::zeros(p.shape.clone())).collect() };
        let (mut m, mut v) = (zeros(), zeros());
        for step in 0..10 {
            // Two micro-batches of two sequences.
            let leaf = |from: usize| {
                let batch = batch(step, from, from + 2, false);
                learn(model.forward(&parameters, &batch, true), &parameters, model.facts(), &batch)
            };
            let ((loss_a, targets_a, mut gradients), (loss_b, targets_b, other)) = (leaf(0), leaf(2));
            gradients.iter_mut().zip(&other).for_each(|(a, b)| add(&mut a.data, &b.data));
            let targets = (targets_a + targets_b) as f64;
            let loss = (loss_a + loss_b) / targets;
            assert!((loss - of("losses", step)).abs() <= 1e-4, "step {step}: {loss}, expected {}", of("losses", step));
            let norm = gradients.iter().flat_map(|g| block_squares(&g.data)).sum::<f64>().sqrt() / targets;
            assert!((norm / of("gradient_norms", step) - 1.0).abs() <= 1e-4, "step {step}: norm {norm}");
            println!("step {step}: loss off by {:.1e}", loss - of("losses", step));
            let t = step as i32 + 1;
            for (index, spec) in model.facts().parameters.iter().enumerate() {
                let settings = AdamW {
                    beta1: option("beta1") as f32,
                    beta2: option("beta2") as f32,
                    epsilon: option("epsilon") as f32,
                    decay: if spec.decays() { option("decay") as f32 } else { 0.0 },
                    rate: of("learning_rates", step) as f32,
                    bias1: (1.0 - option("beta1").powi(t)) as f32,
                    bias2: (1.0 - option("beta2").powi(t)) as f32,
                    scale: ((option("clip") / (norm + 1e-6)).min(1.0) / targets) as f32,
                };
                let parameter = Arc::get_mut(&mut parameters.0[index]).expect("the tape has dropped its references");
                adamw(&settings, &mut parameter.data, &mut m[index].data, &mut v[index].data, &gradients[index].data);
            }
        }
    });
}

#[test]
fn one_sequence_at_a_time_gives_the_same_gradients() {
    on_every_backend(|_| {
        for mask in [false, true] {
            let model: Arc<dyn Model> = Arc::new(model());
            let parameters = parameters(&*model);
            let batch = batch(0, 0, SEQUENCES, mask);
            let (loss, targets, whole) =
                learn(model.forward(&parameters, &batch, true), &parameters, model.facts(), &batch);
            let forward = forward_per_sequence(&model, &parameters, &batch, true);
            let (same, same_targets, single) = learn(forward, &parameters, model.facts(), &batch);
            assert_eq!(targets, same_targets);
            assert!((loss - same).abs() < 1e-5 * loss);
            for (whole, single) in whole.iter().zip(&single) {
                assert!(relative_error(&single.data, &whole.data, 1.0) < 1e-5);
            }
        }
    });
}

#[test]
fn validation_gives_the_training_loss_and_runs_repeat_bit_for_bit() {
    on_every_backend(|backend| {
        let model: Arc<dyn Model> = Arc::new(model());
        let parameters = parameters(&*model);
        let batch = batch(3, 1, 4, false);
        let run = {
            let (model, parameters, batch) = (model.clone(), parameters.clone(), batch.clone());
            move || learn(model.forward(&parameters, &batch, true), &parameters, model.facts(), &batch)
        };
        let (loss, _, first) = run.clone()();
        let (again, _, second) = std::thread::spawn(move || with_backend(backend, run))
            .join()
            .expect("the thread does not panic")
            .expect("available");
        assert_eq!(loss.to_bits(), again.to_bits());
        for (a, b) in first.iter().zip(&second) {
            assert!(a.data.iter().zip(&b.data[..]).all(|(a, b)| a.to_bits() == b.to_bits()));
        }
        let forward = model.forward(&parameters, &batch, false);
        assert!(forward.tape.is_none());
        let value = head_value(&CrossEntropy, &Logits::new(&forward.hidden, &parameters[0]), &batch.targets);
        assert_eq!(value.trained.to_bits(), loss.to_bits());
    });
}

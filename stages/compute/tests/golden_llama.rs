//! Compares Llama with transformers: logits, gradients and ten steps, with a tied and with a separate head. The
//! expected numbers come from `tests/golden/make_golden_llama.py`.
mod common;
use common::{assert_logits, bytes, floats, ids, learn, on_every_backend, relative_error};
use compute::kernels::adamw::{AdamW, adamw};
use compute::kernels::sum::{add, block_squares};
use compute::models::{LlamaShape, Model, Transformer, forward_per_sequence};
use contract::{Batch, IGNORED, Parameters, Precision, Purpose, Tensor};
use millrace_compute as compute;
use std::sync::Arc;

const LENGTH: usize = 24;
const SEQUENCES: usize = 4;
const KINDS: [&str; 2] = ["tied", "untied"];

fn model(kind: &str, document_mask: bool) -> Transformer {
    LlamaShape {
        layers: 2,
        heads: 4,
        kv_heads: 2,
        width: 32,
        feed_forward: 40,
        vocabulary: 61,
        length: LENGTH,
        tied_head: kind == "tied",
        rms_epsilon: 1e-5,
        rope_theta: 10_000.0,
        end_of_text: 0,
        document_mask,
    }
    .model()
}

fn parameters(file: &[u8], kind: &str, model: &dyn Model) -> Parameters {
    let tensor = |spec: &contract::ParameterSpec| {
        let values = floats(file, &format!("{kind}.weights.{}", spec.name));
        Arc::new(Tensor::from_values(spec.shape.clone(), &values))
    };
    Parameters(model.facts().parameters.iter().map(tensor).collect())
}

/// Sequences `from..to` of step `step`.
fn batch(file: &[u8], step: usize, from: usize, to: usize, masked: bool) -> Batch {
    let cut = |name: &str, step: usize| {
        ids(file, name)[(step * SEQUENCES + from) * LENGTH..(step * SEQUENCES + to) * LENGTH].to_vec()
    };
    let targets = if masked { cut("masked_targets", 0) } else { cut("targets", step) };
    Batch {
        leaf: 0,
        purpose: Purpose::Train,
        part: 0,
        sequences: to - from,
        length: LENGTH,
        tokens: cut("tokens", step).into(),
        targets: targets.into(),
        document_starts: cut("document_starts", 0).into(),
    }
}

#[test]
fn logits_and_all_gradients_match_transformers() {
    on_every_backend(|_| {
        let file = bytes("llama.safetensors");
        let golden: serde_json::Value = serde_json::from_slice(&bytes("llama.json")).expect("llama.json");
        for (kind, masked) in KINDS.into_iter().flat_map(|kind| [(kind, false), (kind, true)]) {
            let model = model(kind, masked);
            let (parameters, batch) = (parameters(&file, kind, &model), batch(&file, 0, 0, SEQUENCES, masked));
            assert_eq!(masked, batch.targets.contains(&IGNORED));
            let prefix = format!("{kind}.{}", if masked { "masked." } else { "" });
            let forward = model.forward(&parameters, &batch, true);
            let head = model.facts().head;
            assert_logits(&forward.hidden, &parameters[head], &floats(&file, &format!("{prefix}logits")));
            let (loss, targets, got) = learn(forward, &parameters, head, &batch, Precision::F32);
            let expected = if masked { &golden[kind]["masked_loss"] } else { &golden[kind]["losses"][0] };
            let expected = expected.as_f64().expect("a loss");
            assert!((loss / targets as f64 - expected).abs() < 1e-5 * expected, "{prefix}loss {loss}");
            for (spec, got) in model.facts().parameters.iter().zip(got) {
                let expected = floats(&file, &format!("{prefix}gradients.{}", spec.name));
                let error = relative_error(&got.data, &expected, 1.0 / targets as f64);
                println!("{error:.1e} {prefix}{}", spec.name);
                assert!(error <= 1e-4, "{prefix}{}: {error}", spec.name);
            }
        }
    });
}

#[test]
fn ten_steps_match_transformers() {
    on_every_backend(|_| {
        let file = bytes("llama.safetensors");
        let golden: serde_json::Value = serde_json::from_slice(&bytes("llama.json")).expect("llama.json");
        let optimizer: serde_json::Value = serde_json::from_slice(&bytes("golden.json")).expect("golden.json");
        let option = |name: &str| optimizer["optimizer"][name].as_f64().expect("a number");
        for kind in KINDS {
            let of = |name: &str, step: usize| golden[kind][name][step].as_f64().expect("a number");
            let model = model(kind, false);
            let mut parameters = parameters(&file, kind, &model);
            let specs = &model.facts().parameters;
            let zeros = || -> Vec<Tensor> { specs.iter().map(|p| Tensor::zeros(p.shape.clone())).collect() };
            let (mut m, mut v) = (zeros(), zeros());
            for step in 0..10 {
                // Two micro-batches of two sequences.
                let leaf = |from: usize| {
                    let batch = batch(&file, step, from, from + 2, false);
                    learn(
                        model.forward(&parameters, &batch, true),
                        &parameters,
                        model.facts().head,
                        &batch,
                        Precision::F32,
                    )
                };
                let ((loss_a, targets_a, mut gradients), (loss_b, targets_b, other)) = (leaf(0), leaf(2));
                gradients.iter_mut().zip(&other).for_each(|(a, b)| add(&mut a.data, &b.data));
                let targets = (targets_a + targets_b) as f64;
                let loss = (loss_a + loss_b) / targets;
                assert!((loss - of("losses", step)).abs() <= 1e-4, "{kind} {step}: {loss}, not {}", of("losses", step));
                let norm = gradients.iter().flat_map(|g| block_squares(&g.data)).sum::<f64>().sqrt() / targets;
                assert!((norm / of("gradient_norms", step) - 1.0).abs() <= 1e-4, "{kind} {step}: norm {norm}");
                let t = step as i32 + 1;
                let rate = optimizer["learning_rates"][step].as_f64().expect("a rate");
                for (index, spec) in specs.iter().enumerate() {
                    let settings = AdamW {
                        beta1: option("beta1") as f32,
                        beta2: option("beta2") as f32,
                        epsilon: option("epsilon") as f32,
                        decay: if spec.decay { option("decay") as f32 } else { 0.0 },
                        rate: rate as f32,
                        bias1: (1.0 - option("beta1").powi(t)) as f32,
                        bias2: (1.0 - option("beta2").powi(t)) as f32,
                        scale: ((option("clip") / (norm + 1e-6)).min(1.0) / targets) as f32,
                    };
                    let parameter =
                        Arc::get_mut(&mut parameters.0[index]).expect("the tape has dropped its references");
                    adamw(
                        &settings,
                        &mut parameter.data,
                        &mut m[index].data,
                        &mut v[index].data,
                        &gradients[index].data,
                    );
                }
            }
        }
    });
}

#[test]
fn one_sequence_at_a_time_gives_the_same_gradients() {
    on_every_backend(|_| {
        let file = bytes("llama.safetensors");
        for kind in KINDS {
            let model: Arc<dyn Model> = Arc::new(model(kind, false));
            let (parameters, batch) = (parameters(&file, kind, &*model), batch(&file, 0, 0, SEQUENCES, false));
            let head = model.facts().head;
            let (loss, targets, whole) =
                learn(model.forward(&parameters, &batch, true), &parameters, head, &batch, Precision::F32);
            let forward = forward_per_sequence(&model, &parameters, &batch, true);
            let (same, same_targets, single) = learn(forward, &parameters, head, &batch, Precision::F32);
            assert_eq!(targets, same_targets);
            assert!((loss - same).abs() < 1e-5 * loss);
            for (whole, single) in whole.iter().zip(&single) {
                assert!(relative_error(&single.data, &whole.data, 1.0) < 1e-5);
            }
        }
    });
}

//! Compares Llama, Qwen 3 and NanoChat with transformers: logits, gradients and ten steps, with a tied and with a
//! separate head. The expected numbers come from `tests/golden/make_golden_models.py`.
mod common;
use common::{assert_gradients, assert_logits, bytes, floats, ids, learn, on_every_backend, relative_error};
use compute::kernels::adamw::{AdamW, adamw};
use compute::kernels::sum::{add, block_squares};
use compute::models::{LlamaShape, Model, NanoChatShape, Qwen3Shape, RopeScaling, Transformer, forward_per_sequence};
use contract::{Batch, IGNORED, Parameters, Precision, Purpose, Tensor};
use millrace_compute as compute;
use serde_json::Value;
use std::sync::Arc;

const LENGTH: usize = 24;
const SEQUENCES: usize = 4;
/// Types of models, and whether the head is tied.
const KINDS: [(&str, &str); 6] = [
    ("llama", "tied"),
    ("llama", "untied"),
    ("qwen3", "tied"),
    ("qwen3", "untied"),
    ("nanochat", "tied"),
    ("nanochat", "untied"),
];

fn model((name, head): (&str, &str)) -> Transformer {
    let (layers, heads, kv_heads, width, feed_forward, vocabulary, length) = (2, 4, 2, 32, 40, 61, LENGTH);
    let (tied_head, rope_theta, end_of_text) = (head == "tied", 10_000.0, 0);
    let rms_epsilon = if name == "llama" { 1e-5 } else { 1e-6 };
    let llama = LlamaShape {
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
    match name {
        "llama" => llama.model(),
        "qwen3" => Qwen3Shape(LlamaShape { head_width: 12, ..llama }).model(),
        _ => NanoChatShape { llama, logit_softcap: Some(2.5) }.model(),
    }
}

/// The golden tensors and numbers of a type of model.
fn golden(name: &str) -> (Vec<u8>, Value) {
    let numbers = serde_json::from_slice(&bytes(&format!("{name}.json"))).expect("JSON");
    (bytes(&format!("{name}.safetensors")), numbers)
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
        document_starts: (if masked { cut("document_starts", 0) } else { Vec::new() }).into(),
        documents: Vec::new().into(),
    }
}

#[test]
fn logits_and_all_gradients_match_transformers() {
    on_every_backend(|_| {
        for ((name, kind), masked) in KINDS.into_iter().flat_map(|kind| [(kind, false), (kind, true)]) {
            let ((file, golden), model) = (golden(name), model((name, kind)));
            let (parameters, batch) = (parameters(&file, kind, &model), batch(&file, 0, 0, SEQUENCES, masked));
            assert_eq!(masked, batch.targets.contains(&IGNORED));
            let prefix = format!("{kind}.{}", if masked { "masked." } else { "" });
            let forward = model.forward(&parameters, &batch, true);
            let expected = floats(&file, &format!("{prefix}logits"));
            assert_logits(&forward.hidden, &parameters, model.facts(), &expected);
            let (loss, targets, got) = learn(forward, &parameters, model.facts(), &batch);
            let expected = if masked { &golden[kind]["masked_loss"] } else { &golden[kind]["losses"][0] };
            let expected = expected.as_f64().expect("a loss");
            assert!((loss / targets as f64 - expected).abs() < 1e-5 * expected, "{name} {prefix}loss {loss}");
            let expected = |parameter: &str| floats(&file, &format!("{prefix}gradients.{parameter}"));
            assert_gradients(&format!("{name} {prefix}"), model.facts(), &got, targets, expected, 1e-4);
        }
    });
}

/// As for GPT-2, the errors of products in bfloat16 are some tenths of a percent, those of gradients a few times that.
#[test]
fn gradients_in_bfloat16_are_close_to_transformers() {
    on_every_backend(|_| {
        for (name, kind) in KINDS {
            let ((file, _), model) = (golden(name), model((name, kind)).with_precision(Precision::Bf16));
            let (parameters, batch) = (parameters(&file, kind, &model), batch(&file, 0, 0, SEQUENCES, false));
            let (_, targets, got) = learn(model.forward(&parameters, &batch, true), &parameters, model.facts(), &batch);
            let expected = |parameter: &str| floats(&file, &format!("{kind}.gradients.{parameter}"));
            let what = format!("{name} {kind} bf16");
            let rounded = assert_gradients(&what, model.facts(), &got, targets, expected, 6e-2);
            assert!(rounded > 10, "too few gradients differ from f32: {rounded}");
        }
    });
}

/// These models are much smaller than any that is trained, so that rounding errors hardly average out.
#[test]
fn gradients_in_eight_bits_are_close_to_transformers() {
    on_every_backend(|_| {
        for (name, kind) in KINDS {
            let ((file, _), model) = (golden(name), model((name, kind)).with_precision(Precision::Int8));
            let (parameters, batch) = (parameters(&file, kind, &model), batch(&file, 0, 0, SEQUENCES, false));
            let (_, targets, got) = learn(model.forward(&parameters, &batch, true), &parameters, model.facts(), &batch);
            let expected = |parameter: &str| floats(&file, &format!("{kind}.gradients.{parameter}"));
            let rounded =
                assert_gradients(&format!("{name} {kind} int8"), model.facts(), &got, targets, expected, 2e-1);
            assert!(rounded > 10, "too few gradients differ from f32: {rounded}");
        }
    });
}

#[test]
fn ten_steps_match_transformers() {
    on_every_backend(|_| {
        let optimizer: Value = serde_json::from_slice(&bytes("golden.json")).expect("golden.json");
        let option = |name: &str| optimizer["optimizer"][name].as_f64().expect("a number");
        for (name, kind) in KINDS {
            let (file, golden) = golden(name);
            let of = |name: &str, step: usize| golden[kind][name][step].as_f64().expect("a number");
            let model = model((name, kind));
            let mut parameters = parameters(&file, kind, &model);
            let specs = &model.facts().parameters;
            let zeros = || -> Vec<Tensor> { specs.iter().map(|p| Tensor::zeros(p.shape.clone())).collect() };
            let (mut m, mut v) = (zeros(), zeros());
            for step in 0..10 {
                // Two micro-batches of two sequences.
                let leaf = |from: usize| {
                    let batch = batch(&file, step, from, from + 2, false);
                    learn(model.forward(&parameters, &batch, true), &parameters, model.facts(), &batch)
                };
                let ((loss_a, targets_a, mut gradients), (loss_b, targets_b, other)) = (leaf(0), leaf(2));
                gradients.iter_mut().zip(&other).for_each(|(a, b)| add(&mut a.data, &b.data));
                let targets = (targets_a + targets_b) as f64;
                let loss = (loss_a + loss_b) / targets;
                assert!(
                    (loss - of("losses", step)).abs() <= 1e-4,
                    "{name} {kind} {step}: {loss}, not {}",
                    of("losses", step)
                );
                let norm = gradients.iter().flat_map(|g| block_squares(&g.data)).sum::<f64>().sqrt() / targets;
                assert!((norm / of("gradient_norms", step) - 1.0).abs() <= 1e-4, "{name} {kind} {step}: norm {norm}");
                let t = step as i32 + 1;
                let rate = optimizer["learning_rates"][step].as_f64().expect("a rate");
                for (index, spec) in specs.iter().enumerate() {
                    let settings = AdamW {
                        beta1: option("beta1") as f32,
                        beta2: option("beta2") as f32,
                        epsilon: option("epsilon") as f32,
                        decay: if spec.decays() { option("decay") as f32 } else { 0.0 },
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
        for (name, kind) in KINDS {
            let (file, _) = golden(name);
            let model: Arc<dyn Model> = Arc::new(model((name, kind)));
            let (parameters, batch) = (parameters(&file, kind, &*model), batch(&file, 0, 0, SEQUENCES, false));
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

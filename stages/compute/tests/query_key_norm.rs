//! Normalisation of queries and keys, in a GPT-2 and in a Llama: gradients against finite differences, and what follows
//! from the definition.
mod common;
use common::{learn, on_every_backend};
use compute::models::{Architecture, Gpt2Shape, LlamaShape, Model, Norm, RopeScaling, Transformer};
use contract::{Batch, Init, ParameterSpec, Parameters, Purpose, Tensor};
use millrace_compute as compute;
use std::sync::Arc;

const LENGTH: usize = 12;
const SEQUENCES: usize = 3;
const VOCABULARY: usize = 31;

/// A GPT-2 and a Llama.
fn models() -> [Transformer; 2] {
    let (layers, heads, width, feed_forward) = (2, 4, 32, 40);
    let (vocabulary, length, end_of_text) = (VOCABULARY, LENGTH, 0);
    let gpt2 = Gpt2Shape { layers, heads, width, feed_forward, vocabulary, length, end_of_text };
    let llama = LlamaShape {
        layers,
        heads,
        kv_heads: 2,
        head_width: width / heads,
        width,
        feed_forward,
        vocabulary,
        length,
        tied_head: true,
        rms_epsilon: 1e-5,
        rope_theta: 10_000.0,
        rope_scaling: RopeScaling::None,
        end_of_text,
    };
    let with = |architecture: Architecture, norm: Norm, config| {
        Transformer::new(Architecture { query_key_norm: Some(norm), ..architecture }, config, String::new())
    };
    [
        with(gpt2.architecture(), Norm::Layer, gpt2.config()),
        with(llama.architecture(), Norm::Rms { epsilon: 1e-6 }, llama.config()),
    ]
}

fn drawn(spec: &ParameterSpec, seed: u64, deviation: f32) -> Tensor {
    ParameterSpec { init: Init::Normal(deviation), ..spec.clone() }.initial(seed)
}

fn parameters(model: &dyn Model) -> Parameters {
    let tensor = |spec: &ParameterSpec| {
        let mut tensor = drawn(spec, 3, 0.2);
        if spec.init == Init::Ones {
            tensor.data.iter_mut().for_each(|x| *x += 1.0);
        }
        Arc::new(tensor)
    };
    Parameters(model.facts().parameters.iter().map(tensor).collect())
}

fn batch() -> Batch {
    let ids = |by: u32| -> Vec<u32> {
        (0..(SEQUENCES * LENGTH) as u32).map(|i| (i * i * by + i) % VOCABULARY as u32).collect()
    };
    Batch {
        leaf: 0,
        purpose: Purpose::Train,
        part: 0,
        sequences: SEQUENCES,
        length: LENGTH,
        tokens: ids(3).into(),
        targets: ids(5).into(),
        document_starts: Vec::new().into(),
        documents: Vec::new().into(),
    }
}

fn loss_and_gradients(model: &dyn Model, parameters: &Parameters) -> (f64, Vec<Tensor>) {
    let batch = batch();
    let forward = model.forward(parameters, &batch, true);
    let (loss, _, gradients) = learn(forward, parameters, model.facts(), &batch);
    (loss, gradients)
}

#[test]
fn gradients_are_those_of_finite_differences() {
    on_every_backend(|_| {
        for model in models() {
            let at = parameters(&model);
            let (_, gradients) = loss_and_gradients(&model, &at);
            for (index, (spec, gradient)) in model.facts().parameters.iter().zip(&gradients).enumerate() {
                let direction = drawn(spec, 5, 1.0);
                let step = 2e-3;
                let moved = |by: f32| {
                    let mut there = at.clone();
                    let mut tensor = Tensor::clone(&at[index]);
                    tensor.data.iter_mut().zip(&direction.data[..]).for_each(|(x, d)| *x += by * d);
                    there.0[index] = Arc::new(tensor);
                    loss_and_gradients(&model, &there).0
                };
                let slope = (moved(step) - moved(-step)) / (2.0 * f64::from(step));
                let product = |(g, d): (&f32, &f32)| f64::from(*g) * f64::from(*d);
                let along: f64 = gradient.data.iter().zip(&direction.data[..]).map(product).sum();
                let size = gradient.data.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
                println!("{slope:.4} {along:.4} of {size:.4} {}", spec.name);
                assert!((slope - along).abs() <= 0.003 * size + 0.01, "{}: {slope}, not {along}", spec.name);
            }
        }
    });
}

/// The scale of queries and of keys is lost in their normalisation.
#[test]
fn larger_projections_of_queries_and_keys_change_nothing() {
    let [_, llama] = models();
    let at = parameters(&llama);
    let (loss, _) = loss_and_gradients(&llama, &at);
    for (name, by, same) in
        [("q_proj", 3.0, true), ("k_proj", 0.5, true), ("v_proj", 3.0, false), ("q_norm", 3.0, false)]
    {
        let mut there = at.clone();
        for (index, spec) in llama.facts().parameters.iter().enumerate().filter(|(_, spec)| spec.name.contains(name)) {
            let mut tensor = Tensor::clone(&at[index]);
            tensor.data.iter_mut().for_each(|x| *x *= by);
            assert_eq!(tensor.shape.len(), if name == "q_norm" { 1 } else { 2 }, "{}", spec.name);
            there.0[index] = Arc::new(tensor);
        }
        let (other, _) = loss_and_gradients(&llama, &there);
        assert_eq!((other / loss - 1.0).abs() < 1e-4, same, "{name}: {other}, {loss}");
    }
}

#[test]
fn all_heads_of_a_block_share_their_parameters() {
    let [gpt2, llama] = models();
    let names = |model: &Transformer, of: &str| -> Vec<(String, Vec<usize>)> {
        let specs = model.facts().parameters.iter().filter(|spec| spec.name.contains(of) && spec.name.contains("1."));
        specs.map(|spec| (spec.name.clone(), spec.shape.to_vec())).collect()
    };
    assert_eq!(names(&llama, "k_norm"), [("model.layers.1.self_attn.k_norm.weight".to_owned(), vec![8])]);
    let both = names(&gpt2, "q_norm");
    assert_eq!(both[1], ("transformer.h.1.attn.q_norm.bias".to_owned(), vec![8]));
}

//! Decoding with a key-value cache gives the tokens that full forward passes give.
use compute::kernels::gemm::{matrix, matrix_mut, product};
use compute::kernels::softcap;
use compute::models::{
    Architecture, Decoder, Gpt2Shape, LlamaShape, Model, NanoChatShape, Norm, Qwen3Shape, RopeScaling, Transformer,
};
use contract::{Batch, Init, ModelFacts, Parameters, Precision, Purpose, Tensor};
use millrace_compute as compute;
use std::sync::Arc;

const LENGTH: usize = 80;
const VOCABULARY: usize = 211;

fn gpt2() -> Transformer {
    Gpt2Shape {
        layers: 3,
        heads: 4,
        width: 48,
        feed_forward: 150,
        vocabulary: VOCABULARY,
        length: LENGTH,
        end_of_text: 0,
    }
    .model()
}

fn llama_shape(tied_head: bool) -> LlamaShape {
    LlamaShape {
        layers: 3,
        heads: 4,
        kv_heads: 2,
        head_width: 12,
        width: 48,
        feed_forward: 150,
        vocabulary: VOCABULARY,
        length: LENGTH,
        tied_head,
        rms_epsilon: 1e-5,
        rope_theta: 10_000.0,
        rope_scaling: RopeScaling::None,
        end_of_text: 0,
    }
}

fn llama(tied_head: bool) -> Transformer {
    llama_shape(tied_head).model()
}

fn nanochat(tied_head: bool) -> Transformer {
    let llama = LlamaShape { rms_epsilon: 1e-6, ..llama_shape(tied_head) };
    NanoChatShape { llama, logit_softcap: Some(3.0) }.model()
}

/// Parameters that are larger than at initialisation, and no term trivial.
fn parameters(facts: &ModelFacts) -> Parameters {
    let tensor = |spec: &contract::ParameterSpec| {
        let mut drawn = contract::ParameterSpec { init: Init::Normal(0.2), ..spec.clone() }.initial(3);
        if spec.init == Init::Ones {
            drawn.data.iter_mut().for_each(|x| *x += 1.0);
        }
        Arc::new(drawn)
    };
    Parameters(facts.parameters.iter().map(tensor).collect())
}

fn decoder(model: &dyn Model, parameters: &Parameters, precision: Precision) -> Decoder {
    model.decoder(precision, &mut parameters.load()).expect("all parameters are there")
}

/// Logits after the last of `tokens`, from a forward pass over all of them.
fn whole(model: &dyn Model, parameters: &Parameters, tokens: &[u32]) -> Vec<f32> {
    let zeros: Vec<u32> = vec![0; tokens.len()];
    let batch = Batch {
        leaf: 0,
        purpose: Purpose::Validate,
        part: 0,
        sequences: 1,
        length: tokens.len(),
        tokens: tokens.to_vec().into(),
        targets: zeros.into(),
        document_starts: Vec::new().into(),
        documents: Vec::new().into(),
    };
    let hidden: Tensor = model.forward(parameters, &batch, false).hidden;
    let head = &parameters[model.facts().head];
    let width = head.shape[1];
    let mut logits = vec![0.0; VOCABULARY];
    let last = matrix(&hidden.data[(tokens.len() - 1) * width..], width);
    product(1.0, last, matrix(&head.data, width).reversed_axes(), 0.0, matrix_mut(&mut logits, VOCABULARY));
    if let Some(cap) = model.facts().logit_softcap {
        softcap::forward(cap, &mut logits);
    }
    logits
}

fn best(logits: &[f32]) -> u32 {
    (0..VOCABULARY).reduce(|a, b| if logits[b] > logits[a] { b } else { a }).expect("logits") as u32
}

fn check_decoding_against_forward(model: &dyn Model) {
    let parameters = parameters(model.facts());
    let mut decoder = decoder(model, &parameters, Precision::F32);
    assert_eq!((decoder.capacity(), decoder.vocabulary()), (LENGTH, VOCABULARY));
    let mut tokens = vec![7, 3, 3, 150, 9];
    let mut logits = decoder.feed(&tokens);
    loop {
        let expected = whole(model, &parameters, &tokens);
        let largest = expected.iter().fold(0.0f32, |m, x| m.max(x.abs()));
        let off = logits.iter().zip(&expected).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
        assert!(off <= 1e-5 * largest, "after {} tokens: off by {off} of {largest}", tokens.len());
        assert_eq!(best(&logits), best(&expected), "after {} tokens", tokens.len());
        if tokens.len() == LENGTH {
            break;
        }
        tokens.push(best(&logits));
        logits = decoder.feed(&tokens[tokens.len() - 1..]);
    }
    assert_eq!(decoder.length(), LENGTH);
    let kinds: std::collections::BTreeSet<u32> = tokens.into_iter().collect();
    assert!(kinds.len() > 5, "the generated tokens are too uniform to test anything: {kinds:?}");
}

fn check_that_bits_do_not_depend_on_threads(model: &dyn Model) {
    let tokens: Vec<u32> = (0..LENGTH as u32).map(|i| i * i % VOCABULARY as u32).collect();
    let run = |threads: usize, precision| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
        pool.install(|| {
            let mut decoder = decoder(model, &parameters(model.facts()), precision);
            let mut logits = decoder.feed(&tokens[..70]).to_vec(); // more than one tile of queries
            tokens[70..].iter().for_each(|token| logits.extend_from_slice(&decoder.feed(&[*token])));
            logits.into_iter().map(f32::to_bits).collect::<Vec<_>>()
        })
    };
    for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
        let one = run(1, precision);
        assert!(one == run(2, precision) && one == run(3, precision), "{precision}");
    }
}

/// In bfloat16 and in eight bits, logits are near those of f32, whether tokens are fed at once or one by one, and the
/// weights of every matrix are held once, in the precision.
fn check_precisions(model: &dyn Model) {
    let (parameters, facts) = (parameters(model.facts()), model.facts());
    let tokens: Vec<u32> = (0..LENGTH as u32).map(|i| (i * i + 5) % VOCABULARY as u32).collect();
    let run = |precision: Precision, prompt: usize| -> Vec<f32> {
        let mut decoder = decoder(model, &parameters, precision);
        let mut logits = decoder.feed(&tokens[..prompt]);
        for token in &tokens[prompt..] {
            logits = decoder.feed(&[*token]);
        }
        decoder.restart();
        assert_eq!(decoder.length(), 0);
        let again = decoder.feed(&tokens[..prompt]);
        assert!(prompt < LENGTH || again[..] == logits[..], "a decoder that starts again knows nothing of before");
        logits.to_vec()
    };
    let expected = run(Precision::F32, LENGTH);
    let norm = |x: &mut dyn Iterator<Item = f32>| x.map(|x| x * x).sum::<f32>().sqrt();
    for (precision, bound) in [(Precision::Bf16, 0.03), (Precision::Int8, 0.06)] {
        for prompt in [LENGTH, 60, 4, 1] {
            let logits = run(precision, prompt);
            let off = norm(&mut logits.iter().zip(&expected).map(|(a, b)| a - b)) / norm(&mut expected.iter().copied());
            assert!(off > 0.0 && off <= bound, "{precision}, a prompt of {prompt}: off by {off}");
        }
    }
    let matrices: usize = facts.parameters.iter().filter(|spec| spec.shape.len() == 2).map(|spec| spec.len()).sum();
    let gathered: usize = facts.parameters
        [..facts.parameters.iter().position(|spec| spec.name.contains(".0.")).unwrap()]
        .iter()
        .map(|spec| spec.len())
        .sum();
    let tied = facts.head == 0;
    let read = matrices - gathered + if tied { facts.parameters[0].len() } else { 0 };
    let bytes = |precision| decoder(model, &parameters, precision).weight_bytes();
    assert_eq!((bytes(Precision::F32), bytes(Precision::Bf16)), (4 * read, 2 * read));
    assert!(bytes(Precision::Int8) >= read && bytes(Precision::Int8) < 2 * read, "padded rows and a scale for each");
}

#[test]
fn gpt2_continues() {
    check_precisions(&gpt2());
    check_decoding_against_forward(&gpt2());
    check_that_bits_do_not_depend_on_threads(&gpt2());
}

#[test]
fn llama_continues() {
    check_precisions(&llama(true));
    check_precisions(&llama(false));
    check_decoding_against_forward(&llama(true));
    check_decoding_against_forward(&llama(false));
    check_that_bits_do_not_depend_on_threads(&llama(false));
}

#[test]
fn qwen3_continues() {
    let model = Qwen3Shape(LlamaShape { head_width: 16, ..llama_shape(true) }).model();
    check_decoding_against_forward(&model);
    check_that_bits_do_not_depend_on_threads(&model);
}

#[test]
fn nanochat_continues() {
    check_precisions(&nanochat(true));
    check_decoding_against_forward(&nanochat(true));
    check_decoding_against_forward(&nanochat(false));
    check_that_bits_do_not_depend_on_threads(&nanochat(false));
}

#[test]
fn a_model_that_normalises_queries_and_keys_continues() {
    let shape = llama_shape(true);
    for norm in [Norm::Rms { epsilon: 1e-6 }, Norm::Layer] {
        let architecture = Architecture { query_key_norm: Some(norm), ..shape.architecture() };
        check_decoding_against_forward(&Transformer::new(architecture, shape.config(), format!("{norm:?}")));
    }
}

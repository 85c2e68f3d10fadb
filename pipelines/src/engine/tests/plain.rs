//! The maths of the miniature training pipeline, and all of it as a plain loop.
use contract::{Lane, Step, parameters};
use std::collections::BTreeMap;

/// Parameter tensors, and values in each.
pub const TENSORS: usize = 3;
pub const WIDTH: usize = 4;
/// Tokens in a micro-batch.
pub const LENGTH: usize = 10;

pub type Values = Vec<Vec<f32>>;

pub fn initial() -> Values {
    (0..TENSORS).map(|t| (0..WIDTH).map(|i| (t * WIDTH + i) as f32 * 0.37).collect()).collect()
}

/// Packet number `cursor` of `lane`.
pub fn tokens(lane: Lane, cursor: u64) -> Vec<u32> {
    let seed = parameters::splitmix64(u64::from(lane), cursor);
    (0..seed % 7).map(|i| (parameters::splitmix64(seed, i) % 100) as u32).collect()
}

/// Packets the source gives in call number `cursor`.
pub fn packets(cursor: u64) -> u64 {
    1 + cursor % 3
}

pub fn gradient(parameter: &[f32], tensor: usize, tokens: &[u32]) -> Vec<f32> {
    let one = |(i, p): (usize, &f32)| tokens.iter().map(|t| (p * 0.1 + *t as f32 + (tensor * i) as f32).sin()).sum();
    parameter.iter().enumerate().map(one).collect()
}

pub fn update(parameter: &mut [f32], gradients: &BTreeMap<Lane, Vec<f32>>) {
    for gradient in gradients.values() {
        parameter.iter_mut().zip(gradient).for_each(|(p, g)| *p -= 0.01 * g);
    }
}

/// The same as a plain loop.
pub fn plain(lanes: u32, steps: Step) -> Values {
    let mut parameters = initial();
    let mut state = vec![(0, Vec::new()); lanes as usize];
    for _ in 0..steps {
        let mut batches = Vec::new();
        for (lane, (cursor, rest)) in state.iter_mut().enumerate() {
            loop {
                for _ in 0..packets(*cursor) {
                    rest.extend(tokens(lane as Lane, *cursor));
                    *cursor += 1;
                }
                if rest.len() >= LENGTH {
                    break;
                }
            }
            batches.push(rest.drain(..LENGTH).collect::<Vec<_>>());
        }
        for (t, parameter) in parameters.iter_mut().enumerate() {
            let gradients = batches.iter().enumerate().map(|(l, b)| (l as Lane, gradient(parameter, t, b))).collect();
            update(parameter, &gradients);
        }
    }
    parameters
}

//! The optimizer `muon` (Jordan et al. 2024): orthogonalised momentum for the matrices inside blocks, AdamW for all
//! other parameters. Its updates are scaled to the size of AdamW's (Liu et al. 2025), so both share learning rate and
//! weight decay.
//!
//! The weights of each head of attention are orthogonalised on their own, as GLM-5 (arXiv 2602.15763, "Muon Split") and
//! Kimi K3 (arXiv 2607.24653) do for queries, keys and values; here also those of the output projection, and in
//! feed-forward layers those of groups of hidden units as wide as a head. Small Llama, Qwen 3 and NanoChat models learn
//! more per step than with whole matrices, and the products take fewer operations. A GPT-2 learns less, and keeps whole
//! matrices; [`Group::Matrix`] says which (benches/README.md).
use crate::optimize::adamw::AdamW;
use crate::optimize::{Optimizer, UpdateScalars};
use compute::kernels::gemm;
use compute::kernels::muon::{nesterov, update};
use compute::kernels::newton_schulz::{operations, orthogonalised, precision_of_products};
use contract::{Group, ModelFacts, ParameterSpec, Precision, Problem, StageKeys, Tensor};
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// Root mean square of AdamW's updates, as a fraction of the learning rate.
const STEP: f64 = 0.2;
/// Multiply-adds in the time in which one element is updated elementwise: 10, 22 and 25 for the heads of the shapes `seed`,
/// `small` and `gpt2` on a Zen 4 (`benches/kernels.rs`).
const OPERATIONS_PER_ELEMENT: u64 = 20;
/// The momentum at the beginning of its warmup, unless it is given.
const INITIAL_MOMENTUM: f64 = 0.85;

/// The member `muon`.
#[derive(Clone, Debug, Serialize, Deserialize, StageKeys)]
#[serde(default)]
pub struct Muon {
    /// Muon: decay of the sum of gradients.
    #[key(default = 0.95, min = 0, max = 0.999_999)]
    pub momentum: f64,
    /// Muon: updates in which the momentum increases linearly to `momentum`.
    pub momentum_warmup_steps: u64,
    /// Muon: momentum at the beginning of its warmup; if not given, 0.85.
    #[key(min = 0, max = 0.999_999)]
    pub initial_momentum: Option<f64>,
    /// What updates all else.
    #[serde(flatten)]
    pub others: AdamW,
}

impl Muon {
    /// The momentum of an update; the first has number 1.
    fn momentum(&self, number: f64) -> f64 {
        if self.momentum_warmup_steps == 0 {
            return self.momentum;
        }
        let done = ((number - 1.0) / self.momentum_warmup_steps as f64).min(1.0);
        (1.0 - done) * self.initial_momentum.unwrap_or(INITIAL_MOMENTUM) + done * self.momentum
    }
}

/// The rows and columns of each matrix in a tensor that Muon updates.
fn matrices(spec: &ParameterSpec) -> Option<impl Iterator<Item = [Range<usize>; 2]>> {
    let Group::Matrix([rows, columns]) = spec.group else { return None };
    let (height, width) = (spec.shape[0], spec.shape[1]);
    let bands = pieces(height, rows);
    Some(bands.flat_map(move |rows| pieces(width, columns).map(move |columns| [rows.clone(), columns])))
}

/// The pieces that `length` is cut into: of `each`, and what remains.
fn pieces(length: usize, each: usize) -> impl Iterator<Item = Range<usize>> {
    (0..length).step_by(each).map(move |start| start..length.min(start + each))
}

impl Optimizer for Muon {
    const SUMMARY: &'static str =
        "Muon (Jordan et al. 2024) for matrices inside blocks, AdamW for the other parameters";
    const EXAMPLE: &'static str = "type = \"muon\"\nlearning_rate = 1e-3\nwarmup_steps = 100\nmomentum = 0.95\n";
    /// 1: heads and groups of hidden units are orthogonalised on their own; 2: in a GPT-2, whole matrices.
    const VERSION: u32 = 2;

    fn check(&self) -> Vec<Problem> {
        let mut problems = self.others.check();
        if self.initial_momentum.is_some() && self.momentum_warmup_steps == 0 {
            let why = "the momentum has no warmup: leave it out, or set `momentum_warmup_steps`";
            problems.push(Problem::at("initial_momentum", why));
        }
        problems
    }

    fn check_model(&self, model: &ModelFacts) -> Vec<Problem> {
        self.others.check_model(model)
    }

    fn cost(&self, spec: &ParameterSpec) -> u64 {
        let Some(matrices) = matrices(spec) else { return self.others.cost(spec) };
        let products: u64 = matrices.map(|[rows, columns]| operations(rows.len(), columns.len())).sum();
        spec.len() as u64 + products / OPERATIONS_PER_ELEMENT
    }

    /// One worker updates all matrices of a tensor.
    fn is_elementwise(&self, spec: &ParameterSpec) -> bool {
        matrices(spec).is_none() && self.others.is_elementwise(spec)
    }

    /// bfloat16 where the CPU multiplies it fast, unless matrices are small: orthogonalisation is approximate anyway, and
    /// the original is in bfloat16 too.
    fn precision(&self, spec: &ParameterSpec) -> Option<Precision> {
        let [rows, columns] = matrices(spec)?.next()?;
        Some(precision_of_products(gemm::fast_precision(), rows.len(), columns.len()))
    }

    fn state(&self, spec: &ParameterSpec) -> &'static [&'static str] {
        if matrices(spec).is_some() { &["momentum"] } else { self.others.state(spec) }
    }

    fn update(
        &self,
        scalars: &UpdateScalars,
        spec: &ParameterSpec,
        parameter: &mut Tensor,
        state: &mut [&mut Tensor],
        mut gradient: Tensor,
    ) {
        let (Some(matrices), [momentum]) = (matrices(spec), &mut *state) else {
            return self.others.update(scalars, spec, parameter, state, gradient);
        };
        let keep = self.momentum(scalars.number) as f32;
        nesterov(keep, scalars.gradient_scale as f32, &mut momentum.data, &mut gradient.data);
        let shrink = (1.0 - scalars.learning_rate * self.others.decay(scalars, spec)) as f32;
        let width = spec.shape[1];
        for [rows, columns] in matrices {
            let (at, rows, columns) = (rows.start * width + columns.start, rows.len(), columns.len());
            let g = gemm::block(&gradient.data, at, rows, columns, width);
            let p = gemm::block_mut(&mut parameter.data, at, rows, columns, width);
            let step = -(scalars.learning_rate * STEP * (rows.max(columns) as f64).sqrt()) as f32;
            update(shrink, step, p, &orthogonalised(gemm::fast_precision(), g));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::Init;

    #[test]
    fn the_momentum_warms_up() {
        let muon = Muon { momentum_warmup_steps: 4, ..Muon::default() };
        for (number, expected) in [(1.0, 0.85), (2.0, 0.875), (3.0, 0.9), (5.0, 0.95), (100.0, 0.95)] {
            assert!((muon.momentum(number) - expected).abs() < 1e-12, "{number}");
        }
        assert_eq!(Muon::default().momentum(1.0), 0.95);
        let ignored = Muon { initial_momentum: Some(0.5), ..Muon::default() }.check();
        assert_eq!(ignored.iter().map(|problem| problem.key).collect::<Vec<_>>(), [Some("initial_momentum")]);
    }

    /// Matrices in one tensor get the bits that they get in tensors of their own; those at its edges are smaller.
    #[test]
    fn matrices_of_a_tensor_are_updated_separately() {
        let (height, width) = (13, 20);
        let value = |seed: usize, i: usize| (((i + 1) * (7 + seed)) % 23) as f32 / 23.0 - 0.5;
        let whole = |seed: usize| (0..height * width).map(|i| value(seed, i)).collect::<Vec<_>>();
        let scalars = UpdateScalars { learning_rate: 0.1, rate_fraction: 1.0, number: 1.0, gradient_scale: 0.5 };
        let updated = |rows: Range<usize>, columns: Range<usize>, matrix: [usize; 2]| -> Vec<f32> {
            let shape = [rows.len(), columns.len()];
            let part = |seed| -> Vec<f32> {
                let (whole, rows) = (whole(seed), rows.clone());
                whole
                    .chunks(width)
                    .skip(rows.start)
                    .take(rows.len())
                    .flat_map(|row| row[columns.clone()].to_vec())
                    .collect()
            };
            let [mut p, mut m, g] = [1, 2, 3].map(|seed| Tensor::from_values(shape, &part(seed)));
            let (group, init) = (Group::Matrix(matrix), Init::Zeros);
            let spec = ParameterSpec { name: "w".into(), shape: shape.into(), group, init };
            Muon::default().update(&scalars, &spec, &mut p, &mut [&mut m], g);
            p.data.to_vec()
        };
        let all = updated(0..height, 0..width, [8, 12]);
        for (rows, columns) in [(0..8, 0..12), (0..8, 12..20), (8..13, 0..12), (8..13, 12..20)] {
            let own = updated(rows.clone(), columns.clone(), [rows.len(), columns.len()]);
            for (row, own) in rows.zip(own.chunks(columns.len())) {
                assert_eq!(all[row * width..][columns.clone()], *own, "row {row}, columns {columns:?}");
            }
        }
        assert_ne!(all, updated(0..height, 0..width, [height, width]));
    }

    #[test]
    fn the_cost_is_that_of_all_matrices() {
        let spec = |shape: [usize; 2], matrix| {
            let group = Group::Matrix(matrix);
            ParameterSpec { name: "w".into(), shape: shape.into(), group, init: Init::Zeros }
        };
        let products =
            operations(256, 64) * 4 + operations(128, 64) * 2 + operations(256, 32) * 2 + operations(128, 32);
        let cost = Muon::default().cost(&spec([640, 160], [256, 64]));
        assert_eq!(cost, 640 * 160 + products / OPERATIONS_PER_ELEMENT);
    }
}

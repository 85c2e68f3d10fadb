//! The optimizer `muon` (Jordan et al. 2024): orthogonalised momentum for the matrices inside blocks, AdamW for all
//! other parameters. Its updates are scaled to the size of AdamW's (Liu et al. 2025), so both share learning rate and
//! weight decay. Matrices that are stored side by side, like GPT-2's for queries, keys and values, are orthogonalised
//! separately.
use crate::optimize::adamw::AdamW;
use crate::optimize::{Optimizer, UpdateScalars};
use compute::kernels::gemm;
use compute::kernels::muon::{nesterov, update};
use compute::kernels::newton_schulz::{operations, orthogonalised};
use contract::{Group, ModelFacts, ParameterSpec, Precision, Problem, StageKeys, Tensor};
use serde::{Deserialize, Serialize};

/// Root mean square of AdamW's updates, as a fraction of the learning rate.
const STEP: f64 = 0.2;
/// Multiply-adds in the time in which one element is updated elementwise: between 200 and 1,000 on the CPUs measured.
const OPERATIONS_PER_ELEMENT: u64 = 500;
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

/// The number of columns of each matrix in a tensor that Muon updates.
fn matrices(spec: &ParameterSpec) -> Option<&[usize]> {
    if let Group::Matrix(columns) = &spec.group { Some(columns) } else { None }
}

impl Optimizer for Muon {
    const SUMMARY: &'static str =
        "Muon (Jordan et al. 2024) for matrices inside blocks, AdamW for the other parameters";
    const EXAMPLE: &'static str = "type = \"muon\"\nlearning_rate = 1e-3\nwarmup_steps = 100\nmomentum = 0.95\n";

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
        let rows = spec.shape[0];
        let products: u64 = matrices(spec).into_iter().flatten().map(|columns| operations(rows, *columns)).sum();
        spec.len() as u64 + products / OPERATIONS_PER_ELEMENT
    }

    /// A matrix is orthogonalised as a whole.
    fn is_elementwise(&self, spec: &ParameterSpec) -> bool {
        matrices(spec).is_none() && self.others.is_elementwise(spec)
    }

    /// bfloat16 where the CPU multiplies it fast: orthogonalisation is approximate anyway, and the original is in
    /// bfloat16 too.
    fn precision(&self) -> Option<Precision> {
        Some(gemm::fast_precision())
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
        let (rows, width) = (spec.shape[0], spec.shape[1]);
        let keep = self.momentum(scalars.number) as f32;
        nesterov(keep, scalars.gradient_scale as f32, &mut momentum.data, &mut gradient.data);
        let shrink = (1.0 - scalars.learning_rate * self.others.decay(scalars, spec)) as f32;
        let mut from = 0;
        for columns in matrices {
            let part = from..from + columns;
            from = part.end;
            let direction = orthogonalised(gemm::fast_precision(), &gradient.data, width, part.clone());
            let step = -(scalars.learning_rate * STEP * (rows.max(*columns) as f64).sqrt()) as f32;
            update(shrink, step, &mut parameter.data, width, part, &direction);
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

    /// Two matrices side by side get the bits that they get in tensors of their own.
    #[test]
    fn matrices_side_by_side_are_updated_separately() {
        let (rows, width, cut) = (8, 20, 12);
        let value = |seed: usize, i: usize| (((i + 1) * (7 + seed)) % 23) as f32 / 23.0 - 0.5;
        let whole = |seed: usize| (0..rows * width).map(|i| value(seed, i)).collect::<Vec<_>>();
        let scalars = UpdateScalars { learning_rate: 0.1, rate_fraction: 1.0, number: 1.0, gradient_scale: 0.5 };
        let updated = |columns: std::ops::Range<usize>, matrices: Vec<usize>| -> Vec<f32> {
            let shape = [rows, columns.len()];
            let part = |seed| -> Vec<f32> {
                whole(seed).chunks(width).flat_map(|row| &row[columns.clone()]).copied().collect()
            };
            let [mut p, mut m, g] = [1, 2, 3].map(|seed| Tensor::from_values(shape, &part(seed)));
            let (group, init) = (Group::Matrix(matrices), Init::Zeros);
            let spec = ParameterSpec { name: "w".into(), shape: shape.into(), group, init };
            Muon::default().update(&scalars, &spec, &mut p, &mut [&mut m], g);
            p.data.to_vec()
        };
        let (both, left, right) = (updated(0..20, vec![12, 8]), updated(0..12, vec![12]), updated(12..20, vec![8]));
        for (row, both) in both.chunks(width).enumerate() {
            assert_eq!(both[..cut], left[row * cut..][..cut]);
            assert_eq!(both[cut..], right[row * (width - cut)..][..width - cut]);
        }
        assert_ne!(both, updated(0..20, vec![20]));
    }
}

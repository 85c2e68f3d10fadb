//! What a model declares about its parameters.
use crate::precision::Precision;
use crate::tensor::Tensor;
use std::sync::Arc;

/// A model's parameters in the order of its [`ModelFacts::parameters`]. Cloning shares every tensor.
#[derive(Clone, Debug, Default)]
pub struct Parameters(pub Vec<Arc<Tensor>>);

impl std::ops::Index<usize> for Parameters {
    type Output = Tensor;
    fn index(&self, tensor: usize) -> &Tensor {
        &self.0[tensor]
    }
}

/// How a parameter is initialised.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// All zeros.
    Zeros,
    /// All ones.
    Ones,
    /// Normally distributed around zero with this standard deviation.
    Normal(f32),
    /// Uniformly distributed between minus and plus this number.
    Uniform(f32),
}

/// One parameter tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct ParameterSpec {
    /// Its name in a Hugging Face checkpoint, for example `transformer.h.0.attn.c_attn.weight`.
    pub name: String,
    /// Its shape, the same here as in the checkpoint.
    pub shape: Vec<usize>,
    /// What it is, for optimizers.
    pub group: Group,
    /// How it is initialised.
    pub init: Init,
}

/// Parameters that optimizers treat alike: each group may have its own learning rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Matrices inside a block, next to or below each other, of which the tensor consists. (A linear layer of a Llama's
    /// attention has one for each head.) All have this shape `[rows, columns]`, of at least 1, except that those at the
    /// right and lower edge may be cut off. The shape of the tensor stands for a single matrix.
    Matrix([usize; 2]),
    /// An embedding of tokens or positions; also a head that shares it.
    Embedding,
    /// The matrix that turns hidden states into logits, unless it is that of the embedding.
    Head,
    /// A bias, or the gain of a normalisation.
    Vector,
}

impl ParameterSpec {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether weight decay applies: to all but biases and gains.
    pub fn decays(&self) -> bool {
        self.group != Group::Vector
    }

    /// Whether the tensor has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The initial value: a function of `seed` and the name alone.
    pub fn initial(&self, seed: u64) -> Tensor {
        let mut tensor = Tensor::scratch(self.shape.clone());
        match self.init {
            Init::Zeros => tensor.data.fill(0.0),
            Init::Ones => tensor.data.fill(1.0),
            Init::Normal(deviation) => fill_normal(&mut tensor.data, seed ^ name_hash(&self.name), deviation),
            Init::Uniform(bound) => fill_uniform(&mut tensor.data, seed ^ name_hash(&self.name), bound),
        }
        tensor
    }
}

/// Facts about the model (the settings of `forward`) for stages that do not need its mathematics.
#[derive(Clone, Debug)]
pub struct ModelFacts {
    /// Every parameter tensor, in a fixed order: indices in packets are indices into this.
    pub parameters: Vec<ParameterSpec>,
    /// Index of the matrix `[vocabulary, width]` that turns hidden states into logits.
    pub head: usize,
    /// Most tokens of a sequence.
    pub context: usize,
    /// FLOPs per trained token, counted as in PaLM (Chowdhery et al. 2022, appendix B): 6 × weights in products + 12 ×
    /// layers × sequence length × width.
    pub flops_per_token: f64,
    /// If set, logits are `cap · tanh(hidden · headᵀ / cap)`, with this cap.
    pub logit_softcap: Option<f32>,
    /// Precision of the operands of its products, including those of the head.
    pub precision: Precision,
    /// The `config.json` of a Hugging Face checkpoint of this model.
    pub config: serde_json::Value,
    /// A description on one line, for example `GPT-2, 2 layers, width 256, 8 heads`.
    pub summary: String,
}

impl ModelFacts {
    /// Number of token ids: rows of the head.
    pub fn vocabulary(&self) -> usize {
        self.parameters[self.head].shape[0]
    }

    /// Total number of parameters.
    pub fn parameter_count(&self) -> usize {
        self.parameters.iter().map(ParameterSpec::len).sum()
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): the `index`-th value of the stream `seed`, with no state to carry.
pub fn splitmix64(seed: u64, index: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9E37_79B9_7F4A_7C15u64.wrapping_mul(index.wrapping_add(1)));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// FNV-1a, so that a tensor's stream follows from its name.
fn name_hash(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

/// Box–Muller in f64 over SplitMix64: two values per pair of uniforms.
fn fill_normal(out: &mut [f32], seed: u64, deviation: f32) {
    let uniform = |i: u64| ((splitmix64(seed, i) >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    for (pair, values) in out.chunks_mut(2).enumerate() {
        let i = 2 * pair as u64;
        let radius = (-2.0 * uniform(i).ln()).sqrt() * f64::from(deviation);
        let (sin, cos) = (std::f64::consts::TAU * uniform(i + 1)).sin_cos();
        for (value, direction) in values.iter_mut().zip([cos, sin]) {
            *value = (radius * direction) as f32;
        }
    }
}

fn fill_uniform(out: &mut [f32], seed: u64, bound: f32) {
    for (index, value) in out.iter_mut().enumerate() {
        let unit = (splitmix64(seed, index as u64) >> 11) as f64 / (1u64 << 53) as f64;
        *value = (f64::from(bound) * (2.0 * unit - 1.0)) as f32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normal_values_are_normal_and_repeatable() {
        let spec = ParameterSpec {
            name: "w".into(),
            shape: vec![301, 333],
            group: Group::Matrix([301, 333]),
            init: Init::Normal(0.02),
        };
        let (a, b) = (spec.initial(7), spec.initial(7));
        assert_eq!(a.data[..], b.data[..]);
        assert_ne!(a.data[..], spec.initial(8).data[..]);
        let n = a.data.len() as f64;
        let mean = a.data.iter().map(|x| f64::from(*x)).sum::<f64>() / n;
        let variance = a.data.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / n;
        assert!(mean.abs() < 3e-4, "{mean}");
        assert!((variance.sqrt() / 0.02 - 1.0).abs() < 0.01, "{}", variance.sqrt());
    }

    #[test]
    fn uniform_values_fill_their_range_evenly() {
        let init = Init::Uniform(0.5);
        let spec = ParameterSpec { name: "w".into(), shape: vec![100, 100], group: Group::Matrix([100, 100]), init };
        let values = spec.initial(7).data;
        let mut tenths = [0; 10];
        values.iter().for_each(|x| tenths[((x + 0.5) * 10.0) as usize] += 1);
        // 1,000 each, with a standard deviation of 30.
        assert!(tenths.iter().all(|n| (850..1150).contains(n)), "{tenths:?}");
    }
}

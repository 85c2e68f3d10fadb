//! The keys of a model stage that say how the model is computed.
use compute::kernels::gemm;
use contract::{Precision, StageKeys};
use serde::{Deserialize, Serialize};

/// How a model is computed.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, StageKeys)]
#[serde(default)]
pub struct Computation {
    /// "batched", or "per_sequence": one sequence at a time, as a baseline that shows the benefit of batching.
    pub batching: Batching,
    /// "f32"; "bf16": operands of matrix products are rounded to bfloat16, sums are f32; "int8": those of products with
    /// parameters and activations that wait for the backward pass are rounded to eight bits, everything else is as with
    /// "bf16"; or "auto": bf16 if the CPU multiplies it faster than f32. May be changed when a run is resumed.
    #[key(rounding)]
    pub precision: ComputePrecision,
}

/// The precision of the operands of matrix products.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ComputePrecision {
    /// Operands are not rounded.
    #[default]
    F32,
    /// Operands are rounded to bfloat16.
    Bf16,
    /// Operands of products with parameters, and of those that compute their gradients, are rounded to eight bits with a
    /// scale per row or column, gradients stochastically. Of what waits for the backward pass, all but the queries, keys
    /// and values is in eight bits too. Everything else is as with `bf16`.
    Int8,
    /// bfloat16 if the GEMM backend multiplies it faster than f32. Checkpoints record the backend and its precision.
    Auto,
}

impl From<Precision> for ComputePrecision {
    fn from(precision: Precision) -> Self {
        match precision {
            Precision::F32 => Self::F32,
            Precision::Bf16 => Self::Bf16,
            Precision::Int8 => Self::Int8,
        }
    }
}

impl ComputePrecision {
    /// The precision on this CPU.
    pub fn chosen(self) -> Precision {
        match self {
            Self::F32 => Precision::F32,
            Self::Bf16 => Precision::Bf16,
            Self::Int8 => Precision::Int8,
            Self::Auto => gemm::fast_precision(),
        }
    }
}

/// How the sequences of a micro-batch go through the model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Batching {
    /// All sequences at once.
    #[default]
    Batched,
    /// One sequence at a time, as in the trainer that this project started from.
    PerSequence,
}

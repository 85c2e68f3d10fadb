//! The precision of matrix products.
use serde::{Deserialize, Serialize};
use std::fmt;

/// The precision of the operands of matrix products. Sums, parameters and optimizer state always have single precision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// IEEE single precision: operands are not rounded.
    #[default]
    F32,
    /// bfloat16: the upper half of a single, 8 bits of precision.
    Bf16,
    /// Integers of eight bits and scales, for products with parameters and for activations that wait for the backward
    /// pass; everything else as with [`Self::Bf16`].
    Int8,
}

impl Precision {
    /// The precision of what is not computed in eight bits: bfloat16 for [`Self::Int8`], otherwise the same.
    ///
    /// ```
    /// use millrace_contract::Precision;
    /// assert_eq!(Precision::Int8.float(), Precision::Bf16);
    /// assert_eq!(Precision::F32.float(), Precision::F32);
    /// ```
    #[must_use]
    pub fn float(self) -> Self {
        if self == Self::Int8 { Self::Bf16 } else { self }
    }
}

/// Formats it as in a configuration.
///
/// ```
/// assert_eq!(millrace_contract::Precision::Bf16.to_string(), "bf16");
/// ```
impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

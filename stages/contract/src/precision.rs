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

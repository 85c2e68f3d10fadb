//! The types of tensors in a GGUF file.
use anyhow::{Result, bail};
use half::{bf16, f16};

/// The type of a tensor's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// bfloat16.
    Bf16,
    /// Blocks of [`BLOCK`] consecutive values of a row: a scale in f16, then a signed byte per value.
    Q8_0,
}

/// Values per block of [`Dtype::Q8_0`].
pub const BLOCK: usize = 32;

impl Dtype {
    /// `ggml_type`.
    pub fn id(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q8_0 => 8,
            Self::Bf16 => 30,
        }
    }

    /// `general.file_type` of a file in which most tensors are of this type.
    pub fn file_type(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q8_0 => 7,
            Self::Bf16 => 32,
        }
    }

    /// Whether rows of `columns` values can have this type.
    pub fn fits(self, columns: usize) -> bool {
        self != Self::Q8_0 || columns.is_multiple_of(BLOCK)
    }

    /// Size of `values` values, in bytes.
    pub fn bytes(self, values: usize) -> usize {
        match self {
            Self::F32 => 4 * values,
            Self::F16 | Self::Bf16 => 2 * values,
            Self::Q8_0 => values / BLOCK * (2 + BLOCK),
        }
    }

    /// Appends `values`, whole rows of a tensor, to `out`, little-endian and rounded to nearest.
    ///
    /// # Errors
    /// If a value is not finite, or too large for this type.
    pub fn encode(self, values: &[f32], out: &mut Vec<u8>) -> Result<()> {
        let from = out.len();
        match self {
            Self::F32 => out.extend(values.iter().flat_map(|value| value.to_le_bytes())),
            Self::F16 => out.extend(values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes())),
            Self::Bf16 => out.extend(values.iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes())),
            Self::Q8_0 => values.chunks_exact(BLOCK).for_each(|block| quantize(block, out)),
        }
        debug_assert_eq!(out.len() - from, self.bytes(values.len()));
        let limit = match self {
            Self::F32 => f32::MAX,
            Self::F16 => f16::MAX.to_f32(),
            Self::Bf16 => bf16::MAX.to_f32(),
            Self::Q8_0 => f16::MAX.to_f32() * LEVELS,
        };
        let outside = values.iter().find(|value| value.is_nan() || value.abs() > limit);
        match outside {
            None => Ok(()),
            Some(value) => bail!("a value is {value}, and the largest that {self:?} can represent is {limit}"),
        }
    }
}

/// The largest byte of a block.
const LEVELS: f32 = 127.0;

/// Appends a block of [`Dtype::Q8_0`]. The bits are those of ggml (`quantize_row_q8_0_ref`): values are divided by the
/// unrounded scale.
fn quantize(block: &[f32], out: &mut Vec<u8>) {
    let largest = block.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
    let scale = largest / LEVELS;
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    out.extend(f16::from_f32(scale).to_le_bytes());
    out.extend(block.iter().map(|value| (value * inverse).round() as i8 as u8));
}

//! Writes a GGUF file, version 3: a header, metadata as key-value pairs, the list of tensors, and their data. All
//! numbers are little-endian.
use super::Dtype;
use anyhow::{Context, Result, ensure};
use contract::Tensor;
use std::io::Write;

/// The first bytes of a file.
pub const MAGIC: &[u8; 4] = b"GGUF";
/// The version of the format.
pub const VERSION: u32 = 3;
/// Tensors start at multiples of this many bytes: the default of `general.alignment`.
pub const ALIGNMENT: usize = 32;

/// A value of the metadata.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// An unsigned integer of 32 bits.
    U32(u32),
    /// A number in single precision.
    F32(f32),
    /// A truth value.
    Bool(bool),
    /// A text.
    String(String),
    /// Signed integers of 32 bits.
    I32s(Vec<i32>),
    /// Texts.
    Strings(Vec<String>),
}

/// A tensor in the list of tensors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name.
    pub name: String,
    /// Its shape as in PyTorch: the last dimension is contiguous. (The file has it in reverse.)
    pub shape: Vec<usize>,
    /// The type of its values.
    pub dtype: Dtype,
}

impl Value {
    /// `gguf_metadata_value_type`.
    fn id(&self) -> u32 {
        match self {
            Self::U32(_) => 4,
            Self::F32(_) => 6,
            Self::Bool(_) => 7,
            Self::String(_) => 8,
            Self::I32s(_) | Self::Strings(_) => 9,
        }
    }

    fn append(&self, out: &mut Vec<u8>) {
        match self {
            Self::U32(number) => out.extend(number.to_le_bytes()),
            Self::F32(number) => out.extend(number.to_le_bytes()),
            Self::Bool(value) => out.push(u8::from(*value)),
            Self::String(text) => append_text(text, out),
            // An array: the type of its elements, their number, the elements.
            Self::I32s(numbers) => {
                out.extend(5_u32.to_le_bytes());
                append_count(numbers.len(), out);
                out.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
            }
            Self::Strings(texts) => {
                out.extend(8_u32.to_le_bytes());
                append_count(texts.len(), out);
                texts.iter().for_each(|text| append_text(text, out));
            }
        }
    }
}

fn append_count(count: usize, out: &mut Vec<u8>) {
    out.extend((count as u64).to_le_bytes());
}

/// The length in bytes, then UTF-8 without a terminator.
fn append_text(text: &str, out: &mut Vec<u8>) {
    append_count(text.len(), out);
    out.extend(text.as_bytes());
}

impl TensorInfo {
    /// Number of values.
    fn values(&self) -> usize {
        self.shape.iter().product()
    }

    /// Size of its data in the file, in bytes, without padding.
    pub fn bytes(&self) -> usize {
        self.dtype.bytes(self.values())
    }
}

/// Writes a file to `out`. `data` returns the values of the tensor with this index, in the shape of its [`TensorInfo`];
/// it is called for one after another, in order.
///
/// # Errors
/// If `data` fails or returns another number of values, a value does not fit its type, or `out` cannot be written.
pub fn write(
    out: &mut impl Write,
    metadata: &[(String, Value)],
    tensors: &[TensorInfo],
    data: &mut dyn FnMut(usize) -> Result<Tensor>,
) -> Result<()> {
    let mut head = MAGIC.to_vec();
    head.extend(VERSION.to_le_bytes());
    append_count(tensors.len(), &mut head);
    append_count(metadata.len(), &mut head);
    for (key, value) in metadata {
        append_text(key, &mut head);
        head.extend(value.id().to_le_bytes());
        value.append(&mut head);
    }
    // Offsets are relative to the data of the first tensor.
    let mut offset = 0;
    for tensor in tensors {
        append_text(&tensor.name, &mut head);
        head.extend((tensor.shape.len() as u32).to_le_bytes());
        tensor.shape.iter().rev().for_each(|size| append_count(*size, &mut head));
        head.extend(tensor.dtype.id().to_le_bytes());
        append_count(offset, &mut head);
        offset += tensor.bytes().next_multiple_of(ALIGNMENT);
    }
    pad(&mut head);
    out.write_all(&head)?;
    for (index, tensor) in tensors.iter().enumerate() {
        let values = data(index)?;
        let mut bytes = Vec::with_capacity(tensor.bytes().next_multiple_of(ALIGNMENT));
        let encoded = tensor.dtype.encode(&values.data, &mut bytes);
        encoded.with_context(|| format!("tensor `{}` cannot be written as {:?}", tensor.name, tensor.dtype))?;
        ensure!(bytes.len() == tensor.bytes(), "tensor `{}` has {} values", tensor.name, values.data.len());
        pad(&mut bytes);
        out.write_all(&bytes)?;
    }
    Ok(())
}

/// Appends zeros up to a multiple of [`ALIGNMENT`].
fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
}

//! Writes a safetensors file with values in bfloat16, one tensor at a time.
use crate::gguf::Dtype as Encoding;
use anyhow::{Context, Result};
use contract::{ParameterSpec, Tensor};
use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use std::collections::HashMap;
use std::io::Write;

/// Writes the parameters `specs` to `out`, rounded to bfloat16. `parameter` returns the parameter with this index; it
/// is called for one after another, in order.
///
/// # Errors
/// If `parameter` fails, a value is not finite or too large, or `out` cannot be written.
pub fn write_bf16(
    out: &mut impl Write,
    specs: &[ParameterSpec],
    parameter: &mut dyn FnMut(usize) -> Result<Tensor>,
) -> Result<()> {
    let mut end = 0;
    let info = |spec: &ParameterSpec| {
        let from = end;
        end += Encoding::Bf16.bytes(spec.len());
        let info = TensorInfo { dtype: Dtype::BF16, shape: spec.shape.clone(), data_offsets: (from, end) };
        (spec.name.clone(), info)
    };
    let infos = specs.iter().map(info).collect();
    let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let mut header = serde_json::to_vec(&Metadata::new(Some(format), infos)?)?;
    // Spaces after the header align the tensors.
    header.resize(header.len().next_multiple_of(8), b' ');
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)?;
    for (index, spec) in specs.iter().enumerate() {
        let mut bytes = Vec::with_capacity(Encoding::Bf16.bytes(spec.len()));
        let encoded = Encoding::Bf16.encode(&parameter(index)?.data, &mut bytes);
        encoded.with_context(|| format!("tensor `{}` cannot be written", spec.name))?;
        out.write_all(&bytes)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::TensorFile;
    use contract::{Group, Init};

    #[test]
    fn rounded_tensors_are_read_back() -> Result<()> {
        let spec = |name: &str, shape: &[usize]| ParameterSpec {
            name: name.into(),
            shape: shape.into(),
            group: Group::Vector,
            init: Init::Zeros,
        };
        let specs = [spec("z", &[3]), spec("a", &[2, 2])];
        let values = [vec![1.0, -0.5, 3.0e38], vec![1.003, 0.0, -2.0, 1e-20]];
        let mut out = Vec::new();
        write_bf16(&mut out, &specs, &mut |index| Ok(Tensor::from_values(specs[index].shape.clone(), &values[index])))?;
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("model.safetensors");
        std::fs::write(&path, &out)?;
        let file = TensorFile::open(&path)?;
        for (spec, values) in specs.iter().zip(&values) {
            let expected: Vec<f32> = values.iter().map(|value| half::bf16::from_f32(*value).to_f32()).collect();
            assert_eq!(file.read(&spec.name, &spec.shape)?.data[..], expected);
        }
        let infinite = |_| Ok(Tensor::from_values([3], &[0.0, f32::INFINITY, 0.0]));
        let error = write_bf16(&mut Vec::new(), &specs[..1], &mut { infinite }).unwrap_err();
        assert!(format!("{error:#}").contains("tensor `z` cannot be written: a value is inf"), "{error:#}");
        Ok(())
    }
}

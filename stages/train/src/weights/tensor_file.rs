//! A safetensors file whose tensors are read one at a time.
use anyhow::{Context, Result, bail, ensure};
use contract::Tensor;
use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// A safetensors file whose tensors are read on demand.
pub struct TensorFile {
    path: PathBuf,
    metadata: Metadata,
    data_start: u64,
    file: Mutex<File>,
}

impl TensorFile {
    /// Opens `path` and reads its header.
    ///
    /// # Errors
    /// If there is no such file, or its header is not a valid safetensors header.
    pub fn open(path: &Path) -> Result<Self> {
        let read = || -> Result<Self> {
            let mut file = File::open(path)?;
            let mut head = [0u8; 8];
            file.read_exact(&mut head).context("too short for a safetensors file")?;
            let length = u64::from_le_bytes(head);
            ensure!(
                length <= file.metadata()?.len(),
                "not a safetensors file: its header length, {length} bytes, exceeds the file"
            );
            let mut header = vec![0; length as usize];
            file.read_exact(&mut header)?;
            let metadata: Metadata = serde_json::from_slice(&header).context("not a safetensors file")?;
            let there = file.metadata()?.len() - 8 - length;
            let wanted = metadata.tensors().values().map(|t| t.data_offsets.1).max().unwrap_or(0) as u64;
            ensure!(there >= wanted, "truncated: {there} bytes of tensors, but the header says {wanted}");
            Ok(Self { path: path.to_owned(), metadata, data_start: 8 + length, file: Mutex::new(file) })
        };
        read().with_context(|| format!("cannot read {}", path.display()))
    }

    /// The tensor called `name`, which must have `shape`; values in bf16 or f16 become f32.
    ///
    /// # Errors
    /// If it is missing, or its type or shape differs; the message has the file, the tensor, and the actual type or
    /// shape.
    pub fn read(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        self.try_read(name, shape).with_context(|| format!("cannot read tensor `{name}` of {}", self.path.display()))
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Name, type, shape and offsets of every tensor, in order of offsets.
    pub fn tensors(&self) -> Vec<(String, TensorInfo)> {
        let mut all: Vec<(String, TensorInfo)> =
            self.metadata.tensors().into_iter().map(|(name, info)| (name, info.clone())).collect();
        all.sort_by(|a, b| (a.1.data_offsets, &a.0).cmp(&(b.1.data_offsets, &b.0)));
        all
    }

    /// Calls `each` with the values of the tensor called `name`, in pieces. Returns false if its type is not supported.
    ///
    /// # Errors
    /// If there is no such tensor, or its offsets do not match its shape.
    pub fn values(&self, name: &str, each: &mut dyn FnMut(&[f64])) -> Result<bool> {
        let mut read = || -> Result<bool> {
            let info = self.metadata.info(name).context("there is no such tensor")?;
            let (size, value): (usize, fn(&[u8]) -> f64) = match info.dtype {
                Dtype::F64 => (8, |b| f64::from_le_bytes(b.try_into().unwrap_or_default())),
                Dtype::F32 => (4, |b| f32::from_le_bytes(b.try_into().unwrap_or_default()).into()),
                Dtype::F16 => (2, |b| half::f16::from_le_bytes(b.try_into().unwrap_or_default()).into()),
                Dtype::BF16 => (2, |b| half::bf16::from_le_bytes(b.try_into().unwrap_or_default()).into()),
                Dtype::I64 => (8, |b| i64::from_le_bytes(b.try_into().unwrap_or_default()) as f64),
                Dtype::I32 => (4, |b| i32::from_le_bytes(b.try_into().unwrap_or_default()).into()),
                Dtype::U8 => (1, |b| b[0].into()),
                _ => return Ok(false),
            };
            let (from, to) = info.data_offsets;
            let values = info.shape.iter().try_fold(1usize, |product, n| product.checked_mul(*n));
            let bytes = values.and_then(|values| values.checked_mul(size)).context("its shape is impossibly large")?;
            ensure!(to.checked_sub(from) == Some(bytes), "its data at {from} to {to} is not {bytes} bytes long");
            let mut file = self.file.lock().unwrap_or_else(|e| e.into_inner());
            file.seek(SeekFrom::Start(self.data_start + from as u64))?;
            let (mut left, mut piece) = (bytes, vec![0; 1 << 16]);
            while left > 0 {
                let now = left.min(piece.len());
                file.read_exact(&mut piece[..now])?;
                each(&piece[..now].chunks_exact(size).map(value).collect::<Vec<f64>>());
                left -= now;
            }
            Ok(true)
        };
        read().with_context(|| format!("cannot read tensor `{name}` of {}", self.path.display()))
    }

    fn try_read(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let Some(info) = self.metadata.info(name) else {
            bail!("the file has no such tensor; it has {} others", self.metadata.tensors().len());
        };
        ensure!(info.shape == shape, "its shape is {:?}, the configuration's model needs {shape:?}", info.shape);
        let mut tensor = Tensor::scratch(shape);
        let (from, to) = info.data_offsets;
        let size = match info.dtype {
            Dtype::F32 => size_of::<f32>(),
            Dtype::F16 | Dtype::BF16 => size_of::<u16>(),
            other => bail!("its type is {other:?}; supported: F32, BF16, F16"),
        };
        let bytes = tensor.data.len() * size;
        ensure!(to.checked_sub(from) == Some(bytes), "its data at {from} to {to} is not {bytes} bytes long");
        let mut file = self.file.lock().unwrap_or_else(|e| e.into_inner());
        file.seek(SeekFrom::Start(self.data_start + from as u64))?;
        if info.dtype == Dtype::F32 {
            file.read_exact(bytemuck::cast_slice_mut(&mut tensor.data))?;
            return Ok(tensor);
        }
        let mut piece = vec![0u16; 1 << 16];
        for values in tensor.data.chunks_mut(piece.len()) {
            let halves = &mut piece[..values.len()];
            file.read_exact(bytemuck::cast_slice_mut(halves))?;
            match info.dtype {
                Dtype::BF16 => widen(halves, values, |half| half::bf16::from_bits(half).to_f32()),
                _ => widen(halves, values, |half| half::f16::from_bits(half).to_f32()),
            }
        }
        Ok(tensor)
    }
}

fn widen(halves: &[u16], values: &mut [f32], value: impl Fn(u16) -> f32) {
    for (value_out, half) in values.iter_mut().zip(halves) {
        *value_out = value(u16::from_le(*half));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::write;

    #[test]
    fn tensors_round_trip_and_truncated_files_are_rejected() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("x.safetensors");
        let tensor = Tensor::from_values([2, 3], &[1.0, -2.0, 3.5, f32::MIN_POSITIVE, 0.0, 7.0]);
        write(&path, vec![("w".into(), &tensor), ("v".into(), &tensor)])?;
        let file = TensorFile::open(&path)?;
        assert_eq!(file.read("w", &[2, 3])?.data[..], tensor.data[..]);
        assert!(format!("{:#}", file.read("w", &[3, 2]).unwrap_err()).contains("its shape is [2, 3]"));
        assert!(format!("{:#}", file.read("u", &[3, 2]).unwrap_err()).contains("no such tensor"));
        let bytes = std::fs::read(&path)?;
        for length in [0, 7, 9, 40, bytes.len() - 1] {
            std::fs::write(&path, &bytes[..length])?;
            assert!(TensorFile::open(&path).is_err(), "{length}");
        }
        Ok(())
    }

    #[test]
    fn values_of_every_supported_type_are_read() -> Result<()> {
        use safetensors::tensor::TensorView;
        let bytes = |halves: [u16; 2]| halves.iter().flat_map(|half| half.to_le_bytes()).collect::<Vec<u8>>();
        let bf16 = bytes([half::bf16::from_f32(-1.5).to_bits(), half::bf16::INFINITY.to_bits()]);
        let f16 = bytes([half::f16::from_f32(0.25).to_bits(), half::f16::from_f32(-8.0).to_bits()]);
        let i64 = [7i64.to_le_bytes(), (-9i64).to_le_bytes()].concat();
        let views = [
            ("bf16", TensorView::new(Dtype::BF16, vec![2], &bf16)?),
            ("bool", TensorView::new(Dtype::BOOL, vec![4], &f16)?),
            ("f16", TensorView::new(Dtype::F16, vec![2], &f16)?),
            ("i64", TensorView::new(Dtype::I64, vec![2, 1], &i64)?),
        ];
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("x.safetensors");
        safetensors::serialize_to_file(views, None, &path)?;
        let file = TensorFile::open(&path)?;
        let read = |name| -> Result<(bool, Vec<f64>)> {
            let mut all = Vec::new();
            let known = file.values(name, &mut |values| all.extend_from_slice(values))?;
            Ok((known, all))
        };
        assert_eq!(read("bf16")?, (true, vec![-1.5, f64::INFINITY]));
        assert_eq!(read("f16")?, (true, vec![0.25, -8.0]));
        assert_eq!(read("i64")?, (true, vec![7.0, -9.0]));
        assert_eq!(read("bool")?, (false, vec![]));
        assert!(read("no").is_err());
        assert_eq!(file.read("bf16", &[2])?.data[..], [-1.5, f32::INFINITY]);
        assert_eq!(file.read("f16", &[2])?.data[..], [0.25, -8.0]);
        assert!(format!("{:#}", file.read("i64", &[2, 1]).unwrap_err()).contains("its type is I64"));
        let mut names: Vec<String> = file.tensors().into_iter().map(|(name, _)| name).collect();
        names.sort();
        assert_eq!(names, ["bf16", "bool", "f16", "i64"]);
        Ok(())
    }
}

//! The weights of a model folder: `model.safetensors`, or several files with an index.
use super::{MODEL_FILE, TensorFile};
use anyhow::{Context, Result, anyhow, bail, ensure};
use contract::Tensor;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

/// The index of a model that lies in several files.
pub const INDEX_FILE: &str = "model.safetensors.index.json";

/// The opened files of a model's weights.
pub struct ModelFiles {
    files: Vec<TensorFile>,
    /// The index of each tensor's file in `files`.
    file_of: BTreeMap<String, usize>,
}

/// The part of the index that is used.
#[derive(Deserialize)]
struct Index {
    /// The name of each tensor's file.
    weight_map: BTreeMap<String, String>,
}

impl ModelFiles {
    /// Whether `folder` has weights: one file, or the index of several.
    pub fn are_in(folder: &Path) -> bool {
        [MODEL_FILE, INDEX_FILE].iter().any(|name| folder.join(name).is_file())
    }

    /// Opens the weights in `folder`. If there is one file, the index is not read, as in transformers.
    ///
    /// # Errors
    /// If a file is missing or no valid safetensors file, or the index and the files do not agree.
    pub fn open(folder: &Path) -> Result<Self> {
        let index = folder.join(INDEX_FILE);
        if folder.join(MODEL_FILE).is_file() || !index.is_file() {
            let file = TensorFile::open(&folder.join(MODEL_FILE))?;
            let file_of = file.tensors().into_iter().map(|(name, _)| (name, 0)).collect();
            return Ok(Self { files: vec![file], file_of });
        }
        Self::sharded(folder, &index).with_context(|| format!("cannot read the files of {}", index.display()))
    }

    fn sharded(folder: &Path, index: &Path) -> Result<Self> {
        let Index { weight_map } = serde_json::from_slice(&std::fs::read(index)?)?;
        ensure!(!weight_map.is_empty(), "it names no tensor");
        let mut names: Vec<&String> = weight_map.values().collect();
        names.sort();
        names.dedup();
        let mut all = Self { files: Vec::new(), file_of: BTreeMap::new() };
        for (number, name) in names.into_iter().enumerate() {
            let plain = Path::new(name).file_name().is_some_and(|file| file == name.as_str());
            ensure!(plain, "{name:?} is no name of a file beside the index");
            let file = TensorFile::open(&folder.join(name))?;
            for (tensor, _) in file.tensors() {
                if let Some(other) = all.file_of.insert(tensor.clone(), number) {
                    bail!("tensor `{tensor}` is in {name} and in {}", all.files[other].path().display());
                }
            }
            all.files.push(file);
        }
        match weight_map.iter().find(|(tensor, _)| !all.file_of.contains_key(*tensor)) {
            Some((tensor, file)) => Err(anyhow!("tensor `{tensor}` is not in {file}, where the index says it is")),
            None => Ok(all),
        }
    }

    /// True if there is a tensor called `name`.
    pub fn has(&self, name: &str) -> bool {
        self.file_of.contains_key(name)
    }

    /// The names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.file_of.keys()
    }

    /// See [`TensorFile::read`].
    ///
    /// # Errors
    /// As there.
    pub fn read(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        self.file(name).read(name, shape)
    }

    /// See [`TensorFile::values`].
    ///
    /// # Errors
    /// As there.
    pub fn values(&self, name: &str, each: &mut dyn FnMut(&[f64])) -> Result<bool> {
        self.file(name).values(name, each)
    }

    /// The file with the tensor called `name`. (If none has it, any file reports that.)
    fn file(&self, name: &str) -> &TensorFile {
        &self.files[self.file_of.get(name).copied().unwrap_or(0)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::write;

    #[test]
    fn several_files_are_one_model() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let at = |name: &str| folder.path().join(name);
        let tensor = |value: f32| Tensor::from_values([2], &[value, -value]);
        write(&at("one.safetensors"), vec![("a".into(), &tensor(1.0)), ("b".into(), &tensor(2.0))])?;
        write(&at("two.safetensors"), vec![("c".into(), &tensor(3.0))])?;
        let index = |map: &str| std::fs::write(at(INDEX_FILE), format!("{{\"weight_map\": {{{map}}}}}"));
        assert!(!ModelFiles::are_in(folder.path()));
        index(r#""a": "one.safetensors", "b": "one.safetensors", "c": "two.safetensors""#)?;
        assert!(ModelFiles::are_in(folder.path()));
        let files = ModelFiles::open(folder.path())?;
        assert_eq!(files.names().collect::<Vec<_>>(), ["a", "b", "c"]);
        for (name, value) in [("a", 1.0), ("b", 2.0), ("c", 3.0)] {
            assert_eq!(files.read(name, &[2])?.data[..], [value, -value]);
        }
        assert!(format!("{:#}", files.read("d", &[2]).err().unwrap()).contains("no such tensor"));
        for (map, said) in [
            (r#""a": "one.safetensors", "c": "one.safetensors""#, "tensor `c` is not in one.safetensors"),
            ("", "it names no tensor"),
            (r#""a": "three.safetensors""#, "three.safetensors"),
            (r#""a": "../one.safetensors""#, "is no name of a file beside the index"),
        ] {
            index(map)?;
            let error = format!("{:#}", ModelFiles::open(folder.path()).err().unwrap());
            assert!(error.contains(said) && error.contains(INDEX_FILE), "{error}");
        }
        write(&at("two.safetensors"), vec![("a".into(), &tensor(3.0))])?;
        index(r#""a": "one.safetensors", "b": "two.safetensors""#)?;
        let error = format!("{:#}", ModelFiles::open(folder.path()).err().unwrap());
        assert!(error.contains("tensor `a` is in two.safetensors and in"), "{error}");
        Ok(())
    }
}

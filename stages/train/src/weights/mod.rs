//! Reading and writing tensors in safetensors files, one tensor at a time.
mod bf16;
mod model_files;
mod tensor_file;

pub use bf16::write_bf16;
pub use model_files::{INDEX_FILE, ModelFiles};
pub use tensor_file::TensorFile;

use anyhow::{Context, Result};
use contract::{ParameterSpec, Tensor};
use safetensors::tensor::{Dtype, View};
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::path::{Path, PathBuf};

/// The file of the parameters, under their Hugging Face names.
pub const MODEL_FILE: &str = "model.safetensors";
/// The file of the optimizer state; tensors are named `<parameter>.<name>`.
pub const OPTIMIZER_FILE: &str = "optimizer.safetensors";
/// The name in [`OPTIMIZER_FILE`] of the parameter that is trained, if that in [`MODEL_FILE`] is its average.
pub const RAW: &str = "raw";

/// The source of a run's initial parameters.
#[derive(Clone, Debug, Default)]
pub enum Start {
    /// Random initialisation from the seed.
    #[default]
    Fresh,
    /// The model in this directory (of this program or from Hugging Face), with a new optimizer state.
    Weights(PathBuf),
    /// This checkpoint of a run, including the optimizer state.
    Resume(PathBuf),
}

/// Writes `tensors` to a new file at `path`, which those may read who may read other new files, and waits until it is
/// on disk.
///
/// # Errors
/// If the file cannot be written.
pub fn write(path: &Path, tensors: Vec<(String, &Tensor)>) -> Result<()> {
    let views = tensors.into_iter().map(|(name, tensor)| (name, Floats(tensor)));
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    // safetensors makes the file readable only by its owner, whatever the umask.
    let written = || -> Result<()> {
        let permissions = File::create(path)?.metadata()?.permissions();
        safetensors::serialize_to_file(views, Some(metadata), path)?;
        std::fs::set_permissions(path, permissions)?;
        Ok(File::open(path)?.sync_all()?)
    };
    written().with_context(|| format!("cannot write {}", path.display()))
}

struct Floats<'a>(&'a Tensor);

impl View for Floats<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }
    fn shape(&self) -> &[usize] {
        &self.0.shape
    }
    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(bytemuck::cast_slice(&self.0.data))
    }
    fn data_len(&self) -> usize {
        self.0.data.len() * size_of::<f32>()
    }
}

/// The opened files of a [`Start`].
pub struct StartFiles {
    seed: u64,
    model: Option<ModelFiles>,
    optimizer: Option<TensorFile>,
}

impl StartFiles {
    /// Opens the files that `start` refers to.
    ///
    /// # Errors
    /// If a file is missing or invalid.
    pub fn open(start: &Start, seed: u64) -> Result<Self> {
        let (model, optimizer) = match start {
            Start::Fresh => (None, None),
            Start::Weights(folder) => (Some(ModelFiles::open(folder)?), None),
            Start::Resume(folder) => {
                (Some(ModelFiles::open(folder)?), Some(TensorFile::open(&folder.join(OPTIMIZER_FILE))?))
            }
        };
        Ok(Self { seed, model, optimizer })
    }

    /// The parameter that `spec` describes.
    ///
    /// # Errors
    /// If the file has no such tensor of this shape.
    pub fn parameter(&self, spec: &ParameterSpec) -> Result<Tensor> {
        let Some(file) = &self.model else { return Ok(spec.initial(self.seed)) };
        let bare = bare(&spec.name);
        let name = if !file.has(&spec.name) && file.has(bare) { bare } else { &spec.name };
        file.read(name, &spec.shape)
    }

    /// The parameter that is trained, where that of the model is its average: the optimizer's tensor [`RAW`], or the model's
    /// parameter if the optimizer state is new.
    ///
    /// # Errors
    /// If the file has no such tensor of this shape.
    pub fn raw_parameter(&self, spec: &ParameterSpec) -> Result<Tensor> {
        if self.optimizer.is_some() { self.state(spec, RAW) } else { self.parameter(spec) }
    }

    /// Names of the model file's tensors that are none of `specs`. Masks and frequencies that older versions of
    /// transformers saved are no parameters, and neither is a head that repeats the embedding.
    pub fn unused(&self, specs: &[ParameterSpec]) -> Vec<String> {
        const BUFFERS: [&str; 4] = [".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq", "lm_head.weight"];
        let used: HashSet<&str> = specs.iter().map(|spec| bare(&spec.name)).collect();
        let all = self.model.iter().flat_map(ModelFiles::names);
        let unused = all.filter(|name| !used.contains(bare(name)) && !BUFFERS.iter().any(|end| name.ends_with(end)));
        unused.cloned().collect()
    }

    /// Is the model's head its token embedding: is there no tensor `lm_head.weight`, or one with the same values?
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn is_tied(&self) -> Result<bool> {
        const HEAD: &str = "lm_head.weight";
        let Some(file) = self.model.as_ref().filter(|file| file.has(HEAD)) else { return Ok(true) };
        let names = ["transformer.wte.weight", "wte.weight", "model.embed_tokens.weight", "embed_tokens.weight"];
        let Some(embedding) = names.into_iter().find(|name| file.has(name)) else { return Ok(false) };
        let hash = |name: &str| -> Result<blake3::Hash> {
            let mut hasher = blake3::Hasher::new();
            file.values(name, &mut |values| {
                hasher.update(bytemuck::cast_slice(values));
            })?;
            Ok(hasher.finalize())
        };
        Ok(hash(HEAD)? == hash(embedding)?)
    }

    /// The optimizer's tensor `name` for the parameter that `spec` describes; zeros if the optimizer state is new.
    ///
    /// # Errors
    /// If the file has no such tensor of this shape.
    pub fn state(&self, spec: &ParameterSpec, name: &str) -> Result<Tensor> {
        match &self.optimizer {
            Some(file) => file.read(&format!("{}.{name}", spec.name), &spec.shape),
            None => Ok(Tensor::zeros(spec.shape.clone())),
        }
    }
}

/// The name of a tensor in a model that was saved without its head: without the prefix of the rest.
fn bare(name: &str) -> &str {
    ["transformer.", "model."].iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name)
}

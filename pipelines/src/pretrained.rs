//! A model in a folder in Hugging Face's layout: what `generate` continues texts with, `evaluate` measures, and a run may
//! start from.
use crate::plan::types_giving;
use crate::problem::Usage;
use crate::train_run::directory;
use anyhow::{Context, Result, anyhow, bail, ensure};
use compute::models::config::end_of_text;
use contract::{Decode, Kind, Precision, Pretrained, StageType, Tensor};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use text::Tokenizer;
use train::checkpoint;
use train::weights::{Start, StartFiles};

/// Keys of `config.json` without which the weights mean the same: positions are bounded by the shapes of tensors where
/// they have any, and the end of a text is compared with the tokenizer.
const MEANINGLESS: [&str; 4] = ["max_position_embeddings", "n_ctx", "bos_token_id", "eos_token_id"];

/// The folder of a model: `path` itself, or the last checkpoint of the run that `path` is.
///
/// # Errors
/// [`Usage`] if there is none.
pub fn find(path: &Path) -> Result<PathBuf> {
    if path.join("config.json").is_file() {
        return Ok(path.to_owned());
    }
    let at = path.display();
    if let Some((_, last)) = checkpoint::list(path)?.pop() {
        return Ok(last);
    }
    Err(Usage(if path.join(directory::CONFIG_FILE).exists() {
        format!("{at} has no checkpoint yet; see `checkpoint.interval`")
    } else if path.exists() {
        format!("{at} is neither a run nor a checkpoint: it has no checkpoints/ and no config.json")
    } else {
        let near =
            text::support::problem::similar_file(path).map(|name| format!("; similar: {name}")).unwrap_or_default();
        format!("there is no run or checkpoint {at}{near}")
    })
    .into())
}

/// A model in a folder: `config.json`, `model.safetensors` and a tokenizer.
pub struct ModelFolder {
    folder: PathBuf,
    config: Value,
    files: StartFiles,
    /// The model that `config.json` describes.
    pub model: Pretrained,
}

impl ModelFolder {
    /// Opens the model in `folder`, of one of the types `stages`. All tensors of `model.safetensors` belong to it.
    ///
    /// # Errors
    /// If a file is missing or damaged, or the model is one that no type of `stages` describes completely.
    pub fn open(folder: &Path, stages: &[StageType]) -> Result<Self> {
        let (config, files) = config_and_files(folder)?;
        let model = of_config(&config, stages).context("config.json describes an unsupported model")?;
        let unused = files.unused(&model.facts.parameters);
        if !unused.is_empty() {
            let some = unused.iter().take(3).cloned().collect::<Vec<_>>().join(", ");
            let more = if unused.len() > 3 { ", …" } else { "" };
            let kind = &config["model_type"];
            bail!(
                "model.safetensors has {} tensors that are no part of a model of type {kind} here: {some}{more}",
                unused.len()
            );
        }
        Ok(Self { folder: folder.to_owned(), config, files, model })
    }

    /// A decoder with the model's weights in `precision`.
    ///
    /// # Errors
    /// If a parameter is missing or has another shape.
    pub fn decoder(&self, precision: Precision) -> Result<Box<dyn Decode>> {
        (self.model.decoder)(precision, &mut |index| self.parameter(index).map(Arc::new))
    }

    /// The parameter with this index.
    ///
    /// # Errors
    /// If it is missing or has another shape.
    pub fn parameter(&self, index: usize) -> Result<Tensor> {
        self.files.parameter(&self.model.facts.parameters[index])
    }

    /// Whether there is a tokenizer beside the model.
    pub fn has_tokenizer(&self) -> bool {
        ["tokenizer.json", "vocab.json"].iter().any(|name| self.folder.join(name).exists())
    }

    /// The tokenizer beside the model.
    ///
    /// # Errors
    /// If there is none, or it is not supported, or it has ids that the model does not have.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        let tokenizer = Tokenizer::from_folder(&self.folder, end_of_text(&self.config))?;
        let ids = tokenizer.vocabulary_size() as usize;
        let there = self.model.facts.vocabulary();
        ensure!(ids <= there, "the tokenizer has {ids} ids, the model only {there}");
        Ok(tokenizer)
    }

    /// The token that begins a text, if `config.json` names one that the model has.
    pub fn begin_of_text(&self) -> Option<u32> {
        let facts = &self.model.facts;
        let there = facts.vocabulary();
        ids(&self.config["bos_token_id"]).into_iter().find(|id| (*id as usize) < there)
    }

    /// The tokens that end a text: those of `generation_config.json`, or else of `config.json`, or else
    /// `<|endoftext|>`.
    ///
    /// # Errors
    /// If `generation_config.json` is there and cannot be read.
    pub fn ends_of_text(&self, tokenizer: &Tokenizer) -> Result<Vec<u32>> {
        let path = self.folder.join("generation_config.json");
        let generation = if path.exists() { json(&path)? } else { Value::Null };
        let given = [&generation, &self.config].into_iter().map(|config| ids(&config["eos_token_id"]));
        let given = given.into_iter().find(|ids| !ids.is_empty());
        Ok(given.unwrap_or_else(|| vec![tokenizer.end_of_text()]))
    }

    /// What in `config` and `tokenizer`, those of a run, differs from this model in a way that gives its weights
    /// another meaning: the name and how it differs.
    ///
    /// # Errors
    /// If the model's tokenizer is there and cannot be read.
    pub fn differences(&self, config: &Value, tokenizer: Option<&str>) -> Result<Vec<(String, String)>> {
        let theirs = &self.model.facts.config;
        let pairs = |config: &Value| config.as_object().cloned().unwrap_or_default();
        let mut keys: Vec<String> = pairs(theirs).into_iter().chain(pairs(config)).map(|(key, _)| key).collect();
        keys.sort();
        keys.dedup();
        let mut differences: Vec<(String, String)> = keys
            .into_iter()
            .filter(|key| theirs[key] != config[key] && !MEANINGLESS.contains(&&**key))
            .map(|key| (key.clone(), format!("{key} is {} in the model, {} in the run", theirs[&key], config[&key])))
            .collect();
        if let (Some(json), true) = (tokenizer, self.has_tokenizer()) {
            let difference = text::tokenizer::hugging_face::difference(self.tokenizer()?.json(), json)?;
            differences.extend(difference.map(|how| ("tokenizer".into(), format!("the tokenizers differ: {how}"))));
        }
        Ok(differences)
    }
}

/// The `config.json` of the model in `folder`.
///
/// # Errors
/// If it or the weights cannot be read.
pub fn config(folder: &Path) -> Result<Value> {
    Ok(config_and_files(folder)?.0)
}

fn config_and_files(folder: &Path) -> Result<(Value, StartFiles)> {
    let mut config = json(&folder.join("config.json"))?;
    let files = StartFiles::open(&Start::Weights(folder.to_owned()), 0)?;
    if config["tie_word_embeddings"] == true && !files.is_tied()? {
        // As transformers does where both matrices are there and differ.
        config["tie_word_embeddings"] = false.into();
    }
    Ok((config, files))
}

fn json(path: &Path) -> Result<Value> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is not JSON", path.display()))
}

/// One id, or a list of them.
fn ids(value: &Value) -> Vec<u32> {
    let one = |value: &Value| value.as_u64().and_then(|id| id.try_into().ok());
    value.as_array().map_or_else(|| one(value).into_iter().collect(), |list| list.iter().filter_map(one).collect())
}

/// The model that `config` describes, of the first of `stages` that has such a model.
///
/// # Errors
/// If no stage has such a model. If one has models of this kind, the error is its reason for rejecting `config`.
pub fn of_config(config: &Value, stages: &[StageType]) -> Result<Pretrained> {
    let mut reason = None;
    for stage_type in stages {
        match (stage_type.from_config)(config) {
            Some(Ok(model)) => return Ok(model),
            Some(Err(error)) => reason = reason.or(Some(error)),
            None => {}
        }
    }
    let kind = &config["model_type"];
    let known = || types_giving(stages, Kind::Activations).join(", ");
    Err(reason.unwrap_or_else(|| match kind.as_str() {
        Some(kind) => anyhow!("models of type `{kind}` are not supported; supported: {}", known()),
        None => anyhow!("it has no `model_type`"),
    }))
}

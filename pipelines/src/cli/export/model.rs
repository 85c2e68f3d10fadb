//! A model for other programs: what is exported, and the format `safetensors-bf16`.
use super::{Content, Context, Export, Exported};
use crate::pretrained::{ModelFolder, find};
use crate::problem::Usage;
use crate::train_run::directory::ENVIRONMENT_FILE;
use anyhow::{Context as _, Result};
use contract::files::{read_if_there, write_whole};
use contract::{Attribution, StageType};
use serde_json::Value;
use std::io::Write;
use std::path::{Path, PathBuf};
use text::Tokenizer;
use text::tokenizer::hugging_face::spelling;
use train::checkpoint::{STATE_FILE, State, read_state};
use train::hugging_face::{
    CARD_FILE, CONFIG_FILE, GENERATION_CONFIG_FILE, ModelCard, TOKENIZER_CONFIG_FILE, TOKENIZER_FILE,
    generation_config, tokenizer_config,
};
use train::record::METRICS_FILE;
use train::weights::{INDEX_FILE, MODEL_FILE, write_bf16};

/// A model that is exported.
pub struct Source {
    /// The folder of the model.
    pub folder: PathBuf,
    /// The model.
    pub model: ModelFolder,
    /// Its tokenizer, if there is one.
    pub tokenizer: Option<Tokenizer>,
    /// The tokens that end a text, if there is a tokenizer.
    pub ends: Vec<u32>,
    /// How it was trained, if it is a checkpoint of this program.
    pub training: Training,
}

/// How a model was trained. What is not known is left out.
#[derive(Default)]
pub struct Training {
    state: Option<State>,
    tokens: Option<u64>,
    bits_per_byte: Option<f64>,
    sources: Vec<Attribution>,
    command: Option<String>,
}

impl Source {
    /// Opens the model that `path` is, or the last checkpoint of the run that `path` is.
    ///
    /// # Errors
    /// [`Usage`] if there is none; if a file is missing or damaged.
    pub fn open(path: &Path, stages: &[StageType]) -> Result<Self> {
        let folder = find(path)?;
        let model = ModelFolder::open(&folder, stages);
        let model = model.with_context(|| format!("cannot export {}", folder.display()))?;
        let tokenizer = if model.has_tokenizer() { Some(model.tokenizer()?) } else { None };
        let ends = tokenizer.as_ref().map_or(Ok(Vec::new()), |tokenizer| model.ends_of_text(tokenizer))?;
        let training = Training::of(&folder)?;
        Ok(Self { folder, model, tokenizer, ends, training })
    }

    /// The model card, for weights of this type. A model that was not trained by this program keeps its own, if it has
    /// one.
    ///
    /// # Errors
    /// If it is there and cannot be read.
    pub fn card(&self, weights: &str) -> Result<String> {
        if self.training.state.is_none()
            && let Some(card) = read_if_there(&self.folder.join(CARD_FILE))?
        {
            return Ok(String::from_utf8_lossy(&card).into_owned());
        }
        let Training { state, tokens, bits_per_byte, sources, command } = &self.training;
        let fingerprint = state.as_ref().and_then(|state| state.fingerprint.as_ref());
        let card = ModelCard {
            model: &self.model.model.facts,
            weights,
            average_decay: state.as_ref().and_then(|state| state.average_decay),
            updates: state.as_ref().map(|state| state.step),
            tokens: *tokens,
            bits_per_byte: *bits_per_byte,
            sources,
            settings: fingerprint.map(|fingerprint| &fingerprint.configuration),
            command: command.as_deref(),
        };
        Ok(card.to_string())
    }
}

impl Training {
    /// What the checkpoint `folder` and the files of its run say.
    fn of(folder: &Path) -> Result<Self> {
        if !folder.join(STATE_FILE).is_file() {
            return Ok(Self::default());
        }
        let state = read_state(folder)?;
        let folder = folder.canonicalize().with_context(|| format!("cannot read {}", folder.display()))?;
        let Some(run) = folder.parent().and_then(Path::parent) else { return Ok(Self::default()) };
        let text = |name: &str| Ok::<_, anyhow::Error>(read_if_there(&run.join(name))?.unwrap_or_default());
        let environment: Value = serde_json::from_slice(&text(ENVIRONMENT_FILE)?).unwrap_or_default();
        let metrics = text(METRICS_FILE)?;
        let lines = metrics.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice::<Value>(line).ok());
        let line = lines.into_iter().find(|line| line["step"] == state.step).unwrap_or_default();
        let sources: Vec<Attribution> = serde_json::from_value(environment["sources"].clone()).unwrap_or_default();
        Ok(Self {
            tokens: line["tokens"].as_u64(),
            bits_per_byte: line["bits_per_byte"].as_f64(),
            sources: sources.into_iter().filter(|source| !source.local).collect(),
            command: command(&environment),
            state: Some(state),
        })
    }
}

/// The command line of a run, with the name of the program instead of its path.
fn command(environment: &Value) -> Option<String> {
    let words: Vec<&str> = environment["command"].as_array()?.iter().map(Value::as_str).collect::<Option<_>>()?;
    let (program, arguments) = words.split_first()?;
    let program = Path::new(program).file_name()?.to_str()?;
    let quoted =
        |word: &&str| match word.contains(|letter: char| letter.is_whitespace() || "\"'$&|;*?[]".contains(letter)) {
            true => format!("'{}'", word.replace('\'', "'\\''")),
            false => (*word).to_owned(),
        };
    Some([program].iter().chain(arguments).map(quoted).collect::<Vec<_>>().join(" "))
}

/// Writes a folder that transformers loads, with weights in bfloat16. The configuration is written last, so that a
/// folder without one is not complete.
///
/// # Errors
/// [`Usage`] if there are files that are not to be replaced; if a file cannot be read or written.
pub fn safetensors(asked: &Export, context: &Context) -> Result<Vec<Exported>> {
    let out = &asked.out;
    let names =
        [MODEL_FILE, GENERATION_CONFIG_FILE, TOKENIZER_FILE, TOKENIZER_CONFIG_FILE, CARD_FILE, INDEX_FILE, CONFIG_FILE];
    let source = Source::open(&asked.source, context.stages)?;
    check_folder(out, &source.folder)?;
    for name in names {
        asked.check_replaceable(&out.join(name))?;
    }
    let (facts, mut config) = (&source.model.model.facts, source.model.model.facts.config.clone());
    // Older versions of transformers know the second name.
    for key in ["dtype", "torch_dtype"] {
        config[key] = "bfloat16".into();
    }
    let mut files = Vec::new();
    let mut write = |name: &str, content: &mut dyn FnMut(&mut dyn Write) -> Result<()>| -> Result<()> {
        let path = out.join(name);
        write_whole(&path, |mut file| content(&mut file))?;
        let bytes = path.metadata().with_context(|| format!("cannot read {}", path.display()))?.len();
        files.push(Exported { path, content: Content::Model { bytes } });
        Ok(())
    };
    let json = |value: &Value| Ok::<_, anyhow::Error>(format!("{}\n", serde_json::to_string_pretty(value)?));
    let mut texts = vec![(GENERATION_CONFIG_FILE, json(&generation_config(&config, &source.ends))?)];
    if let Some(tokenizer) = &source.tokenizer {
        let end = spelling(tokenizer.json(), tokenizer.end_of_text()).unwrap_or_default();
        texts.push((TOKENIZER_FILE, tokenizer.json().to_owned()));
        texts.push((TOKENIZER_CONFIG_FILE, json(&tokenizer_config(&end, &config))?));
    }
    texts.push((CARD_FILE, source.card("bfloat16")?));
    texts.push((CONFIG_FILE, json(&config)?));
    write(MODEL_FILE, &mut |mut file| {
        write_bf16(&mut file, &facts.parameters, &mut |index| source.model.parameter(index))
    })?;
    for (name, text) in &texts {
        write(name, &mut |file| Ok(file.write_all(text.as_bytes())?))?;
    }
    // What an earlier export of another model has left would be taken for a part of this one.
    for name in names.iter().filter(|name| !files.iter().any(|file| file.path.ends_with(name))) {
        match std::fs::remove_file(out.join(name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", out.join(name).display()));
            }
            _ => {}
        }
    }
    Ok(files)
}

/// Rejects a folder whose files are not to be replaced in any case: a checkpoint, or the model itself.
fn check_folder(out: &Path, source: &Path) -> Result<()> {
    let same = out.canonicalize().ok().is_some_and(|out| source.canonicalize().is_ok_and(|source| source == out));
    if same || out.join(STATE_FILE).exists() {
        let what = if same { "the model that is exported" } else { "a checkpoint" };
        return Err(Usage(format!("{} is {what}: name another folder", out.display())).into());
    }
    Ok(())
}

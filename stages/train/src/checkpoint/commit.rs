//! The state of a run after some updates, and how it is written as a checkpoint.
use super::folder::{UNFINISHED, before, discard_unfinished, name_of, prune, read_state, sums};
use super::{FORMAT, Fingerprint, STATE_FILE, SUMS_FILE, State, TokenizerJson};
use crate::hugging_face::{
    self, CARD_FILE, CONFIG_FILE, GENERATION_CONFIG_FILE, ModelCard, TOKENIZER_CONFIG_FILE, TOKENIZER_FILE,
};
use crate::optimize::WeightAverage;
use crate::weights::{MODEL_FILE, OPTIMIZER_FILE, write};
use anyhow::{Context, Result, bail, ensure};
use contract::{Attribution, Env, ModelFacts, OptimizerState, Saved, Step};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The complete state of a run after some updates.
pub struct Commit {
    step: Step,
    /// By tensor.
    tensors: BTreeMap<usize, OptimizerState>,
    /// Of the lanes of stages.
    saved: Vec<Saved>,
    writer: Arc<Writer>,
}

/// Takes the commits of a run, as a resource: they are then not written by the stage.
pub struct CommitSink(pub Box<dyn Fn(Commit) -> Result<()> + Send + Sync>);

impl Commit {
    pub(super) fn new(
        step: Step,
        tensors: BTreeMap<usize, OptimizerState>,
        mut saved: Vec<Saved>,
        writer: Arc<Writer>,
    ) -> Result<Self> {
        let all = writer.model.parameters.len();
        ensure!(tensors.len() == all, "only {} of {all} tensors arrived", tensors.len());
        saved.sort_by(|a, b| (&a.stage, a.lane).cmp(&(&b.stage, b.lane)));
        Ok(Self { step, tensors, saved, writer })
    }

    /// Updates so far.
    pub fn step(&self) -> Step {
        self.step
    }

    /// Writes it as a checkpoint of the run, and removes checkpoints that are not kept. Nothing happens in a run without a
    /// directory.
    ///
    /// # Errors
    /// If it cannot be written; the message names the last intact checkpoint. If it has values that are not finite.
    pub fn write(&self) -> Result<()> {
        let Some(folder) = &self.writer.folder else { return Ok(()) };
        let name = name_of(self.step);
        self.write_to(&folder.join(&name)).with_context(|| match before(folder, self.step) {
            Some(whole) => {
                format!("cannot write checkpoint {name}; {} is intact: resume from it with --resume", whole.display())
            }
            None => format!("cannot write checkpoint {name}, the first of this run"),
        })?;
        prune(folder, self.writer.keep)
    }

    /// Writes it as a checkpoint in the new folder `whole`, which appears complete or not at all.
    ///
    /// # Errors
    /// If the folder is there already or cannot be written, or a value is not finite.
    pub fn write_to(&self, whole: &Path) -> Result<()> {
        let mut temporary = whole.as_os_str().to_owned();
        temporary.push(UNFINISHED);
        let temporary = Path::new(&temporary);
        let written = self.write_files(temporary).and_then(|()| {
            ensure!(!whole.exists(), "{} is there already", whole.display());
            fs::rename(temporary, whole)?;
            whole.parent().map_or(Ok(()), |folder| Ok(File::open(folder)?.sync_all()?))
        });
        if written.is_err() {
            // If removing fails too, the resumed run removes it.
            let _ = fs::remove_dir_all(temporary);
        }
        written
    }

    fn write_files(&self, folder: &Path) -> Result<()> {
        let Self { step, tensors, saved, writer } = self;
        let named = |m: &OptimizerState| writer.model.parameters[m.tensor].name.clone();
        let finite =
            |m: &OptimizerState| is_finite(&m.parameter.data) && m.state.iter().all(|(_, t)| is_finite(&t.data));
        if let Some(m) = tensors.values().find(|m| !finite(m)) {
            let why = "is not finite after the update; a lower `optimize.learning_rate` may help";
            bail!("`{}` or its optimizer state {why}", named(m));
        }
        if folder.exists() {
            fs::remove_dir_all(folder)?;
        }
        fs::create_dir_all(folder)?;
        write(&folder.join(MODEL_FILE), tensors.values().map(|m| (named(m), &*m.parameter)).collect())?;
        let state =
            tensors.values().flat_map(|m| m.state.iter().map(move |(n, t)| (format!("{}.{n}", named(m)), &**t)));
        write(&folder.join(OPTIMIZER_FILE), state.collect())?;
        writer.write_descriptions(folder, *step)?;
        let saved = saved.iter().map(|s| Ok((s.stage.clone(), s.lane, s.state.value()?)));
        let state = State {
            format: FORMAT,
            step: *step,
            fingerprint: writer.fingerprint.as_deref().cloned(),
            saved: saved.collect::<Result<_>>()?,
            average_decay: writer.average_decay,
        };
        write_text(&folder.join(STATE_FILE), &serde_json::to_string(&state)?)?;
        write_text(&folder.join(SUMS_FILE), &sums(folder)?)?;
        Ok(File::open(folder)?.sync_all()?)
    }
}

/// Writes a checkpoint as the new folder `whole`, with the weights and the optimizer state of `checkpoint`, and everything
/// else of the run that `env` describes. `saved` is the state of stages.
///
/// # Errors
/// If `checkpoint` cannot be read, or `whole` cannot be written.
pub fn with_other_data(checkpoint: &Path, whole: &Path, env: &Env, mut saved: Vec<(String, u32, Value)>) -> Result<()> {
    let writer = Writer::new(1, None, env)?;
    saved.sort_by(|a, b| (&a.0, a.1).cmp(&(&b.0, b.1)));
    let state = read_state(checkpoint)?;
    fs::create_dir_all(whole).with_context(|| format!("cannot make {}", whole.display()))?;
    for name in [MODEL_FILE, OPTIMIZER_FILE] {
        let (from, to) = (checkpoint.join(name), whole.join(name));
        fs::copy(&from, &to)
            .and_then(|_| File::open(&to)?.sync_all())
            .with_context(|| format!("cannot copy {}", from.display()))?;
    }
    writer.write_descriptions(whole, state.step)?;
    let state = State { fingerprint: writer.fingerprint.as_deref().cloned(), saved, ..state };
    write_text(&whole.join(STATE_FILE), &serde_json::to_string(&state)?)?;
    write_text(&whole.join(SUMS_FILE), &sums(whole)?)?;
    Ok(File::open(whole)?.sync_all()?)
}

/// What checkpoints contain besides the state, and where they are.
pub(super) struct Writer {
    /// How many to keep.
    keep: usize,
    model: Arc<ModelFacts>,
    /// `None` for a run without a directory.
    folder: Option<PathBuf>,
    tokenizer: Option<Arc<TokenizerJson>>,
    fingerprint: Option<Arc<Fingerprint>>,
    sources: Vec<Attribution>,
    tokens_per_step: u64,
    average_decay: Option<f64>,
}

impl Writer {
    /// Removes what a killed process has left unfinished, on the worker that writes.
    pub(super) fn new(keep: usize, folder: Option<PathBuf>, env: &Env) -> Result<Self> {
        if let Some(folder) = &folder
            && env.gathers()
        {
            discard_unfinished(folder)?;
        }
        Ok(Self {
            keep,
            model: env.model()?,
            folder,
            tokenizer: env.resources.get(),
            fingerprint: env.resources.get(),
            sources: sources(env),
            tokens_per_step: env.shape.tokens(),
            average_decay: env.resources.all::<WeightAverage>().next().map(|(_, average)| average.decay),
        })
    }

    /// Writes the files that describe the model to others: what transformers reads, and the model card.
    fn write_descriptions(&self, folder: &Path, step: Step) -> Result<()> {
        let config = &self.model.config;
        let json = |name: &str, content: &Value| {
            write_text(&folder.join(name), &format!("{}\n", serde_json::to_string_pretty(content)?))
        };
        write_text(&folder.join(CONFIG_FILE), &serde_json::to_string_pretty(config)?)?;
        json(GENERATION_CONFIG_FILE, &hugging_face::generation_config(config, &[]))?;
        if let Some(tokenizer) = &self.tokenizer {
            write_text(&folder.join(TOKENIZER_FILE), &tokenizer.json)?;
            if let Some(end_of_text) = &tokenizer.end_of_text {
                json(TOKENIZER_CONFIG_FILE, &hugging_face::tokenizer_config(end_of_text, config))?;
            }
        }
        let card = ModelCard {
            model: &self.model,
            weights: "f32",
            average_decay: self.average_decay,
            updates: Some(step),
            tokens: Some(step * self.tokens_per_step),
            bits_per_byte: None,
            sources: &self.sources,
            settings: self.fingerprint.as_ref().map(|fingerprint| &fingerprint.configuration),
            command: None,
        };
        write_text(&folder.join(CARD_FILE), &card.to_string())
    }
}

/// The sources of the corpus as a model card names them: without paths of this machine, so that a run that is resumed
/// elsewhere writes the same card.
fn sources(env: &Env) -> Vec<Attribution> {
    let all = env.resources.all::<Vec<Attribution>>().flat_map(|(_, of_source)| (*of_source).clone());
    let mut sources: Vec<Attribution> = all.filter(|source| !source.local).collect();
    sources.dedup();
    sources
}

fn write_text(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text)
        .and_then(|()| File::open(path)?.sync_all())
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Whether no value is infinite or NaN.
fn is_finite(values: &[f32]) -> bool {
    // Compares bits, so that the loop vectorises.
    values.iter().fold(0, |most, value| (value.to_bits() & 0x7fff_ffff).max(most)) < f32::INFINITY.to_bits()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_are_not_finite_are_detected() {
        assert!(is_finite(&[]) && is_finite(&[0.0, -0.0, f32::MAX, f32::MIN, f32::MIN_POSITIVE]));
        for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert!(!is_finite(&[1.0, bad, 2.0]), "{bad}");
        }
    }
}

//! `checkpoint`: writes everything that is needed to resume a run, in a directory that Hugging Face's libraries load.
//!
//! The stage receives tensors from the workers that own them, and the saved state of each lane. When the step is done
//! on every worker, worker 0 writes everything under a temporary name, syncs, and renames, so a checkpoint appears
//! atomically. It contains the hash of every file, so that later corruption is detected.
mod folder;

pub use folder::{before, list, read_state, set_aside_after, verify};

use crate::hugging_face::{
    self, CARD_FILE, CONFIG_FILE, GENERATION_CONFIG_FILE, ModelCard, TOKENIZER_CONFIG_FILE, TOKENIZER_FILE,
};
use crate::optimize::WeightAverage;
use crate::weights::{MODEL_FILE, OPTIMIZER_FILE, write};
use anyhow::{Context, Result, bail, ensure};
use contract::{
    At, Attribution, Built, Due, Emit, Env, Kind, ModelFacts, OptimizerState, Packet, Port, Route, Saved, Settings,
    Stage, StageKeys, StageSettings, Step, Turn,
};
use folder::{UNFINISHED, discard_unfinished, name_of, prune, sums};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The subdirectory of a run directory for checkpoints.
pub const CHECKPOINTS: &str = "checkpoints";
/// The file of a checkpoint with the state of the run.
pub const STATE_FILE: &str = "state.json";
/// The file of a checkpoint with the BLAKE3 hashes of the others, as `b3sum` writes and checks them.
pub const SUMS_FILE: &str = "B3SUMS";
/// Format version of [`STATE_FILE`].
pub const FORMAT: u32 = 1;

/// The tokenizer for checkpoints, as a resource.
pub struct TokenizerJson {
    /// The content of `tokenizer.json`.
    pub json: String,
    /// How the token that ends a text is spelled.
    pub end_of_text: Option<String>,
}

/// What must be the same for a resumed run to give the same bits, as a resource.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// Every setting that affects results, and the hashes of the input.
    pub configuration: BTreeMap<String, String>,
    /// The GEMM backend: results of different backends differ in the last bits.
    pub blas_core: String,
    /// Updates until the decay of the learning rate is complete, which may depend on the length of the run. `None` in
    /// checkpoints that were written before it was recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule_steps: Option<u64>,
}

/// The state of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct State {
    /// Format version.
    pub format: u32,
    /// Updates so far.
    pub step: Step,
    /// What must be the same to resume.
    pub fingerprint: Option<Fingerprint>,
    /// The saved state of stages: `(stage, lane, state)`.
    pub saved: Vec<(String, u32, serde_json::Value)>,
    /// The decay of the exponential moving average that the weights are; `None` if they are those of the last update.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub average_decay: Option<f64>,
}

/// Settings of `type = "checkpoint"`.
#[derive(Clone, Debug, Serialize, Deserialize, StageKeys)]
#[serde(default, deny_unknown_fields)]
pub struct Checkpoint {
    /// Steps between checkpoints. There is also one at the end of the run; 0: none, not even at the end.
    pub interval: u64,
    /// How many checkpoints to keep, the latest ones; at least 1.
    #[key(min = 1)]
    pub keep: usize,
}

impl Default for Checkpoint {
    fn default() -> Self {
        Self { interval: 500, keep: 3 }
    }
}

impl StageSettings for Checkpoint {
    const SUMMARY: &'static str = "writes checkpoints in Hugging Face's layout, atomically";
    const OBSERVES: bool = true;
    const EXAMPLE: &'static str = "type = \"checkpoint\"\ninterval = 500\nkeep = 3\n";
}

impl Settings for Checkpoint {
    fn takes(&self) -> Vec<Port> {
        vec![Port::stream(Kind::OptimizerState).by(Route::Exchange), Port::stream(Kind::Saved).by(Route::Exchange)]
    }

    fn gives(&self) -> Vec<Kind> {
        Vec::new()
    }

    fn build(&self, env: &Env) -> Result<Built> {
        let folder = env.run_dir.as_ref().map(|dir| dir.join(CHECKPOINTS));
        if let Some(folder) = &folder
            && env.worker == 0
        {
            discard_unfinished(folder)?;
        }
        Ok(Built::Stage(Box::new(CheckpointStage {
            keep: self.keep,
            model: env.model()?,
            folder,
            tokenizer: env.resources.get(),
            fingerprint: env.resources.get(),
            sources: sources(env),
            tokens_per_step: env.shape.tokens(),
            average_decay: env.resources.all::<WeightAverage>().next().map(|(_, average)| average.decay),
            tensors: BTreeMap::new(),
            saved: Vec::new(),
        })))
    }

    fn due(&self) -> Due {
        Due { evaluate: None, checkpoint: (self.interval > 0).then_some(self.interval) }
    }
}

struct CheckpointStage {
    keep: usize,
    model: Arc<ModelFacts>,
    folder: Option<PathBuf>,
    tokenizer: Option<Arc<TokenizerJson>>,
    fingerprint: Option<Arc<Fingerprint>>,
    sources: Vec<Attribution>,
    tokens_per_step: u64,
    average_decay: Option<f64>,
    tensors: BTreeMap<usize, OptimizerState>,
    saved: Vec<Saved>,
}

impl Stage for CheckpointStage {
    fn packet(&mut self, _at: At, packet: Packet, _out: &mut dyn Emit) -> Result<Turn> {
        match packet {
            Packet::OptimizerState(state) => drop(self.tensors.insert(state.tensor, state)),
            Packet::Saved(saved) => self.saved.push(saved),
            _ => {}
        }
        Ok(Turn::Done)
    }

    fn step_done(&mut self, step: Step, _out: &mut dyn Emit) -> Result<()> {
        let (tensors, saved) = (std::mem::take(&mut self.tensors), std::mem::take(&mut self.saved));
        let Some(folder) = &self.folder else { return Ok(()) };
        if tensors.is_empty() {
            return Ok(()); // no checkpoint is due
        }
        ensure!(tensors.len() == self.model.parameters.len(), "only {} tensors arrived", tensors.len());
        let name = name_of(step + 1);
        let temporary = folder.join(format!("{name}{UNFINISHED}"));
        let written = self.commit(&temporary, &folder.join(&name), tensors, saved, step + 1);
        if written.is_err() {
            // If removing fails too, the resumed run removes it.
            let _ = fs::remove_dir_all(&temporary);
        }
        written.with_context(|| match before(folder, step + 1) {
            Some(whole) => {
                format!("cannot write checkpoint {name}; {} is intact: resume from it with --resume", whole.display())
            }
            None => format!("cannot write checkpoint {name}, the first of this run"),
        })?;
        prune(folder, self.keep)
    }
}

impl CheckpointStage {
    fn commit(
        &self,
        temporary: &Path,
        whole: &Path,
        tensors: BTreeMap<usize, OptimizerState>,
        mut saved: Vec<Saved>,
        step: Step,
    ) -> Result<()> {
        let named = |m: &OptimizerState| self.model.parameters[m.tensor].name.clone();
        let finite =
            |m: &OptimizerState| is_finite(&m.parameter.data) && m.state.iter().all(|(_, t)| is_finite(&t.data));
        if let Some(m) = tensors.values().find(|m| !finite(m)) {
            let why = "is not finite after the update; a lower `optimize.learning_rate` may help";
            bail!("`{}` or its optimizer state {why}", named(m));
        }
        ensure!(!whole.exists(), "{} is there already", whole.display());
        if temporary.exists() {
            fs::remove_dir_all(temporary)?;
        }
        fs::create_dir_all(temporary)?;
        write(&temporary.join(MODEL_FILE), tensors.values().map(|m| (named(m), &*m.parameter)).collect())?;
        let state =
            tensors.values().flat_map(|m| m.state.iter().map(move |(n, t)| (format!("{}.{n}", named(m)), &**t)));
        write(&temporary.join(OPTIMIZER_FILE), state.collect())?;
        drop(tensors); // the optimizer may update in place again
        self.write_descriptions(temporary, step)?;
        saved.sort_by(|a, b| (&a.stage, a.lane).cmp(&(&b.stage, b.lane)));
        let state = State {
            format: FORMAT,
            step,
            fingerprint: self.fingerprint.as_deref().cloned(),
            saved: saved.into_iter().map(|s| Ok((s.stage, s.lane, s.state.value()?))).collect::<Result<_>>()?,
            average_decay: self.average_decay,
        };
        write_text(&temporary.join(STATE_FILE), &serde_json::to_string(&state)?)?;
        write_text(&temporary.join(SUMS_FILE), &sums(temporary)?)?;
        File::open(temporary)?.sync_all()?;
        fs::rename(temporary, whole)?;
        if let Some(folder) = whole.parent() {
            File::open(folder)?.sync_all()?;
        }
        Ok(())
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

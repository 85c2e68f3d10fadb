//! `checkpoint`: writes everything that is needed to resume a run, in a directory that Hugging Face's libraries load.
//!
//! The stage receives tensors from the workers that own them, and the saved state of each lane. When the step is done
//! on every worker, worker 0 writes everything under a temporary name, syncs, and renames, so a checkpoint appears
//! atomically. It contains the hash of every file, so that later corruption is detected.
use crate::weights::{MODEL_FILE, OPTIMIZER_FILE, write};
use anyhow::{Context, Result, bail, ensure};
use contract::{
    At, Built, Due, Emit, Env, Kind, ModelFacts, OptimizerState, Packet, Port, Problem, Route, Saved, Settings, Stage,
    StageKeys, StageSettings, Step, Turn,
};
use serde::{Deserialize, Serialize};
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

/// The content of the `tokenizer.json` for checkpoints, as a resource.
pub struct TokenizerJson(pub String);

/// What must be the same for a resumed run to give the same bits, as a resource.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// Every setting that affects results, and the hashes of the input.
    pub configuration: BTreeMap<String, String>,
    /// The GEMM backend: results of different backends differ in the last bits.
    pub blas_core: String,
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
}

/// Settings of `type = "checkpoint"`.
#[derive(Clone, Debug, Serialize, Deserialize, StageKeys)]
#[serde(default, deny_unknown_fields)]
pub struct Checkpoint {
    /// Steps between checkpoints; there is one at the end too; 0: none at all.
    pub interval: u64,
    /// How many of the last checkpoints are kept; at least 1.
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

    fn check(&self) -> Vec<Problem> {
        let too_few = self.keep == 0;
        too_few
            .then(|| Problem::at("keep", "`keep` is 0: at least the last checkpoint must stay"))
            .into_iter()
            .collect()
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
        write_text(&temporary.join("config.json"), &serde_json::to_string_pretty(&self.model.config)?)?;
        if let Some(tokenizer) = &self.tokenizer {
            write_text(&temporary.join("tokenizer.json"), &tokenizer.0)?;
        }
        saved.sort_by(|a, b| (&a.stage, a.lane).cmp(&(&b.stage, b.lane)));
        let state = State {
            format: FORMAT,
            step,
            fingerprint: self.fingerprint.as_deref().cloned(),
            saved: saved.into_iter().map(|s| Ok((s.stage, s.lane, s.state.value()?))).collect::<Result<_>>()?,
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
}

const UNFINISHED: &str = ".unfinished";
/// Name prefix of checkpoints that are later than the one a run was resumed from.
const ABANDONED: &str = "abandoned-";

fn name_of(step: Step) -> String {
    format!("step-{step:08}")
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

/// The content of [`SUMS_FILE`]: every file of `folder`, by name.
fn sums(folder: &Path) -> Result<String> {
    let mut names: Vec<String> = Vec::new();
    for entry in fs::read_dir(folder)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    let line = |name: &String| Ok(format!("{}  {name}\n", hash(&folder.join(name))?));
    names.iter().map(line).collect()
}

fn hash(path: &Path) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    File::open(path)
        .and_then(|file| hasher.update_reader(file).map(drop))
        .with_context(|| format!("cannot read {}", path.display()))?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// Verifies the hashes of all files of `checkpoint`.
///
/// # Errors
/// If a file is missing or differs (the message has its name), or the directory is not a checkpoint of this program.
pub fn verify(checkpoint: &Path) -> Result<()> {
    let at = checkpoint.display();
    let Ok(listed) = fs::read_to_string(checkpoint.join(SUMS_FILE)) else {
        ensure!(
            checkpoint.join(STATE_FILE).exists(),
            "{at} is not a checkpoint of this program: it has no {STATE_FILE}"
        );
        bail!("checkpoint {at} is damaged: its {SUMS_FILE} is missing or unreadable");
    };
    for line in listed.lines() {
        let Some((written, name)) = line.split_once("  ") else {
            bail!("checkpoint {at} is damaged: its {SUMS_FILE} says {line:?}");
        };
        ensure!(checkpoint.join(name).exists(), "checkpoint {at} is damaged: its {name} is missing");
        ensure!(
            hash(&checkpoint.join(name))? == written,
            "checkpoint {at} is damaged: its {name} is not what was written (the hashes differ)"
        );
    }
    ensure!(listed.contains(STATE_FILE), "checkpoint {at} is damaged: its {SUMS_FILE} is incomplete");
    Ok(())
}

/// The last intact checkpoint in `folder` with fewer than `step` updates.
pub fn before(folder: &Path, step: Step) -> Option<PathBuf> {
    let earlier = list(folder.parent()?).ok()?.into_iter().rev().filter(|(at, _)| *at < step);
    earlier.map(|(_, path)| path).find(|path| verify(path).is_ok())
}

/// The checkpoints of a run, oldest first.
///
/// # Errors
/// If the folder exists but cannot be read.
pub fn list(run_dir: &Path) -> Result<Vec<(Step, PathBuf)>> {
    let folder = run_dir.join(CHECKPOINTS);
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let entry = entry?;
        let name = entry.file_name();
        if let Some(step) = name.to_str().and_then(|n| n.strip_prefix("step-")).and_then(|n| n.parse().ok()) {
            found.push((step, entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

/// Reads the state of the run at `checkpoint`.
///
/// # Errors
/// If it is not a checkpoint of this program, or has another format version.
pub fn read_state(checkpoint: &Path) -> Result<State> {
    let path = checkpoint.join(STATE_FILE);
    let text = fs::read_to_string(&path).with_context(|| {
        format!("{} is not a checkpoint of this program: it has no {STATE_FILE}", checkpoint.display())
    })?;
    let state: State = serde_json::from_str(&text).with_context(|| format!("cannot read {}", path.display()))?;
    ensure!(state.format == FORMAT, "{} has format {}; this program reads {FORMAT}", path.display(), state.format);
    Ok(state)
}

fn prune(folder: &Path, keep: usize) -> Result<()> {
    let Some(run_dir) = folder.parent() else { return Ok(()) };
    let found = list(run_dir)?;
    for (_, path) in &found[..found.len().saturating_sub(keep)] {
        remove(path).with_context(|| format!("cannot remove old checkpoint {}", path.display()))?;
    }
    Ok(())
}

/// Removes a checkpoint. Even if the process is killed meanwhile, a checkpoint with this name is complete or missing.
fn remove(checkpoint: &Path) -> Result<()> {
    let mut name = checkpoint.as_os_str().to_owned();
    name.push(UNFINISHED);
    fs::rename(checkpoint, &name)?;
    Ok(fs::remove_dir_all(&name)?)
}

/// Renames the checkpoints of `run_dir` that were written after `step`, because the run goes on from `step`: they are
/// no longer part of it, are not counted by `keep`, and are not the model. Returns their new paths, oldest first.
///
/// # Errors
/// If one cannot be renamed.
pub fn set_aside_after(run_dir: &Path, step: Step) -> Result<Vec<PathBuf>> {
    let later = list(run_dir)?.into_iter().filter(|(at, _)| *at > step);
    let aside = |(_, path): (Step, PathBuf)| -> Result<PathBuf> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let mut names = (1_u32..).map(|n| path.with_file_name(format!("{ABANDONED}{n}-{name}")));
        let Some(new) = names.find(|path| !path.exists()) else { bail!("there is no name for {}", path.display()) };
        fs::rename(&path, &new).with_context(|| format!("cannot rename {}", path.display()))?;
        Ok(new)
    };
    let moved = later.map(aside).collect::<Result<Vec<_>>>()?;
    if !moved.is_empty() {
        File::open(run_dir.join(CHECKPOINTS))?.sync_all()?;
    }
    Ok(moved)
}

fn discard_unfinished(folder: &Path) -> Result<()> {
    let Ok(entries) = fs::read_dir(folder) else { return Ok(()) };
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().ends_with(UNFINISHED) {
            fs::remove_dir_all(entry.path()).with_context(|| format!("cannot remove {}", entry.path().display()))?;
        }
    }
    Ok(())
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

    #[test]
    fn later_checkpoints_are_set_aside_and_stay() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let make = |step| -> Result<()> {
            let path = folder.path().join(CHECKPOINTS).join(name_of(step));
            fs::create_dir_all(&path)?;
            Ok(fs::write(path.join("model"), step.to_string())?)
        };
        let steps = || list(folder.path()).map(|all| all.into_iter().map(|(step, _)| step).collect::<Vec<_>>());
        (1..=4).try_for_each(|step| make(step * 10))?;
        assert_eq!(set_aside_after(folder.path(), 20)?.len(), 2);
        assert_eq!(steps()?, [10, 20]);
        make(30)?;
        let again = set_aside_after(folder.path(), 20)?;
        assert_eq!(again, [folder.path().join(CHECKPOINTS).join("abandoned-2-step-00000030")]);
        assert_eq!(fs::read_to_string(again[0].join("model"))?, "30");
        assert!(set_aside_after(folder.path(), 20)?.is_empty());
        prune(&folder.path().join(CHECKPOINTS), 1)?;
        assert_eq!(steps()?, [20]);
        assert_eq!(fs::read_dir(folder.path().join(CHECKPOINTS))?.count(), 4, "abandoned ones stay");
        Ok(())
    }

    #[test]
    fn damage_is_detected_and_named() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path();
        assert!(verify(path).unwrap_err().to_string().contains("not a checkpoint of this program"));
        fs::write(path.join(STATE_FILE), "{}")?;
        assert!(verify(path).unwrap_err().to_string().contains("B3SUMS is missing"));
        fs::write(path.join(MODEL_FILE), "some bytes")?;
        fs::write(path.join(SUMS_FILE), sums(path)?)?;
        verify(path)?;
        fs::write(path.join(MODEL_FILE), "some bytez")?;
        assert!(verify(path).unwrap_err().to_string().contains("model.safetensors is not what was written"));
        fs::remove_file(path.join(MODEL_FILE))?;
        assert!(verify(path).unwrap_err().to_string().contains("model.safetensors is missing"));
        Ok(())
    }
}

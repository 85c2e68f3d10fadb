//! `checkpoint`: writes everything that is needed to resume a run, in a directory that Hugging Face's libraries load.
//!
//! The stage receives tensors from the workers that own them, and the saved state of each lane. When the step is done
//! on every worker, worker 0 writes everything under a temporary name, syncs, and renames, so a checkpoint appears
//! atomically. It contains the hash of every file, so that later corruption is detected.
mod commit;
mod folder;

pub use commit::{Commit, CommitSink, with_other_data};
pub use folder::{before, differing_files, list, read_state, set_aside_after, verify};

use anyhow::Result;
use commit::Writer;
use contract::{
    At, Built, Due, Emit, Env, Kind, OptimizerState, Packet, Port, Route, Saved, Settings, Stage, StageKeys,
    StageSettings, Step, Turn,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
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
        Ok(Built::Stage(Box::new(CheckpointStage {
            writer: Arc::new(Writer::new(self.keep, folder, env)?),
            sink: env.resources.get(),
            tensors: BTreeMap::new(),
            saved: Vec::new(),
        })))
    }

    fn due(&self) -> Due {
        Due { evaluate: None, checkpoint: (self.interval > 0).then_some(self.interval) }
    }
}

struct CheckpointStage {
    writer: Arc<Writer>,
    sink: Option<Arc<CommitSink>>,
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
        if tensors.is_empty() {
            return Ok(()); // nothing is due
        }
        let commit = Commit::new(step + 1, tensors, saved, Arc::clone(&self.writer))?;
        match &self.sink {
            Some(sink) => sink.0(commit),
            None => commit.write(),
        }
    }
}

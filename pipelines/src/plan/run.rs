//! The `[run]` table: what a run is, apart from its stages.
use crate::pretrained::ModelFolder;
use crate::problem::{Diagnostic, Problems};
use compute::kernels::gemm;
use contract::files::is_not_of_the_configuration;
use contract::{StageKeys, StageType};
use serde::{Deserialize, Serialize};
use std::path::Path;
use text::support::problem::{TextProblem, similar_file};
use train::weights::{MODEL_FILE, ModelFiles};

use super::values::Table;

/// Bytes of the longest name of a run: names of files have at most 255, and temporary ones are longer than the name.
const LONGEST_NAME: usize = 200;
/// Most optimizer steps.
const MOST_STEPS: u64 = 1_000_000_000_000;
/// Most passes over the corpus.
const MOST_EPOCHS: f64 = 1e6;
/// Most worker threads.
const MOST_WORKERS: usize = 1024;
/// Most steps that data is read ahead: all of it is in memory.
const MOST_PREFETCH: u64 = 1024;

/// The `[run]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, StageKeys)]
#[serde(default, deny_unknown_fields)]
pub struct RunSettings {
    /// Name of the run and of its directory under runs/; the configuration file's name if not given.
    pub name: String,
    /// Seed of all randomness.
    pub seed: u64,
    /// Length of the run in optimizer steps, at least 1. Give this or `max_epochs`.
    pub max_steps: Option<u64>,
    /// Length of the run in passes over the training split, more than 0. Give this or `max_steps`.
    pub max_epochs: Option<f64>,
    /// Worker threads, at most 1024; one per physical core if not given. Results do not depend on it.
    pub workers: Option<usize>,
    /// Directory of a model in Hugging Face's layout to start from; random weights if not given.
    pub initial_checkpoint: Option<String>,
    /// Differences between this run and the model of `initial_checkpoint` to accept: keys of its config.json, or
    /// "tokenizer".
    pub accept_differences: Vec<String>,
    /// Backend of matrix products: "amx", "avx512", "avx2", "openblas", "portable", or "auto" (the fastest that this
    /// CPU supports). Results of different backends differ in the last bits.
    pub gemm: String,
    /// How many steps ahead of the optimizer data may be read; 1 to 1024.
    pub prefetch: u64,
}

impl Default for RunSettings {
    fn default() -> Self {
        Self {
            name: String::new(),
            seed: 1,
            max_steps: None,
            max_epochs: None,
            workers: None,
            initial_checkpoint: None,
            accept_differences: Vec::new(),
            gemm: gemm::backends::AUTO.into(),
            prefetch: 2,
        }
    }
}

impl RunSettings {
    /// The model that the run is to start from, if it is to start from one; a problem if there is none, or of no type
    /// that `registry` has.
    pub(crate) fn pretrained(
        &self,
        table: &Table,
        registry: &[StageType],
        problems: &mut Problems,
    ) -> Option<ModelFolder> {
        let folder = self.initial_checkpoint.as_deref().map(Path::new)?;
        let config = folder.join("config.json").is_file();
        let missing = if config { (!ModelFiles::are_in(folder)).then_some(MODEL_FILE) } else { Some("config.json") };
        let mut failed = false;
        let message = match missing {
            _ if !folder.exists() => {
                TextProblem::Missing { path: folder.into(), similar: similar_file(folder) }.to_string()
            }
            Some(name) => format!("{} is no model in Hugging Face's layout: it has no {name}", folder.display()),
            None => match ModelFolder::open(folder, registry) {
                Ok(model) => return Some(model),
                Err(error) => {
                    failed = is_not_of_the_configuration(&error);
                    format!("cannot start from {}: {error:#}", folder.display())
                }
            },
        };
        let message = format!("`run.initial_checkpoint`: {message}");
        problems.push(Diagnostic { failed, ..Diagnostic::new(message, table.origin_of("initial_checkpoint")) });
        None
    }

    /// What is wrong with the values; `table` says where they stand.
    pub(crate) fn check(&self, table: &Table, problems: &mut Problems) {
        let mut wrong = |key: &str, message: &str| {
            problems.push(Diagnostic::new(format!("`run.{key}` {message}"), table.origin_of(key)));
        };
        if self.name.is_empty() || self.name.starts_with('.') || self.name.contains(['/', '\\', '\0']) {
            wrong("name", "must be a file name: it names the run's directory");
        }
        if self.name.len() > LONGEST_NAME {
            wrong("name", &format!("has {} bytes; at most {LONGEST_NAME} fit into a file name", self.name.len()));
        }
        if self.max_steps == Some(0) {
            wrong("max_steps", "must be at least 1");
        }
        if self.max_steps.is_some_and(|steps| steps > MOST_STEPS) {
            wrong("max_steps", &format!("must be at most {MOST_STEPS}"));
        }
        if self.max_epochs.is_some_and(|epochs| epochs <= 0.0) {
            wrong("max_epochs", "must be more than 0");
        }
        if self.max_epochs.is_some_and(|epochs| epochs > MOST_EPOCHS) {
            wrong("max_epochs", &format!("must be at most {MOST_EPOCHS}"));
        }
        if self.max_steps.is_some() && self.max_epochs.is_some() {
            wrong("max_epochs", "and `run.max_steps` are both given: the run has one length");
        }
        if self.workers.is_some_and(|workers| !(1..=MOST_WORKERS).contains(&workers)) {
            wrong("workers", &format!("must be from 1 to {MOST_WORKERS}"));
        }
        if self.initial_checkpoint.is_none() && !self.accept_differences.is_empty() {
            wrong("accept_differences", "is about `run.initial_checkpoint`, which is not given");
        }
        if !(1..=MOST_PREFETCH).contains(&self.prefetch) {
            wrong("prefetch", &format!("must be from 1 to {MOST_PREFETCH}"));
        }
        if let Err(error) = gemm::backends::check(&self.gemm) {
            let problem = Diagnostic::new(format!("`run.gemm`: {error}"), table.origin_of("gemm"));
            problems.push(problem.similar_to(&self.gemm, gemm::backends::names()));
        }
    }
}

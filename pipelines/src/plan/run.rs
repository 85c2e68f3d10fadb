//! The `[run]` table: what a run is, apart from its stages.
use crate::problem::{Diagnostic, Problems};
use compute::kernels::gemm;
use serde::{Deserialize, Serialize};

use super::values::Table;

/// The `[run]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunSettings {
    /// Name of the run and of its directory; the configuration file's name if not given.
    pub name: String,
    /// Where all randomness starts.
    pub seed: u64,
    /// Optimizer steps. At most one of this and `max_epochs` is given.
    pub max_steps: Option<u64>,
    /// Passes over the training split.
    pub max_epochs: Option<f64>,
    /// Worker threads; the cores if not given. Changes no number.
    pub workers: Option<usize>,
    /// A directory with a model in Hugging Face's layout to start from.
    pub initial_checkpoint: Option<String>,
    /// Backend of matrix products, or `auto`: the fastest that this CPU has. Bits are reproducible per backend.
    pub gemm: String,
    /// How many steps reading may be ahead of the optimizer.
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
            gemm: gemm::backends::AUTO.into(),
            prefetch: 2,
        }
    }
}

impl RunSettings {
    /// Each key with what it means.
    pub const KEYS: &'static [(&'static str, &'static str)] = &[
        ("name", "name of the run and of its directory under runs/ (default: the file's name)"),
        ("seed", "where all randomness starts"),
        ("max_steps", "length in optimizer steps; this or max_epochs"),
        ("max_epochs", "length in passes over the training split; this or max_steps"),
        ("workers", "worker threads (default: the cores); changes no number"),
        ("initial_checkpoint", "directory with a model in Hugging Face's layout to start from"),
        (
            "gemm",
            "backend of matrix products: \"auto\" (the fastest available), \"amx\", \"avx512\", \"avx2\", \"openblas\" or \
             \"portable\"; bits are reproducible per backend",
        ),
        ("prefetch", "steps that reading may be ahead of the optimizer, at least 1"),
    ];

    /// What is wrong with the values; `table` says where they stand.
    pub(crate) fn check(&self, table: &Table, problems: &mut Problems) {
        let mut wrong = |key: &str, message: &str| {
            problems.push(Diagnostic::new(format!("`run.{key}` {message}"), table.origin_of(key)));
        };
        if self.name.is_empty() || self.name.starts_with('.') || self.name.contains(['/', '\\', '\0']) {
            wrong("name", "must be a file name: it names the run's directory");
        }
        if self.max_steps == Some(0) {
            wrong("max_steps", "must be at least 1");
        }
        if self.max_epochs.is_some_and(|epochs| epochs <= 0.0) {
            wrong("max_epochs", "must be more than 0");
        }
        if self.max_steps.is_some() && self.max_epochs.is_some() {
            wrong("max_epochs", "and `run.max_steps` are both given: the run has one length");
        }
        if self.workers == Some(0) {
            wrong("workers", "must be at least 1");
        }
        if self.prefetch == 0 {
            wrong("prefetch", "must be at least 1");
        }
        if let Err(error) = gemm::backends::check(&self.gemm) {
            let problem = Diagnostic::new(format!("`run.gemm`: {error}"), table.origin_of("gemm"));
            problems.push(problem.similar_to(&self.gemm, gemm::backends::names()));
        }
    }
}

//! The run directory: what a run leaves behind.
//!
//! `config.toml` (resolved, with origins), `environment.json`, `tokenizer.json`, `metrics.jsonl`, `checkpoints/`; how
//! it stands is [`status`](super::status), what it came to [`report`](crate::report).
use super::Usage;
use super::session::Session;
use crate::plan::Plan;
use anyhow::{Context, Result};
use compute::machine;
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use train::checkpoint::{self, Fingerprint, State};
use train::record::METRICS_FILE;

/// The resolved configuration.
pub const CONFIG_FILE: &str = "config.toml";
/// The machine, the program and the kernels.
pub const ENVIRONMENT_FILE: &str = "environment.json";
/// Whose text the run learned from, and under which licence.
pub const ATTRIBUTION_FILE: &str = "attribution.txt";

/// Makes `run_dir` for a new run; refuses one in which another run has left something.
///
/// # Errors
/// [`Usage`] if there is another run, or the folder cannot be made.
pub fn claim(run_dir: &Path) -> Result<()> {
    let taken = run_dir.join(METRICS_FILE).exists() || !checkpoint::list(run_dir)?.is_empty();
    if taken {
        let at = run_dir.display();
        let how = "go on with --resume, choose another with --run-dir, or remove it";
        return Err(Usage(format!("{at} already holds a run: {how}")).into());
    }
    fs::create_dir_all(run_dir).with_context(|| format!("cannot make the run directory {}", run_dir.display()))
}

/// The checkpoint to go on from: `asked`, or the last one of `run_dir`; `None` if there is none yet.
///
/// # Errors
/// If `asked` is no checkpoint, or the last one is unreadable.
pub fn resumed(run_dir: &Path, asked: Option<&Path>) -> Result<Option<(PathBuf, State)>> {
    let path = match asked {
        Some(path) => path.to_owned(),
        None => match checkpoint::list(run_dir)?.pop() {
            Some((_, path)) => path,
            None => return Ok(None),
        },
    };
    let state = checkpoint::read_state(&path)?;
    Ok(Some((path, state)))
}

/// Refuses to go on where numbers would not follow from what they followed from; returns what else should be said.
///
/// # Errors
/// [`Usage`] with every setting that differs.
pub fn compare(checkpoint: &Path, then: Option<&Fingerprint>, now: &Fingerprint) -> Result<Vec<String>> {
    let Some(then) = then else { return Ok(Vec::new()) };
    let mut differing = Vec::new();
    let keys: std::collections::BTreeSet<&String> = then.configuration.keys().chain(now.configuration.keys()).collect();
    for key in keys {
        let value = |of: &Fingerprint| of.configuration.get(key).cloned().unwrap_or_else(|| "nothing".into());
        if value(then) != value(now) {
            differing.push(format!("  {key} was {}, is {}", value(then), value(now)));
        }
    }
    if !differing.is_empty() {
        let at = checkpoint.display();
        let list = differing.join("\n");
        let next = "Restore these values, or start a new run from its weights with `run.initial_checkpoint`";
        return Err(Usage(format!("the configuration contradicts the checkpoint {at}:\n{list}\n{next}")).into());
    }
    let mut notes = Vec::new();
    if then.blas_core != now.blas_core {
        let (then, now) = (&then.blas_core, &now.blas_core);
        notes.push(format!(
            "products ran on {then} before and run on {now} now: the numbers will differ in their last bits"
        ));
    }
    Ok(notes)
}

/// Writes what describes the run.
///
/// # Errors
/// If a file cannot be written.
pub fn describe(run_dir: &Path, plan: &Plan, session: &Session, tokenizer: Option<&str>) -> Result<()> {
    let environment = json!({
        "program": concat!("millrace ", env!("CARGO_PKG_VERSION")),
        "cpu": machine::cpu(),
        "cores": super::cores(),
        "workers": session.env.workers,
        "products": compute::kernels::gemm::kernel(contract::Precision::F32),
        "blas_kernel": machine::blas_core(),
        "OPENBLAS_CORETYPE": std::env::var("OPENBLAS_CORETYPE").ok(),
        "command": std::env::args().collect::<Vec<_>>(),
        "directory": std::env::current_dir().ok(),
        "model": session.model.summary,
        "parameters": session.model.parameter_count(),
        "corpus": session.env.corpus,
        "sources": session.sources,
    });
    write(&run_dir.join(CONFIG_FILE), &plan.resolved.to_toml())?;
    write(&run_dir.join(ENVIRONMENT_FILE), &format!("{environment:#}\n"))?;
    if !session.sources.is_empty() {
        write(&run_dir.join(ATTRIBUTION_FILE), &text::attribution::text(&session.sources))?;
    }
    match tokenizer {
        Some(json) => write(&run_dir.join("tokenizer.json"), json),
        None => Ok(()),
    }
}

/// Writes a file, whole or not at all.
fn write(path: &Path, text: &str) -> Result<()> {
    text::cache::write_whole(path, |out| Ok(std::io::Write::write_all(out, text.as_bytes())?))
}

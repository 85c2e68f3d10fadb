//! The run directory: the files that a run writes.
//!
//! `config.toml` (resolved, with origins), `environment.json`, `fingerprint.json`, `tokenizer.json`, `metrics.jsonl`,
//! `checkpoints/`. [`status`](super::status) writes its state, [`report`](crate::report) the results.
use super::resume_checks::lanes_of_older;
use super::session::Session;
use super::status::LOCK_FILE;
use crate::plan::{Overrides, Plan, Scope};
use crate::problem::Usage;
use anyhow::{Context, Error, Result, anyhow};
use compute::cpu;
use compute::kernels::gemm;
use contract::files::{is_of_the_system, read_if_there};
use contract::{Resources, StageType};
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use text::tokenizer::stage::TrainedTokenizer;
use train::checkpoint::{self, Fingerprint, State};
use train::record::{Limit, METRICS_FILE};

/// The resolved configuration.
pub const CONFIG_FILE: &str = "config.toml";
/// The machine, the program and the GEMM backend.
pub const ENVIRONMENT_FILE: &str = "environment.json";
/// The tokenizer, in Hugging Face's format.
pub const TOKENIZER_FILE: &str = "tokenizer.json";
/// What decides the results of the run: see [`Fingerprint`].
pub const FINGERPRINT_FILE: &str = "fingerprint.json";
/// The folder with the lists of documents that `forget` has withdrawn, one for each source.
pub const WITHDRAWN_FOLDER: &str = "withdrawn";
/// Source and licence of the corpus.
pub const ATTRIBUTION_FILE: &str = "attribution.txt";

/// Creates `run_dir`, or checks that it is a run directory and writable.
///
/// # Errors
/// [`Usage`] if it contains anything else; an error if it cannot be created or written.
pub fn open(run_dir: &Path) -> Result<()> {
    let at = run_dir.display();
    fs::create_dir_all(run_dir).with_context(|| format!("cannot make the run directory {at}"))?;
    let entries = fs::read_dir(run_dir).with_context(|| format!("cannot read the run directory {at}"))?;
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry.with_context(|| format!("cannot read {at}"))?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    names.retain(|name| !name.starts_with('.'));
    let a_runs =
        |name: &String| [CONFIG_FILE, METRICS_FILE, checkpoint::CHECKPOINTS, LOCK_FILE].contains(&name.as_str());
    if !names.is_empty() && !names.iter().any(a_runs) {
        let more = if names.len() > 3 { ", …" } else { "" };
        let some = names[..names.len().min(3)].join(", ");
        let why = "a run would mix its files with these; choose another with --run-dir";
        return Err(Usage(format!("{at} is not a run directory; it contains {some}{more}: {why}")).into());
    }
    let probe = run_dir.join(".writable");
    write(&probe, "")
        .and_then(|()| Ok(fs::remove_file(&probe)?))
        .with_context(|| format!("cannot write into the run directory {at}"))
}

/// Rejects a directory in which another run has left files, unless that run is resumed; removes what a killed process
/// was writing. The caller must hold the lock of the directory.
///
/// # Errors
/// [`Usage`] if there is another run.
pub fn claim(run_dir: &Path, goes_on: bool) -> Result<()> {
    let at = run_dir.display();
    let taken = run_dir.join(METRICS_FILE).exists() || !checkpoint::list(run_dir)?.is_empty();
    if taken && !goes_on {
        let how = "resume it with --resume, choose another with --run-dir, or remove it";
        return Err(Usage(format!("{at} already holds a run: {how}")).into());
    }
    for entry in fs::read_dir(run_dir).with_context(|| format!("cannot read {at}"))?.flatten() {
        // The temporary name that `contract::files::write_whole` uses.
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with('.') && name.ends_with(".part") {
            let _ = fs::remove_file(entry.path());
        }
    }
    Ok(())
}

/// The checkpoint to resume from: `asked`, or the last one of `run_dir`; `None` if there is none yet.
///
/// # Errors
/// If `asked` is not a checkpoint, or if the checkpoint is corrupt; the message then names the last intact one.
pub fn resumed(run_dir: &Path, asked: Option<&Path>) -> Result<Option<(PathBuf, State)>> {
    let path = match asked {
        Some(path) => path.to_owned(),
        None => match checkpoint::list(run_dir)?.pop() {
            Some((_, path)) => path,
            None => return Ok(None),
        },
    };
    match checkpoint::verify(&path).and_then(|()| checkpoint::read_state(&path)) {
        Ok(state) => Ok(Some((path, state))),
        Err(error) if is_of_the_system(&error) => Err(error),
        Err(error) => {
            let all = checkpoint::list(run_dir)?;
            let step = all.iter().find(|(_, other)| other.file_name() == path.file_name()).map(|(step, _)| *step);
            let Some(step) = step else { return Err(error) };
            Err(match checkpoint::before(&run_dir.join(checkpoint::CHECKPOINTS), step) {
                Some(whole) => {
                    anyhow!("{error:#}\n  the previous one is intact: resume from it with --resume={}", whole.display())
                }
                None => anyhow!("{error:#}\n  no earlier checkpoint is intact: start over with another --run-dir"),
            })
        }
    }
}

/// The fingerprint of the run in `run_dir`, if it has one: of its last checkpoint, if an older program wrote it.
///
/// # Errors
/// If a file is there and cannot be read.
pub fn fingerprint(run_dir: &Path) -> Result<Option<Fingerprint>> {
    let path = run_dir.join(FINGERPRINT_FILE);
    if let Some(text) = text_if_there(&path)? {
        return serde_json::from_str(&text).map(Some).with_context(|| format!("cannot read {}", path.display()));
    }
    match checkpoint::list(run_dir)?.pop() {
        Some((_, path)) => Ok(checkpoint::read_state(&path)?.fingerprint),
        None => Ok(None),
    }
}

/// Writes the files that describe the run.
///
/// # Errors
/// If a file cannot be written.
pub fn describe(run_dir: &Path, program: &str, plan: &Plan, session: &Session, tokenizer: Option<&str>) -> Result<()> {
    let environment = json!({
        "program": program,
        "cpu": cpu::description(),
        "cores": crate::machine::cores(),
        "workers": session.env.workers,
        "products": gemm::description(session.model.precision),
        "gemm": gemm::chosen(),
        "blas_kernel": gemm::openblas::core(),
        "OPENBLAS_CORETYPE": std::env::var("OPENBLAS_CORETYPE").ok(),
        "gemm_gflops": session.env.resources.get::<Limit>().map(|limit| limit.gemm_gflops),
        "command": std::env::args().collect::<Vec<_>>(),
        "directory": std::env::current_dir().ok(),
        "model": session.model.summary,
        "parameters": session.model.parameter_count(),
        "corpus": session.env.corpus,
        "sources": session.sources,
        "dropped": session.dropped,
        "mixture": session.uses,
    });
    write(&run_dir.join(CONFIG_FILE), &plan.resolved.to_toml())?;
    write(&run_dir.join(ENVIRONMENT_FILE), &format!("{environment:#}\n"))?;
    let fingerprint = serde_json::to_string_pretty(&*session.fingerprint)?;
    write(&run_dir.join(FINGERPRINT_FILE), &format!("{fingerprint}\n"))?;
    if !session.sources.is_empty() {
        write(&run_dir.join(ATTRIBUTION_FILE), &text::input::attribution::text(&session.sources))?;
    }
    match tokenizer {
        Some(json) => write(&run_dir.join(TOKENIZER_FILE), json),
        None => Ok(()),
    }
}

/// Changes to the directory in which the run in `run_dir` was started, from which the relative paths of its
/// configuration start. Returns it if it is another one than the current directory. Does nothing if it no longer
/// exists.
///
/// # Errors
/// If [`ENVIRONMENT_FILE`] cannot be read, or the directory cannot be entered.
pub fn enter(run_dir: &Path) -> Result<Option<PathBuf>> {
    let Some(text) = text_if_there(&run_dir.join(ENVIRONMENT_FILE))? else { return Ok(None) };
    let environment: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    let Some(started_in) = environment["directory"].as_str().map(PathBuf::from) else { return Ok(None) };
    if !started_in.is_dir() || std::env::current_dir().is_ok_and(|here| here == started_in) {
        return Ok(None);
    }
    std::env::set_current_dir(&started_in).with_context(|| format!("cannot change to {}", started_in.display()))?;
    Ok(Some(started_in))
}

/// The plan of the run in `run_dir` with the changes `set`, checked for `scope`, with the lanes that follow from its
/// fingerprint.
///
/// # Errors
/// [`Problems`](crate::problem::Problems) of its configuration.
pub fn plan_of(
    run_dir: &Path,
    fingerprint: Option<&Fingerprint>,
    workers: Option<usize>,
    registry: &[StageType],
    scope: Scope,
    set: &[String],
) -> Result<Plan> {
    let mut overrides = overrides(run_dir, fingerprint, workers)?;
    overrides.set.extend_from_slice(set);
    Plan::checked(&run_dir.join(CONFIG_FILE), &overrides, registry, scope).map_err(Error::new)
}

/// What changes the configuration of the run in `run_dir`: the lanes that follow from its fingerprint, and where the lists
/// of withdrawn documents are now.
///
/// # Errors
/// If the lists cannot be found.
pub fn overrides(run_dir: &Path, fingerprint: Option<&Fingerprint>, workers: Option<usize>) -> Result<Overrides> {
    let lanes = fingerprint.and_then(lanes_of_older);
    let mut set: Vec<String> = lanes.into_iter().map(|(key, value)| format!("{key}={value}")).collect();
    set.extend(lists(run_dir)?.into_iter().map(|(source, path)| set_list(&source, &path)));
    Ok(Overrides { set, workers, ..Overrides::default() })
}

/// The list of the documents of `source` that `forget` has withdrawn from the run in `run_dir`.
pub fn list_of(run_dir: &Path, source: &str) -> PathBuf {
    run_dir.join(WITHDRAWN_FOLDER).join(format!("{source}.txt"))
}

/// The setting of the list of withdrawn documents of `source`, as `--set` takes it.
pub fn set_list(source: &str, path: &Path) -> String {
    format!("{source}.withdraw={}", path.display())
}

/// All lists of documents that `forget` has withdrawn from the run in `run_dir`, by source.
fn lists(run_dir: &Path) -> Result<Vec<(String, PathBuf)>> {
    let folder = run_dir.join(WITHDRAWN_FOLDER);
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let mut lists = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry.with_context(|| format!("cannot read {}", folder.display()))?.path();
        if let (Some(source), Some("txt")) = (path.file_stem(), path.extension().and_then(|suffix| suffix.to_str())) {
            lists.push((source.to_string_lossy().into_owned(), path.clone()));
        }
    }
    lists.sort();
    Ok(lists)
}

/// What need not be made again for the run in `run_dir`: its tokenizer.
///
/// # Errors
/// If a file is there and cannot be read.
pub fn known(run_dir: &Path) -> Result<Resources> {
    let mut known = Resources::default();
    let path = run_dir.join(TOKENIZER_FILE);
    if let Some(json) = text_if_there(&path)? {
        known.insert(Arc::new(TrainedTokenizer { name: path.display().to_string(), json }));
    }
    Ok(known)
}

fn text_if_there(path: &Path) -> Result<Option<String>> {
    let text = read_if_there(path)?.map(String::from_utf8).transpose();
    text.with_context(|| format!("cannot read {}", path.display()))
}

/// Writes a file atomically.
fn write(path: &Path, text: &str) -> Result<()> {
    contract::files::write_whole(path, |out| Ok(std::io::Write::write_all(out, text.as_bytes())?))
}

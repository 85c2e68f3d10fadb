//! The run directory: the files that a run writes.
//!
//! `config.toml` (resolved, with origins), `environment.json`, `fingerprint.json`, `tokenizer.json`, `metrics.jsonl`,
//! `checkpoints/`. [`status`](super::status) writes its state, [`report`](crate::report) the results.
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
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use text::tokenizer::stage::TrainedTokenizer;
use train::checkpoint::{self, Fingerprint, State};
use train::optimize::schedule::{Decay, LearningRateSchedule};
use train::record::{Limit, METRICS_FILE};

/// The resolved configuration.
pub const CONFIG_FILE: &str = "config.toml";
/// The machine, the program and the GEMM backend.
pub const ENVIRONMENT_FILE: &str = "environment.json";
/// The tokenizer, in Hugging Face's format.
pub const TOKENIZER_FILE: &str = "tokenizer.json";
/// What decides the results of the run: see [`Fingerprint`].
pub const FINGERPRINT_FILE: &str = "fingerprint.json";
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

/// Rejects a configuration whose results would differ from those of the checkpoint; returns notes to print.
///
/// # Errors
/// [`Usage`] with every setting that differs.
pub fn compare(checkpoint: &Path, then: Option<&Fingerprint>, now: &Fingerprint) -> Result<Vec<String>> {
    let Some(then) = then else { return Ok(Vec::new()) };
    let (differing, code) = differences(then, now);
    if !differing.is_empty() {
        let at = checkpoint.display();
        let list = differing.join("\n");
        let restore = match code {
            true => "Resume with the program (and the values) that the run started with",
            false => "Restore these values",
        };
        let next = format!("{restore}, or start a new run from its weights with `run.initial_checkpoint`");
        return Err(Usage(format!("the configuration contradicts the checkpoint {at}:\n{list}\n{next}")).into());
    }
    let mut notes = Vec::new();
    if then.blas_core != now.blas_core {
        let (then, now) = (&then.blas_core, &now.blas_core);
        notes.push(format!("GEMM ran on {then} before and runs on {now} now: results will differ in the last bits"));
    }
    Ok(notes)
}

/// Every setting and input that differs, on a line each, and whether the code of a stage does.
pub fn differences(then: &Fingerprint, now: &Fingerprint) -> (Vec<String>, bool) {
    let mut complete = then.clone();
    complete.configuration.extend(lanes_of_older(then));
    let then = &complete;
    let (mut differing, mut code) = (Vec::new(), false);
    let keys: std::collections::BTreeSet<&String> = then.configuration.keys().chain(now.configuration.keys()).collect();
    for key in keys {
        // A key that is not given is null, or unknown to the program that wrote the checkpoint.
        let given = |of: &Fingerprint| of.configuration.get(key).filter(|value| *value != "null").cloned();
        let value = |of: &Fingerprint, none: &str| given(of).unwrap_or_else(|| none.into());
        if given(then) == given(now) {
            continue;
        }
        differing.push(match key.strip_suffix(": version") {
            // The version 0 is not recorded.
            Some(stage) => {
                code = true;
                let (then, now) = (value(then, "0"), value(now, "0"));
                format!("  the code of `{stage}` has changed: its version was {then}, is {now}")
            }
            None => format!("  {key} was {}, is {}", value(then, "nothing"), value(now, "nothing")),
        });
    }
    (differing, code)
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

/// What `fingerprint` leaves out if it is of a program without the key `lanes`: it had a lane for each micro-batch.
pub fn lanes_of_older(fingerprint: &Fingerprint) -> Option<(String, String)> {
    let leaves = |(key, value): (&String, &String)| {
        Some((format!("{}.lanes", key.strip_suffix(".micro_batches")?), value.clone()))
    };
    let lanes = fingerprint.configuration.iter().find_map(leaves);
    lanes.filter(|(key, _)| !fingerprint.configuration.contains_key(key))
}

/// Rejects a run in which the learning rate of one of `steps` (all that are left) is not the one that was planned
/// when the checkpoint was written; returns a note if that is not known. `rate` is determined by the keys of `stage`.
/// The stable phase of "wsd" may be extended, with a note: until the decay begins, the run is one that was always
/// that long.
///
/// # Errors
/// [`Usage`] with both learning rates, and how to keep the one that was planned.
pub fn compare_learning_rate(
    checkpoint: &Path,
    then: &Fingerprint,
    stage: &str,
    rate: &LearningRateSchedule,
    steps: Range<u64>,
) -> Result<Option<String>> {
    let at = checkpoint.display();
    let Some(planned) = then.schedule_steps else {
        let depends = rate.first_difference(u64::MAX, steps).is_some();
        let note = "does not record the length of its learning-rate schedule";
        return Ok(depends.then(|| format!("{at} {note}, here {} steps: see `{stage}.schedule_steps`", rate.steps)));
    };
    let first = steps.start;
    let Some(differs) = rate.first_difference(planned, steps) else { return Ok(None) };
    if rate.decay == Decay::Wsd && rate.first_difference(planned, 0..first).is_none() {
        let decay = rate.decay_over(rate.steps).start;
        return Ok(Some(format!(
            "the learning rate decays from step {decay} on, in a schedule of {} steps instead of \
                                {planned}",
            rate.steps
        )));
    }
    let rates = |step| {
        let before = LearningRateSchedule { steps: planned, ..*rate }.rate(step);
        format!("{before:.4e} was planned for step {step}, and it would be {:.4e}", rate.rate(step))
    };
    let later = if differs > first { format!("\n  {}", rates(differs)) } else { String::new() };
    Err(Usage(format!(
        "the learning rate would leave the schedule of the checkpoint {at}, which decays over {planned} steps; that of this \
         run decays over {}:\n  {}{later}\n\
         Keep the schedule of the checkpoint with --set {stage}.schedule_steps={planned}, or start a new run from its \
         weights with `run.initial_checkpoint`",
        rate.steps,
        rates(first)
    ))
    .into())
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

/// The plan of the run in `run_dir`, checked for `scope`, with the lanes of the checkpoint that has `state`.
///
/// # Errors
/// [`Problems`](crate::problem::Problems) of its configuration.
pub fn plan_of(
    run_dir: &Path,
    state: &State,
    workers: Option<usize>,
    registry: &[StageType],
    scope: Scope,
) -> Result<Plan> {
    let lanes = state.fingerprint.as_ref().and_then(lanes_of_older);
    let set = lanes.into_iter().map(|(key, value)| format!("{key}={value}")).collect();
    let overrides = Overrides { set, workers, ..Overrides::default() };
    Plan::checked(&run_dir.join(CONFIG_FILE), &overrides, registry, scope).map_err(Error::new)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_whose_code_has_changed_is_told_from_a_value() {
        let fingerprint = |configuration: &str| -> Fingerprint {
            serde_json::from_str(&format!(r#"{{"configuration": {configuration}, "blas_core": "portable"}}"#)).unwrap()
        };
        let then = fingerprint(r#"{"lines.limit": "9"}"#);
        let now = fingerprint(r#"{"lines.limit": "8", "lines: version": "1"}"#);
        insta::assert_snapshot!(compare(Path::new("c"), Some(&then), &now).unwrap_err(), @r"
        the configuration contradicts the checkpoint c:
          lines.limit was 9, is 8
          the code of `lines` has changed: its version was 0, is 1
        Resume with the program (and the values) that the run started with, or start a new run from its weights with `run.initial_checkpoint`
        ");
        let now = fingerprint(r#"{"lines.limit": "8", "lines.new": "null"}"#);
        insta::assert_snapshot!(compare(Path::new("c"), Some(&then), &now).unwrap_err(), @r"
        the configuration contradicts the checkpoint c:
          lines.limit was 9, is 8
        Restore these values, or start a new run from its weights with `run.initial_checkpoint`
        ");
    }

    #[test]
    fn a_checkpoint_that_does_not_record_its_lanes_has_one_for_each_micro_batch() {
        let fingerprint = |configuration: &str| -> Fingerprint {
            serde_json::from_str(&format!(r#"{{"configuration": {configuration}, "blas_core": "portable"}}"#)).unwrap()
        };
        let old = |leaves| fingerprint(&format!(r#"{{"pack.micro_batches": "{leaves}"}}"#));
        let new =
            |leaves, lanes| fingerprint(&format!(r#"{{"pack.micro_batches": "{leaves}", "pack.lanes": "{lanes}"}}"#));
        let compare = |then: &Fingerprint, now: &Fingerprint| compare(Path::new("c"), Some(then), now);
        for (then, now) in [(old(2), new(2, 2)), (old(16), new(16, 16)), (new(16, 4), new(16, 4))] {
            assert!(compare(&then, &now).unwrap().is_empty());
        }
        for (then, lanes) in [(old(16), 16), (new(16, 4), 4)] {
            let error = compare(&then, &new(16, 2)).unwrap_err().to_string();
            assert!(error.contains(&format!("  pack.lanes was {lanes}, is 2\nRestore")), "{error}");
        }
    }

    #[test]
    fn a_checkpoint_that_does_not_record_its_schedule_is_resumed_with_a_note() {
        let old = r#"{"configuration": {}, "blas_core": "portable"}"#;
        let mut then: Fingerprint = serde_json::from_str(old).unwrap();
        let decay = Decay::Linear;
        let rate = LearningRateSchedule { peak: 1.0, warmup: 2, steps: 12, decay, decay_fraction: 1.0, floor: 0.0 };
        let compare = |then: &Fingerprint, rate, steps| {
            compare_learning_rate(Path::new("c"), then, "optimize", rate, steps).map_err(|error| error.to_string())
        };
        let note = compare(&then, &rate, 4..12).unwrap().unwrap();
        assert!(note.contains("here 12 steps: see `optimize.schedule_steps`"), "{note}");
        let constant = LearningRateSchedule { decay: Decay::Constant, ..rate };
        assert_eq!(compare(&then, &constant, 4..12), Ok(None));
        then.schedule_steps = Some(7);
        // After step 4, two fifths of the one decay and a fifth of the other are done.
        let refused = compare(&then, &rate, 4..12).unwrap_err();
        assert!(refused.contains("6.0000e-1 was planned for step 4, and it would be 8.0000e-1"), "{refused}");
        assert_eq!(compare(&then, &rate, 12..12), Ok(None));
        // At the peak, both are the same, and at the next step no longer.
        let later = compare(&then, &rate, 2..12).unwrap_err();
        assert!(later.contains("planned for step 2") && later.contains("8.0000e-1 was planned for step 3"), "{later}");
        // The decay of 7 steps begins after step 3, that of 12 after step 6.
        let wsd = LearningRateSchedule { decay: Decay::Wsd, decay_fraction: 0.5, ..rate };
        let extended = compare(&then, &wsd, 4..12).unwrap().unwrap();
        assert!(extended.contains("decays from step 6 on, in a schedule of 12 steps instead of 7"), "{extended}");
        let refused = compare(&then, &wsd, 5..12).unwrap_err();
        assert!(refused.contains("5.0000e-1 was planned for step 5, and it would be 1.0000e0"), "{refused}");
    }
}

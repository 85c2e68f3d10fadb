//! An MLflow file store: a directory of plain text files, which `mlflow ui` shows and `mlflow migrate-filestore` copies
//! into a database.
//!
//! The layout is that of MLflow's `store/tracking/file_store.py`: `<experiment>/meta.yaml` and
//! `<experiment>/<run>/{meta.yaml, metrics/<name>, params/<name>, tags/<name>, artifacts/}`. A line of a metric is
//! `<milliseconds since 1970> <value> <step>`. YAML strings are written as JSON, of which YAML is a superset.
use super::{Opening, SampleLine, Sink, StepLine};
use anyhow::{Context, Result};
use contract::files::write_whole;
use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// The subdirectory of a run directory that is the store.
pub const STORE_FOLDER: &str = "mlruns";
/// MLflow's default experiment, to which the run belongs: so the stores of several runs can be copied into one.
const EXPERIMENT: (&str, &str) = ("0", "Default");
/// The number of bytes up to which MLflow reads the value of a parameter.
const LONGEST_VALUE: usize = 6000;

/// Values of MLflow's `RunStatus`.
#[derive(Clone, Copy)]
enum Status {
    Running = 1,
    Finished = 3,
    Killed = 5,
}

struct Store {
    /// The directory of the run in the store.
    folder: PathBuf,
    id: String,
    name: String,
    /// Milliseconds since 1970.
    started: u128,
}

/// Opens the store of a run. A run that is resumed keeps its id; its metrics and samples are written again from those
/// before the step that it resumes at.
///
/// # Errors
/// If a file cannot be written.
pub(super) fn open(opening: &Opening) -> Result<Box<dyn Sink>> {
    let store = opening.run_dir.join(STORE_FOLDER);
    let open = || -> Result<Store> {
        let run_dir = std::path::absolute(opening.run_dir)?;
        let experiment = store.join(EXPERIMENT.0);
        let id = match existing(&experiment)? {
            Some(id) => id,
            None => new_id(&run_dir),
        };
        let started = opening.lines.first().map_or_else(now, |line| milliseconds(line.time));
        let name = run_dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let store = Store { folder: experiment.join(&id), id, name, started };
        store.describe(&experiment, opening.configuration)?;
        store.write_again(opening)?;
        Ok(store)
    };
    Ok(Box::new(open().with_context(|| format!("cannot write the MLflow store {}", store.display()))?))
}

/// The id of the run that the experiment's directory holds, if there is one.
fn existing(experiment: &Path) -> Result<Option<String>> {
    if !experiment.is_dir() {
        return Ok(None);
    }
    let is_id = |name: &String| name.len() == 32 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    let mut ids = Vec::new();
    for entry in fs::read_dir(experiment)? {
        ids.push(entry?.file_name().to_string_lossy().into_owned());
    }
    ids.retain(is_id);
    Ok(ids.into_iter().min())
}

/// The id of a new run: 32 hexadecimal digits that no other run has.
fn new_id(run_dir: &Path) -> String {
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let unique = format!("{} {} {}", run_dir.display(), time.as_nanos(), std::process::id());
    blake3::hash(unique.as_bytes()).to_hex()[..32].to_owned()
}

impl Store {
    /// Writes what is not measured: the experiment, the run, and its settings as parameters.
    fn describe(&self, experiment: &Path, configuration: &BTreeMap<String, String>) -> Result<()> {
        for folder in ["metrics", "params", "tags", "artifacts"] {
            fs::create_dir_all(self.folder.join(folder))?;
        }
        let lines = [
            ("artifact_location", text(&uri(experiment)?)),
            ("creation_time", self.started.to_string()),
            ("experiment_id", text(EXPERIMENT.0)),
            ("last_update_time", self.started.to_string()),
            ("lifecycle_stage", text("active")),
            ("name", text(EXPERIMENT.1)),
        ];
        write(&experiment.join("meta.yaml"), &yaml(&lines))?;
        self.set_status(Status::Running)?;
        write(&self.folder.join("tags/mlflow.runName"), &self.name)?;
        write(&self.folder.join("tags/mlflow.source.name"), "millrace")?;
        for (key, value) in configuration {
            let end = (0..=LONGEST_VALUE.min(value.len())).rev().find(|end| value.is_char_boundary(*end)).unwrap_or(0);
            write(&self.folder.join("params").join(key_of(key)), &value[..end])?;
        }
        Ok(())
    }

    fn set_status(&self, status: Status) -> Result<()> {
        let ended = !matches!(status, Status::Running);
        let lines = [
            ("artifact_uri", text(&uri(&self.folder.join("artifacts"))?)),
            ("end_time", if ended { now().to_string() } else { "null".into() }),
            ("entry_point_name", text("")),
            ("experiment_id", text(EXPERIMENT.0)),
            ("lifecycle_stage", text("active")),
            ("run_id", text(&self.id)),
            ("run_name", text(&self.name)),
            ("run_uuid", text(&self.id)),
            ("source_name", text("")),
            ("source_type", "4".into()),
            ("source_version", text("")),
            ("start_time", self.started.to_string()),
            ("status", (status as u8).to_string()),
            ("tags", "[]".into()),
            ("user_id", text("")),
        ];
        write(&self.folder.join("meta.yaml"), &yaml(&lines))
    }

    /// Replaces metrics and samples by those of the steps before the run's first one.
    fn write_again(&self, opening: &Opening) -> Result<()> {
        for folder in ["metrics", "artifacts"] {
            fs::remove_dir_all(self.folder.join(folder))?;
            fs::create_dir(self.folder.join(folder))?;
        }
        let mut files: BTreeMap<String, String> = BTreeMap::new();
        for line in opening.lines {
            metrics(line).for_each(|(name, text)| *files.entry(name).or_default() += &text);
        }
        for (name, text) in files {
            write(&self.folder.join("metrics").join(name), &text)?;
        }
        opening.samples.chunk_by(|a, b| a.step == b.step).try_for_each(|samples| self.write_samples(samples))
    }

    /// Writes the samples of a step as an artifact.
    fn write_samples(&self, samples: &[SampleLine]) -> Result<()> {
        let Some(first) = samples.first() else { return Ok(()) };
        let texts: Vec<String> = samples.iter().map(|sample| format!("{}{}\n", sample.prompt, sample.text)).collect();
        let path = self.folder.join(format!("artifacts/samples/step-{:08}.txt", first.step));
        fs::create_dir_all(path.parent().unwrap_or(&self.folder))?;
        write(&path, &texts.join("\n"))
    }
}

impl Sink for Store {
    fn write(&mut self, line: &StepLine) -> Result<()> {
        metrics(line).try_for_each(|(name, text)| {
            let path = self.folder.join("metrics").join(name);
            let append = || OpenOptions::new().create(true).append(true).open(&path)?.write_all(text.as_bytes());
            append().with_context(|| format!("cannot write {}", path.display()))
        })
    }

    fn samples(&mut self, _line: &StepLine, samples: &[SampleLine]) -> Result<()> {
        self.write_samples(samples)
    }

    fn finish(&mut self, complete: bool) -> Result<()> {
        self.set_status(if complete { Status::Finished } else { Status::Killed })
    }
}

/// The metrics of a step: the name of each file, and the line to add to it.
fn metrics(line: &StepLine) -> impl Iterator<Item = (String, String)> {
    let (time, step) = (milliseconds(line.time), line.step);
    line.scalars().into_iter().map(move |(name, value)| (key_of(&name), format!("{time} {value} {step}\n")))
}

/// A name as MLflow allows it. A slash would make a directory of what is a file: `loss` beside `loss/wiki`.
fn key_of(name: &str) -> String {
    let allowed = |c: char| if c.is_alphanumeric() || "_-. ".contains(c) { c } else { '_' };
    name.replace('/', ".").chars().map(allowed).collect()
}

fn milliseconds(seconds: f64) -> u128 {
    (seconds * 1e3).round() as u128
}

fn now() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()
}

/// The URI of a file or folder.
fn uri(path: &Path) -> Result<String> {
    let path = std::path::absolute(path)?.to_string_lossy().into_owned();
    let encoded = path.bytes().map(|byte| match byte {
        byte if byte.is_ascii_alphanumeric() || b"/-_.~".contains(&byte) => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    });
    Ok(format!("file://{}", encoded.collect::<String>()))
}

fn text(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn yaml(lines: &[(&str, String)]) -> String {
    lines.iter().map(|(key, value)| format!("{key}: {value}\n")).collect()
}

fn write(path: &Path, text: &str) -> Result<()> {
    write_whole(path, |out| Ok(out.write_all(text.as_bytes())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(step: u64) -> StepLine {
        StepLine { step, loss: 1.0 / step as f64, time: 1e9 + step as f64 / 4.0, ..StepLine::default() }
    }

    #[test]
    fn a_run_that_is_resumed_keeps_its_id_and_has_every_step_once() {
        let folder = tempfile::tempdir().unwrap();
        let run_dir = &folder.path().join("a run");
        fs::create_dir(run_dir).unwrap();
        let configuration = BTreeMap::from([("pack.x/y".to_owned(), "é".repeat(4000))]);
        let opened = |lines: &[StepLine], samples: &[SampleLine]| {
            open(&Opening { run_dir, first: 3, lines, samples, configuration: &configuration }).unwrap()
        };
        let samples = [2, 3].map(|step| SampleLine { step, prompt: "A".into(), text: " b".into() });
        let mut sink = opened(&[], &[]);
        for step in 1..=4 {
            sink.write(&StepLine { validation_loss: (step == 2).then_some(0.5), ..line(step) }).unwrap();
        }
        sink.samples(&line(3), &samples[1..]).unwrap();
        sink.finish(false).unwrap();
        let experiment = run_dir.join("mlruns/0");
        let run = experiment.join(existing(&experiment).unwrap().unwrap());
        let read = |name: &str| fs::read_to_string(run.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(read("metrics/validation_loss"), "1000000000500 0.5 2\n");
        assert!(read("meta.yaml").contains("status: 5\n") && read("meta.yaml").contains("/a%20run/mlruns/0/"));
        let mut sink = opened(&[line(1), line(2)], &samples[..1]);
        assert!(
            !run.join("metrics/validation_loss").exists() && !run.join("artifacts/samples/step-00000003.txt").exists()
        );
        assert!(read("meta.yaml").contains("status: 1\n") && read("meta.yaml").contains("end_time: null\n"));
        sink.write(&line(3)).unwrap();
        sink.finish(true).unwrap();
        assert_eq!(
            read("metrics/loss"),
            "1000000000250 1 1\n1000000000500 0.5 2\n1000000000750 0.3333333333333333 3\n"
        );
        assert_eq!(read("artifacts/samples/step-00000002.txt"), "A b\n");
        assert_eq!((read("params/pack.x.y").len(), read("tags/mlflow.runName")), (LONGEST_VALUE, "a run".to_owned()));
        assert!(read("meta.yaml").contains("status: 3\n"));
        assert_eq!(existing(&experiment).unwrap().unwrap(), run.file_name().unwrap().to_str().unwrap());
    }
}

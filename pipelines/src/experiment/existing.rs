//! Runs that exist already: how they differ, and which of them are the same but for their seeds.
use super::measured::{Measured, Variant};
use crate::plan::{Overrides, Plan, PlannedStage};
use crate::problem::Usage;
use crate::run_files::is_run;
use crate::train_run::{CONFIG_FILE, ENVIRONMENT_FILE, directory};
use anyhow::{Error, Result};
use contract::{Effect, StageType};
use serde::Serialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// What of `environment.json` may explain a difference.
const ENVIRONMENT: [(&str, &str); 4] =
    [("program", "program"), ("cpu", "CPU"), ("products", "matrix products"), ("blas_kernel", "OpenBLAS kernel")];

/// A way in which runs differ.
#[derive(Clone, Debug, Serialize)]
pub struct Differs {
    /// What: a key of the configuration, an input, or a part of the machine.
    pub what: String,
    /// Its value for each run, in their order; `None` if it has none.
    pub values: Vec<Option<String>>,
}

/// How runs differ.
#[derive(Clone, Debug, Serialize)]
pub struct Differences {
    /// Keys of the configuration that affect results, and the stride of validation.
    pub configuration: Vec<Differs>,
    /// Hashes of data and tokenizers, and versions of stages.
    pub data: Vec<Differs>,
    /// The program, the CPU and what computes products.
    pub kernels: Vec<Differs>,
}

/// A run and what describes it.
pub struct ExistingRun {
    /// Its directory.
    pub path: PathBuf,
    /// Values that affect results.
    configuration: BTreeMap<String, String>,
    data: BTreeMap<String, String>,
    kernels: BTreeMap<String, String>,
    seed: u64,
}

impl ExistingRun {
    /// Reads the description of the run in `path`.
    ///
    /// # Errors
    /// [`Usage`] if there is no run; if its configuration cannot be read.
    pub fn read(path: &Path, registry: &[StageType]) -> Result<Self> {
        let config = path.join(CONFIG_FILE);
        if !is_run(path) || !config.is_file() {
            return Err(Usage::of(path, "is not a run; `pipeline runs` lists the runs in runs/").into());
        }
        let plan = Plan::load(&config, &Overrides::default(), registry).map_err(Error::new)?;
        let configuration = deciding(&plan);
        let fingerprint = directory::fingerprint(path)?.map(|found| found.configuration).unwrap_or_default();
        // The rest is in the configuration.
        let data =
            fingerprint.into_iter().filter(|(key, _)| key.contains("content of ") || key.contains(": ")).collect();
        let text = std::fs::read_to_string(path.join(ENVIRONMENT_FILE)).unwrap_or_default();
        let environment: Value = serde_json::from_str(&text).unwrap_or_default();
        let kernel = |(key, name): (&str, &str)| Some((name.to_owned(), environment[key].as_str()?.to_owned()));
        let kernels = ENVIRONMENT.into_iter().filter_map(kernel).collect();
        Ok(Self { path: path.to_owned(), configuration, data, kernels, seed: plan.run.seed })
    }
}

/// The values of a plan that affect its results and how they are measured, except for the seed.
fn deciding(plan: &Plan) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for stage in &plan.stages {
        let values = plan.values(&stage.id, &Effect::ON_BITS);
        all.extend(values.map(|(key, value)| (format!("{}.{key}", stage.id), value.to_string())));
    }
    let run = &plan.run;
    let length =
        [("max_steps", run.max_steps.map(|n| n.to_string())), ("max_epochs", run.max_epochs.map(|n| n.to_string()))];
    all.extend(length.into_iter().filter_map(|(key, value)| Some((format!("run.{key}"), value?))));
    all.extend(beside_fingerprint(plan));
    all
}

/// What affects the numbers of a run and is not part of its fingerprint: the weights that it starts from, and how it is
/// validated.
pub fn beside_fingerprint(plan: &Plan) -> BTreeMap<String, String> {
    let stride = |stage: &PlannedStage| {
        let stride = stage.settings.validation_stride()?;
        Some((format!("{}.stride", stage.id), stride.to_string()))
    };
    let initial = plan.run.initial_checkpoint.clone().map(|from| ("run.initial_checkpoint".to_owned(), from));
    plan.stages.iter().filter_map(stride).chain(initial).collect()
}

/// How the runs differ, apart from their seeds.
pub fn differences(runs: &[ExistingRun]) -> Differences {
    let of = |part: fn(&ExistingRun) -> &BTreeMap<String, String>| -> Vec<Differs> {
        let keys: BTreeSet<&String> = runs.iter().flat_map(|run| part(run).keys()).collect();
        let all = keys.into_iter().map(|key| Differs {
            what: key.clone(),
            values: runs.iter().map(|run| part(run).get(key).filter(|value| *value != "null").cloned()).collect(),
        });
        all.filter(|one| one.values.iter().any(|value| *value != one.values[0])).collect()
    };
    Differences {
        configuration: of(|run| &run.configuration),
        data: of(|run| &run.data),
        kernels: of(|run| &run.kernels),
    }
}

/// The runs, those with the same configuration and data together. A variant is named after what distinguishes it.
///
/// # Errors
/// If a run cannot be read.
pub fn variants(runs: &[ExistingRun], differences: &Differences) -> Result<Vec<Variant>> {
    let mut found: Vec<(&ExistingRun, Variant)> = Vec::new();
    for (index, run) in runs.iter().enumerate() {
        let measured = Measured::read(&run.path, run.seed)?;
        let same = |(other, variant): &&mut (&ExistingRun, Variant)| {
            let again = variant.runs.iter().any(|before| before.seed == run.seed);
            other.configuration == run.configuration && other.data == run.data && !again
        };
        match found.iter_mut().find(same) {
            Some((_, variant)) => variant.runs.push(measured),
            None => found.push((run, Variant { name: name(index, run, differences), runs: vec![measured] })),
        }
    }
    let mut variants: Vec<Variant> = found.into_iter().map(|(_, variant)| variant).collect();
    for index in 0..variants.len() {
        let again = variants[..index].iter().any(|before| before.name == variants[index].name);
        if again {
            variants[index].name = variants[index].runs[0].ran.run.clone();
        }
    }
    Ok(variants)
}

/// `optimize.learning_rate=0.003`, or the run's directory if nothing short distinguishes it.
fn name(index: usize, run: &ExistingRun, differences: &Differences) -> String {
    let values: Vec<String> = differences
        .configuration
        .iter()
        .filter_map(|one| Some(format!("{}={}", one.what, one.values[index].clone()?.trim_matches('"'))))
        .collect();
    let folder =
        run.path.file_name().map_or_else(|| run.path.display().to_string(), |n| n.to_string_lossy().into_owned());
    if values.is_empty() || values.len() > 2 { folder } else { values.join(" ") }
}

/// The differences on lines, of which equal values are said once.
pub fn text(runs: &[ExistingRun], differences: &Differences) -> String {
    let mut lines = Vec::new();
    for (title, part) in
        [("Configuration", &differences.configuration), ("Data", &differences.data), ("Kernels", &differences.kernels)]
    {
        if part.is_empty() {
            lines.push(format!("{title}: the same"));
            continue;
        }
        lines.push(format!("{title}:"));
        for Differs { what, values } in part {
            let mut each: Vec<(String, usize)> = Vec::new();
            for value in values {
                let value = value.clone().unwrap_or_else(|| "not set".into());
                match each.iter_mut().find(|(other, _)| *other == value) {
                    Some((_, count)) => *count += 1,
                    None => each.push((value, 1)),
                }
            }
            let each: Vec<String> = each.iter().map(|(value, count)| of_runs(value, *count, runs.len())).collect();
            lines.push(format!("  {what}: {}", each.join(", ")));
        }
    }
    lines.join("\n")
}

fn of_runs(value: &str, count: usize, runs: usize) -> String {
    let short: String = value.chars().take(40).collect();
    if runs > 2 { format!("{short} ({count} {})", if count == 1 { "run" } else { "runs" }) } else { short }
}

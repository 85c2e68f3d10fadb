//! Sinks: where the metrics and samples of a run are written.
//!
//! A sink is a file of code and an entry of [`SINKS`]. Another crate adds one with `App::with_sink`.
use super::{SampleLine, StepLine, jsonl, mlflow, tensorboard};
use anyhow::Result;
use contract::{Problem, Step, lock};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;

/// Where the metrics and samples of a run are written.
pub trait Sink: Send {
    /// Writes the metrics of a step, in the order of the steps.
    ///
    /// # Errors
    /// If they cannot be written.
    fn write(&mut self, line: &StepLine) -> Result<()>;

    /// Receives the metrics of a step that may still be validated; [`write`](Self::write) follows.
    ///
    /// # Errors
    /// If they cannot be written.
    fn expect(&mut self, _line: &StepLine) -> Result<()> {
        Ok(())
    }

    /// Writes the samples of a validation, after the metrics of its step, which are `line`.
    ///
    /// # Errors
    /// If they cannot be written.
    fn samples(&mut self, _line: &StepLine, _samples: &[SampleLine]) -> Result<()> {
        Ok(())
    }

    /// The run ends without a failure. `complete`: whether it has made all of its steps, or was stopped to be resumed.
    ///
    /// # Errors
    /// If that cannot be written.
    fn finish(&mut self, _complete: bool) -> Result<()> {
        Ok(())
    }
}

/// What a sink is opened with.
pub struct Opening<'a> {
    /// The run directory.
    pub run_dir: &'a Path,
    /// The step at which the run starts, or is resumed. What was written of this step and later ones must be replaced:
    /// the run writes it again.
    pub first: Step,
    /// The metrics of all steps before `first`, from which a sink can be written again.
    pub lines: &'a [StepLine],
    /// The samples of the same steps.
    pub samples: &'a [SampleLine],
    /// Every setting that affects results, and the hashes of the input, by name.
    pub configuration: &'a BTreeMap<String, String>,
}

/// A type of sink.
#[derive(Clone, Copy)]
pub struct SinkType {
    /// Its name in `record.sinks`.
    pub name: &'static str,
    /// Opens the sink of a run.
    pub open: fn(&Opening) -> Result<Box<dyn Sink>>,
}

/// The sinks that come with the program.
pub const SINKS: [SinkType; 3] = [
    SinkType { name: "jsonl", open: jsonl::open },
    SinkType { name: "tensorboard", open: tensorboard::open },
    SinkType { name: "mlflow", open: mlflow::open },
];

/// Those that other crates have added.
static ADDED: Mutex<Vec<SinkType>> = Mutex::new(Vec::new());

/// Adds a type of sink to those of the program.
pub fn add(sink: SinkType) {
    lock(&ADDED).push(sink);
}

/// The type called `name`.
pub(super) fn find(name: &str) -> Option<SinkType> {
    known().into_iter().find(|sink| sink.name == name)
}

fn known() -> Vec<SinkType> {
    SINKS.into_iter().chain(lock(&ADDED).iter().copied()).collect()
}

/// Problems of the key `sinks`.
pub(super) fn check(names: &[String]) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut problem = |message: String| problems.push(Problem::at("sinks", message));
    for (at, name) in names.iter().enumerate() {
        if find(name).is_none() {
            let known: Vec<String> = known().iter().map(|sink| format!("{:?}", sink.name)).collect();
            problem(format!("there is no sink {name:?}; there are {}", known.join(", ")));
        } else if names[..at].contains(name) {
            problem(format!("names {name:?} twice"));
        }
    }
    if !names.iter().any(|name| name == SINKS[0].name) {
        problem("must contain \"jsonl\": a run is resumed, reported and compared from metrics.jsonl".into());
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_jsonl_is_required_and_names_are_known_and_unique() {
        let said = |names: &[&str]| -> Vec<String> {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            check(&names).into_iter().map(|problem| problem.message).collect()
        };
        assert_eq!(said(&["mlflow", "jsonl", "tensorboard"]), [""; 0]);
        let needed = "must contain \"jsonl\": a run is resumed, reported and compared from metrics.jsonl";
        assert_eq!(said(&["tensorboard"]), [needed]);
        assert_eq!(said(&["jsonl", "jsonl"]), ["names \"jsonl\" twice"]);
        assert!(said(&["jsonl", "wandb"])[0].starts_with("there is no sink \"wandb\"; there are \"jsonl\", \"tensor"));
    }
}

//! What is known of a run.
use crate::problem::Usage;
use crate::run_files::{DEPTH, History, Interval, RECENT, Sample, find, is_run, last_sample, look};
use crate::show::human::{clock, count, decimal, time};
use crate::train_run::ENVIRONMENT_FILE;
use crate::train_run::status::{self, State, Status};
use anyhow::Result;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Duration;
use train::record::StepLine;

/// A run, as far as its files have been read.
pub struct View {
    /// Its directory.
    pub folder: PathBuf,
    /// Its metrics.
    pub history: History,
    /// Its state.
    pub state: State,
    /// As its process last wrote it.
    pub status: Option<Status>,
    /// The last generated text.
    pub sample: Option<Sample>,
    /// Model and number of parameters.
    pub model: String,
    interval: Interval,
}

/// The run in `folder`: of several, the one that started last of those in progress, or else the one that was seen last.
///
/// # Errors
/// [`Usage`] if there is none.
pub fn choose(folder: &Path) -> Result<PathBuf> {
    if is_run(folder) {
        return Ok(folder.to_owned());
    }
    let runs = find(folder, DEPTH)?;
    let looked = runs.iter().filter_map(|path| Some((path, look(path).ok()?)));
    let best = looked.max_by_key(|(_, ran)| match ran.state {
        State::Running => (true, ran.started),
        _ => (false, ran.seen),
    });
    let none = || Usage::of(folder, "has no runs in it; name a run directory, or a folder with runs").into();
    best.map(|(path, _)| path.clone()).ok_or_else(none)
}

/// The run `by` places after `run` among those in `folder`.
pub fn neighbour(folder: &Path, run: &Path, by: isize) -> PathBuf {
    let runs = find(folder, DEPTH).unwrap_or_default();
    let here = runs.iter().position(|path| path == run).unwrap_or_default() as isize;
    let there = usize::try_from((here + by).rem_euclid((runs.len() as isize).max(1))).unwrap_or_default();
    runs.get(there).cloned().unwrap_or_else(|| run.to_owned())
}

impl View {
    /// The run in `folder`; [`refresh`](Self::refresh) reads it.
    pub fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            history: History::new(folder),
            state: State::Stopped,
            status: None,
            sample: None,
            model: String::new(),
            interval: Interval::default(),
        }
    }

    /// Reads what is new, and returns the steps that are.
    ///
    /// # Errors
    /// If its metrics cannot be read.
    pub fn refresh(&mut self) -> Result<Vec<StepLine>> {
        // First the state: what a run writes before it ends is then read after it has ended.
        let (state, status) = status::read(&self.folder);
        let begins = self.status.as_ref().map(|status| status.started) != status.as_ref().map(|status| status.started);
        (self.state, self.status) = (state, status);
        if begins || self.model.is_empty() {
            self.interval = Interval::of(&self.folder);
            self.model = model(&self.folder);
        }
        self.sample = last_sample(&self.folder);
        self.history.refresh()
    }

    /// Updates done, and those of the whole run, if known.
    pub fn progress(&self) -> (u64, Option<u64>) {
        let steps = self.status.as_ref().map(|status| status.steps).filter(|steps| *steps > 0);
        (self.history.last().map_or(0, |line| line.step), steps)
    }

    /// Time until step `to`, if the run goes on as before.
    fn until(&self, to: u64) -> Option<Duration> {
        let started = self.status.as_ref().filter(|_| self.state == State::Running)?.started;
        let steps = to.saturating_sub(self.progress().0);
        Duration::try_from_secs_f64(self.history.pace(started)? * steps as f64).ok()
    }

    /// Time left.
    pub fn left(&self) -> Option<Duration> {
        let (step, steps) = self.progress();
        self.until(steps.filter(|steps| *steps > step)?)
    }

    /// Names and values, for the eye.
    pub fn facts(&self) -> Vec<(&'static str, String)> {
        let Some(last) = self.history.last() else { return Vec::new() };
        let latest = |metric: &str| {
            let column = self.history.column(metric)?;
            let row = column.iter().rposition(|value| value.is_finite())?;
            Some((self.history.column("step")?[row], column[row]))
        };
        let validated =
            |metric, digits| latest(metric).map(|(step, value)| format!("{} at {step}", decimal(Some(value), digits)));
        let mut facts = vec![("Loss", decimal(Some(last.loss), 4))];
        facts.extend(validated("validation_loss", 4).map(|text| ("Validation", text)));
        facts.extend(validated("bits_per_byte", 4).map(|text| ("Bits per byte", text)));
        facts.push(("Rate", format!("{} tok/s", count(self.recent("tok_per_sec").round() as u64))));
        let mfu = self.recent("mfu");
        if mfu > 0.0 {
            facts.push(("MFU", format!("{:.1} %", 100.0 * mfu)));
        }
        facts.push(("Data wait", format!("{:.1} ms a step", last.data_wait_ms)));
        facts.push(("Tokens", count(last.tokens)));
        facts.push(("Epochs", format!("{:.2}", last.epoch)));
        facts.push(("Learning rate", format!("{:.2e}", last.learning_rate)));
        facts.push(("Gradient norm", format!("{:.3}", last.gradient_norm)));
        for (name, interval) in [("Validates", self.interval.validation), ("Checkpoint", self.interval.checkpoint)] {
            facts.extend(self.due(interval).map(|text| (name, text)));
        }
        facts
    }

    /// The median over the last steps.
    fn recent(&self, metric: &str) -> f64 {
        let column = self.history.column(metric).unwrap_or_default();
        let recent = &column[column.len().saturating_sub(RECENT)..];
        let recent = recent.iter().copied().filter(|value| value.is_finite());
        crate::experiment::statistics::median(recent.collect()).unwrap_or_default()
    }

    /// When something that is done every so many steps is due next, while the run is in progress.
    fn due(&self, interval: Option<u64>) -> Option<String> {
        let (step, steps) = self.progress();
        let next = Interval::next(interval?, step, steps?).filter(|_| self.state == State::Running)?;
        let left = self.until(next).map(|left| format!(", in {}", clock(left))).unwrap_or_default();
        Some(format!("at {next}{left}"))
    }

    /// The time of each stage and its share of all workers' time, if the run has ended: the longest first.
    pub fn stages(&self) -> Vec<(String, String, f64)> {
        let Some(times) = self.status.as_ref().and_then(|status| status.times.as_ref()) else { return Vec::new() };
        let whole = times.wall.as_secs_f64() * times.workers as f64;
        let mut stages: Vec<_> = times.stages.iter().collect();
        stages.sort_by_key(|stage| std::cmp::Reverse(stage.time));
        let share = |spent: Duration| if whole > 0.0 { spent.as_secs_f64() / whole } else { 0.0 };
        stages.into_iter().map(|stage| (stage.stage.clone(), time(stage.time), share(stage.time))).collect()
    }

    /// The first line of the error with which it failed.
    pub fn error(&self) -> Option<&str> {
        let status = self.status.as_ref().filter(|_| self.state == State::Failed)?;
        status.error.as_ref()?.lines().next()
    }
}

fn model(folder: &Path) -> String {
    let text = std::fs::read_to_string(folder.join(ENVIRONMENT_FILE)).unwrap_or_default();
    let environment: Value = serde_json::from_str(&text).unwrap_or_default();
    let parameters = environment["parameters"].as_u64().map(|n| format!("{} parameters", count(n)));
    let parts = [environment["model"].as_str().map(str::to_owned), parameters];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::show::{StageTime, Times};
    use crate::train_run::CONFIG_FILE;
    use crate::train_run::status::{Hold, STATUS_FILE};
    use train::record::METRICS_FILE;

    /// A run of 40 of 100 steps, validated every 20, and its lock while it is in progress.
    pub fn run(folder: &Path) -> Hold {
        let config = "[run]\nname = \"x\"\n[stage.evaluate]\ntype = \"evaluate\"\ninterval = 20\n\
                      [stage.checkpoint]\ntype = \"checkpoint\"\ninterval = 50\n";
        std::fs::write(folder.join(CONFIG_FILE), config).unwrap();
        std::fs::write(folder.join(ENVIRONMENT_FILE), r#"{"model": "GPT-2, 2 layers", "parameters": 169728}"#).unwrap();
        let line = |step: u64| StepLine {
            step,
            tokens: step * 1024,
            epoch: step as f64 / 50.0,
            loss: 3.0 + 4.0 / step as f64 + (step % 3) as f64 / 20.0,
            learning_rate: 0.003,
            gradient_norm: 0.75,
            tok_per_sec: 26_000.0 + (step % 7) as f64,
            mfu: 0.5,
            data_wait_ms: 0.25,
            time: 1e9 + 2.0 * step as f64,
            validation_loss: step.is_multiple_of(20).then(|| 3.2 + 4.0 / step as f64),
            bits_per_byte: step.is_multiple_of(20).then_some(1.75),
            ..StepLine::default()
        };
        let text: String = (1..=40).map(|step| serde_json::to_string(&line(step)).unwrap() + "\n").collect();
        std::fs::write(folder.join(METRICS_FILE), text).unwrap();
        let sample = "{\"step\":20,\"prompt\":\"a\",\"text\":\"old\"}\n\
                      {\"step\":40,\"prompt\":\"The river\",\"text\":\" of the mill\\nand \\u001b[31mthe water\"}\n";
        std::fs::write(folder.join("samples.jsonl"), sample).unwrap();
        let hold = Hold::take(folder).unwrap();
        hold.tell(&Status { started: 1_000_000_000, ..Status::begin(0, 100) }).unwrap();
        hold
    }

    /// It ends.
    pub fn end(folder: &Path, hold: Hold) {
        let stage =
            |stage: &str, seconds| StageTime { stage: stage.into(), time: Duration::from_secs(seconds), calls: 9 };
        let stages = vec![stage("forward", 30), stage("backward", 50)];
        let times = Times { stages, waits: Vec::new(), wall: Duration::from_secs(50), workers: 2 };
        let mut status = Status { started: 1_000_000_000, ..Status::begin(0, 100) };
        status.end(&Ok(times), 40);
        hold.tell(&status).unwrap();
        assert!(folder.join(STATUS_FILE).exists());
    }

    #[test]
    fn a_run_in_progress_and_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let hold = run(folder.path());
        let mut view = View::new(folder.path());
        assert_eq!(view.refresh().unwrap().len(), 40);
        assert_eq!(
            (view.state, view.progress(), view.left()),
            (State::Running, (40, Some(100)), Some(Duration::from_secs(120)))
        );
        let facts = view.facts();
        let fact = |name: &str| facts.iter().find(|(known, _)| *known == name).map_or("", |(_, text)| text.as_str());
        assert_eq!(fact("Validation"), "3.3000 at 40");
        assert_eq!((fact("Validates"), fact("Checkpoint")), ("at 60, in 0:40", "at 50, in 0:20"));
        assert_eq!((fact("MFU"), fact("Rate")), ("50.0 %", "26.0 k tok/s"));
        assert_eq!(view.sample.as_ref().map(|sample| sample.step), Some(40));
        assert!(view.stages().is_empty());
        end(folder.path(), hold);
        view.refresh().unwrap();
        assert_eq!((view.state, view.left()), (State::Stopped, None));
        assert_eq!(view.stages()[0], ("backward".into(), "50.0 s".into(), 0.5));
        assert!(view.facts().iter().all(|(name, _)| *name != "Validates"), "nothing is due");
    }

    #[test]
    fn of_several_runs_the_one_in_progress() {
        let root = tempfile::tempdir().unwrap();
        let folders = ["a", "b/one", "c"].map(|name| root.path().join(name));
        let said = choose(root.path()).unwrap_err().to_string();
        assert!(said.contains("has no runs in it"), "{said}");
        let holds = folders.each_ref().map(|folder| {
            std::fs::create_dir_all(folder).unwrap();
            Some(run(folder))
        });
        let [first, second, third] = holds;
        drop((first, third));
        assert_eq!(choose(root.path()).unwrap(), folders[1]);
        assert_eq!(choose(&folders[0]).unwrap(), folders[0]);
        assert_eq!(neighbour(root.path(), &folders[2], 1), folders[0]);
        assert_eq!(neighbour(root.path(), &folders[0], -1), folders[2]);
        drop(second);
    }
}

//! `pipeline runs`: lists runs with their progress.
use super::run_groups::{Group, groups, listed as listed_groups};
use super::{Command, Context};
use crate::run_files::{Ran, find, look};
use crate::show::human::{ago, count, decimal, fit};
use crate::show::{Align, table};
use crate::train_run::status::{self, State};
use anyhow::Result;
use clap::{Args, ValueEnum};
use std::cmp::Ordering;
use std::path::{Path, PathBuf};

/// List runs with state, step, loss, bits per byte and speed
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pipeline runs
  pipeline runs runs/wiki
  pipeline runs --json
  pipeline runs --group optimize.learning_rate --sort bits_per_byte

States: running, done, failed, and stopped (interrupted or killed; `pipeline run`
with --resume continues it).")]
pub struct Runs {
    /// A folder with runs in it, or a run
    #[arg(value_name = "DIR", default_value = "runs")]
    folder: PathBuf,
    /// Show the runs with each value of a key together: mean and spread over runs
    /// that are done (repeatable)
    #[arg(long, value_name = "STAGE.KEY")]
    group: Vec<String>,
    /// Sort by this number, the best first
    #[arg(long, value_enum, value_name = "NUMBER")]
    sort: Option<Sort>,
    /// Print one line of JSON per run, or per group
    #[arg(long)]
    json: bool,
}

/// What runs are sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Sort {
    /// The last validation loss.
    #[value(name = "validation_loss")]
    ValidationLoss,
    /// Bits per byte.
    #[value(name = "bits_per_byte")]
    BitsPerByte,
    /// Tokens per second.
    #[value(name = "tok_per_sec")]
    TokPerSec,
}

impl Sort {
    fn of_run(self, run: &Ran) -> Option<f64> {
        match self {
            Self::ValidationLoss => run.validation_loss,
            Self::BitsPerByte => run.bits_per_byte,
            Self::TokPerSec => run.tok_per_sec,
        }
    }

    /// The mean of a group.
    pub fn of_group(self, group: &Group) -> Option<f64> {
        let spread = match self {
            Self::ValidationLoss => group.validation_loss,
            Self::BitsPerByte => group.bits_per_byte,
            Self::TokPerSec => group.tok_per_sec,
        };
        spread.map(|spread| spread.mean)
    }

    /// The better number first, and those last that have none.
    pub fn order(self, a: Option<f64>, b: Option<f64>) -> Ordering {
        let worst = |value: Option<f64>| match (value, self) {
            (None, _) => f64::INFINITY,
            (Some(rate), Self::TokPerSec) => -rate,
            (Some(loss), _) => loss,
        };
        worst(a).total_cmp(&worst(b))
    }
}

impl Command for Runs {
    fn run(&self, context: &Context) -> Result<()> {
        let mut found = find(&self.folder, 1)?.iter().map(|path| look(path)).collect::<Result<Vec<Ran>>>()?;
        if !self.group.is_empty() {
            let groups = groups(&found, &self.group, self.sort)?;
            return match self.json {
                true => groups.iter().try_for_each(|group| context.out.json(group)),
                false => context.out.line(&listed_groups(&groups, &self.group, context.out.columns())),
            };
        }
        if let Some(sort) = self.sort {
            found.sort_by(|a, b| sort.order(sort.of_run(a), sort.of_run(b)));
        }
        match self.json {
            true => found.iter().try_for_each(|run| context.out.json(run)),
            false => context.out.line(&listed(&found, context.out.columns(), status::now())),
        }
    }
}

/// The runs as a table of at most `columns` columns, as of `now`.
fn listed(runs: &[Ran], columns: usize, now: u64) -> String {
    if runs.is_empty() {
        return "no runs here".into();
    }
    let heads = [
        ("run", Align::Left),
        ("state", Align::Left),
        ("step", Align::Right),
        ("loss", Align::Right),
        ("bits/byte", Align::Right),
        ("tok/s", Align::Right),
        ("when", Align::Right),
    ];
    let rows: Vec<Vec<String>> = runs
        .iter()
        .map(|run| {
            let name = Path::new(&run.run).file_name().map_or(run.run.clone(), |n| n.to_string_lossy().into_owned());
            vec![
                name,
                run.state.name().into(),
                run.steps.map_or(run.step.to_string(), |steps| format!("{}/{steps}", run.step)),
                decimal(run.loss, 3),
                decimal(run.bits_per_byte, 3),
                run.tok_per_sec.map_or("-".into(), |rate| count(rate.round() as u64)),
                run.seen.map_or("-".into(), |seen| ago(now.saturating_sub(seen))),
            ]
        })
        .collect();
    let mut out = table(&heads, &rows, columns);
    for (run, row) in runs.iter().zip(&rows) {
        if let (State::Failed, Some(error)) = (run.state, &run.error) {
            let line = error.lines().next().unwrap_or_default();
            out += &format!("\n{}", fit(&format!("{} failed: {line}", row[0]), columns));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ran(run: &str, state: State, step: u64) -> Ran {
        let (loss, bits_per_byte, tok_per_sec) = (Some(5.81234), Some(2.1365), Some(8549.3));
        Ran {
            run: format!("runs/{run}"),
            state,
            step,
            steps: Some(600),
            loss,
            validation_loss: Some(5.9),
            bits_per_byte,
            tok_per_sec,
            checkpoint: None,
            started: Some(1_000_000),
            seen: Some(1_000_600),
            metrics: Vec::new(),
            error: (state == State::Failed).then(|| "stage `loss`, step 120: the loss is NaN\nand more".into()),
        }
    }

    #[test]
    fn a_table_of_eighty_columns() {
        let runs = [
            ran("quarter", State::Done, 600),
            ran("a-name-that-somebody-has-made-much-longer-than-a-name-should-be", State::Running, 77),
            Ran { loss: None, bits_per_byte: None, tok_per_sec: None, steps: None, ..ran("new", State::Stopped, 0) },
            ran("broken", State::Failed, 119),
        ];
        let shown = listed(&runs, 80, 1_000_600 + 7_300);
        assert!(shown.lines().all(|line| line.chars().count() <= 80), "{shown}");
        insta::assert_snapshot!(shown, @r"
        run                           state       step   loss  bits/byte  tok/s     when
        quarter                       done     600/600  5.812      2.136  8.5 k  2 h ago
        a-name-that-somebody-has-ma…  running   77/600  5.812      2.136  8.5 k  2 h ago
        new                           stopped        0      -          -      -  2 h ago
        broken                        failed   119/600  5.812      2.136  8.5 k  2 h ago
        broken failed: stage `loss`, step 120: the loss is NaN
        ");
        assert_eq!(listed(&[], 80, 0), "no runs here");
    }
}

//! `pipeline compare`: runs that exist already, compared as an experiment compares its own.
use super::{Command, Context};
use crate::experiment::existing::{self, Differences, ExistingRun, differences};
use crate::experiment::file::DETECT;
use crate::experiment::text::text;
use crate::experiment::verdict::{Comparison, compare};
use crate::problem::{Usage, repeated};
use crate::report::overlay;
use crate::show::human::hang;
use anyhow::Result;
use clap::Args;
use serde::Serialize;
use std::path::PathBuf;

/// Compare runs: how they differ, and which learns best, with its error
#[derive(Debug, Args)]
#[command(after_help = "Runs that differ only in their seeds are one variant. Differences are paired
by seed and by held-out document; docs/experiments.md says how.

Example:
  pipeline compare runs/wiki runs/learning-rates/learning_rate-0.001-seed1")]
pub struct Compare {
    /// Run directories, at least two
    #[arg(value_name = "RUN", num_args = 2.., required = true)]
    runs: Vec<PathBuf>,
    /// Measure the time until this validation loss [default: the loss that all
    /// runs reach]
    #[arg(long, value_name = "LOSS")]
    target_loss: Option<f64>,
    /// Say how many runs detect this difference, in nats per token
    #[arg(long, value_name = "NATS", default_value_t = DETECT)]
    detect: f64,
    /// Write a page with the curves of all variants to this file
    #[arg(long, value_name = "FILE")]
    page: Option<PathBuf>,
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
}

/// The result, as JSON.
#[derive(Serialize)]
struct Answer {
    runs_differ: Differences,
    #[serde(flatten)]
    comparison: Comparison,
}

impl Command for Compare {
    fn run(&self, context: &Context) -> Result<()> {
        for number in self.target_loss.iter().chain([&self.detect]) {
            if !(number.is_finite() && *number > 0.0) {
                return Err(Usage(format!("{number} is no number of nats per token above 0")).into());
            }
        }
        if let Some(twice) = repeated(&self.runs) {
            return Err(Usage(format!("{} is given twice", twice.display())).into());
        }
        let known: Vec<ExistingRun> =
            self.runs.iter().map(|run| ExistingRun::read(run, context.stages)).collect::<Result<_>>()?;
        let differences = differences(&known);
        let variants = existing::variants(&known, &differences)?;
        let comparison = compare(&variants, self.target_loss, self.detect, Vec::new());
        if let Some(page) = &self.page {
            overlay::write(page, "Comparison", &comparison)?;
        }
        let answer = Answer { runs_differ: differences, comparison };
        context.out.answer(self.json, &answer, |columns| {
            let differ = existing::text(&known, &answer.runs_differ);
            let differ: Vec<String> = differ.lines().map(|line| hang(line, columns)).collect();
            format!("{}\n\n{}", differ.join("\n"), text(&answer.comparison, columns))
        })
    }
}

//! `pipeline explain`: the graph, and what a run takes.
use super::{Changes, Command, Context};
use crate::plan::{Overrides, Plan, Scope};
use crate::prepare;
use crate::problem::Usage;
use crate::show;
use crate::train_run::explain;
use anyhow::{Error, Result};
use clap::Args;
use contract::Goal;
use std::path::PathBuf;

/// Draw the graph; estimate memory and time of a run
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pipeline explain configs/wiki.toml
  pipeline explain configs/wiki.toml --set forward.layers=12 --json")]
pub struct Explain {
    /// The configuration (TOML)
    #[arg(value_name = "CONFIG")]
    config: PathBuf,
    /// Changes to the configuration.
    #[command(flatten)]
    changes: Changes,
    /// Worker threads (default: one per physical core)
    #[arg(long, value_name = "N")]
    workers: Option<usize>,
    /// Print the numbers as one line of JSON, without the graph
    #[arg(long)]
    json: bool,
}

impl Command for Explain {
    const COMPUTES: bool = true;

    fn run(&self, context: &Context) -> Result<()> {
        let overrides = Overrides { workers: self.workers, ..self.changes.overrides() };
        let plan = Plan::checked(&self.config, &overrides, context.stages, Scope::Estimate).map_err(Error::new)?;
        if plan.goal == Goal::PrepareCorpus {
            return match self.json {
                true => Err(Usage("preparing a corpus trains nothing, so --json has nothing to report".into()).into()),
                false => context.out.line(&prepare::explain::explain(&plan, None, explain::COLUMNS)?),
            };
        }
        let explanation = explain::explain(&plan)?;
        context.out.answer(self.json, &explanation, |_| {
            format!("{}\n\n{}", show::graph(&plan, explain::COLUMNS), explanation.render(explain::COLUMNS))
        })
    }
}

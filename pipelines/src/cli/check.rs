//! `pipeline check`: everything that is wrong with a configuration.
use super::{Changes, Command, Context};
use crate::plan::Plan;
use crate::show;
use anyhow::{Error, Result};
use clap::Args;
use std::path::PathBuf;

/// Check a configuration without running it; all problems at once
#[derive(Debug, Args)]
#[command(after_help = "Example: pipeline check configs/wiki.toml --set forward.layers=4")]
pub struct Check {
    /// The configuration (TOML)
    #[arg(value_name = "CONFIG")]
    config: PathBuf,
    /// What it changes.
    #[command(flatten)]
    changes: Changes,
}

impl Command for Check {
    fn run(&self, context: &Context) -> Result<()> {
        let plan = Plan::load(&self.config, &self.changes.overrides(), context.stages).map_err(Error::new)?;
        context.out.line(&show::plan_summary(&plan))
    }
}

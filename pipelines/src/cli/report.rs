//! `pipeline report`: the page of a run, written again.
use super::{Command, Context};
use anyhow::Result;
use clap::Args;
use std::path::PathBuf;

/// Write the report of a run again: one page of HTML
#[derive(Debug, Args)]
#[command(after_help = "Example: pipeline report runs/wiki

A run writes it when it ends, by itself or not; this writes it at any other
time, also while the run goes on.")]
pub struct Report {
    /// The run's directory
    #[arg(value_name = "RUN")]
    run: PathBuf,
}

impl Command for Report {
    fn run(&self, context: &Context) -> Result<()> {
        context.out.line(&crate::report::write(&self.run)?.display().to_string())
    }
}

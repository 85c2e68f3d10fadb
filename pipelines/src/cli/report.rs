//! `pipeline report`: writes the HTML report of a run again.
use super::{Command, Context};
use anyhow::Result;
use clap::Args;
use serde_json::json;
use std::path::PathBuf;

/// Write the HTML report of a run
#[derive(Debug, Args)]
#[command(after_help = "Example: pipeline report runs/wiki

A run writes its report when it ends. This command writes it at any other time,
also while the run is in progress.")]
pub struct Report {
    /// The run's directory
    #[arg(value_name = "RUN")]
    run: PathBuf,
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
}

impl Command for Report {
    fn run(&self, context: &Context) -> Result<()> {
        let path = crate::report::write(&self.run)?.display().to_string();
        context.out.answer(self.json, &json!({ "run": self.run, "report": path }), |_| path.clone())
    }
}

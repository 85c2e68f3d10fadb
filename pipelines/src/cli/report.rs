//! `pipeline report`: the page of a run, written again.
use super::{Command, Context};
use anyhow::Result;
use clap::Args;
use serde_json::json;
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

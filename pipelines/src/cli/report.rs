//! `pipeline report`.
use clap::Args;
use std::path::PathBuf;

/// `pipeline report`.
#[derive(Debug, Args)]
#[command(after_help = "Example: pipeline report runs/wiki

A run writes it when it ends, by itself or not; this writes it at any other
time, also while the run goes on.")]
pub struct Report {
    /// The run's directory
    #[arg(value_name = "RUN")]
    pub run: PathBuf,
}

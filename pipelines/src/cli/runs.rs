//! `pipeline runs`.
use clap::Args;
use std::path::PathBuf;

/// `pipeline runs`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pipeline runs
  pipeline runs runs/wiki
  pipeline runs --json

States: running, done, stopped (interrupted or killed; --resume goes on), failed.")]
pub struct Runs {
    /// A folder with runs in it, or a run
    #[arg(value_name = "DIR", default_value = "runs")]
    pub folder: PathBuf,
    /// Print one line of JSON a run
    #[arg(long)]
    pub json: bool,
}

//! `pipeline explain`.
use super::Changes;
use clap::Args;
use std::path::PathBuf;

/// `pipeline explain`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pipeline explain configs/wiki.toml
  pipeline explain configs/wiki.toml --set forward.layers=12 --json")]
pub struct Explain {
    /// The configuration (TOML)
    #[arg(value_name = "CONFIG")]
    pub config: PathBuf,
    /// What it changes.
    #[command(flatten)]
    pub changes: Changes,
    /// Worker threads (default: the cores)
    #[arg(long, value_name = "N")]
    pub workers: Option<usize>,
    /// Print the numbers as one line of JSON, without the graph
    #[arg(long)]
    pub json: bool,
}

//! `pipeline diff`.
use clap::Args;
use std::path::PathBuf;

/// `pipeline diff`.
#[derive(Debug, Args)]
#[command(after_help = "Example: pipeline diff runs/prepare-wiki/v1 runs/prepare-wiki/v2")]
pub struct Diff {
    /// The older version
    #[arg(value_name = "FROM")]
    pub from: PathBuf,
    /// The newer version
    #[arg(value_name = "TO")]
    pub to: PathBuf,
    /// Print one line of JSON, with every document
    #[arg(long)]
    pub json: bool,
}

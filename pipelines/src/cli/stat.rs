//! `pipeline stat`.
use clap::Args;
use std::path::PathBuf;

/// `pipeline stat`.
#[derive(Debug, Args)]
#[command(after_help = "Example: pipeline stat runs/prepare-wiki")]
pub struct Stat {
    /// A version, or a folder of versions: its last one
    #[arg(value_name = "OUT")]
    pub path: PathBuf,
    /// Print one line of JSON
    #[arg(long)]
    pub json: bool,
}

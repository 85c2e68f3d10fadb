//! Options that several commands share.
use crate::plan::Overrides;
use clap::Args;
use std::path::PathBuf;

/// `--set` and `--stage`.
#[derive(Clone, Debug, Default, Args)]
pub struct Changes {
    /// Change a value: STAGE.KEY=VALUE or run.KEY=VALUE, in TOML (repeatable)
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_set)]
    set: Vec<String>,
    /// Replace a stage's table by a file that holds another (repeatable)
    #[arg(long, value_name = "STAGE=FILE", value_parser = parse_stage)]
    stage: Vec<(String, PathBuf)>,
}

impl Changes {
    /// What the options change in the configuration.
    pub fn overrides(&self) -> Overrides {
        Overrides { set: self.set.clone(), stage: self.stage.clone(), ..Overrides::default() }
    }
}

fn parse_set(text: &str) -> Result<String, String> {
    match text.split_once('=') {
        Some((key, _)) if key.contains('.') => Ok(text.to_owned()),
        _ => Err("write STAGE.KEY=VALUE, for example optimize.learning_rate=3e-4".into()),
    }
}

fn parse_stage(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((id, file)) if !id.is_empty() && !file.is_empty() => Ok((id.to_owned(), file.into())),
        _ => Err("write STAGE=FILE, for example optimize=configs/stages/muon.toml".into()),
    }
}

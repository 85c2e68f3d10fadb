//! `pipeline stages`: the stage types, and their keys.
use super::{Command, Context};
use crate::show;
use anyhow::{Error, Result};
use clap::Args;

/// List the stage types, or show one with its keys and defaults
#[derive(Debug, Args)]
#[command(after_help = "Example: pipeline stages adamw")]
pub struct Stages {
    /// The type to show
    #[arg(value_name = "NAME")]
    name: Option<String>,
}

impl Command for Stages {
    fn run(&self, context: &Context) -> Result<()> {
        context.out.line(&show::stages(context.stages, self.name.as_deref()).map_err(Error::new)?)
    }
}

//! `pipeline man`: the manual pages.
use super::{Command, Context, definition};
use crate::problem::Usage;
use anyhow::{Context as _, Result};
use clap::Args;
use clap_mangen::Man as Page;
use std::path::PathBuf;

/// Print the manual page of the program or of a command
#[derive(Debug, Args)]
#[command(after_help = "To read one:  pipeline man run | man -l -

Examples:
  pipeline man
  pipeline man run
  pipeline man --dir man/man1")]
pub struct Man {
    /// The command; the whole program if none is given
    #[arg(value_name = "COMMAND")]
    command: Option<String>,
    /// Write the pages of the program and all commands into this folder instead
    #[arg(long, value_name = "DIR", conflicts_with = "command")]
    dir: Option<PathBuf>,
}

impl Command for Man {
    fn run(&self, context: &Context) -> Result<()> {
        let mut program = definition(context.version).disable_help_subcommand(true);
        program.build();
        if let Some(dir) = &self.dir {
            std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
            return clap_mangen::generate_to(program, dir)
                .with_context(|| format!("cannot write manual pages into {}", dir.display()));
        }
        let page = match &self.command {
            None => Page::new(program),
            Some(name) => {
                let Some(command) = program.find_subcommand(name) else {
                    return Err(Usage(format!("there is no command `{name}`; `pipeline --help` lists all")).into());
                };
                Page::new(command.clone())
            }
        };
        let mut text = Vec::new();
        page.render(&mut text)?;
        context.out.line(&String::from_utf8_lossy(&text))
    }
}

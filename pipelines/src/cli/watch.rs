//! `pipeline watch`: a run in the terminal.
use super::{Command, Context};
use crate::show::Progress;
use crate::train_run::Interruption;
use crate::watch::{View, choose, plain, terminal};
use anyhow::Result;
use clap::Args;
use std::io::IsTerminal;
use std::path::PathBuf;

/// Show a run in the terminal while it goes on: curves, rate, what is next
///
/// It only reads the files of the run, which is not disturbed. Elsewhere than on a terminal, and with --progress plain,
/// it prints a line per step until the run ends.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pipeline watch
  pipeline watch runs/wiki
  pipeline watch runs/wiki --progress plain
  pipeline watch runs/wiki --json

Keys: q, Esc or Ctrl-C ends; the arrows go to other runs of the folder.")]
pub struct Watch {
    /// A run, or a folder with runs in it: the one that is in progress, or was last
    #[arg(value_name = "RUN|DIR", default_value = "runs")]
    folder: PathBuf,
    /// Print the lines of metrics.jsonl, the last one there is and those that follow
    #[arg(long)]
    json: bool,
}

impl Command for Watch {
    fn run(&self, context: &Context) -> Result<()> {
        let view = View::new(&choose(&self.folder)?);
        let draws = context.style.progress == Progress::InPlace && std::io::stdout().is_terminal();
        if draws && !self.json {
            return terminal::show(view, &self.folder, context.style.color);
        }
        Interruption::at_once()?;
        plain::show(view, self.json, &context.out)
    }
}

//! `pipeline serve`: runs in a browser.
use super::{Command, Context};
use crate::hosts::net::listener::bind;
use crate::serve::{Library, serve};
use crate::train_run::Interruption;
use anyhow::{Context as _, Result};
use clap::Args;
use std::path::PathBuf;
use std::sync::Arc;

/// Show runs in a browser: live curves over each other, filtered by configuration
///
/// Prints the address of the page, and serves it until Ctrl-C. It only reads: runs in progress are not disturbed.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pipeline serve
  pipeline serve runs/learning-rates --listen 127.0.0.1:8000

On another machine: ssh -L 7421:127.0.0.1:7421 HOST, then open
http://127.0.0.1:7421 here. GET /api/runs and /api/runs/NAME/metrics answer in
JSON (docs/watch.md).")]
pub struct Serve {
    /// A folder with runs in it, also in experiments, or a run
    #[arg(value_name = "DIR", default_value = "runs")]
    folder: PathBuf,
    /// Where to listen; port 0 is any that is free. By default, only this machine
    /// can connect
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:7421")]
    listen: String,
}

impl Command for Serve {
    fn run(&self, context: &Context) -> Result<()> {
        Interruption::at_once()?;
        let library = Library::open(&self.folder)?;
        let socket = bind(&self.listen)?;
        let address = socket.local_addr().context("a socket has no address")?;
        if !address.ip().is_loopback() {
            context.line().warn(
                "warning: whoever can reach this machine can see these runs: nothing is encrypted, there is no password",
            );
        }
        context.out.line(&format!("http://{address}"))?;
        context.say(&format!("Showing the runs in {}; Ctrl-C ends it", self.folder.display()));
        serve(Arc::new(library), socket)
    }
}

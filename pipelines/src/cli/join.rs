//! `pipeline join`: takes part in a run of another host.
use super::{Command, Context};
use crate::train_run::hosts::{JoinOptions, join};
use anyhow::Result;
use clap::Args;
use std::io::Write;
use std::num::NonZeroUsize;
use std::path::PathBuf;

/// Join a run that another host has started with --listen
///
/// This host needs only this program: configuration, parameters and batches come from the head. It computes a share of each
/// step until the run ends: in proportion to its workers, of which no host can have more than the head. It may leave
/// (SIGINT) and join at any time; results do not depend on it. Nothing is encrypted: in a network that others use, connect
/// through a tunnel.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pipeline join big-box:7420 --secret-file secret
  pipeline join 10.0.0.7:7420 --secret-file secret --workers 4")]
pub struct Join {
    /// The head of the run: the address that it listens on
    #[arg(value_name = "HOST:PORT")]
    head: String,
    /// A copy of the head's secret (RUN_DIR/secret), which only you can read
    #[arg(long, value_name = "FILE")]
    secret_file: PathBuf,
    /// Where other hosts reach this one (default: any port of the address that reaches the head)
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<String>,
    /// Workers that compute, at most those of the head (default: one per physical core)
    #[arg(long, value_name = "N")]
    workers: Option<NonZeroUsize>,
    /// Backend of matrix products, which must be the head's
    #[arg(long, value_name = "NAME", default_value = "auto")]
    gemm: String,
}

impl Command for Join {
    const COMPUTES: bool = true;

    fn run(&self, context: &Context) -> Result<()> {
        let Self { head, secret_file, listen, workers, gemm } = self;
        let options = JoinOptions {
            head: head.clone(),
            secret: secret_file.clone(),
            listen: listen.clone(),
            gemm: gemm.clone(),
            workers: workers.map(NonZeroUsize::get),
            stages: context.stages.to_vec(),
            version: context.version.into(),
        };
        let quiet = context.style.quiet;
        join(options, move |line| {
            if !quiet {
                // Errors of standard error are ignored.
                let _ = writeln!(std::io::stderr(), "{line}");
            }
        })
    }
}

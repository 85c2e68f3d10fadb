//! `pipeline launch`: a run on several processes of this machine.
use super::run::{COMMIT_EVERY, SECRET_FILE, Training};
use super::{Command, Context};
use crate::hosts::net::listener::bind;
use crate::plan::Scope;
use crate::problem::Usage;
use crate::train_run::hosts::HeadOptions;
use anyhow::{Context as _, Result};
use clap::Args;
use contract::Goal;
use std::process::Stdio;

/// Train on several processes of this machine, as `run --listen` and `join` do on several hosts
///
/// Each process has --workers threads. If one of them dies, training goes on without it from the last commit. Results do
/// not depend on the number of processes.
#[derive(Debug, Args)]
#[command(after_help = "Example: pipeline launch configs/wiki.toml --processes 3 --workers 1")]
pub struct Launch {
    /// What to train and where.
    #[command(flatten)]
    training: Training,
    /// Number of processes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    processes: u16,
    /// Steps between the commits in memory at which a run goes on without a lost process
    #[arg(long, value_name = "N", default_value_t = COMMIT_EVERY, value_parser = clap::value_parser!(u64).range(1..))]
    commit_every: u64,
}

impl Command for Launch {
    const COMPUTES: bool = true;

    fn run(&self, context: &Context) -> Result<()> {
        let ready = self.training.ready(context, Scope::Run)?;
        if ready.plan.goal == Goal::PrepareCorpus {
            return Err(Usage("only training runs on several processes: use `pipeline run`".into()).into());
        }
        let (socket, secret) = (bind("127.0.0.1:0")?, ready.run_dir.join(SECRET_FILE));
        let gemm = ready.plan.run.gemm.clone();
        let program = std::env::current_exe().context("cannot find this program")?;
        let address = socket.local_addr()?.to_string();
        let process = || {
            let mut command = std::process::Command::new(&program);
            command.args(["join", &address, "--gemm", &gemm, "--secret-file"]).arg(&secret).arg("--quiet");
            command.stdin(Stdio::null());
            command
        };
        let processes = usize::from(self.processes);
        let hosts = (1..processes).map(|_| process()).collect();
        let options = HeadOptions {
            socket,
            secret: secret.clone(),
            min_hosts: 1,
            first_hosts: processes,
            commit_every: self.commit_every,
            hosts,
        };
        ready.train(Some(options), None, self.training.json(), context)
    }
}

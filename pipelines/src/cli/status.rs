//! `pipeline status`: a run, its hosts, and what went wrong.
use super::{Command, Context};
use crate::run_files::{Ran, look, require_run};
use crate::show::human::{ago, count, fit};
use crate::train_run::hosts::HostsStatus;
use crate::train_run::status::{State, now};
use anyhow::Result;
use clap::Args;
use serde::Serialize;
use std::path::PathBuf;

/// Show a run: step, rate, hosts and their share, last commit, last failure
#[derive(Debug, Args)]
#[command(after_help = "Example: pipeline status runs/wiki")]
pub struct Status {
    /// The run directory
    #[arg(value_name = "RUN")]
    run: PathBuf,
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
}

/// A run and its hosts.
#[derive(Debug, Serialize)]
struct Report {
    #[serde(flatten)]
    ran: Ran,
    /// The hosts, if others can take part.
    #[serde(flatten)]
    hosts: Option<HostsStatus>,
}

impl Command for Status {
    fn run(&self, context: &Context) -> Result<()> {
        require_run(&self.run)?;
        let report = Report { ran: look(&self.run)?, hosts: HostsStatus::read(&self.run) };
        context.out.answer(self.json, &report, |columns| text(&report, columns, now()))
    }
}

/// The report as lines of at most `columns` columns, as of `now`.
fn text(Report { ran, hosts }: &Report, columns: usize, now: u64) -> String {
    let of = ran.steps.map(|steps| format!(" of {steps}")).unwrap_or_default();
    let mut lines =
        vec![format!("Run      {}", ran.run), format!("State    {}, step {}{of}", ran.state.name(), ran.step)];
    if let Some(rate) = ran.tok_per_sec {
        lines.push(format!("Rate     {} tokens/s", count(rate.round() as u64)));
    }
    if let Some(hosts) = hosts {
        let share = |share: f64| format!("{:.0} %", 100.0 * share);
        let training: Vec<String> =
            hosts.hosts.iter().map(|host| format!("{} {}", host.name, share(host.share))).collect();
        lines.push(match (ran.state, &training[..]) {
            (State::Running, []) => "Hosts    waiting for hosts".into(),
            (State::Running, hosts) => format!("Hosts    {}: {}", hosts.len(), hosts.join(", ")),
            _ => "Hosts    none: the run is not running".into(),
        });
        lines.push(format!("Commit   step {}", hosts.commit));
        if let Some(failure) = &hosts.last_failure {
            lines.push(format!("Failure  {}: {}", ago(now.saturating_sub(failure.at)), failure.what));
        }
    }
    if let Some(checkpoint) = &ran.checkpoint {
        lines.push(format!("Saved    {checkpoint}"));
    }
    if let Some(error) = ran.error.as_ref().filter(|_| ran.state == State::Failed) {
        lines.push(format!("Error    {}", error.lines().next().unwrap_or_default()));
    }
    lines.iter().map(|line| fit(line, columns)).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train_run::hosts::status::{HostFailure, HostShare};

    #[test]
    fn a_run_on_two_hosts() {
        let host = |name: &str, share| HostShare { name: name.into(), share };
        let last_failure = Some(HostFailure { what: "lost cow/7: it does not answer".into(), at: 1_000_000 });
        let hosts = vec![host("ant/12", 0.5), host("bee/345", 0.5)];
        let hosts = Some(HostsStatus { hosts, commit: 230, last_failure });
        let ran = Ran {
            run: "runs/wiki".into(),
            state: State::Running,
            step: 234,
            steps: Some(600),
            loss: Some(5.0),
            validation_loss: None,
            bits_per_byte: None,
            tok_per_sec: Some(26_180.4),
            checkpoint: Some("runs/wiki/checkpoints/step-00000200".into()),
            started: Some(1),
            seen: Some(2),
            error: None,
            metrics: Vec::new(),
        };
        insta::assert_snapshot!(text(&Report { ran, hosts }, 80, 1_000_125), @r"
        Run      runs/wiki
        State    running, step 234 of 600
        Rate     26.2 k tokens/s
        Hosts    2: ant/12 50 %, bee/345 50 %
        Commit   step 230
        Failure  2 min ago: lost cow/7: it does not answer
        Saved    runs/wiki/checkpoints/step-00000200
        ");
    }
}

//! `pipeline explain`: the graph, and what a run takes.
use super::{Changes, Command, Context};
use crate::plan::{Overrides, Plan, Scope};
use crate::prepare;
use crate::problem::Usage;
use crate::report;
use crate::show;
use crate::train_run::explain;
use crate::train_run::scaling::{Hosts, Network};
use anyhow::{Error, Result};
use clap::Args;
use contract::Goal;
use std::path::PathBuf;
use std::time::Duration;

/// The latency of a local network.
const LOCAL_NETWORK: Duration = Duration::from_micros(100);
/// The longest latency, in milliseconds.
const MOST_LATENCY: f64 = 60_000.0;

/// Draw the graph; estimate memory and time of a run
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pipeline explain configs/wiki.toml
  pipeline explain configs/wiki.toml --set forward.layers=12 --json
  pipeline explain configs/wiki.toml --hosts 8 --network 1gbit --latency 2
  pipeline explain configs/tiny.toml --hosts 64 --network 1gbit --plot a.html")]
pub struct Explain {
    /// The configuration (TOML)
    #[arg(value_name = "CONFIG")]
    config: PathBuf,
    /// Changes to the configuration.
    #[command(flatten)]
    changes: Changes,
    /// Worker threads (default: one per physical core)
    #[arg(long, value_name = "N")]
    workers: Option<usize>,
    /// Predict the run on N hosts like this one (see `run --listen`)
    #[arg(long, value_name = "N", requires = "network", value_parser = clap::value_parser!(u16).range(1..=256))]
    hosts: Option<u16>,
    /// The network of each host, in bits per second: 100mbit, 1gbit, 2.5gbit
    #[arg(long, value_name = "SPEED", requires = "hosts")]
    network: Option<Network>,
    /// How long a message is on its way between two hosts, in milliseconds
    /// (default: 0.1, a local network)
    #[arg(long, value_name = "MS", requires = "hosts", value_parser = latency)]
    latency: Option<Duration>,
    /// Where to write plots of the prediction for 1 to N hosts, as a page for a browser
    #[arg(long, value_name = "FILE", requires = "hosts")]
    plot: Option<PathBuf>,
    /// Print the numbers as one line of JSON, without the graph
    #[arg(long)]
    json: bool,
}

fn latency(text: &str) -> Result<Duration, String> {
    let milliseconds: Option<f64> = text.parse().ok().filter(|number| (0.0..=MOST_LATENCY).contains(number));
    let milliseconds = milliseconds.ok_or_else(|| format!("write milliseconds, from 0 to {MOST_LATENCY}"))?;
    Ok(Duration::from_secs_f64(milliseconds / 1e3))
}

impl Command for Explain {
    const COMPUTES: bool = true;

    fn run(&self, context: &Context) -> Result<()> {
        let overrides = Overrides { workers: self.workers, ..self.changes.overrides() };
        let plan = Plan::checked(&self.config, &overrides, context.stages, Scope::Estimate).map_err(Error::new)?;
        if plan.goal == Goal::PrepareCorpus {
            if self.hosts.is_some() {
                return Err(Usage("--hosts is only for training: a corpus is prepared on one host".into()).into());
            }
            return match self.json {
                true => Err(Usage("preparing a corpus trains nothing, so --json has nothing to report".into()).into()),
                false => context.out.line(&prepare::explain::explain(&plan, None, explain::COLUMNS)?),
            };
        }
        let hosts = self.hosts.zip(self.network);
        let latency = self.latency.unwrap_or(LOCAL_NETWORK);
        let hosts = hosts.map(|(count, network)| Hosts { count: usize::from(count), network, latency });
        let explanation = explain::explain(&plan, hosts)?;
        if let (Some(path), Some(most)) = (&self.plot, &explanation.scaling) {
            let about = format!(
                "{}: hosts like this one, each with {} and a network of {}bit/s; {} tokens per step",
                self.config.display(),
                show::human::workers(most.workers_per_host),
                show::human::count(most.bits_per_second as u64),
                show::human::count(most.tokens_per_step),
            );
            report::plots(path, "Scaling", &about, &report::scaling(&explanation.by_hosts))?;
        }
        context.out.answer(self.json, &explanation, |_| {
            format!("{}\n\n{}", show::graph(&plan, explain::COLUMNS), explanation.render(explain::COLUMNS))
        })
    }
}

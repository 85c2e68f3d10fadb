//! `pipeline run`: trains, or prepares a corpus.
use super::{Changes, Command, Context};
use crate::hosts::net::listener::bind;
use crate::machine::{cores, end_with};
use crate::plan::{Overrides, Plan, Scope};
use crate::prepare;
use crate::problem::Usage;
use crate::train_run::hosts::HeadOptions;
use crate::train_run::{self, Interrupted, explain};
use anyhow::{Error, Result};
use clap::Args;
use contract::Goal;
use std::path::{Path, PathBuf};

/// Run a configuration: prepare data, train, write checkpoints
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pipeline run configs/wiki.toml --sample 100 --epochs 1
  pipeline run configs/wiki.toml --stage optimize=configs/stages/muon.toml
  pipeline run configs/wiki.toml --dry-run
  pipeline run configs/wiki.toml --resume
  pipeline run configs/wiki.toml --listen 0.0.0.0:7420")]
pub struct Run {
    /// What to train and where.
    #[command(flatten)]
    training: Training,
    /// Prepare the data and print estimates, without training
    #[arg(long, conflicts_with_all = ["resume", "listen"])]
    dry_run: bool,
    /// Stop after this many steps in all, with a checkpoint, as on SIGTERM; --resume
    /// goes on
    #[arg(long, value_name = "N", conflicts_with_all = ["dry_run", "listen"],
          value_parser = clap::value_parser!(u64).range(1..))]
    stop_after: Option<u64>,
    /// Stop, as on SIGTERM, when the process of this id ends, which has started this one
    #[arg(long, value_name = "PID", hide = true)]
    parent: Option<u32>,
    /// How other hosts take part.
    #[command(flatten)]
    hosts: Hosts,
}

/// Options of a training run, of one or several hosts.
#[derive(Debug, Args)]
pub struct Training {
    /// The configuration (TOML)
    #[arg(value_name = "CONFIG")]
    config: PathBuf,
    /// What it changes.
    #[command(flatten)]
    changes: Changes,
    /// Use a random sample: N files of a folder, or N documents of a file
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    sample: Option<u64>,
    /// Train for this many passes over the corpus
    #[arg(long, value_name = "N", value_parser = finite)]
    epochs: Option<f64>,
    /// Worker threads (default: one per physical core); does not affect results
    #[arg(long, value_name = "N")]
    workers: Option<usize>,
    /// Directory of the run (default: runs/<run.name>)
    #[arg(long, value_name = "DIR")]
    run_dir: Option<PathBuf>,
    /// Resume from the last checkpoint of the run, or from this one
    #[arg(long, value_name = "CHECKPOINT", num_args = 0..=1, require_equals = true)]
    resume: Option<Option<PathBuf>>,
    /// Print one line of JSON at the end: run, step, loss, bits_per_byte, checkpoint
    #[arg(long)]
    json: bool,
}

/// Options for the other hosts of a run.
#[derive(Debug, Args)]
struct Hosts {
    /// Let other hosts take part (`pipeline join`); they connect to this address
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<String>,
    /// Train only while there are at least N hosts, this one included
    #[arg(long, value_name = "N", requires = "listen", default_value_t = 1,
          value_parser = clap::value_parser!(u16).range(1..))]
    min_hosts: u16,
    /// Begin when there are N hosts, if that is more
    #[arg(long, value_name = "N", requires = "listen", default_value_t = 1,
          value_parser = clap::value_parser!(u16).range(1..))]
    first_hosts: u16,
    /// The secret that hosts must know (default: RUN_DIR/secret); created if missing
    #[arg(long, value_name = "FILE", requires = "listen")]
    secret_file: Option<PathBuf>,
    /// Steps between the commits in memory at which a run goes on without a lost host
    #[arg(long, value_name = "N", requires = "listen", default_value_t = COMMIT_EVERY,
          value_parser = clap::value_parser!(u64).range(1..))]
    commit_every: u64,
}

/// Steps between commits, if not given.
pub const COMMIT_EVERY: u64 = 10;
/// The file of the secret in a run directory.
pub const SECRET_FILE: &str = "secret";

/// A number, which is finite as those of configurations are.
fn finite(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    number.is_finite().then_some(number).ok_or_else(|| "not a finite number".to_owned())
}

impl Command for Run {
    const COMPUTES: bool = true;

    fn run(&self, context: &Context) -> Result<()> {
        self.parent.map(end_with).transpose()?;
        let scope = if self.dry_run { Scope::Estimate } else { Scope::Run };
        let ready = self.training.ready(context, scope)?;
        if ready.plan.goal == Goal::PrepareCorpus {
            return self.prepare(&ready, context);
        }
        if self.dry_run {
            let Ready { plan, run_dir, workers, .. } = ready;
            let (explanation, text) = train_run::dry_run(&plan, workers, &run_dir, context.line())?;
            return context.out.answer(self.training.json, &explanation, |_| text);
        }
        let hosts = self.hosts.listen.as_ref().map(|address| -> Result<_> {
            let secret = self.hosts.secret_file.clone().unwrap_or_else(|| ready.run_dir.join(SECRET_FILE));
            let Hosts { min_hosts, first_hosts, commit_every, .. } = self.hosts;
            let [min_hosts, first_hosts] = [min_hosts, first_hosts].map(usize::from);
            Ok(HeadOptions { socket: bind(address)?, secret, min_hosts, first_hosts, commit_every, hosts: Vec::new() })
        });
        ready.train(hosts.transpose()?, self.stop_after, self.training.json, context)
    }
}

/// A plan that can be run.
pub struct Ready {
    /// The plan.
    pub plan: Plan,
    /// The run directory.
    pub run_dir: PathBuf,
    /// What to resume from.
    resume: Option<Option<PathBuf>>,
    /// Number of workers.
    pub workers: usize,
}

impl Training {
    /// Loads and checks the plan.
    ///
    /// # Errors
    /// [`Problems`](crate::problem::Problems) and [`Usage`].
    pub fn ready(&self, context: &Context, scope: Scope) -> Result<Ready> {
        let mut resume = self.resume.clone();
        // The paths of a run that is resumed start where it began.
        let plan = match resume.is_some() {
            true => Plan::load(&self.config, &self.overrides(), context.stages),
            false => Plan::checked(&self.config, &self.overrides(), context.stages, scope),
        };
        let plan = plan.map_err(Error::new)?;
        let mut run_dir = self.run_dir.clone().unwrap_or_else(|| Path::new("runs").join(&plan.run.name));
        if resume.is_some() {
            let from = (std::path::absolute(&run_dir)?, resume.clone().flatten().map(std::path::absolute).transpose()?);
            if let Some(started_in) = train_run::directory::enter(&from.0)? {
                context
                    .say(&format!("note: relative paths start from {}, as when the run began", started_in.display()));
                (run_dir, resume) = (from.0, Some(from.1));
            }
            let begun = resume.iter().any(Option::is_some) || !train::checkpoint::list(&run_dir)?.is_empty();
            let scope = if begun { Scope::Resume } else { scope };
            plan.check_whole(context.stages, scope).map_err(Error::new)?;
        }
        let workers = plan.run.workers.unwrap_or_else(cores);
        Ok(Ready { plan, run_dir, resume, workers })
    }

    /// Whether to print the result as JSON.
    pub fn json(&self) -> bool {
        self.json
    }

    /// What the options change in the configuration.
    fn overrides(&self) -> Overrides {
        Overrides { sample: self.sample, epochs: self.epochs, workers: self.workers, ..self.changes.overrides() }
    }
}

impl Ready {
    /// The run in `run_dir`, which is resumed from its last checkpoint.
    pub fn resumed(plan: Plan, run_dir: PathBuf) -> Self {
        let workers = plan.run.workers.unwrap_or_else(cores);
        Self { plan, run_dir, resume: Some(None), workers }
    }

    /// Trains, with other hosts if there are `hosts`; not beyond `stop_after` updates.
    ///
    /// # Errors
    /// As [`train`](train_run::train).
    pub fn train(
        self,
        hosts: Option<HeadOptions>,
        stop_after: Option<u64>,
        json: bool,
        context: &Context,
    ) -> Result<()> {
        let Self { plan, run_dir, resume, workers } = self;
        let (stages, version) = (context.stages.to_vec(), context.version);
        let options = train_run::Options { resume, run_dir, workers, stop_after, stages, version };
        let trained = train_run::train(plan, &options, hosts, context.line());
        // A run that was stopped has results too.
        let has_results = trained.as_ref().err().is_none_or(|error| error.is::<Interrupted>());
        if json && has_results {
            context.out.json(&crate::run_files::look(&options.run_dir)?)?;
        }
        trained
    }
}

impl Run {
    fn prepare(&self, ready: &Ready, context: &Context) -> Result<()> {
        let Ready { plan, run_dir, workers, .. } = ready;
        let json = self.training.json;
        if self.training.resume.is_some() {
            let why =
                "--resume is only for training: run the preparation again without it, and it reuses finished work";
            return Err(Usage(why.into()).into());
        }
        if self.hosts.listen.is_some() {
            return Err(Usage("--listen is only for training: a corpus is prepared on one host".into()).into());
        }
        if self.stop_after.is_some() {
            return Err(Usage("--stop-after is only for training: a preparation has no steps".into()).into());
        }
        if self.dry_run && json {
            return Err(Usage("preparing a corpus trains nothing, so --json has nothing to report".into()).into());
        }
        if self.dry_run {
            return context.out.line(&prepare::explain::explain(plan, Some(run_dir), explain::COLUMNS)?);
        }
        let prepared = prepare::run(plan, run_dir, *workers, &mut context.line())?;
        if json { context.out.json(&prepared) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::parse;

    #[test]
    fn it_takes_its_options() {
        let line = "c.toml --set a.b=1 --set a.c=[1] --stage l=f.toml --sample 5 --epochs 1.5 --workers 2";
        let run: Run = parse(line).unwrap();
        let overrides = run.training.overrides();
        assert_eq!(overrides.set, ["a.b=1", "a.c=[1]"]);
        assert_eq!(overrides.stage, [("l".to_owned(), PathBuf::from("f.toml"))]);
        assert_eq!((overrides.sample, overrides.epochs, overrides.workers), (Some(5), Some(1.5), Some(2)));
        assert_eq!(run.training.resume, None);
    }

    #[test]
    fn resume_may_name_a_checkpoint() {
        let resume = |line| parse::<Run>(line).unwrap().training.resume;
        assert_eq!(resume("--resume c.toml"), Some(None));
        assert_eq!(resume("--resume=x c.toml"), Some(Some("x".into())));
    }
}

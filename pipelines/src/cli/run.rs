//! `pipeline run`: trains, or prepares a corpus.
use super::runs::look;
use super::{Changes, Command, Context};
use crate::machine::cores;
use crate::plan::{Overrides, Plan, Scope};
use crate::prepare;
use crate::problem::Usage;
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
  pipeline run configs/wiki.toml --resume")]
pub struct Run {
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
    /// Prepare the data and print estimates, without training
    #[arg(long, conflicts_with = "resume")]
    dry_run: bool,
    /// Print one line of JSON at the end: run, step, loss, bits_per_byte, checkpoint
    #[arg(long)]
    json: bool,
}

/// A number, which is finite as those of configurations are.
fn finite(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    number.is_finite().then_some(number).ok_or_else(|| "not a finite number".to_owned())
}

impl Command for Run {
    const COMPUTES: bool = true;

    fn run(&self, context: &Context) -> Result<()> {
        let (scope, mut resume) = (if self.dry_run { Scope::Estimate } else { Scope::Run }, self.resume.clone());
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
        if plan.goal == Goal::PrepareCorpus {
            return self.prepare(&plan, &run_dir, workers, context);
        }
        if self.dry_run {
            let (explanation, text) = train_run::dry_run(&plan, workers, &run_dir, context.line())?;
            return context.out.answer(self.json, &explanation, |_| text);
        }
        let program = format!("millrace {}", context.version);
        let options = train_run::Options { resume, run_dir, workers, stages: context.stages.to_vec(), program };
        let trained = train_run::train(plan, &options, context.line());
        // A run that was stopped has results too.
        let has_results = trained.as_ref().err().is_none_or(|error| error.is::<Interrupted>());
        if self.json && has_results {
            context.out.json(&look(&options.run_dir)?)?;
        }
        trained
    }
}

impl Run {
    /// What the options change in the configuration.
    fn overrides(&self) -> Overrides {
        Overrides { sample: self.sample, epochs: self.epochs, workers: self.workers, ..self.changes.overrides() }
    }

    fn prepare(&self, plan: &Plan, run_dir: &Path, workers: usize, context: &Context) -> Result<()> {
        if self.resume.is_some() {
            let why =
                "--resume is only for training: run the preparation again without it, and it reuses finished work";
            return Err(Usage(why.into()).into());
        }
        if self.dry_run && self.json {
            return Err(Usage("preparing a corpus trains nothing, so --json has nothing to report".into()).into());
        }
        if self.dry_run {
            return context.out.line(&prepare::explain::explain(plan, Some(run_dir), explain::COLUMNS)?);
        }
        let prepared = prepare::run(plan, run_dir, workers, &mut context.line())?;
        if self.json { context.out.json(&prepared) } else { Ok(()) }
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
        let overrides = run.overrides();
        assert_eq!(overrides.set, ["a.b=1", "a.c=[1]"]);
        assert_eq!(overrides.stage, [("l".to_owned(), PathBuf::from("f.toml"))]);
        assert_eq!((overrides.sample, overrides.epochs, overrides.workers), (Some(5), Some(1.5), Some(2)));
        assert_eq!(run.resume, None);
    }

    #[test]
    fn resume_may_name_a_checkpoint() {
        let resume = |line| parse::<Run>(line).unwrap().resume;
        assert_eq!(resume("--resume c.toml"), Some(None));
        assert_eq!(resume("--resume=x c.toml"), Some(Some("x".into())));
    }
}

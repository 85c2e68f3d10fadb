//! `pipeline experiment`: several runs, compared.
use super::{Changes, Command, Context};
use crate::experiment::cells::{self, variants};
use crate::experiment::children::RunPaths;
use crate::experiment::file;
use crate::experiment::forecast::{Whole, forecast};
use crate::experiment::halving::Halving;
use crate::experiment::measured::{Measured, Variant};
use crate::experiment::runner::{self, Failed, Folder};
use crate::experiment::text::text;
use crate::experiment::verdict::{Comparison, compare};
use crate::plan::{Overrides, Scope};
use crate::report::overlay;
use crate::train_run::Interruption;
use anyhow::{Error, Result, bail};
use clap::Args;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Run every arm of an experiment with every seed, and compare them
#[derive(Debug, Args)]
#[command(after_help = "The file has `extends`, seeds, arms that change stages or keys, and a grid
of values; docs/experiments.md describes it. Finished runs are not repeated.

Examples:
  pipeline experiment configs/experiments/optimizers.toml --dry-run
  pipeline experiment configs/experiments/learning-rates.toml")]
pub struct Experiment {
    /// The file of the experiment (TOML)
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// What changes in all runs.
    #[command(flatten)]
    changes: Changes,
    /// Worker threads of each run (default: one per physical core, at most one per
    /// micro-batch)
    #[arg(long, value_name = "N")]
    workers: Option<usize>,
    /// Folder of the experiment (default: runs/ and the name of the file)
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Prepare the data and say what the experiment will take, without training
    #[arg(long)]
    dry_run: bool,
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
}

/// The result, as JSON.
#[derive(Serialize)]
struct Answer<'a> {
    experiment: &'a str,
    page: String,
    failed: Vec<&'a str>,
    #[serde(flatten)]
    comparison: &'a Comparison,
}

impl Command for Experiment {
    const COMPUTES: bool = true;

    fn run(&self, context: &Context) -> Result<()> {
        let file = file::load(&self.file).map_err(Error::new)?;
        let overrides = Overrides { workers: self.workers, ..self.changes.overrides() };
        let scope = if self.dry_run { Scope::Estimate } else { Scope::Run };
        let variants = variants(&file);
        let cells = cells::cells(&file, &variants, &overrides, context.stages, scope).map_err(Error::new)?;
        let name = self.file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let folder = self.dir.clone().unwrap_or_else(|| Path::new("runs").join(&name));
        let interruption = Interruption::at_once()?;
        let names: Vec<&str> = variants.iter().map(|variant| variant.name.as_str()).collect();
        let experiment = cells::Experiment { cells: &cells, names: &names, halving: &file.halving };
        let whole = forecast(&experiment, &folder, context.stages, &mut context.line())?;
        if self.dry_run {
            return context.out.answer(self.json, &whole, |_| dry(&whole));
        }
        context.say(&whole.text());
        let locked = Folder::open(&folder)?;
        let failed = match whole.finished + whole.stopped < whole.runs {
            true => runner::run(&experiment, &whole, &locked, &interruption, context.line())?,
            false => Vec::new(),
        };
        let measured = variants.iter().enumerate().map(|(index, variant)| {
            let runs = cells.iter().filter(|cell| cell.variant == index);
            let runs = runs.map(|cell| Measured::read(&RunPaths::of(&folder, &cell.name).run_dir, cell.seed));
            Ok(Variant { name: variant.name.clone(), runs: runs.collect::<Result<_>>()? })
        });
        let has_failed = |name: &str| failed.iter().any(|failed| failed.run == name);
        let rungs = Halving::so_far(&experiment, &folder, has_failed)?.rungs;
        let comparison = compare(&measured.collect::<Result<Vec<_>>>()?, file.target_loss, file.detect, rungs);
        let page = folder.join(overlay::OVERLAY_FILE);
        overlay::write(&page, &name, &comparison)?;
        let page = page.display().to_string();
        let failures = failed.iter().map(|failed| failed.run.as_str()).collect();
        let answer = Answer { experiment: &name, page: page.clone(), failed: failures, comparison: &comparison };
        context
            .out
            .answer(self.json, &answer, |columns| format!("{}\nThe page is {page}", text(&comparison, columns)))?;
        complain(&failed)
    }
}

/// What an experiment will take, with a line for each run.
fn dry(whole: &Whole) -> String {
    let state = |run: &crate::experiment::forecast::Forecast| match (run.finished, run.done) {
        (true, _) => "finished".to_owned(),
        _ if run.stopped => "stopped by halving".to_owned(),
        (_, 0) => format!("{} steps", run.steps),
        (_, done) => format!("{} of {} steps", run.steps - done, run.steps),
    };
    let runs: String = whole.each.iter().map(|run| format!("  {}: {}\n", run.run, state(run))).collect();
    format!("{runs}{}\nnothing was trained", whole.text())
}

/// An error if runs have failed.
fn complain(failed: &[Failed]) -> Result<()> {
    if failed.is_empty() {
        return Ok(());
    }
    let list: String = failed.iter().map(|one| format!("\n  {}: {}", one.run, one.why)).collect();
    bail!("{} runs failed; the same command tries them again:{list}", failed.len())
}

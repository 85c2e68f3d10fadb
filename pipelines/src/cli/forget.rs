//! `pipeline forget`: withdraws documents from a run.
use super::run::Ready;
use super::{Command, Context};
use crate::plan::{Plan, Scope};
use crate::problem::Usage;
use crate::run_files::require_run;
use crate::show::human::{count, facts, hang, printable, time};
use crate::train_run::directory::{self, CONFIG_FILE};
use crate::train_run::forget::{Cause, Cost, Options, assess};
use anyhow::{Context as _, Error, Result};
use clap::Args;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

/// Documents that are listed; JSON lists all.
const LISTED: usize = 5;

/// Withdraw documents from a run: it becomes one that never had them
#[derive(Debug, Args)]
#[command(after_help = "Says what it takes, goes back to the last checkpoint that has learned nothing of
what changes without the documents, removes the later ones, and trains from
there. The result has the bits of a run that never had the documents. Documents
are named by id, URL or title. If it is interrupted, the same command goes on.

Examples:
  pipeline forget runs/wiki --document \"Mill 7\" --dry-run
  pipeline forget runs/wiki --document \"Mill 7\" --document \"Mill 9\" --json")]
pub struct Forget {
    /// The run directory
    #[arg(value_name = "RUN")]
    run: PathBuf,
    /// Withdraw this document; can be given several times
    #[arg(long, value_name = "ID")]
    document: Vec<String>,
    /// Withdraw the documents in this file, one a line
    #[arg(long, value_name = "FILE")]
    list: Option<PathBuf>,
    /// Where the data of a source is now, if it was prepared again without
    /// documents: --set read.paths=corpus/v2/documents-*.parquet
    #[arg(long, value_name = "SOURCE.paths=PATHS")]
    set: Vec<String>,
    /// Only say what it takes
    #[arg(long)]
    dry_run: bool,
    /// Change the run directory, and do not train
    #[arg(long, conflicts_with = "dry_run")]
    no_train: bool,
    /// Worker threads (default: one per physical core); does not affect results
    #[arg(long, value_name = "N")]
    workers: Option<NonZeroUsize>,
    /// Print one line of JSON before training, and one after it, like `run`
    #[arg(long)]
    json: bool,
}

impl Command for Forget {
    const COMPUTES: bool = true;

    fn run(&self, context: &Context) -> Result<()> {
        require_run(&self.run)?;
        let mut documents = self.document.clone();
        if let Some(path) = &self.list {
            let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            documents.extend(text.lines().filter(|line| !line.is_empty()).map(str::to_owned));
            if documents.is_empty() {
                return Err(Usage(format!("{} names no document: write an id on each line", path.display())).into());
            }
        }
        let workers = self.workers.map(NonZeroUsize::get);
        if documents.is_empty() && self.set.is_empty() {
            let why = "name the documents to withdraw with --document or --list, or new paths of the data with --set";
            return Err(Usage(why.into()).into());
        }
        let (set, dry_run, stages) = (&self.set, self.dry_run, context.stages);
        let options = Options { documents: &documents, set, dry_run, workers, stages };
        let forgetting = assess(&self.run, &options, context.line())?;
        context.out.answer(self.json, &forgetting.cost, |columns| text(&forgetting.cost, columns))?;
        if dry_run {
            return Ok(());
        }
        let run = forgetting.carry_out(context.line())?;
        if self.no_train {
            return Ok(());
        }
        let begun = !train::checkpoint::list(&run)?.is_empty();
        let scope = if begun { Scope::Resume } else { Scope::Run };
        let overrides = directory::overrides(&run, None, workers)?;
        let plan = Plan::checked(&run.join(CONFIG_FILE), &overrides, context.stages, scope).map_err(Error::new)?;
        Ready::resumed(plan, run).train(None, None, self.json, context)
    }
}

/// What it takes, in lines of at most `columns` columns.
fn text(cost: &Cost, columns: usize) -> String {
    let done = cost.done;
    let affected = match cost.first_affected {
        None => format!("none of {done} steps so far"),
        Some(step) => format!("steps {step} to {done} so far{}", cause(cost.cause)),
    };
    let back = match cost.from {
        0 => "the beginning: there is no checkpoint before".to_owned(),
        from => format!("the checkpoint after step {from}"),
    };
    let duration = cost.seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let about = duration.map(|duration| format!(", about {}", time(duration))).unwrap_or_default();
    let repeated = match cost.repeated_steps {
        0 => format!("none of {done} steps"),
        steps => format!("{steps} of {done} steps{about}"),
    };
    let more = match cost.added_documents {
        0 => String::new(),
        added => format!(", {} more", count(added)),
    };
    let validation = if cost.validation_changes { "; other validation documents" } else { "" };
    let fewer = match cost.removed_documents {
        1 => "1 training document fewer".to_owned(),
        n => format!("{} training documents fewer", count(n)),
    };
    let documents = format!("{fewer}{more}{validation}");
    let withdrawn = match &cost.withdrawn[..] {
        [] => None,
        all => {
            let ids: Vec<String> = all.iter().take(LISTED).map(|one| printable(&one.id).into_owned()).collect();
            let more = all.len() - ids.len();
            let more = if more > 0 { format!(" and {} more", count(more as u64)) } else { String::new() };
            Some(("Without", format!("{}{more}", ids.join(", "))))
        }
    };
    let rest = [("Changes", documents), ("Affects", affected), ("Back to", back), ("Repeats", repeated)];
    let mut lines = facts(&withdrawn.into_iter().chain(rest).collect::<Vec<_>>(), columns);
    lines.extend(cost.notes.iter().map(|note| hang(&format!("note: {}", printable(note)), columns)));
    lines.join("\n")
}

/// Why a step differs.
fn cause(cause: Option<Cause>) -> &'static str {
    match cause {
        None | Some(Cause::Documents) => "",
        Some(Cause::Tokenizer) => {
            ": the tokenizer was trained on the documents, so everything is trained again; with a tokenizer from a file \
             (`tokenizer`), only what follows the documents would be"
        }
        Some(Cause::LearningRate) => {
            ": the length of the run follows from its documents, and its learning rate from the length; set `max_steps` \
             or `schedule_steps` to avoid that"
        }
        Some(Cause::Length) => ": the run becomes shorter, as its length follows from its documents",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train_run::forget::Withdrawal;

    #[test]
    fn the_cost_fits_a_terminal() {
        let of = |id: &str| Withdrawal { source: "read".into(), id: id.into() };
        let cost = Cost {
            run: "runs/wiki".into(),
            withdrawn: (1..8).map(|n| of(&format!("enwiki-{n}"))).collect(),
            removed_documents: 6,
            added_documents: 0,
            validation_changes: true,
            done: 1234,
            steps: 2000,
            first_affected: Some(1000),
            cause: Some(Cause::Documents),
            from: 900,
            repeated_steps: 334,
            seconds: Some(75.0),
            notes: vec![
                "the files of the corpus stay as they are, and so do texts in the cache (/home/me/.cache)".into(),
            ],
        };
        insta::assert_snapshot!(text(&cost, 80), @r"
        Without  enwiki-1, enwiki-2, enwiki-3, enwiki-4, enwiki-5 and 2 more
        Changes  6 training documents fewer; other validation documents
        Affects  steps 1000 to 1234 so far
        Back to  the checkpoint after step 900
        Repeats  334 of 1234 steps, about 75.0 s
        note: the files of the corpus stay as they are, and so do texts in the cache
          (/home/me/.cache)
        ");
        let again = Cost { first_affected: Some(1), cause: Some(Cause::Tokenizer), from: 0, ..cost };
        assert!(text(&again, 80).lines().all(|line| line.chars().count() <= 80));
    }
}

//! `pipeline verify`: replays parts of a run and compares.
use super::{Command, Context};
use crate::run_files::require_run;
use crate::show::human::{count, hang, time};
use crate::show::{Align, table};
use crate::train_run::verify::{Difference, Options, Replayed, Verification, verify};
use anyhow::{Result, anyhow, bail};
use clap::Args;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

/// Replay parts of a run and compare the results with what it has recorded
#[derive(Debug, Args)]
#[command(after_help = "A part is from one checkpoint that the run has kept to the next, or from the
beginning to the first one. Metrics and all files of checkpoints must have the
same bits, with any number of workers. Exit code 1 if anything differs.

Examples:
  pipeline verify runs/wiki
  pipeline verify runs/wiki --spans 2 --workers 1 --json")]
pub struct Verify {
    /// The run directory
    #[arg(value_name = "RUN")]
    run: PathBuf,
    /// How many parts to replay, chosen at random
    #[arg(long, value_name = "N", default_value = "5")]
    spans: NonZeroUsize,
    /// Replay the parts that a verification with this seed chose (default: a
    /// random one)
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Worker threads (default: one per physical core); does not affect results
    #[arg(long, value_name = "N")]
    workers: Option<NonZeroUsize>,
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
}

impl Command for Verify {
    const COMPUTES: bool = true;

    fn run(&self, context: &Context) -> Result<()> {
        require_run(&self.run)?;
        let seed = match self.seed {
            Some(seed) => seed,
            None => getrandom::u32().map(u64::from).map_err(|error| anyhow!("no random numbers: {error}"))?,
        };
        let workers = self.workers.map(NonZeroUsize::get);
        let options = Options { spans: self.spans.get(), seed, workers, stages: context.stages };
        let found = verify(&self.run, &options, context.line())?;
        context.out.answer(self.json, &found, |columns| text(&found, columns))?;
        if !found.identical {
            bail!("the run {} does not come out as it was recorded", self.run.display());
        }
        Ok(())
    }
}

/// The result in lines of at most `columns` columns.
fn text(found: &Verification, columns: usize) -> String {
    let heads = [("from step", Align::Right), ("to", Align::Right), ("result", Align::Left), ("took", Align::Right)];
    let result = |span: &Replayed| if span.identical() { "identical" } else { "differs" };
    let took = |span: &Replayed| time(Duration::try_from_secs_f64(span.seconds).unwrap_or_default());
    let row = |span: &Replayed| vec![span.from.to_string(), span.to.to_string(), result(span).into(), took(span)];
    let mut lines = vec![table(&heads, &found.spans.iter().map(row).collect::<Vec<_>>(), columns)];
    lines.extend(found.spans.iter().filter(|span| !span.identical()).map(|span| hang(&difference(span), columns)));
    lines.extend(found.notes.iter().map(|note| hang(&format!("note: {note}"), columns)));
    let (done, all) = (count(found.replayed_steps), count(found.steps));
    let share = 100.0 * found.replayed_steps as f64 / found.steps.max(1) as f64;
    let summary = format!(
        "{} of {} parts replayed, {done} of {all} steps ({share:.0} %); the same parts again: --seed {}",
        found.spans.len(),
        found.available,
        found.seed
    );
    lines.push(hang(&summary, columns));
    lines.join("\n")
}

/// What differs in a part.
fn difference(span: &Replayed) -> String {
    let metric = span.first_difference.as_ref().map(|Difference { step, metric, recorded, replayed }| {
        let said = if recorded.is_null() { "is not recorded".into() } else { format!("was {recorded}") };
        let now = if replayed.is_null() { "and is missing now".into() } else { format!("and is {replayed}") };
        format!("{metric} of step {step} {said} {now}")
    });
    let files = (!span.differing_files.is_empty())
        .then(|| format!("other files in the checkpoint after step {}: {}", span.to, span.differing_files.join(", ")));
    let what: Vec<String> = metric.into_iter().chain(files).collect();
    format!("steps {} to {}: {}", span.from, span.to, what.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_named() {
        let span = |from, first_difference, differing_files| Replayed {
            from,
            to: from + 200,
            first_difference,
            differing_files,
            seconds: 12.3,
        };
        let difference = Difference { step: 412, metric: "loss".into(), recorded: 2.25.into(), replayed: 2.5.into() };
        let found = Verification {
            run: "runs/wiki".into(),
            identical: false,
            spans: vec![
                span(0, None, Vec::new()),
                span(400, Some(difference), vec!["model.safetensors".into(), "optimizer.safetensors".into()]),
            ],
            available: 3,
            replayed_steps: 400,
            steps: 600,
            seed: 7,
            notes: vec!["GEMM ran on a before and runs on b now: results will differ in the last bits".into()],
        };
        insta::assert_snapshot!(text(&found, 80), @r"
        from step   to  result       took
                0  200  identical  12.3 s
              400  600  differs    12.3 s
        steps 400 to 600: loss of step 412 was 2.25 and is 2.5; other files in the
          checkpoint after step 600: model.safetensors, optimizer.safetensors
        note: GEMM ran on a before and runs on b now: results will differ in the last
          bits
        2 of 3 parts replayed, 400 of 600 steps (67 %); the same parts again: --seed 7
        ");
    }
}

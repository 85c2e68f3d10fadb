//! `pipeline evaluate`: validation loss of the last checkpoint of a run.
use super::{Command, Context};
use crate::engine::{Job, execute};
use crate::machine::cores;
use crate::plan::{Overrides, Plan, Scope};
use crate::prepare_stages::prepare;
use crate::problem::Usage;
use crate::show::human::count;
use crate::train_run::session::Session;
use crate::train_run::{choose_gemm, directory};
use anyhow::{Context as _, Result};
use clap::Args;
use contract::Schedule;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use train::record::{Report, Reporter, StepLine};
use train::weights::Start;

/// Measure a trained run on its validation split
#[derive(Debug, Args)]
#[command(after_help = "Example: pipeline evaluate runs/wiki --json")]
pub struct Evaluate {
    /// The run's directory
    #[arg(value_name = "RUN")]
    run: PathBuf,
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
}

impl Command for Evaluate {
    const COMPUTES: bool = true;

    fn run(&self, context: &Context) -> Result<()> {
        let found = evaluate(&self.run, context)?;
        context.out.answer(self.json, &found, |_| found.text())
    }
}

/// The output of `pipeline evaluate`.
#[derive(Clone, Debug, Serialize)]
struct Evaluated {
    /// The run's directory.
    pub run: String,
    /// Number of updates of the checkpoint.
    pub step: u64,
    /// Mean cross-entropy in nats per token.
    pub validation_loss: f64,
    /// Bits per byte of text; `None` if only tokens are available.
    pub bits_per_byte: Option<f64>,
    /// Held-out documents, their tokens and their bytes.
    pub documents: u64,
    /// Tokens of the held-out documents.
    pub tokens: u64,
    /// Bytes of the held-out documents.
    pub bytes: u64,
}

/// Evaluates the last checkpoint of a run.
///
/// # Errors
/// If there is no run or no checkpoint, or if its input is missing or has changed.
fn evaluate(run: &Path, context: &Context) -> Result<Evaluated> {
    let at = run.display();
    if !run.join(directory::CONFIG_FILE).exists() {
        return Err(Usage::of(run, &format!("is not a run: it has no {}", directory::CONFIG_FILE)).into());
    }
    let absolute = std::path::absolute(run)?;
    let run = if directory::enter(&absolute)?.is_some() { &absolute } else { run };
    let config = run.join(directory::CONFIG_FILE);
    let Some((checkpoint, state)) = directory::resumed(run, None)? else {
        return Err(Usage(format!("{at} has no checkpoint yet; see `checkpoint.interval`")).into());
    };
    let plan = Plan::checked(&config, &Overrides::default(), context.stages, Scope::Evaluate);
    let mut plan = plan.map_err(anyhow::Error::new)?;
    let workers = plan.run.workers.unwrap_or_else(cores);
    choose_gemm(&plan)?;
    let mut line = context.line();
    let prepared = prepare(&plan, directory::known(run)?, workers, &mut line)?;
    line.finish();
    let mut session = Session::new(&plan, prepared, workers, None)?;
    directory::compare(&checkpoint, state.fingerprint.as_ref(), &session.fingerprint)?;
    let corpus = session.env.corpus.unwrap_or_default();
    if corpus.validation.rows == 0 {
        return Err(Usage("there are no validation documents to evaluate on".into()).into());
    }
    // One step that only validates.
    session.env.schedule = Schedule { first: state.step, steps: state.step, evaluate: Some(1), checkpoint: None };
    session.env.resources.insert(Arc::new(Start::Weights(checkpoint)));
    let seen = Arc::new(Mutex::new(None));
    session.env.resources.insert(Arc::new(Reporter(Box::new(Last(Arc::clone(&seen))))));
    let stages = std::mem::take(&mut plan.stages);
    execute(Job { stages, env: session.env, saved: Vec::new(), prefetch: plan.run.prefetch })?;
    let last = seen.lock().unwrap_or_else(|e| e.into_inner()).take();
    let last: StepLine = last.context("the configuration has no `evaluate` or no `record` stage")?;
    Ok(Evaluated {
        run: at.to_string(),
        step: state.step,
        validation_loss: last.validation_loss.context("nothing was validated")?,
        bits_per_byte: last.bits_per_byte,
        documents: corpus.validation.rows,
        tokens: corpus.validation.tokens,
        bytes: corpus.validation.bytes,
    })
}

impl Evaluated {
    fn text(&self) -> String {
        let mut text = format!(
            "{} after {} steps\n  validation data  {} documents, {} tokens\n  validation loss  {:.4} nats per token",
            self.run,
            self.step,
            count(self.documents),
            count(self.tokens),
            self.validation_loss
        );
        if let Some(bits) = self.bits_per_byte {
            text += &format!("\n  bits per byte    {bits:.4}");
        }
        text
    }
}

struct Last(Arc<Mutex<Option<StepLine>>>);

impl Report for Last {
    fn step(&self, _line: &StepLine) {}
    fn validated(&self, line: &StepLine) {
        *self.0.lock().unwrap_or_else(|e| e.into_inner()) = Some(line.clone());
    }
}

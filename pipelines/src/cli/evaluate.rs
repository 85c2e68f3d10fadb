//! `pipeline evaluate`: validation loss of a run's last checkpoint, or of any model on any files.
use super::options::Precision;
use super::{Command, Context};
use crate::pretrained::find;
use crate::problem::Usage;
use crate::show::human::{bytes, count};
use crate::train_run::directory;
use crate::train_run::evaluate::{Data, Evaluation, Options, of_folder, of_run};
use anyhow::Result;
use clap::Args;
use serde::Serialize;
use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use train::record::SourceLine;

/// Measure a model on a run's validation split or on any text
#[derive(Debug, Args)]
#[command(after_help = "Every document is evaluated alone, and each of its tokens counts once. Plain text
is split at blank lines into documents of at least 4 KiB.

Examples:
  pipeline evaluate runs/wiki --json
  pipeline evaluate runs/wiki --stride 64
  pipeline evaluate runs/wiki --precision int8
  pipeline evaluate runs/wiki --data data/cache/wiki --json")]
pub struct Evaluate {
    /// A run; with --data also a checkpoint, ours or Hugging Face's
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// Evaluate on all documents of these files, not on the run's held-out ones
    #[arg(long, value_name = "FILE", num_args = 1..)]
    data: Vec<String>,
    /// The column or key with the text [default: text]
    #[arg(long, value_name = "NAME", requires = "data")]
    column: Option<String>,
    /// Tokens between the windows of a long document; fewer: more context for
    /// each token [default: evaluate.stride, or the length of a window]
    #[arg(long, value_name = "N")]
    stride: Option<NonZeroUsize>,
    /// Precision of matrix products [default: that of the run, with --data f32]
    #[arg(long, value_enum)]
    precision: Option<Precision>,
    /// Threads (default: one per core); does not affect the result
    #[arg(long, value_name = "N")]
    workers: Option<NonZeroUsize>,
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
}

impl Command for Evaluate {
    const COMPUTES: bool = true;

    fn run(&self, context: &Context) -> Result<()> {
        let found = self.evaluate(context)?;
        context.out.answer(self.json, &found, |_| found.text())
    }
}

/// The output of `pipeline evaluate`.
#[derive(Clone, Debug, Serialize)]
struct Evaluated {
    /// The model as it was named.
    model: String,
    /// The folder with its weights.
    checkpoint: String,
    /// Number of updates of the checkpoint, if it is one of a run.
    step: Option<u64>,
    /// The files; the run's held-out documents if empty.
    data: Vec<String>,
    /// Mean cross-entropy in nats per token.
    validation_loss: f64,
    /// Bits per byte of text; `None` if only tokens are available.
    bits_per_byte: Option<f64>,
    /// The same by source, in a run that mixes several.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    sources: BTreeMap<String, Validated>,
    /// Number of documents.
    documents: u64,
    /// Their tokens, each with one that ends it.
    tokens: u64,
    /// Their bytes.
    bytes: u64,
    /// Precision of matrix products.
    precision: contract::Precision,
    /// The length of a window, in tokens.
    context: usize,
    /// Tokens between the beginnings of windows.
    stride: usize,
}

impl Evaluate {
    fn evaluate(&self, context: &Context) -> Result<Evaluated> {
        let (stride, workers) = (self.stride.map(NonZeroUsize::get), self.workers.map(NonZeroUsize::get));
        let precision = self.precision.map(Into::into);
        let options = Options { stride, precision, workers, stages: context.stages };
        let found = if self.data.is_empty() {
            self.check_run()?;
            of_run(&self.model, &options, context.line())?
        } else {
            let data = Data { paths: &self.data, column: self.column.as_deref() };
            of_folder(&find(&self.model)?, &data, &options, context.line())?
        };
        let Evaluation { checkpoint, step, loss, bits_per_byte, sources, part, precision, context, stride } = found;
        Ok(Evaluated {
            model: self.model.display().to_string(),
            checkpoint: checkpoint.display().to_string(),
            step,
            data: self.data.clone(),
            validation_loss: loss,
            bits_per_byte,
            sources: sources.into_iter().filter_map(|(source, line)| Some((source, Validated::of(&line)?))).collect(),
            documents: part.rows,
            tokens: part.tokens,
            bytes: part.bytes,
            precision,
            context,
            stride,
        })
    }

    /// Only a run has held-out documents.
    fn check_run(&self) -> Result<()> {
        let model: &Path = &self.model;
        if model.join(directory::CONFIG_FILE).exists() {
            return Ok(());
        }
        let why = match model.join("config.json").exists() {
            true => "is a model without held-out documents: give files with --data".to_owned(),
            false => format!("is not a run: it has no {}", directory::CONFIG_FILE),
        };
        Err(Usage::of(model, &why).into())
    }
}

impl Evaluated {
    fn text(&self) -> String {
        let step = self.step.map(|step| format!(" after {step} steps")).unwrap_or_default();
        let on = if self.data.is_empty() { "held-out documents".to_owned() } else { self.data.join(", ") };
        let stride = if self.stride < self.context { format!(", {} apart", self.stride) } else { String::new() };
        let mut text = format!(
            "{}{step}\n  data             {on}: {} documents, {} tokens, {}\n  \
             windows          {} tokens{stride}\n  precision        {}\n  validation loss  {:.4} nats per token",
            self.model,
            count(self.documents),
            count(self.tokens),
            bytes(self.bytes),
            self.context,
            self.precision,
            self.validation_loss
        );
        if let Some(bits) = self.bits_per_byte {
            text += &format!("\n  bits per byte    {bits:.4}");
        }
        for (source, Validated { validation_loss, bits_per_byte }) in &self.sources {
            let bits = bits_per_byte.map(|bits| format!(", {bits:.4} bits per byte")).unwrap_or_default();
            text += &format!("\n    {source:<15}{validation_loss:.4} nats per token{bits}");
        }
        text
    }
}

/// The result for a source.
#[derive(Clone, Debug, Serialize)]
struct Validated {
    /// Mean cross-entropy in nats per token.
    validation_loss: f64,
    /// Bits per byte of text; `None` if only tokens are available.
    bits_per_byte: Option<f64>,
}

impl Validated {
    fn of(line: &SourceLine) -> Option<Self> {
        Some(Self { validation_loss: line.validation_loss?, bits_per_byte: line.bits_per_byte })
    }
}

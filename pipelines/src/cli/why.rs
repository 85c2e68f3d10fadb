//! `pipeline why`: which documents are in a step, and which steps have seen a document.
use super::{Command, Context};
use crate::run_files::require_run;
use crate::show::human::{hang, printable};
use crate::train_run::why::{Answer, InStep, OfDocument, OfDocuments, OfStep, Passage, Question, why};
use anyhow::Result;
use clap::Args;
use contract::Step;
use std::path::PathBuf;
use text::About;

/// Parts of a document that are listed; JSON lists all.
const LISTED_PARTS: usize = 8;
/// Documents with a text that are listed; JSON lists all.
const LISTED_DOCUMENTS: usize = 10;

/// Show which documents are in a step of a run, or which steps have seen a
/// document or a text
#[derive(Debug, Args)]
#[command(after_help = "Steps are counted from 1, as in metrics.jsonl. A sequence has the tokens that the
model reads and the one after them, its last target. Documents are named by id,
URL or title. Nothing is recorded for this: it follows from the configuration
and the data, which must still be those of the run.

Examples:
  pipeline why runs/wiki --step 40
  pipeline why runs/wiki --document \"Mill 7\" --json
  pipeline why runs/wiki --text \"the river\"")]
pub struct Why {
    /// The run directory
    #[arg(value_name = "RUN")]
    run: PathBuf,
    #[command(flatten)]
    question: Asked,
    /// Print one line of JSON, with everything
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Asked {
    /// Show the documents in this step
    #[arg(long, value_name = "N")]
    step: Option<Step>,
    /// Show what has become of this document, and the steps that have seen it
    #[arg(long, value_name = "ID")]
    document: Option<String>,
    /// Show the documents with this text, and the steps that have seen it
    #[arg(long, value_name = "TEXT")]
    text: Option<String>,
}

impl Asked {
    fn question(&self) -> Question {
        match (self.step, &self.document, &self.text) {
            (Some(step), ..) => Question::Step(step),
            (_, Some(name), _) => Question::Document(name.clone()),
            (.., text) => Question::Text(text.clone().unwrap_or_default()),
        }
    }
}

impl Command for Why {
    fn run(&self, context: &Context) -> Result<()> {
        require_run(&self.run)?;
        let answer = why(&self.run, &self.question.question(), context.stages, context.line())?;
        context.out.answer(self.json, &answer, |columns| match &answer {
            Answer::Step(step) => of_step(step, columns),
            Answer::Documents(documents) => of_documents(documents, columns),
        })
    }
}

fn of_step(answer: &OfStep, columns: usize) -> String {
    let OfStep { step, steps, sequences, sequence_length, documents, .. } = answer;
    let when = if answer.trained { "" } else { ", not trained yet" };
    let of = documents.len();
    let head =
        format!("step {step} of {steps}{when}: {sequences} sequences of {sequence_length} tokens, of {of} documents");
    let mut lines = vec![hang(&head, columns)];
    for InStep { source, about, document_tokens, passages, .. } in documents {
        lines.extend(heading(source, about, columns));
        lines.extend(listed(passages, columns, |passage| format!("{} of {document_tokens}", place(passage))));
    }
    lines.join("\n")
}

fn of_documents(answer: &OfDocuments, columns: usize) -> String {
    let mut lines = Vec::new();
    for of in answer.documents.iter().take(LISTED_DOCUMENTS) {
        lines.extend(heading(&of.source, &of.about, columns));
        lines.extend(of.excerpt.as_ref().map(|excerpt| hang(&format!("  “{}”", printable(excerpt)), columns)));
        lines.push(hang(&format!("  {}", fate(of, answer.steps)), columns));
        lines.extend(listed(&of.seen, columns, |seen| format!("step {}: {}", seen.step, place(&seen.passage))));
    }
    let more = answer.documents.len().saturating_sub(LISTED_DOCUMENTS);
    lines.extend((more > 0).then(|| hang(&format!("and {more} more documents; --json lists all"), columns)));
    lines.join("\n")
}

/// What has become of a document.
fn fate(of: &OfDocument, steps: Step) -> String {
    let tokens = of.document_tokens;
    let times = match of.times {
        Some(times @ 2..) => format!("; the text occurs {times} times, the first of them"),
        _ => ";".into(),
    };
    match (of.fate, &of.why) {
        ("train", _) => {
            let mut seen: Vec<Step> = of.seen.iter().map(|seen| seen.step).collect();
            seen.dedup();
            let seen = match seen.len() {
                0 => format!("not seen in {steps} steps so far"),
                1 => format!("seen in 1 of {steps} steps"),
                n => format!("seen in {n} of {steps} steps"),
            };
            format!("training document of {tokens} tokens{times} {seen}")
        }
        ("validation", _) => format!("validation document of {tokens} tokens: never trained on"),
        (_, why) => format!("not used: {}", why.as_deref().unwrap_or_default()),
    }
}

/// Title, id and origin of a document.
fn heading(source: &str, about: &About, columns: usize) -> Vec<String> {
    let About { id, title, url, revision, collection, file } = about;
    let name = if title.is_empty() { id } else { title };
    let mut origin = vec![id.clone()];
    origin.extend(revision.map(|revision| format!("revision {revision}")));
    origin.push(format!("{collection}, {file}"));
    origin.push(format!("source `{source}`"));
    let mut lines =
        vec![hang(&printable(name), columns), hang(&format!("  {}", printable(&origin.join("; "))), columns)];
    lines.extend(url.as_ref().map(|url| hang(&format!("  {}", printable(url)), columns)));
    lines
}

/// A line for each of the first `parts`, and how many more there are.
fn listed<T>(parts: &[T], columns: usize, line: impl Fn(&T) -> String) -> Vec<String> {
    let mut lines: Vec<String> =
        parts.iter().take(LISTED_PARTS).map(|part| hang(&format!("    {}", line(part)), columns)).collect();
    let more = parts.len().saturating_sub(LISTED_PARTS);
    lines.extend((more > 0).then(|| format!("    and {more} more; --json lists all")));
    lines
}

fn place(passage: &Passage) -> String {
    let Passage { micro_batch, sequence, tokens: [from, to], epoch, .. } = passage;
    let again = if *epoch > 0 { format!(", epoch {}", epoch + 1) } else { String::new() };
    format!("micro-batch {micro_batch}, sequence {sequence}{again}: tokens {from} to {to}")
}

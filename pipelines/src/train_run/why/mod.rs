//! Which documents a run has trained on, at which steps, and what has become of the others. Nothing of it is recorded:
//! it follows from the run's configuration and the index of its corpus ([`text::Lineage`]).
//!
//! - [`answer`]: the answers
mod answer;
mod fate;

pub use answer::{Answer, InStep, OfDocument, OfDocuments, OfStep, Passage, Seen};
pub use fate::{of_prepared, replaced_by};

use super::lineage::{Sources, lineage, sources};
use super::session::Session;
use super::{directory, resume_checks};
use crate::plan::Scope;
use crate::prepare_stages::prepare;
use crate::problem::Usage;
use crate::show::{Line, Unit, Work};
use anyhow::{Error, Result};
use contract::{StageType, Step};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use text::{About, Fate, Lineage, Tokenizer};
use train::record::{FromEnd, METRICS_FILE, StepLine};

/// A question about a run.
#[derive(Clone, Debug)]
pub enum Question {
    /// Which documents are in this step, counted from 1 as in `metrics.jsonl`?
    Step(Step),
    /// Which steps have seen the document with this id, URL or title, and what has become of it?
    Document(String),
    /// Which documents have this text, and which steps have seen it?
    Text(String),
}

/// Answers a question about the run in `run`.
///
/// # Errors
/// [`Usage`] if the run's configuration, data or code is not what it was, or if there is no such step, document or text;
/// an error if a file cannot be read.
pub fn why(run: &Path, question: &Question, stages: &[StageType], mut line: Line) -> Result<Answer> {
    let mut run = Run::open(run, stages, &mut line)?;
    match question {
        Question::Step(step) => run.of_step(*step).map(Answer::Step),
        Question::Document(name) => run.of_document(name).map(Answer::Documents),
        Question::Text(text) => run.of_text(text, &mut line).map(Answer::Documents),
    }
}

/// A run whose data has been prepared again.
struct Run {
    /// As it was named.
    name: String,
    /// Updates so far.
    done: Step,
    /// Updates of the whole run.
    steps: Step,
    /// Sequences and tokens of a step.
    shape: contract::BatchShape,
    /// The sources by id, in the order of the mixture.
    sources: Sources,
    lineage: Lineage,
    tokenizer: Option<Arc<Tokenizer>>,
}

/// The index of a source, and a row of it; without a row: a document that is not in the sample.
type Row = (usize, Option<u64>);

impl Run {
    fn open(run: &Path, stages: &[StageType], line: &mut Line) -> Result<Self> {
        let name = run.display().to_string();
        let absolute = std::path::absolute(run)?;
        let run = if directory::enter(&absolute)?.is_some() { &absolute } else { run };
        let then = directory::fingerprint(run)?;
        let plan = directory::plan_of(run, then.as_ref(), None, stages, Scope::Resume, &[])?;
        let prepared = prepare(&plan, directory::known(run)?, crate::machine::cores(), line)?;
        line.finish();
        let session = Session::new(&plan, prepared, 1, None)?;
        let (differing, _) =
            then.map(|then| resume_checks::differences(&then, &session.fingerprint)).unwrap_or_default();
        if !differing.is_empty() {
            let list = differing.join("\n");
            let why = format!("was trained with other settings, data or code than there are now:\n{list}");
            return Err(Usage(format!("{name} {why}\nRestore these to ask again")).into());
        }
        let env = &session.env;
        let sources = sources(&plan, env)?;
        Ok(Self {
            done: FromEnd::<StepLine>::open(&run.join(METRICS_FILE))?.next().map_or(0, |line| line.step),
            steps: env.schedule.steps,
            shape: env.shape,
            lineage: lineage(&name, &plan, &session, &sources)?,
            tokenizer: env.resources.all::<Tokenizer>().next().map(|(_, tokenizer)| tokenizer),
            name,
            sources,
        })
    }

    fn usage(&self, why: &str) -> Error {
        Usage(format!("{} {why}", self.name)).into()
    }

    fn of_step(&mut self, step: Step) -> Result<OfStep> {
        let steps = self.steps;
        if !(1..=steps).contains(&step) {
            let why = format!("has {steps} steps, so there is no step {step}: give one from 1 to {steps}");
            return Err(self.usage(&why));
        }
        for _ in 1..step {
            self.lineage.next_step()?;
        }
        let mut places = BTreeMap::<(usize, usize), Vec<Passage>>::new();
        let mut order = Vec::new();
        for passage in self.lineage.next_step()? {
            let key = (passage.source, passage.document);
            let of_document = places.entry(key).or_default();
            if of_document.is_empty() {
                order.push(key);
            }
            of_document.push(Passage::of(&passage));
        }
        let mut documents = Vec::with_capacity(order.len());
        let rows: Vec<Row> =
            order.iter().map(|(source, at)| (*source, Some(self.sources[*source].1.index.train.rows[*at]))).collect();
        for (((source, at), (_, row)), about) in order.into_iter().zip(&rows).zip(self.about(&rows)?) {
            let (id, of_source) = &self.sources[source];
            let document_tokens = of_source.index.train.tokens[at];
            let passages = places.remove(&(source, at)).unwrap_or_default();
            documents.push(InStep { source: id.clone(), row: *row, about, document_tokens, passages });
        }
        Ok(OfStep {
            run: self.name.clone(),
            step,
            steps,
            trained: step <= self.done,
            sequences: self.shape.micro_batches as usize * self.shape.sequences,
            sequence_length: self.shape.length,
            documents,
        })
    }

    fn of_document(&mut self, name: &str) -> Result<OfDocuments> {
        let mut documents = Vec::new();
        for (number, (_, source)) in self.sources.iter().enumerate() {
            for (row, about) in source.called(name)? {
                documents.push(self.described((number, row), about)?);
            }
        }
        if documents.is_empty() {
            documents = self
                .sources
                .iter()
                .map(|(id, source)| fate::of_prepared(id, source, name))
                .collect::<Result<Vec<_>>>()?
                .into_iter()
                .flatten()
                .collect();
        }
        if documents.is_empty() {
            let why = format!(
                "has no document `{name}` in its corpus: give an id, URL or title; `pipeline why {} --step 1` shows some",
                self.name
            );
            return Err(self.usage(&why));
        }
        self.seen(documents, |_, _| true)
    }

    fn of_text(&mut self, wanted: &str, line: &mut Line) -> Result<OfDocuments> {
        if wanted.is_empty() {
            return Err(Usage("--text is empty: give the words to look for".into()).into());
        }
        let (began, mut documents, mut has_texts) = (Instant::now(), Vec::new(), false);
        for (number, (_, source)) in self.sources.iter().enumerate() {
            let mut progress = |done, total| {
                let (verb, unit, spent) = ("Searching".to_owned(), Unit::Things("documents"), began.elapsed());
                line.work(&Work { verb, done, total, unit, spent });
            };
            let Some(hits) = source.search(wanted, self.tokenizer.as_deref(), &mut progress)? else { continue };
            has_texts = true;
            let about = source.about(&hits.iter().map(|hit| hit.row).collect::<Vec<_>>())?;
            for (hit, about) in hits.into_iter().zip(about) {
                let described = self.described((number, Some(hit.row)), about)?;
                let (times, excerpt, tokens) = (Some(hit.times), Some(hit.excerpt), hit.tokens);
                documents.push(OfDocument { times, excerpt, tokens, ..described });
            }
        }
        line.finish();
        if !has_texts {
            let why = "reads tokens without their texts, so no text can be looked for; ask with --document or --step";
            return Err(self.usage(why));
        }
        if documents.is_empty() {
            let why = format!("has trained on no document with `{wanted}`: upper and lower case and spaces count");
            return Err(self.usage(&why));
        }
        self.seen(documents, |of, passage| {
            of.tokens.is_none_or(|[from, to]| passage.tokens[0] < to && from < passage.tokens[1])
        })
    }

    /// What is known of a document, without the steps that have seen it.
    fn described(&self, (number, row): Row, about: About) -> Result<OfDocument> {
        let (id, source) = &self.sources[number];
        let fate = match row {
            Some(row) => source.fate(row)?,
            None => Fate::NotUsed("it is not in the sample (`sample`)".into()),
        };
        let (tokens, train) = match &fate {
            Fate::Train(at) => (source.index.train.tokens[*at], Some((number, *at))),
            Fate::Validation(at) => (source.index.validation.tokens[*at], None),
            Fate::NotUsed(_) => (0, None),
        };
        let fate = fate::named(fate);
        Ok(OfDocument { source: id.clone(), row, about, document_tokens: tokens, train, ..fate })
    }

    /// Adds the passages of training documents in the steps so far, of those that `counts`.
    fn seen(
        &mut self,
        mut documents: Vec<OfDocument>,
        counts: impl Fn(&OfDocument, &Passage) -> bool,
    ) -> Result<OfDocuments> {
        let at: BTreeMap<(usize, usize), usize> =
            documents.iter().enumerate().filter_map(|(at, of)| Some((of.train?, at))).collect();
        if !at.is_empty() {
            for step in 1..=self.done {
                for passage in self.lineage.next_step()? {
                    let Some(of) = at.get(&(passage.source, passage.document)) else { continue };
                    let (of, passage) = (&mut documents[*of], Passage::of(&passage));
                    if counts(of, &passage) {
                        of.seen.push(Seen { step, passage });
                    }
                }
            }
        }
        Ok(OfDocuments { run: self.name.clone(), steps: self.done, documents })
    }

    /// What the files say about rows of sources, in that order.
    fn about(&self, rows: &[Row]) -> Result<Vec<About>> {
        let mut about = vec![About::default(); rows.len()];
        for (number, (_, source)) in self.sources.iter().enumerate() {
            let (places, of_source): (Vec<usize>, Vec<u64>) = rows
                .iter()
                .enumerate()
                .filter(|(_, (source, _))| *source == number)
                .filter_map(|(at, (_, row))| Some((at, (*row)?)))
                .unzip();
            places.into_iter().zip(source.about(&of_source)?).for_each(|(at, one)| about[at] = one);
        }
        Ok(about)
    }
}

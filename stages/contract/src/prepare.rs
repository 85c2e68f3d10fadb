//! What stages do before the graph runs: open files, convert them, count, train a tokenizer.
use crate::resources::Resources;
use crate::settings::{Corpus, Facts, Settings};
use anyhow::{Result, bail};
use arrow::array::RecordBatch;
use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The purpose of a graph. It follows from the kinds of packets that flow in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// Some stage takes gradients: the graph trains a model.
    Train,
    /// No stage takes gradients, and documents end in a stage that emits nothing but records: the graph prepares a
    /// corpus.
    PrepareCorpus,
}

/// A stage upstream of the one that is being prepared.
#[derive(Clone)]
pub struct Upstream {
    /// Its id in the plan.
    pub id: String,
    /// Its settings.
    pub settings: Arc<dyn Settings>,
    /// The ids of the stages that feed it within a step.
    pub inputs: Vec<String>,
    /// Its keys and values, without those that do not affect results, and its [dependencies](Settings::dependencies). Part
    /// of the cache keys of what is made from its output.
    pub table: String,
}

/// The unit in which progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Countable things, by their plural noun.
    Things(&'static str),
}

/// A graph that a stage runs to the end before the graph of the plan starts.
pub struct Graph {
    /// Its stages, in the order of data flow. Stages that are also in the plan keep their ids.
    pub stages: Vec<(String, Arc<dyn Settings>)>,
    /// Number of lanes that its sources serve.
    pub lanes: u32,
    /// Number of steps that it runs.
    pub steps: u64,
    /// The name of its progress bar, and the number of rows at which it is complete.
    pub progress: (&'static str, u64),
}

/// What the engine offers to a stage's [`Settings::prepare`].
pub trait Host {
    /// Shows that `done` of `total` are done.
    fn progress(&mut self, verb: &str, unit: Unit, done: u64, total: u64);

    /// Runs `graph` on all workers. Returns the [`Records`](crate::Records) that its stages emit, in the order of steps
    /// and lanes.
    fn run(&mut self, graph: Graph, resources: &Resources) -> Result<Vec<RecordBatch>>;
}

/// What the stages of a plan have contributed while they were prepared.
#[derive(Clone, Default)]
pub struct Prepared {
    /// Resources that stages provide for the graph.
    pub resources: Resources,
    /// The vocabulary of the graph's tokens, and the text of the tokenizer's `tokenizer.json` if there is one.
    pub vocabulary: Option<(Facts, Option<String>)>,
    /// The size of each source's part of the corpus, as seen by the stage that makes tokens.
    pub corpora: Vec<(String, Corpus)>,
    /// What results depend on besides the configuration: names and hashes of the inputs.
    pub fingerprint: Vec<(String, String)>,
    /// Messages to print before the run starts.
    pub notes: Vec<String>,
    /// Number of documents that stages drop, by reason.
    pub dropped: BTreeMap<String, u64>,
}

impl Prepared {
    /// The total size of the corpus.
    pub fn corpus(&self) -> Corpus {
        self.corpora.iter().fold(Corpus::default(), |sum, (_, corpus)| sum.with(corpus))
    }
}

/// The context of [`Settings::prepare`].
pub struct Prepare<'a> {
    id: &'a str,
    goal: Goal,
    seed: u64,
    upstream: &'a [Upstream],
    this: &'a Upstream,
    prepared: &'a mut Prepared,
    host: &'a mut dyn Host,
}

impl<'a> Prepare<'a> {
    /// Prepares the stage `this`. `upstream` are the stages whose packets reach it, in graph order.
    pub fn new(
        this: &'a Upstream,
        upstream: &'a [Upstream],
        goal: Goal,
        seed: u64,
        prepared: &'a mut Prepared,
        host: &'a mut dyn Host,
    ) -> Self {
        Self { id: &this.id, goal, seed, upstream, this, prepared, host }
    }

    /// The stage's id in the plan.
    pub fn id(&self) -> &str {
        self.id
    }

    /// The stage itself.
    pub fn this(&self) -> &'a Upstream {
        self.this
    }

    /// The purpose of the graph.
    pub fn goal(&self) -> Goal {
        self.goal
    }

    /// The run's seed.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The resources that have been provided so far.
    pub fn resources(&self) -> &Resources {
        &self.prepared.resources
    }

    /// The stages whose packets reach this one, in graph order, sources first.
    pub fn upstream(&self) -> &'a [Upstream] {
        self.upstream
    }

    /// Provides `value` as a resource of this stage.
    pub fn provide<T: Any + Send + Sync>(&mut self, value: Arc<T>) {
        self.prepared.resources.provide(self.id, value);
    }

    /// Provides `value` as a resource of the upstream stage `stage`, which finds it when it is built.
    pub fn provide_to<T: Any + Send + Sync>(&mut self, stage: &str, value: Arc<T>) {
        self.prepared.resources.provide(stage, value);
    }

    /// All resources of type `T` that upstream stages provide, each with its stage, in graph order.
    pub fn found<T: Any + Send + Sync>(&self) -> Vec<(&'a str, Arc<T>)> {
        let of = |stage: &'a Upstream| Some((stage.id.as_str(), self.prepared.resources.of(&stage.id)?));
        self.upstream.iter().filter_map(of).collect()
    }

    /// Declares the vocabulary of the tokens downstream of this stage, with the text of the tokenizer's
    /// `tokenizer.json` if there is one.
    ///
    /// # Errors
    /// If another stage has declared a different vocabulary.
    pub fn vocabulary(&mut self, facts: Facts, tokenizer_json: Option<String>) -> Result<()> {
        match &self.prepared.vocabulary {
            Some((before, _)) if *before != facts => bail!(
                "`{}` has {} token ids, end of text {}; a stage before it has {}, end of text {}: \
                 all tokens of a graph must come from one tokenizer",
                self.id,
                facts.vocabulary,
                facts.end_of_text,
                before.vocabulary,
                before.end_of_text,
            ),
            Some((_, Some(_))) => Ok(()),
            _ => {
                self.prepared.vocabulary = Some((facts, tokenizer_json));
                Ok(())
            }
        }
    }

    /// Declares the size of the corpus of the source `source`.
    pub fn corpus(&mut self, source: &str, corpus: Corpus) {
        self.prepared.corpora.push((source.to_owned(), corpus));
    }

    /// Adds `value` to what results depend on. If another source has already used `name`, the source's id is appended
    /// to it.
    pub fn fingerprint(&mut self, name: &str, source: &str, value: &str) {
        let taken = self.prepared.fingerprint.iter().any(|(other, _)| other == name);
        let name = if taken { format!("{name} ({source})") } else { name.to_owned() };
        self.prepared.fingerprint.push((name, value.to_owned()));
    }

    /// Adds a message that is printed before the run starts.
    pub fn note(&mut self, note: impl Into<String>) {
        self.prepared.notes.push(note.into());
    }

    /// Adds to the number of documents that stages drop, by reason.
    pub fn dropped(&mut self, reasons: &BTreeMap<String, u64>) {
        for (reason, documents) in reasons {
            *self.prepared.dropped.entry(reason.clone()).or_default() += documents;
        }
    }

    /// Shows that `done` of `total` are done.
    pub fn progress(&mut self, verb: &str, unit: Unit, done: u64, total: u64) {
        self.host.progress(verb, unit, done, total);
    }

    /// Runs `graph` on all workers, with the resources provided so far. Returns the [`Records`](crate::Records) that
    /// its stages emit, in the order of steps and lanes.
    ///
    /// # Errors
    /// The first failure of any of its stages.
    pub fn run(&mut self, graph: Graph) -> Result<Vec<RecordBatch>> {
        self.host.run(graph, &self.prepared.resources)
    }
}

//! What stages do before the graph runs: open files, convert, count, train a tokenizer.
use crate::resources::Resources;
use crate::settings::{Corpus, Facts, Settings};
use anyhow::{Result, bail};
use arrow::array::RecordBatch;
use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What the graph is for. It follows from the kinds of packets that flow in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// A stage takes gradients: it trains a model.
    Train,
    /// None does, and documents end in a stage that gives nothing but records: it prepares a corpus.
    PrepareCorpus,
}

/// A stage from which packets reach the one that prepares.
#[derive(Clone)]
pub struct Upstream {
    /// Its name in the plan.
    pub id: String,
    /// Its settings.
    pub settings: Arc<dyn Settings>,
    /// Its keys and values, without those that do not affect results: a name for what is made with it.
    pub table: String,
}

/// The unit in which progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Countable things, named in the plural.
    Things(&'static str),
}

/// A graph that runs to its end before the graph of the plan does.
pub struct Graph {
    /// Its stages, in the order of flow. Those of them that stand in the plan keep their names.
    pub stages: Vec<(String, Arc<dyn Settings>)>,
    /// Lanes that its sources are asked for.
    pub lanes: u32,
    /// Steps that it takes.
    pub steps: u64,
    /// What progress is called, and the number of rows after which it is complete.
    pub progress: (&'static str, u64),
}

/// What the engine does for a stage that prepares.
pub trait Host {
    /// Shows that `done` of `total` is done.
    fn progress(&mut self, verb: &str, unit: Unit, done: u64, total: u64);

    /// Runs `graph` on all workers. Returns the [`Records`](crate::Records) that its stages give, in the order of steps
    /// and lanes.
    fn run(&mut self, graph: Graph, resources: &Resources) -> Result<Vec<RecordBatch>>;
}

/// What the stages of a plan have found out, together.
#[derive(Clone, Default)]
pub struct Prepared {
    /// What stages provide for the graph.
    pub resources: Resources,
    /// The token ids that flow, and where there is one, the text of the tokenizer's `tokenizer.json`.
    pub vocabulary: Option<(Facts, Option<String>)>,
    /// The size of each source's part of the corpus, as the stage that makes tokens gets it.
    pub corpora: Vec<(String, Corpus)>,
    /// What results follow from beside the configuration: names and hashes of what is read.
    pub fingerprint: Vec<(String, String)>,
    /// Said before the run starts.
    pub notes: Vec<String>,
    /// Documents that stages drop, by reason.
    pub dropped: BTreeMap<String, u64>,
}

impl Prepared {
    /// The size of the whole corpus.
    pub fn corpus(&self) -> Corpus {
        self.corpora.iter().fold(Corpus::default(), |sum, (_, corpus)| sum.with(corpus))
    }
}

/// What a stage may use and say in [`Settings::prepare`].
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
    /// For the stage `this`, which packets reach from the stages `upstream`, in graph order.
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

    /// The stage's name in the plan.
    pub fn id(&self) -> &str {
        self.id
    }

    /// The stage itself.
    pub fn this(&self) -> &'a Upstream {
        self.this
    }

    /// What the graph is for.
    pub fn goal(&self) -> Goal {
        self.goal
    }

    /// The run's seed.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// What stages have provided so far.
    pub fn resources(&self) -> &Resources {
        &self.prepared.resources
    }

    /// The stages from which packets reach this one, in graph order, sources first.
    pub fn upstream(&self) -> &'a [Upstream] {
        self.upstream
    }

    /// Provides `value` under this stage's name.
    pub fn provide<T: Any + Send + Sync>(&mut self, value: Arc<T>) {
        self.prepared.resources.provide(self.id, value);
    }

    /// Provides `value` under the name of the upstream stage `stage`, which finds it when it is built.
    pub fn provide_to<T: Any + Send + Sync>(&mut self, stage: &str, value: Arc<T>) {
        self.prepared.resources.provide(stage, value);
    }

    /// Everything of type `T` that upstream stages provide, with the stage, in graph order.
    pub fn found<T: Any + Send + Sync>(&self) -> Vec<(&'a str, Arc<T>)> {
        let of = |stage: &'a Upstream| Some((stage.id.as_str(), self.prepared.resources.of(&stage.id)?));
        self.upstream.iter().filter_map(of).collect()
    }

    /// Says what token ids flow below this stage, and gives the text of the tokenizer's `tokenizer.json` if there is one.
    ///
    /// # Errors
    /// If another stage has said something else.
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

    /// Says how large the corpus of the source `source` is.
    pub fn corpus(&mut self, source: &str, corpus: Corpus) {
        self.prepared.corpora.push((source.to_owned(), corpus));
    }

    /// Says that results follow from `value`. The name of the source is added where another one has used `name`.
    pub fn fingerprint(&mut self, name: &str, source: &str, value: &str) {
        let taken = self.prepared.fingerprint.iter().any(|(other, _)| other == name);
        let name = if taken { format!("{name} ({source})") } else { name.to_owned() };
        self.prepared.fingerprint.push((name, value.to_owned()));
    }

    /// Says something before the run starts.
    pub fn note(&mut self, note: impl Into<String>) {
        self.prepared.notes.push(note.into());
    }

    /// Counts documents that stages drop, by reason.
    pub fn dropped(&mut self, reasons: &BTreeMap<String, u64>) {
        for (reason, documents) in reasons {
            *self.prepared.dropped.entry(reason.clone()).or_default() += documents;
        }
    }

    /// Shows that `done` of `total` is done.
    pub fn progress(&mut self, verb: &str, unit: Unit, done: u64, total: u64) {
        self.host.progress(verb, unit, done, total);
    }

    /// Runs `graph` on all workers, with what stages have provided so far. Returns the
    /// [`Records`](crate::Records) that its stages give, in the order of steps and lanes.
    ///
    /// # Errors
    /// The first failure of any of its stages.
    pub fn run(&mut self, graph: Graph) -> Result<Vec<RecordBatch>> {
        self.host.run(graph, &self.prepared.resources)
    }
}

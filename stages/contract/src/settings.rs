//! What a stage's table in the configuration says, and how it becomes a stage.
use crate::packet::Kind;
use crate::parameters::ModelFacts;
use crate::prepare::{Goal, Prepare};
use crate::resources::Resources;
use crate::stage::{Source, Stage};
use crate::step::{Lane, Schedule, leaf_owner};
use anyhow::Result;
use serde::Serialize;
use std::any::Any;
use std::path::PathBuf;
use std::sync::Arc;

/// How packets get from the stage that gives them to the one that takes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// To the same worker.
    Stay,
    /// To the worker that [`Packet::address`](crate::Packet::address) names.
    Exchange,
    /// To every worker.
    Broadcast,
}

/// What a port's packets are to the stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Work.
    Stream,
    /// What the work of a step needs: all of it arrives before the step's first `Stream` packet.
    State,
}

/// One input of a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port {
    /// What it takes.
    pub kind: Kind,
    /// How that comes here.
    pub route: Route,
    /// What it is to the stage.
    pub role: Role,
}

impl Port {
    /// A port for work made on the same worker.
    pub const fn stream(kind: Kind) -> Self {
        Self { kind, route: Route::Stay, role: Role::Stream }
    }

    /// The same port with another route.
    pub const fn by(self, route: Route) -> Self {
        Self { route, ..self }
    }

    /// The same port with role [`Role::State`].
    pub const fn state(self) -> Self {
        Self { role: Role::State, ..self }
    }
}

/// Something wrong with one key of a stage's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The key at fault; `None` if it is the table as a whole.
    pub key: Option<&'static str>,
    /// What is wrong, and what would be right.
    pub message: String,
}

impl Problem {
    /// A problem with `key`.
    pub fn at(key: &'static str, message: impl Into<String>) -> Self {
        Self { key: Some(key), message: message.into() }
    }
}

/// The shape of every training micro-batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchShape {
    /// Leaves of a global batch.
    pub micro_batches: u32,
    /// Sequences in a micro-batch.
    pub sequences: usize,
    /// Tokens in a sequence.
    pub length: usize,
}

impl BatchShape {
    /// Tokens in a global batch.
    pub fn tokens(&self) -> u64 {
        u64::from(self.micro_batches) * (self.sequences * self.length) as u64
    }
}

/// What a model must know to say what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Number of token ids.
    pub vocabulary: usize,
    /// Tokens in a sequence.
    pub length: usize,
    /// Id of the token that ends a document.
    pub end_of_text: u32,
}

/// Size of one part of the corpus.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct CorpusPart {
    /// Documents (or packed sequences).
    pub rows: u64,
    /// Tokens, with one end-of-text token a document.
    pub tokens: u64,
    /// Bytes of UTF-8 text; 0 if only tokens are known.
    pub bytes: u64,
}

/// Size of the corpus.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct Corpus {
    /// What is learned from.
    pub train: CorpusPart,
    /// What is held out.
    pub validation: CorpusPart,
}

impl Corpus {
    /// Of both.
    #[must_use]
    pub fn with(self, other: &Self) -> Self {
        Self { train: self.train.with(&other.train), validation: self.validation.with(&other.validation) }
    }
}

impl CorpusPart {
    /// Of both.
    #[must_use]
    pub fn with(self, other: &Self) -> Self {
        let Self { rows, tokens, bytes } = self;
        Self { rows: rows + other.rows, tokens: tokens + other.tokens, bytes: bytes + other.bytes }
    }
}

/// Everything a stage may know when it is built. The same on every worker but for `worker`.
#[derive(Clone)]
pub struct Env {
    /// The stage's name in the plan.
    pub stage: String,
    /// The stages from which packets reach it within a step, nearest first.
    pub upstream: Vec<String>,
    /// This worker.
    pub worker: usize,
    /// Workers in all.
    pub workers: usize,
    /// The run's seed.
    pub seed: u64,
    /// What is due when.
    pub schedule: Schedule,
    /// Shape of the micro-batches.
    pub shape: BatchShape,
    /// The model, where there is one.
    pub model: Option<Arc<ModelFacts>>,
    /// Size of the corpus, where it is known.
    pub corpus: Option<Corpus>,
    /// Where the run keeps its files, if it keeps any.
    pub run_dir: Option<PathBuf>,
    /// Everything else.
    pub resources: Resources,
}

impl Env {
    /// The lanes (and leaves) of this worker.
    pub fn lanes(&self) -> impl Iterator<Item = Lane> + use<> {
        let (worker, workers, leaves) = (self.worker, self.workers, self.shape.micro_batches);
        (0..leaves).filter(move |lane| leaf_owner(*lane, workers) == worker)
    }

    /// The model, or an error that says that this stage needs one.
    pub fn model(&self) -> Result<Arc<ModelFacts>> {
        self.model
            .clone()
            .ok_or_else(|| anyhow::anyhow!("there is no model: a stage that gives activations is missing"))
    }

    /// What this stage provides of type `T`; else the nearest stage upstream that provides one; else the run.
    pub fn find<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        let stages = std::iter::once(&self.stage).chain(&self.upstream);
        stages.map(|stage| self.resources.of(stage)).find(Option::is_some).flatten().or_else(|| self.resources.get())
    }

    /// As [`find`](Self::find), or an error that names what is missing.
    pub fn resource<T: Any + Send + Sync>(&self, what: &str) -> Result<Arc<T>> {
        self.find().ok_or_else(|| anyhow::anyhow!("{what} is missing"))
    }
}

/// Every how many steps something is due; `None`: never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Due {
    /// Validation.
    pub evaluate: Option<u64>,
    /// A checkpoint.
    pub checkpoint: Option<u64>,
}

/// What settings become.
pub enum Built {
    /// An operator.
    Stage(Box<dyn Stage>),
    /// Where data enters.
    Source(Box<dyn Source>),
}

/// What a stage's table says: plain data. One value a stage of the plan.
pub trait Settings: Any + Send + Sync {
    /// Its inputs; empty for a source.
    fn takes(&self) -> Vec<Port>;
    /// The kinds it gives.
    fn gives(&self) -> Vec<Kind>;
    /// What is wrong with the values, all of it. No I/O.
    fn check(&self) -> Vec<Problem> {
        Vec::new()
    }
    /// What is wrong with the stage in a graph with this goal. No I/O.
    fn check_goal(&self, _goal: Goal) -> Vec<Problem> {
        Vec::new()
    }
    /// What is wrong with the files that the stage names, as far as that is seen without work: whether they exist, have a
    /// format that the stage reads, and fit its other keys. Looks at names and beginnings of files; `pipeline check` and
    /// `pipeline run` call it before anything is read.
    fn check_files(&self, _seed: u64) -> Vec<Problem> {
        Vec::new()
    }
    /// Files that it reads, as far as the configuration tells. Lists folders, opens nothing.
    fn reads(&self, _seed: u64) -> Result<Vec<PathBuf>> {
        Ok(Vec::new())
    }
    /// The token ids that it gives, as far as they are known before [`prepare`](Self::prepare).
    fn vocabulary(&self, _seed: u64) -> Result<Option<Facts>> {
        Ok(None)
    }
    /// Called once, in graph order, before the schedule is known: opens and converts files, counts, trains a tokenizer.
    /// What this and other stages need when they are built is provided; what results follow from is added to the
    /// fingerprint.
    fn prepare(&self, _before: &mut Prepare) -> Result<()> {
        Ok(())
    }
    /// Makes the stage of one worker. May open files.
    fn build(&self, env: &Env) -> Result<Built>;

    /// Does it say [`Starved`](crate::Turn::Starved) to be given more by its source?
    fn pulls(&self) -> bool {
        false
    }
    /// The micro-batches it makes (`pack`).
    fn batch_shape(&self) -> Option<BatchShape> {
        None
    }
    /// The model it is (`forward`).
    fn model(&self, _facts: &Facts) -> Option<ModelFacts> {
        None
    }
    /// What it makes due, and how often.
    fn due(&self) -> Due {
        Due::default()
    }
    /// Does it need all rows of the corpus at once, as one that compares documents does? Only a graph that prepares a
    /// corpus has such a stage, and no stage that works row by row stands below it.
    fn needs_whole_corpus(&self) -> bool {
        false
    }
    /// Does it combine the rows or tokens of several sources? Other stages may not be fed by more than one.
    fn mixes(&self) -> bool {
        false
    }
    /// What its stages will hold at most, as far as `env` tells; resources may be missing. `pipeline explain` adds it up.
    fn memory(&self, _env: &Env) -> Memory {
        Memory::default()
    }
}

/// Bytes that the stages of a plan's entry hold at most, those of all workers together. What one phase of a step lets go
/// of, the next one uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// All the time.
    pub lasting: u64,
    /// From the start of a micro-batch until backward has gone through it.
    pub passing: u64,
    /// Held when backward has gone through a micro-batch, and not before.
    pub growing: u64,
    /// Only while the stage works.
    pub working: u64,
    /// Only while the stage works where forward turns to backward, beside all that passes.
    pub turning: u64,
}

impl Memory {
    /// Of both.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self {
            lasting: self.lasting + other.lasting,
            passing: self.passing + other.passing,
            growing: self.growing + other.growing,
            working: self.working.max(other.working),
            turning: self.turning.max(other.turning),
        }
    }

    /// Beside what lasts, in each phase of a step, where forward turns to backward and where backward has been: what is
    /// held all through it, and what only while a stage works.
    pub fn phases(&self) -> [[u64; 2]; 2] {
        [[self.passing, self.turning.max(self.working)], [self.growing, self.working]]
    }

    /// The phase in which there are most bytes: a place in [`Self::phases`].
    pub fn fullest(&self) -> usize {
        let [turning, growing] = self.phases().map(|[held, working]| held + working);
        usize::from(growing > turning)
    }

    /// The bytes of the phase in which there are most.
    pub fn most(&self) -> u64 {
        self.lasting + self.phases()[self.fullest()].iter().sum::<u64>()
    }
}

//! A stage's configuration table as a value, and how it is built into a stage.
use crate::draws::Draws;
use crate::env::Env;
use crate::files::is_not_of_the_configuration;
use crate::mixture::Mixture;
use crate::packet::Kind;
use crate::parameters::ModelFacts;
use crate::prepare::{Goal, Prepare};
use crate::sections::Updates;
use crate::stage::{Source, Stage};
use crate::step::Lane;
use anyhow::Result;
use serde::Serialize;
use std::any::Any;
use std::path::PathBuf;
use std::sync::Arc;

/// The name of the entry of [`Settings::dependencies`] for the version of a stage's code.
pub const CODE_VERSION: &str = "version";

/// That entry. The version 0 is not recorded.
pub fn code_version(version: u32) -> Option<(String, String)> {
    (version > 0).then(|| (CODE_VERSION.to_owned(), version.to_string()))
}

/// How packets travel from the stage that emits them to the one that takes them.
///
/// Several processes can run a graph together. Each then has its own copy of what [`Kind::is_replicated`] says, and
/// packets of these kinds do not leave their process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// To the same worker.
    Stay,
    /// To the worker given by [`Packet::address`](crate::Packet::address).
    Exchange,
    /// To every worker.
    Broadcast,
    /// To the owner of a gradient's section in every process.
    Owners,
    /// To the first worker that has nothing else to do: packets wait in a queue that all workers share, and a worker
    /// takes the one of the lowest lane. Which process computes which leaves is fixed ([`Env::leaves`]). The stage gets
    /// packets of any lane, so it must not have state that belongs to lanes. Not for ports with [`Role::State`].
    AnyWorker,
}

/// The role of a port's packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The work itself.
    Stream,
    /// State that the work of a step depends on: all of it arrives before the step's first `Stream` packet.
    State,
}

/// One input of a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port {
    /// The kind that it takes.
    pub kind: Kind,
    /// How packets reach it.
    pub route: Route,
    /// The role of its packets.
    pub role: Role,
    /// Whether it takes what was emitted at the previous step, also by a stage above.
    pub previous: bool,
}

impl Port {
    /// A port for packets emitted on the same worker.
    pub const fn stream(kind: Kind) -> Self {
        Self { kind, route: Route::Stay, role: Role::Stream, previous: false }
    }

    /// The same port with another route.
    pub const fn by(self, route: Route) -> Self {
        Self { route, ..self }
    }

    /// The same port with role [`Role::State`].
    pub const fn state(self) -> Self {
        Self { role: Role::State, ..self }
    }

    /// The same port for what was emitted at the previous step: for parameters, those that the step begins with,
    /// whether the stage is written above or below the one that updates them.
    pub const fn of_previous_step(self) -> Self {
        Self { previous: true, ..self }
    }
}

/// A problem with one key of a stage's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The key; `None` if the problem concerns the table as a whole.
    pub key: Option<&'static str>,
    /// What is wrong, and what would be right.
    pub message: String,
    /// Whether the operating system failed or data is damaged, so that nothing has to be corrected in the
    /// configuration.
    pub failed: bool,
}

impl Problem {
    /// A problem with `key`.
    pub fn at(key: &'static str, message: impl Into<String>) -> Self {
        Self { key: Some(key), message: message.into(), failed: false }
    }

    /// A problem with a file that `key` names, or the failure of the operating system to read it.
    pub fn with_file(key: &'static str, error: &anyhow::Error) -> Self {
        Self { failed: is_not_of_the_configuration(error), ..Self::at(key, format!("{error:#}")) }
    }
}

/// The shape of every training micro-batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchShape {
    /// Leaves per global batch.
    pub micro_batches: u32,
    /// Streams of documents; a divisor of `micro_batches`.
    pub lanes: u32,
    /// Sequences per micro-batch.
    pub sequences: usize,
    /// Tokens per sequence.
    pub length: usize,
}

impl BatchShape {
    /// Tokens per global batch.
    pub fn tokens(&self) -> u64 {
        u64::from(self.micro_batches) * (self.sequences * self.length) as u64
    }

    /// Number of leaves that a lane fills at every step.
    pub fn leaves_of_lane(&self) -> u32 {
        self.micro_batches / self.lanes
    }

    /// Number of sequences that a lane provides at every step.
    pub fn sequences_of_lane(&self) -> usize {
        self.leaves_of_lane() as usize * self.sequences
    }

    /// The leaf that the `n`-th micro-batch of a lane fills: leaves `lane`, `lane + lanes`, `lane + 2 lanes` … in turn.
    pub fn leaf(&self, lane: Lane, n: u32) -> Lane {
        lane + n % self.leaves_of_lane() * self.lanes
    }

    /// Why so many `tokens` do not fill a sequence, which takes one more than its length: its targets are those that
    /// follow.
    pub fn unfilled(&self, tokens: u64) -> Option<String> {
        let length = self.length;
        (tokens <= length as u64).then(|| format!("{tokens} tokens: fewer than one sequence of {length}"))
    }
}

/// What a model needs to know to describe itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Number of token ids.
    pub vocabulary: usize,
    /// Tokens per sequence.
    pub length: usize,
    /// Id of the token that ends a document.
    pub end_of_text: u32,
}

/// Size of one part of the corpus.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct CorpusPart {
    /// Documents (or packed sequences).
    pub rows: u64,
    /// Tokens, including one end-of-text token per document.
    pub tokens: u64,
    /// Bytes of UTF-8 text; 0 if only tokens are known.
    pub bytes: u64,
}

/// Size of the corpus.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct Corpus {
    /// The training part.
    pub train: CorpusPart,
    /// The validation part.
    pub validation: CorpusPart,
}

impl Corpus {
    /// Tokens of both parts.
    #[must_use]
    pub fn with(self, other: &Self) -> Self {
        Self { train: self.train.with(&other.train), validation: self.validation.with(&other.validation) }
    }
}

impl CorpusPart {
    /// Bytes of both parts.
    #[must_use]
    pub fn with(self, other: &Self) -> Self {
        let Self { rows, tokens, bytes } = self;
        Self { rows: rows + other.rows, tokens: tokens + other.tokens, bytes: bytes + other.bytes }
    }
}

/// The number of steps between validations and between checkpoints; `None`: never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Due {
    /// Validation.
    pub evaluate: Option<u64>,
    /// A checkpoint.
    pub checkpoint: Option<u64>,
}

/// What settings are built into.
pub enum Built {
    /// An operator.
    Stage(Box<dyn Stage>),
    /// A source of data.
    Source(Box<dyn Source>),
}

/// The settings of a stage: its table as plain data. The plan has one value per stage.
pub trait Settings: Any + Send + Sync {
    /// Its inputs; empty for a source.
    fn takes(&self) -> Vec<Port>;
    /// The kinds that it emits.
    fn gives(&self) -> Vec<Kind>;
    /// Problems with the values, all of them. No I/O.
    fn check(&self) -> Vec<Problem> {
        Vec::new()
    }
    /// Problems with the stage in a graph with this goal. No I/O.
    fn check_goal(&self, _goal: Goal) -> Vec<Problem> {
        Vec::new()
    }
    /// Problems with the files that the stage names that can be seen without processing them: whether they exist, have
    /// a format that the stage reads, and fit its other keys and the goal of the graph. Looks at names and beginnings
    /// of files; `pipeline check` and `pipeline run` call it before anything is read.
    fn check_files(&self, _goal: Goal, _seed: u64) -> Vec<Problem> {
        Vec::new()
    }
    /// What is allowed in a run of `steps` updates, if the length is known, but most likely not meant. `pipeline check`
    /// and `pipeline run` print it and go on. No I/O.
    fn notes(&self, _steps: Option<u64>) -> Vec<Problem> {
        Vec::new()
    }
    /// The files that it reads, as far as the configuration tells. Lists folders but opens no file.
    fn reads(&self, _seed: u64) -> Result<Vec<PathBuf>> {
        Ok(Vec::new())
    }
    /// What its results depend on besides the values of its keys and its input, by name: the version of its code,
    /// hashes of files that it reads when it is built. Part of cache keys of what is made from its output and of the
    /// fingerprint of checkpoints. May read those files.
    fn dependencies(&self) -> Result<Vec<(String, String)>> {
        Ok(Vec::new())
    }
    /// The vocabulary of the tokens that it emits, as far as it is known before [`prepare`](Self::prepare).
    fn vocabulary(&self, _seed: u64) -> Result<Option<Facts>> {
        Ok(None)
    }
    /// The most tokens in one pass over what it emits, if its inputs have at most `input` (0 for a source), as far as
    /// it is known before [`prepare`](Self::prepare). A byte of text counts as a token, and so does the end of a
    /// document.
    fn most_tokens(&self, _seed: u64, _input: u64) -> Option<u64> {
        None
    }
    /// Called once, in graph order, before the schedule is known: opens and converts files, counts, trains a tokenizer.
    /// Resources that this and other stages need when they are built are provided here; what results depend on is added
    /// to the fingerprint.
    fn prepare(&self, _before: &mut Prepare) -> Result<()> {
        Ok(())
    }
    /// Builds the stage of one worker. May open files.
    fn build(&self, env: &Env) -> Result<Built>;

    /// Whether it returns [`Starved`](crate::Turn::Starved) to request more from its source.
    fn pulls(&self) -> bool {
        false
    }
    /// The shape of the micro-batches that it emits (`pack`).
    fn batch_shape(&self) -> Option<BatchShape> {
        None
    }
    /// Which sequences each step trains on, if the stage decides that (`pack`). `env` has the resources with which it is
    /// built.
    fn draws(&self, _env: &Env) -> Option<Box<dyn Draws>> {
        None
    }
    /// The stride of the windows of long validation documents, if the stage decides that (`evaluate`): see
    /// [`ValidationStride`](crate::ValidationStride).
    fn validation_stride(&self) -> Option<usize> {
        None
    }
    /// The facts of the model that it computes (`forward`).
    fn model(&self, _facts: &Facts) -> Option<ModelFacts> {
        None
    }
    /// Problems of its keys with `model`, of which only the vocabulary may be another one. No I/O.
    fn check_model(&self, _model: &ModelFacts) -> Vec<Problem> {
        Vec::new()
    }
    /// How it updates the parameters of `model`, if it does (`optimize`).
    fn updates(&self, _model: &ModelFacts) -> Option<Updates> {
        None
    }
    /// The stage that completes its work when several processes run the graph: it is inserted after this one, and takes
    /// what this one gives in its place.
    fn across_processes(&self) -> Option<Arc<dyn Settings>> {
        None
    }
    /// How often validation or a checkpoint is due, if the stage decides that.
    fn due(&self) -> Due {
        Due::default()
    }
    /// Whether it needs all rows of the corpus at once, like a stage that compares documents. Only a graph that
    /// prepares a corpus has such a stage, and no stage that processes rows one by one may follow it.
    fn needs_whole_corpus(&self) -> bool {
        false
    }
    /// How it mixes sources, if it does: it has one port for each. Other stages accept only one source. If it names no
    /// sources, it takes all of those above it, or those that reach its `inputs`.
    fn mixes(&self) -> Option<Mixture> {
        None
    }
    /// The same stage for packets of this kind from these sources, in the order of its ports, if it mixes sources: whether
    /// they arrive as rows or as tokens, and from which sources if its keys do not name them, is known once stages are
    /// connected.
    fn mixing(&self, _kind: Kind, _sources: &[String]) -> Option<Arc<dyn Settings>> {
        None
    }
    /// The peak memory of its stages, as far as `env` tells; resources may be missing. `pipeline explain` adds it up.
    fn memory(&self, _env: &Env) -> Memory {
        Memory::default()
    }
}

/// Peak memory in bytes of the stages built from one entry of the plan, summed over all workers. Phases of a step reuse
/// memory, so peak memory is that of the largest phase.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Allocated throughout the run: parameters, optimizer state, buffers of sources.
    pub permanent: u64,
    /// Activations of a micro-batch: allocated in its forward pass and released during its backward pass.
    pub activations: u64,
    /// Gradients of a micro-batch: grow during its backward pass, from nothing to this size.
    pub gradients: u64,
    /// Allocated only while the stage is running, in either pass.
    pub scratch: u64,
    /// Allocated only while the loss is computed, between the forward and the backward pass.
    pub loss: u64,
    /// Allocated in addition if the system does not run some workers for a time, because other programs use the cores or
    /// there are more workers than cores. Not part of [`Self::peak`].
    pub late: u64,
}

impl Memory {
    /// The memory of both together.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self {
            permanent: self.permanent + other.permanent,
            activations: self.activations + other.activations,
            gradients: self.gradients + other.gradients,
            scratch: self.scratch.max(other.scratch),
            loss: self.loss.max(other.loss),
            late: self.late + other.late,
        }
    }

    /// The bytes that a step needs in addition to permanent memory, in two phases: when the loss is computed, and at
    /// the end of the backward pass. For each phase: the bytes that stay allocated throughout it, and those that are
    /// allocated only while a stage is running.
    pub fn phases(&self) -> [[u64; 2]; 2] {
        [[self.activations, self.loss.max(self.scratch)], [self.gradients, self.scratch]]
    }

    /// The phase that needs the most memory: an index into [`Self::phases`].
    pub fn largest_phase(&self) -> usize {
        let [loss, end_of_backward] = self.phases().map(|[held, scratch]| held + scratch);
        usize::from(end_of_backward > loss)
    }

    /// Peak memory: that of the largest phase, and permanent memory.
    pub fn peak(&self) -> u64 {
        self.permanent + self.phases()[self.largest_phase()].iter().sum::<u64>()
    }
}

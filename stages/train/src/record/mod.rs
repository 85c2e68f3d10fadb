//! `record`: writes the metrics of each step to every [`Sink`], and reports progress.
pub mod clock;
mod follow;
pub mod jsonl;
mod sources;
pub mod tensorboard;

pub use follow::{Change, Follower, FromEnd};
pub use jsonl::{METRICS_FILE, read_metrics};
pub use sources::SourceLine;

use crate::record::clock::Clock;
use crate::record::sources::Sources;
use anyhow::{Context, Result};
use contract::{
    At, Built, Emit, Env, Gather, Kind, Lane, Metrics, Packet, Port, Purpose, Route, Schedule, Settings, Snapshot,
    Stage, StageKeys, StageSettings, Step, Turn,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Where the metrics of a run are written: one file of code, and one line in [`SINKS`].
trait Sink: Send {
    /// Writes the metrics of a step, in the order of the steps.
    ///
    /// # Errors
    /// If they cannot be written.
    fn write(&mut self, line: &StepLine) -> Result<()>;

    /// Receives the metrics of a step that may still be validated; [`write`](Self::write) follows.
    ///
    /// # Errors
    /// If they cannot be written.
    fn expect(&mut self, _line: &StepLine) -> Result<()> {
        Ok(())
    }
}

/// Opens a sink of the run in a directory, which starts at a step; what was written of later steps is replaced.
type OpenSink = fn(&Path, Step) -> Result<Box<dyn Sink>>;

/// All sinks, in the order in which they are opened and written. TensorBoard's begins with what `metrics.jsonl` holds.
const SINKS: [OpenSink; 2] = [jsonl::open, tensorboard::open];

/// The metrics of a step. Serializes to a line of [`METRICS_FILE`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StepLine {
    /// Number of updates so far, including this one.
    pub step: Step,
    /// Passes over the training documents so far.
    pub epoch: f64,
    /// Training tokens so far.
    pub tokens: u64,
    /// Mean cross-entropy of the step's batch, in nats per token.
    pub loss: f64,
    /// Learning rate of the update.
    pub learning_rate: f64,
    /// Global norm of the gradient before clipping.
    pub gradient_norm: f64,
    /// Tokens per second between the previous update and this one, without validation.
    pub tok_per_sec: f64,
    /// Model FLOPs utilization (MFU), 0 to 1, relative to this machine's measured GEMM rate.
    pub mfu: f64,
    /// Milliseconds per worker in which compute waited for a batch.
    pub data_wait_ms: f64,
    /// Completion time of the step, in seconds since 1970 (UTC).
    #[serde(default)]
    pub time: f64,
    /// Validation loss after the step, if computed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub validation_loss: Option<f64>,
    /// Validation bits per byte, if computed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub bits_per_byte: Option<f64>,
    /// The same by source, in a run that mixes several.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub sources: BTreeMap<String, SourceLine>,
    /// Other metrics of stages.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl StepLine {
    /// The line without what depends on the machine and its load. Metrics of other stages may, too.
    #[must_use]
    pub fn reproducible(self) -> Self {
        Self { tok_per_sec: 0.0, mfu: 0.0, data_wait_ms: 0.0, time: 0.0, other: Map::new(), ..self }
    }

    /// The numbers of the step by name, as TensorBoard shows them; those of a source as `NAME/SOURCE`.
    pub fn measured(&self) -> impl Iterator<Item = (Cow<'_, str>, f64)> {
        let own = [
            ("loss", Some(self.loss)),
            ("validation_loss", self.validation_loss),
            ("bits_per_byte", self.bits_per_byte),
            ("learning_rate", Some(self.learning_rate)),
            ("gradient_norm", Some(self.gradient_norm)),
            ("tok_per_sec", Some(self.tok_per_sec)),
            ("mfu", Some(self.mfu)),
            ("data_wait_ms", Some(self.data_wait_ms)),
        ];
        let own = own.into_iter().filter_map(|(name, value)| Some((Cow::from(name), value?)));
        let other = self.other.iter().filter_map(|(name, value)| Some((Cow::from(name), value.as_f64()?)));
        let of_sources = self.sources.iter().flat_map(|(source, line)| {
            let measured = [
                ("tokens", Some(line.tokens as f64)),
                ("epoch", Some(line.epoch)),
                ("validation_loss", line.validation_loss),
                ("bits_per_byte", line.bits_per_byte),
            ];
            measured.into_iter().filter_map(move |(name, value)| Some((format!("{name}/{source}").into(), value?)))
        });
        own.chain(other).chain(of_sources)
    }

    /// How long the step took, without validation, if the run had trained on so many tokens before it.
    pub fn seconds(&self, tokens_before: u64) -> f64 {
        let tokens = self.tokens.saturating_sub(tokens_before) as f64;
        if self.tok_per_sec > 0.0 { tokens / self.tok_per_sec } else { 0.0 }
    }

    /// The line without what was found by validation.
    #[must_use]
    pub fn not_validated(mut self) -> Self {
        for source in self.sources.values_mut() {
            (source.validation_loss, source.bits_per_byte) = (None, None);
        }
        Self { validation_loss: None, bits_per_byte: None, ..self }
    }
}

/// Receives the metrics of each step, for example to print them.
pub trait Report: Send + Sync {
    /// A training step is done.
    fn step(&self, line: &StepLine);
    /// So many tokens of the validation documents have been evaluated at this step.
    fn validating(&self, _tokens: u64) {}
    /// A step has been validated: the line now includes validation loss and bits per byte.
    fn validated(&self, line: &StepLine);
    /// The model after `updates` updates generated `text`.
    fn sampled(&self, _updates: Step, _text: &str) {}
}

/// The run's [`Report`], as a resource.
pub struct Reporter(pub Box<dyn Report>);

/// The machine's measured limit, as a resource: GFLOP/s of large f32 products on all workers at once.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    /// GFLOP/s.
    pub gemm_gflops: f64,
}

/// Settings of `type = "record"`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, StageKeys)]
#[serde(default, deny_unknown_fields)]
pub struct Record {}

impl StageSettings for Record {
    const SUMMARY: &'static str = "writes metrics.jsonl and TensorBoard's event files, shows progress";
    const OBSERVES: bool = true;
    const EXAMPLE: &'static str = "type = \"record\"\n";
}

impl Settings for Record {
    fn takes(&self) -> Vec<Port> {
        vec![Port::stream(Kind::Metrics).by(Route::Exchange)]
    }

    fn gives(&self) -> Vec<Kind> {
        Vec::new()
    }

    fn build(&self, env: &Env) -> Result<Built> {
        let flops = env.model.as_ref().map_or(0.0, |model| model.flops_per_token);
        let limit = env.resources.get::<Limit>().map_or(f64::INFINITY, |limit| limit.gemm_gflops * 1e9);
        Ok(Built::Stage(Box::new(RecordStage {
            schedule: env.schedule,
            worker: env.worker,
            workers: env.workers,
            tokens_a_step: env.shape.tokens(),
            tokens_an_epoch: env.corpus.map(|corpus| corpus.train.tokens),
            full_speed: limit / flops,
            mixed: Sources::of(env),
            run_dir: env.run_dir.clone(),
            reporter: env.resources.get(),
            sinks: Vec::new(),
            gathered: BTreeMap::new(),
            validated_tokens: 0,
            last: None,
            clock: Clock::new(Instant::now()),
        })))
    }
}

/// Values of one metric by `(leaf, part)`.
type Values = BTreeMap<(Lane, u32), f64>;

struct RecordStage {
    schedule: Schedule,
    worker: usize,
    workers: usize,
    tokens_a_step: u64,
    tokens_an_epoch: Option<u64>,
    /// Tokens per second at the machine's limit.
    full_speed: f64,
    /// If the run mixes several sources.
    mixed: Option<Sources>,
    run_dir: Option<PathBuf>,
    reporter: Option<Arc<Reporter>>,
    /// Those of worker 0 in a run that has a directory.
    sinks: Vec<Box<dyn Sink>>,
    gathered: BTreeMap<(Purpose, &'static str), (Gather, Values)>,
    /// Validation targets of this step so far.
    validated_tokens: u64,
    /// The line of the last step; it is complete after the step has been validated.
    last: Option<StepLine>,
    clock: Clock,
}

impl RecordStage {
    fn combined(&mut self, purpose: Purpose) -> BTreeMap<&'static str, f64> {
        let sum = |values: &Values| values.values().sum::<f64>();
        let targets = self.gathered.get(&(purpose, "targets")).map_or(0.0, |(_, values)| sum(values));
        let of_purpose = self.gathered.iter().filter(|((p, _), _)| *p == purpose);
        let combined = of_purpose.filter_map(|((_, name), (gather, values))| {
            let value = match gather {
                Gather::Sum => sum(values),
                Gather::PerTarget => sum(values) / targets,
                Gather::First => *values.values().next()?,
                Gather::Max => values.values().copied().fold(f64::NEG_INFINITY, f64::max),
            };
            Some((*name, value))
        });
        combined.collect()
    }

    fn line(&mut self, step: Step) -> Result<StepLine> {
        let mut values = self.combined(Purpose::Train);
        let mut take = |name| values.remove(name).unwrap_or_default();
        let done = step + 1;
        let tokens = done * self.tokens_a_step;
        let seconds = self.clock.training().as_secs_f64();
        // No time has passed if no stage of the run reports training metrics.
        let tok_per_sec = if seconds > 0.0 { self.tokens_a_step as f64 / seconds } else { 0.0 };
        let mut line = StepLine {
            step: done,
            epoch: self.tokens_an_epoch.map_or(0.0, |epoch| tokens as f64 / epoch as f64),
            tokens,
            loss: take("loss"),
            learning_rate: take("learning_rate"),
            gradient_norm: take("gradient_norm"),
            tok_per_sec,
            mfu: if self.full_speed.is_finite() { tok_per_sec / self.full_speed } else { 0.0 },
            data_wait_ms: take("data_wait_ms") / self.workers as f64,
            time: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_millis() as f64 / 1e3),
            ..StepLine::default()
        };
        for known in ["targets", "tokens"] {
            take(known);
        }
        if let Some(mixed) = &mut self.mixed {
            line.sources = mixed.trained(step)?;
        }
        line.other = values.into_iter().map(|(name, value)| (name.to_owned(), Value::from(value))).collect();
        Ok(line)
    }

    /// Adds what was found by validation to `line`.
    fn add_validation(&mut self, mut line: StepLine) -> StepLine {
        let values = self.combined(Purpose::Validate);
        line.validation_loss = values.get("validation_loss").copied();
        line.bits_per_byte = values.get("bits_per_byte").copied();
        let of = |name| self.gathered.get(&(Purpose::Validate, name)).map(|(_, values)| values);
        if let (Some(mixed), Some(losses), Some(targets)) = (&self.mixed, of("loss"), of("targets")) {
            mixed.validated(losses, targets, &mut line.sources);
        }
        line
    }

    /// Writes the line of the last step, which is now complete.
    fn write(&mut self) -> Result<()> {
        let Some(line) = self.last.take() else { return Ok(()) };
        self.sinks.iter_mut().try_for_each(|sink| sink.write(&line))
    }
}

impl Stage for RecordStage {
    fn start(&mut self, _out: &mut dyn Emit) -> Result<()> {
        if self.worker == 0
            && let Some(run_dir) = &self.run_dir
        {
            // The checkpoint contains only what is reproducible of the last line, which was written before it. It is
            // validated again if this run validates after that step.
            if let Some(last) = &mut self.last {
                let mut written = read_metrics(&run_dir.join(METRICS_FILE))?.into_iter();
                if let Some(line) = written.find(|line| line.step == last.step && line.loss == last.loss) {
                    *last = line.not_validated();
                }
            }
            self.sinks = SINKS.iter().map(|open| open(run_dir, self.schedule.first)).collect::<Result<_>>()?;
        }
        self.clock = Clock::new(Instant::now());
        Ok(())
    }

    fn packet(&mut self, _at: At, packet: Packet, _out: &mut dyn Emit) -> Result<Turn> {
        if let Packet::Metrics(Metrics { purpose, from, worker, values, .. }) = packet {
            let targets = values.iter().find(|metric| metric.name == "targets").map(|metric| metric.value);
            self.clock.record(Instant::now(), purpose, targets.map(|_| worker));
            if let (Purpose::Validate, Some(targets), Some(reporter)) = (purpose, targets, &self.reporter) {
                self.validated_tokens += targets as u64;
                reporter.0.validating(self.validated_tokens);
            }
            for metric in values {
                let entry = self.gathered.entry((purpose, metric.name));
                entry.or_insert_with(|| (metric.gather, Values::new())).1.insert(from, metric.value);
            }
        }
        Ok(Turn::Done)
    }

    fn step_done(&mut self, step: Step, _out: &mut dyn Emit) -> Result<()> {
        if self.worker != 0 {
            return Ok(());
        }
        if self.schedule.validates(step) {
            if self.run_dir.is_none() {
                self.last.get_or_insert(StepLine { step, ..StepLine::default() });
            }
            if let Some(line) = self.last.take() {
                let line = self.add_validation(line);
                if let Some(reporter) = &self.reporter {
                    reporter.0.validated(&line);
                }
                self.last = Some(line);
            }
        }
        self.write()?;
        if self.schedule.trains(step) {
            let line = self.line(step)?;
            if let Some(reporter) = &self.reporter {
                reporter.0.step(&line);
            }
            self.sinks.iter_mut().try_for_each(|sink| sink.expect(&line))?;
            self.last = Some(line);
        }
        self.gathered.clear();
        self.validated_tokens = 0;
        self.clock = self.clock.next();
        Ok(())
    }

    /// The line of the last step, as far as it is the same in every run of a configuration.
    fn save(&mut self, lane: Lane) -> Result<Snapshot> {
        let line = self.last.clone().map(StepLine::reproducible);
        Ok(if lane == 0 { Snapshot::of(line) } else { Snapshot::default() })
    }

    fn load(&mut self, _lane: Lane, state: Value) -> Result<()> {
        self.last = serde_json::from_value(state).context("the checkpoint's last line of metrics is unreadable")?;
        Ok(())
    }

    /// The last step of a stopped run has not been validated: its line is written without validation, and the resumed
    /// run writes it again, complete.
    fn finish(&mut self) -> Result<()> {
        self.write()
    }
}

//! `record`: writes the metrics of each step, and samples, to every [`Sink`], and reports progress.
mod blocks;
pub mod clock;
mod follow;
pub mod jsonl;
mod line;
pub mod mlflow;
pub mod sink;
mod sources;
pub mod spikes;
pub mod tensorboard;

pub use blocks::BlockLine;
pub use follow::{Change, Follower, FromEnd};
pub use jsonl::{METRICS_FILE, SAMPLES_FILE, read_metrics, read_samples};
pub use line::{SampleLine, StepLine};
pub use sink::{Opening, Sink, SinkType};
pub use sources::SourceLine;

use crate::checkpoint::Fingerprint;
use crate::record::blocks::Blocks;
use crate::record::clock::Clock;
use crate::record::sources::Sources;
use anyhow::{Context, Result};
use contract::{
    At, Built, Emit, Env, Gather, Kind, Lane, Metrics, Packet, Packing, Port, Problem, Purpose, Route, Sample,
    Schedule, SectionChange, Settings, Snapshot, Stage, StageKeys, StageSettings, Step, Turn,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Receives the metrics of each step, for example to print them.
pub trait Report: Send + Sync {
    /// A training step is done.
    fn step(&self, line: &StepLine);
    /// So many tokens of the validation documents have been evaluated at this step.
    fn validating(&self, _tokens: u64) {}
    /// A step has been validated: the line now includes validation loss and bits per byte.
    fn validated(&self, line: &StepLine);
    /// The model has generated a text.
    fn sampled(&self, _sample: &SampleLine) {}
}

/// The run's [`Report`], as a resource.
pub struct Reporter(pub Box<dyn Report>);

/// The machine's measured limit, as a resource: GFLOP/s of large products in the model's precision on all
/// workers at once.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    /// GFLOP/s.
    pub gemm_gflops: f64,
}

/// Settings of `type = "record"`.
#[derive(Clone, Debug, Serialize, Deserialize, StageKeys)]
#[serde(default, deny_unknown_fields)]
pub struct Record {
    /// Where metrics and samples are written in the run directory: "jsonl" (`metrics.jsonl` and `samples.jsonl`, which
    /// other commands read: always required), "tensorboard" (event files in `tb`), "mlflow" (an MLflow file store in
    /// `mlruns`).
    #[key(default = ["jsonl", "tensorboard"].map(str::to_owned).into())]
    pub sinks: Vec<String>,
}

impl StageSettings for Record {
    const SUMMARY: &'static str = "writes metrics and samples: JSON Lines, TensorBoard, MLflow; shows progress";
    const OBSERVES: bool = true;
    const EXAMPLE: &'static str = "type = \"record\"\nsinks = [\"jsonl\", \"tensorboard\", \"mlflow\"]\n";
}

impl Settings for Record {
    fn takes(&self) -> Vec<Port> {
        vec![Port::stream(Kind::Metrics).by(Route::Exchange)]
    }

    fn gives(&self) -> Vec<Kind> {
        Vec::new()
    }

    fn check(&self) -> Vec<Problem> {
        sink::check(&self.sinks)
    }

    fn build(&self, env: &Env) -> Result<Built> {
        let flops = env.model.as_ref().map_or(0.0, |model| model.flops_per_token);
        let limit = env.resources.get::<Limit>().map_or(f64::INFINITY, |limit| limit.gemm_gflops * 1e9);
        Ok(Built::Stage(Box::new(RecordStage {
            schedule: env.schedule,
            worker: env.worker,
            workers: env.workers,
            tokens_a_step: env.shape.tokens(),
            tokens_an_epoch: env.corpus.map(|corpus| {
                let packing = Packing::of_all(&env.resources).unwrap_or_default();
                packing.positions_of(corpus.train.tokens)
            }),
            full_speed: limit / flops,
            mixed: Sources::of(env),
            blocks: Blocks::of(env),
            run_dir: env.run_dir.clone(),
            configuration: env.resources.get(),
            reporter: env.resources.get(),
            types: self.sinks.iter().filter_map(|name| sink::find(name)).collect(),
            sinks: Vec::new(),
            gathered: BTreeMap::new(),
            samples: Vec::new(),
            changes: BTreeMap::new(),
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
    blocks: Option<Blocks>,
    run_dir: Option<PathBuf>,
    configuration: Option<Arc<Fingerprint>>,
    reporter: Option<Arc<Reporter>>,
    types: Vec<SinkType>,
    /// Those of worker 0 in a run that has a directory.
    sinks: Vec<Box<dyn Sink>>,
    gathered: BTreeMap<(Purpose, &'static str), (Gather, Values)>,
    /// The samples of this step.
    samples: Vec<Sample>,
    /// What the update of this step has done to each section, if the run validates after it.
    changes: BTreeMap<usize, SectionChange>,
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
        if let Some(blocks) = &self.blocks {
            line.blocks = blocks.lines(&self.changes);
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

    /// Writes the line of the last step, which is now complete, and the samples of its model.
    fn write(&mut self) -> Result<()> {
        let Some(line) = self.last.take() else { return Ok(()) };
        let of_step = |Sample { prompt, text }| SampleLine { step: line.step, prompt, text };
        let samples: Vec<SampleLine> = self.samples.drain(..).map(of_step).collect();
        if let Some(reporter) = &self.reporter {
            samples.iter().for_each(|sample| reporter.0.sampled(sample));
        }
        self.sinks.iter_mut().try_for_each(|sink| {
            sink.write(&line)?;
            if samples.is_empty() { Ok(()) } else { sink.samples(&line, &samples) }
        })
    }

    /// Opens the sinks of a run that resumes after `lines`.
    fn open_sinks(&mut self, run_dir: &Path, mut lines: Vec<StepLine>) -> Result<()> {
        let first = self.schedule.first;
        let mut samples = read_samples(&run_dir.join(SAMPLES_FILE))?;
        lines.retain(|line| line.step < first);
        samples.retain(|sample| sample.step < first);
        let none = BTreeMap::new();
        let configuration = self.configuration.as_ref().map_or(&none, |fingerprint| &fingerprint.configuration);
        let opening = Opening { run_dir, first, lines: &lines, samples: &samples, configuration };
        self.sinks = self.types.iter().map(|sink| (sink.open)(&opening)).collect::<Result<_>>()?;
        Ok(())
    }
}

impl Stage for RecordStage {
    fn start(&mut self, _out: &mut dyn Emit) -> Result<()> {
        if self.worker == 0
            && let Some(run_dir) = self.run_dir.clone()
        {
            let written = read_metrics(&run_dir.join(METRICS_FILE))?;
            // The checkpoint contains only what is reproducible of the last line, which was written before it. It is
            // validated again if this run validates after that step; otherwise blocks were measured because it was the last.
            if let Some(last) = &mut self.last
                && let Some(line) = written.iter().find(|line| line.step == last.step && line.loss == last.loss)
            {
                *last = line.clone().not_validated();
                if self.schedule.validates(last.step) {
                    last.blocks.clone_from(&line.blocks);
                }
            }
            self.open_sinks(&run_dir, written)?;
        }
        self.clock = Clock::new(Instant::now());
        Ok(())
    }

    fn packet(&mut self, _at: At, packet: Packet, _out: &mut dyn Emit) -> Result<Turn> {
        if let Packet::Metrics(Metrics { purpose, from, worker, values, mut samples, changes, .. }) = packet {
            let targets = values.iter().find(|metric| metric.name == "targets").map(|metric| metric.value);
            let computed = targets.is_some() || !samples.is_empty();
            self.clock.record(Instant::now(), purpose, computed.then_some(worker));
            self.samples.append(&mut samples);
            self.changes.extend(changes.into_iter().map(|change| (change.section, change)));
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
        self.samples.clear();
        self.changes.clear();
        self.validated_tokens = 0;
        self.clock = self.clock.next();
        Ok(())
    }

    /// The line of the last step, as far as it is the same in every run of a configuration. When steps are validated and
    /// their blocks are measured may be changed when the run is resumed.
    fn save(&mut self, lane: Lane) -> Result<Snapshot> {
        let line = self.last.clone().map(|line| StepLine { blocks: BTreeMap::new(), ..line.reproducible() });
        Ok(if lane == 0 { Snapshot::of(line) } else { Snapshot::default() })
    }

    fn load(&mut self, _lane: Lane, state: Value) -> Result<()> {
        self.last = serde_json::from_value(state).context("the checkpoint's last line of metrics is unreadable")?;
        Ok(())
    }

    /// The last step of a stopped run has not been validated: its line is written without validation, and the resumed
    /// run writes it again, complete.
    fn finish(&mut self) -> Result<()> {
        let complete = self.last.is_none();
        self.write()?;
        self.sinks.iter_mut().try_for_each(|sink| sink.finish(complete))
    }
}

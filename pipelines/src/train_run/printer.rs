//! Prints the progress and results of a run.
use super::session::Session;
use crate::engine::WorkerTiming;
use crate::machine::peak_rss_mb;
use crate::show::human::time;
use crate::show::{Line, StageTime, Times, Training, Wait, stage_times};
use contract::{Facts, lock};
use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use train::record::spikes::SpikeDetector;
use train::record::{METRICS_FILE, Report, SampleLine, SourceLine, StepLine, read_metrics};

/// Prints progress, and keeps the last metrics.
pub struct Printer {
    /// The progress line.
    pub line: Line,
    steps: u64,
    first: u64,
    batch: usize,
    began: Option<Instant>,
    /// Contents of the line.
    shown: Training,
    /// Speed and MFU of the last steps, to smooth the displayed values.
    recent: VecDeque<(f64, f64)>,
    /// The last step.
    pub last: Option<StepLine>,
    /// The last validation.
    bits_per_byte: Option<f64>,
    /// The loss of a model that gives every token the same probability.
    guessing: f64,
    waited_ms: f64,
    spikes: SpikeDetector,
}

impl Printer {
    /// Prints the steps of `session` on `line`.
    pub fn new(line: Line, session: &Session) -> Self {
        let (shape, schedule) = (session.env.shape, session.env.schedule);
        let metrics = session.env.run_dir.as_ref().map(|run_dir| read_metrics(&run_dir.join(METRICS_FILE)));
        let mut spikes = SpikeDetector::default();
        // If they cannot be read, `record` says so.
        for line in metrics.and_then(Result::ok).unwrap_or_default() {
            if line.step <= schedule.first {
                let _ = spikes.next(&line);
            }
        }
        Self {
            line,
            steps: schedule.steps,
            first: schedule.first,
            batch: shape.micro_batches as usize * shape.sequences,
            began: None,
            shown: Training::default(),
            recent: VecDeque::new(),
            last: None,
            bits_per_byte: None,
            guessing: session
                .env
                .resources
                .get::<Facts>()
                .map_or(f64::INFINITY, |facts| (facts.vocabulary as f64).ln()),
            waited_ms: 0.0,
            spikes,
        }
    }

    fn step(&mut self, step: &StepLine) {
        let began = *self.began.get_or_insert_with(Instant::now);
        self.waited_ms += step.data_wait_ms;
        self.recent.push_back((step.tok_per_sec, step.mfu));
        if self.recent.len() > 20 {
            self.recent.pop_front();
        }
        let (tok_per_sec, mfu) = self.usual();
        let done = (step.step - self.first).saturating_sub(1);
        let left = (done > 0).then(|| began.elapsed().mul_f64((self.steps - step.step) as f64 / done as f64));
        self.shown = Training {
            step: step.step,
            steps: self.steps,
            loss: step.loss,
            tok_per_sec,
            batch: self.batch,
            mfu: (mfu > 0.0).then_some(mfu),
            data_wait_ms: step.data_wait_ms,
            left,
            // The line of the last step stays, and its validation is still to come.
            validation_loss: self.shown.validation_loss.filter(|_| step.step < self.steps),
        };
        self.line.training(&self.shown);
        if let Some(spike) = self.spikes.next(step).filter(|spike| spike.begins) {
            self.line.note_of_training(&spike.to_string(), &self.shown);
        }
        self.last = Some(step.clone());
    }

    /// Median speed, and MFU, of the last steps.
    pub fn usual(&self) -> (f64, f64) {
        let mut sorted: Vec<(f64, f64)> = self.recent.iter().copied().collect();
        sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
        sorted.get(sorted.len() / 2).copied().unwrap_or_default()
    }

    fn validated(&mut self, step: &StepLine) {
        self.shown.validation_loss = step.validation_loss;
        self.bits_per_byte = step.bits_per_byte;
        if let Some(loss) = step.validation_loss {
            let bits = step.bits_per_byte.map(|bits| format!(", {bits:.4} bits per byte")).unwrap_or_default();
            let text = format!("Step {}: validation loss {loss:.4}{bits}", step.step);
            self.line.note_of_training(&text, &self.shown);
            for (source, line) in &step.sources {
                if let Some(text) = validated_source(source, line) {
                    self.line.note_of_training(&text, &self.shown);
                }
            }
        }
        self.last = Some(step.clone());
    }

    fn sampled(&mut self, sample: &SampleLine) {
        let text = format!("{}{}", sample.prompt, sample.text);
        self.line.note(&format!("Sample after {} steps: {}", sample.step, text.trim_end().replace('\n', "\n  ")));
    }

    /// Prints the results of a completed run.
    pub fn results(&mut self, run_dir: &Path) {
        if let Some(last) = &self.last {
            let validated = match (self.shown.validation_loss, self.bits_per_byte) {
                (Some(loss), Some(bits)) => format!(", validation loss {loss:.4}, {bits:.4} bits per byte"),
                (Some(loss), None) => format!(", validation loss {loss:.4}"),
                (None, _) => String::new(),
            };
            let done = format!("\nDone: {} steps, loss {:.4}{validated}", last.step, last.loss);
            self.line.note(&done);
            if last.loss.is_nan() || last.loss > self.guessing {
                let guessing = self.guessing;
                self.line.warn(&format!(
                    "warning: the loss is above {guessing:.4}, which guessing every token with equal probability gives: the \
                     model has learned nothing; a lower learning rate may help"
                ));
            }
        }
        let checkpoint = train::checkpoint::list(run_dir).ok().and_then(|mut all| all.pop());
        if let Some((_, path)) = checkpoint {
            self.line.note(&format!("The model is in {}", path.display()));
        }
    }

    /// Prints the time per stage and the peak memory.
    pub fn times(&mut self, times: &Times) {
        let table = stage_times(times, self.line.columns());
        let wait = match self.waited_ms {
            0.0 => "never waited for data".into(),
            ms => format!("waited {} for data", time(Duration::try_from_secs_f64(ms / 1e3).unwrap_or_default())),
        };
        self.line.note(&format!("\n{table}; compute {wait}; peak memory {} MB", peak_rss_mb()));
    }
}

/// The validation of a source on a line, if it was validated.
fn validated_source(source: &str, line: &SourceLine) -> Option<String> {
    let loss = line.validation_loss?;
    let bits = line.bits_per_byte.map(|bits| format!(", {bits:.4} bits per byte")).unwrap_or_default();
    Some(format!("  {source}: validation loss {loss:.4}{bits}, {:.2} epochs", line.epoch))
}

/// A printer to which a stage reports.
pub struct Shared(pub Arc<Mutex<Printer>>);

impl Report for Shared {
    fn step(&self, line: &StepLine) {
        lock(&self.0).step(line);
    }
    fn validated(&self, line: &StepLine) {
        lock(&self.0).validated(line);
    }
    fn sampled(&self, sample: &SampleLine) {
        lock(&self.0).sampled(sample);
    }
}

/// Time per stage, summed over all workers.
pub fn times(workers: &[WorkerTiming], wall: Duration) -> Times {
    let mut times = Times { wall, workers: workers.len(), stages: Vec::new(), waits: Vec::new() };
    let mut parked = Duration::ZERO;
    for timing in workers {
        parked += timing.parked;
        for stage in &timing.stages {
            match times.stages.iter_mut().find(|s| s.stage == stage.id) {
                Some(sum) => {
                    sum.time += stage.busy;
                    sum.calls += stage.calls;
                }
                None => times.stages.push(StageTime { stage: stage.id.clone(), time: stage.busy, calls: stage.calls }),
            }
        }
    }
    times.waits.push(Wait { what: "work".into(), time: parked });
    times
}

//! `pipeline run`.
use super::interruption::Interruption;
use super::session::Session;
use super::status::{Hold, Status};
use super::{Usage, calibrate, directory, explain, prepare};
use crate::cli;
use crate::engine::{Job, Stop, WorkerTiming, execute};
use crate::plan::Plan;
use crate::report;
use crate::show::human::time;
use crate::show::{Banner, Line, StageTime, Times, Training, Wait, banner, stage_times};
use anyhow::Result;
use compute::kernels::gemm;
use compute::machine;
use contract::{Precision, Saved, Snapshot, StageType};
use std::collections::{BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use text::Attribution;
use train::checkpoint::{State, TokenizerJson};
use train::record::{Limit, Report, Reporter, StepLine};
use train::weights::Start;

/// Runs a configuration to its end.
///
/// # Errors
/// [`Problems`](crate::problem::Problems) of the configuration, [`Usage`], the first failure of any stage, or
/// [`Interrupted`](super::Interrupted).
pub fn run(asked: &cli::Run, registry: &[StageType]) -> Result<()> {
    let plan = Plan::load(&asked.config, &asked.overrides(), registry).map_err(anyhow::Error::new)?;
    let run_dir = asked.run_dir.clone().unwrap_or_else(|| Path::new("runs").join(&plan.run.name));
    let workers = plan.run.workers.unwrap_or_else(super::cores);
    if plan.settings::<text::Write>().is_some() {
        if asked.resume.is_some() {
            let why = "a preparation is not resumed: run it again without --resume, and what is done is not done again";
            return Err(Usage(why.into()).into());
        }
        if asked.dry_run {
            println!("{}", explain::preparation(&plan, Some(&run_dir))?);
            return Ok(());
        }
        return super::corpus::run(plan, &run_dir, workers);
    }
    machine::single_threaded_blas();
    let interruption = Interruption::at_once()?;

    if asked.dry_run {
        return dry_run(&plan, workers, &run_dir);
    }
    directory::open(&run_dir)?;
    let hold = Hold::take(&run_dir)?;
    directory::claim(&run_dir, asked.resume.is_some())?;
    let mut line = Line::stderr();
    let (mut session, saved) = match ready(asked, &plan, workers, &run_dir, &mut line) {
        Ok(ready) => ready,
        Err(error) => {
            hold.tell_first(&Status::failed(&error));
            return Err(error);
        }
    };
    let introduction = banner(&introduction(&session, &plan, &run_dir), line.columns());
    let printer = Arc::new(Mutex::new(Printer::new(line, &session)));
    // From what is said next on, a signal waits for the step.
    let (stop, noted) = (Arc::new(Stop::default()), Arc::clone(&printer));
    interruption.ask(Arc::clone(&stop), move |note| lock(&noted).line.note(note))?;
    lock(&printer).line.note(&introduction);
    session.notes.iter().for_each(|note| lock(&printer).line.note(&format!("note: {note}")));
    session.env.resources.insert(Arc::clone(&stop));
    session.env.resources.insert(Arc::new(Limit { gemm_gflops: full_speed(workers) }));
    session.env.resources.insert(Arc::new(Reporter(Box::new(Shared(Arc::clone(&printer))))));
    let (began, calendar) = (Instant::now(), session.env.calendar);
    let mut status = Status::begin(calendar.first, calendar.steps);
    hold.tell(&status)?;
    let job = Job { stages: plan.stages, env: session.env, saved, endless: false, prefetch: plan.run.prefetch };
    let times = execute(job).map(|timings| times(&timings, began.elapsed()));
    interruption.over();
    let mut printer = lock(&printer);
    printer.line.finish();
    status.end(&times, printer.last.as_ref().map_or(calendar.first, |last| last.step));
    let told = hold.tell(&status);
    drop(hold);
    let report = told.and_then(|()| report::write(&run_dir));
    if let Ok(times) = &times {
        printer.conclude(times, &run_dir, stop.last().is_none());
    }
    // That there is no report is no reason to call the run failed.
    printer.line.note(&match report {
        Ok(path) => format!("The report is {}", path.display()),
        Err(error) => format!("warning: there is no report: {error:#}"),
    });
    times?;
    match stop.last() {
        None => Ok(()),
        Some(last) => {
            let left = train::checkpoint::list(&run_dir)?.pop().filter(|(step, _)| *step == last + 1);
            Err(interruption.interrupted(last + 1, calendar.steps, left.map(|(_, path)| path)).into())
        }
    }
}

fn lock(printer: &Mutex<Printer>) -> MutexGuard<'_, Printer> {
    printer.lock().unwrap_or_else(|e| e.into_inner())
}

/// All that is done before training: what is known then, and what stages go on from.
fn ready(
    asked: &cli::Run,
    plan: &Plan,
    workers: usize,
    run_dir: &Path,
    line: &mut Line,
) -> Result<(Session, Vec<Saved>)> {
    let from = match &asked.resume {
        Some(checkpoint) => directory::resumed(run_dir, checkpoint.as_deref())?,
        None => None,
    };
    let prepared = prepare::prepare(plan, workers, line)?;
    line.finish();
    let mut session = Session::new(plan, prepared, workers, Some(run_dir.to_owned()))?;
    if asked.resume.is_some() && from.is_none() {
        session.notes.push(format!("{} has no checkpoint to go on from: the run begins", run_dir.display()));
    }
    let saved = begin(&mut session, plan, from)?;
    let tokenizer = session.env.resources.get::<TokenizerJson>();
    directory::describe(run_dir, plan, &session, tokenizer.as_ref().map(|json| json.0.as_str()))?;
    if let Some(quarantine) = session.env.resources.get::<text::Quarantine>() {
        quarantine.write(run_dir)?;
    }
    Ok((session, saved))
}

/// Prepares the data and says what a run would do.
fn dry_run(plan: &Plan, workers: usize, run_dir: &Path) -> Result<()> {
    let (mut line, before, program) = (Line::stderr(), cached(plan), calibrate::program(workers));
    let prepared = prepare::prepare(plan, workers, &mut line)?;
    line.finish();
    let made: BTreeSet<String> = cached(plan).difference(&before).filter_map(|path| kind_of(path)).collect();
    let session = Session::new(plan, prepared, workers, None)?;
    let made: Vec<String> = made.into_iter().collect();
    println!("{}", explain::dry_run(plan, &session, run_dir, &made, program)?);
    Ok(())
}

/// The files of the cache.
fn cached(plan: &Plan) -> BTreeSet<PathBuf> {
    let documents = plan.settings::<text::ReadDocuments>().map(|(_, read)| read.cache());
    let cache = documents.or_else(|| plan.settings::<text::ReadTokens>().map(|(_, read)| read.cache()));
    // A file of the cache stands in the folder of its kind.
    let root = cache.map(|cache| cache.root().to_owned());
    let list = |folder: PathBuf| std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    root.into_iter().flat_map(list).flat_map(list).collect()
}

fn kind_of(path: &Path) -> Option<String> {
    Some(path.parent()?.file_name()?.to_string_lossy().into_owned())
}

/// GFLOP/s that MFU is measured against: `$MILLRACE_GEMM_GFLOPS`, or measured now, which takes about a second.
pub fn full_speed(workers: usize) -> f64 {
    given_speed().unwrap_or_else(|| machine::gemm_gflops(workers.min(super::cores())))
}

/// Bytes that [`full_speed`] takes for that.
pub fn full_speed_bytes(workers: usize) -> u64 {
    if given_speed().is_some() { 0 } else { machine::gemm_gflops_bytes(workers.min(super::cores())) }
}

fn given_speed() -> Option<f64> {
    let given = std::env::var("MILLRACE_GEMM_GFLOPS").ok().and_then(|text| text.parse().ok());
    given.filter(|speed| *speed > 0.0)
}

/// Sets where the run starts: at a checkpoint, from a model's weights, or from the seed.
fn begin(session: &mut Session, plan: &Plan, from: Option<(PathBuf, State)>) -> Result<Vec<Saved>> {
    let Some((checkpoint, state)) = from else {
        if let Some(folder) = &plan.run.initial_checkpoint {
            session.env.resources.insert(Arc::new(Start::Weights(folder.into())));
        }
        return Ok(Vec::new());
    };
    let notes = directory::compare(&checkpoint, state.fingerprint.as_ref(), &session.fingerprint)?;
    session.notes.extend(notes);
    session.notes.push(format!("going on from {} after {} steps", checkpoint.display(), state.step));
    if state.step > session.env.calendar.steps {
        let (done, asked) = (state.step, session.env.calendar.steps);
        return Err(Usage(format!("the checkpoint is at step {done}, past the end of the run at {asked}")).into());
    }
    session.env.calendar.first = state.step;
    session.env.resources.insert(Arc::new(Start::Resume(checkpoint)));
    Ok(state.saved.into_iter().map(|(stage, lane, state)| Saved { stage, lane, state: Snapshot::of(state) }).collect())
}

fn introduction(session: &Session, plan: &Plan, run_dir: &Path) -> Banner {
    let (env, shape) = (&session.env, session.env.shape);
    let sequences = shape.micro_batches as usize * shape.sequences;
    let precision = session.model.precision;
    Banner {
        run: plan.run.name.clone(),
        cpu: machine::cpu(),
        cores: super::cores(),
        workers: env.workers,
        products: (!gemm::on_blas() || precision == Precision::Bf16).then(|| gemm::kernel(precision)),
        blas_kernel: if gemm::on_blas() { machine::blas_core() } else { String::new() },
        warning: machine::blas_held_back(),
        model: Some(session.model.summary.clone()),
        parameters: session.model.parameter_count() as u64,
        source: first_and_others(&session.sources, |source| &source.name),
        licence: first_and_others(&session.sources, |source| &source.licence),
        corpus: env.corpus,
        batch: Some(format!(
            "{sequences} sequences of {} tokens ({} x {}), {} steps",
            shape.length, shape.micro_batches, shape.sequences, env.calendar.steps
        )),
        run_dir: Some(run_dir.display().to_string()),
    }
}

/// What is said of the sources, in a line.
fn first_and_others(sources: &[Attribution], said: fn(&Attribution) -> &String) -> Option<String> {
    let mut said: Vec<&String> = sources.iter().map(said).filter(|said| !said.is_empty()).collect();
    said.dedup();
    let (first, others) = said.split_first()?;
    Some(if others.is_empty() { (*first).clone() } else { format!("{first} and {} more", others.len()) })
}

/// Shows a run's numbers as they come, and keeps the last ones.
struct Printer {
    line: Line,
    steps: u64,
    first: u64,
    batch: usize,
    began: Option<Instant>,
    /// What the line says.
    shown: Training,
    /// Speed and MFU of the last steps, for a line that does not jump.
    recent: VecDeque<(f64, f64)>,
    last: Option<StepLine>,
    waited_ms: f64,
}

impl Printer {
    fn new(line: Line, session: &Session) -> Self {
        let (shape, calendar) = (session.env.shape, session.env.calendar);
        Self {
            line,
            steps: calendar.steps,
            first: calendar.first,
            batch: shape.micro_batches as usize * shape.sequences,
            began: None,
            shown: Training::default(),
            recent: VecDeque::new(),
            last: None,
            waited_ms: 0.0,
        }
    }

    fn step(&mut self, step: &StepLine) {
        let began = *self.began.get_or_insert_with(Instant::now);
        self.waited_ms += step.data_wait_ms;
        self.recent.push_back((step.tok_per_sec, step.mfu));
        if self.recent.len() > 20 {
            self.recent.pop_front();
        }
        let mut sorted: Vec<(f64, f64)> = self.recent.iter().copied().collect();
        sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (tok_per_sec, mfu) = sorted[sorted.len() / 2];
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
            validation_loss: self.shown.validation_loss,
        };
        self.line.training(&self.shown);
        self.last = Some(step.clone());
    }

    fn validated(&mut self, step: &StepLine) {
        self.shown.validation_loss = step.validation_loss;
        if let Some(loss) = step.validation_loss {
            let bits = step.bits_per_byte.map(|bits| format!(", {bits:.4} bits per byte")).unwrap_or_default();
            let text = format!("Step {}: validation loss {loss:.4}{bits}", step.step);
            self.line.note_of_training(&text, &self.shown);
        }
        self.last = Some(step.clone());
    }

    fn conclude(&mut self, times: &Times, run_dir: &Path, done: bool) {
        let table = stage_times(times, self.line.columns());
        let wait = match self.waited_ms {
            0.0 => "never waited for data".into(),
            ms => format!("waited {} for data", time(Duration::try_from_secs_f64(ms / 1e3).unwrap_or_default())),
        };
        self.line.note(&format!("\n{table}; compute {wait}"));
        if !done {
            return;
        }
        if let Some(last) = &self.last {
            let loss = last.loss;
            let peak = super::peak_rss_mb();
            let done = format!("\nDone: {} steps, training loss {loss:.4}, peak memory {peak} MB", last.step);
            self.line.note(&done);
        }
        let checkpoint = train::checkpoint::list(run_dir).ok().and_then(|mut all| all.pop());
        if let Some((_, path)) = checkpoint {
            self.line.note(&format!("The model is in {}", path.display()));
        }
    }
}

struct Shared(Arc<Mutex<Printer>>);

impl Report for Shared {
    fn step(&self, line: &StepLine) {
        lock(&self.0).step(line);
    }
    fn validated(&self, line: &StepLine) {
        lock(&self.0).validated(line);
    }
}

/// Time per stage over all workers.
fn times(workers: &[WorkerTiming], wall: Duration) -> Times {
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

//! Training: prepares the data, runs the graph, and writes the report.
use super::hosts::{HeadOptions, HeadRun, Hosted};
use super::interruption::{Interruption, SIGNALLED};
use super::printer::{Printer, Shared, times};
use super::sample::Continuer;
use super::session::Session;
use super::status::{Hold, Status};
use super::{calibrate, directory, explain, forget, resume_checks, speed};
use crate::engine::{Job, Stop, execute};
use crate::machine::cores;
use crate::plan::{Plan, PlannedStage};
use crate::prepare_stages::prepare;
use crate::pretrained::ModelFolder;
use crate::problem::Usage;
use crate::report;
use crate::show::{Banner, Explanation, Line, banner, sources};
use anyhow::{Context, Result};
use compute::cpu;
use compute::kernels::gemm;
use contract::{Effect, Resources, Saved, Schedule, Snapshot, StageType, lock};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Instant;
use text::{Attribution, Cache};
use train::checkpoint::{Fingerprint, State, TokenizerJson};
use train::record::{Limit, Reporter};
use train::sample::Continuation;
use train::weights::Start;

/// Options of a training run.
pub struct Options {
    /// Resume from the last checkpoint of the run, or from this one.
    pub resume: Option<Option<PathBuf>>,
    /// The run directory.
    pub run_dir: PathBuf,
    /// Worker threads.
    pub workers: usize,
    /// The number of updates after which it stops, if it is not at its end before.
    pub stop_after: Option<u64>,
    /// The registry of stages.
    pub stages: Vec<StageType>,
    /// The version of the program.
    pub version: &'static str,
}

/// Trains the model of `plan`.
///
/// # Errors
/// [`Usage`], the first failure of any stage, or [`Interrupted`](super::Interrupted).
pub fn train(plan: Plan, options: &Options, hosts: Option<HeadOptions>, mut line: Line) -> Result<()> {
    let Options { resume, run_dir, version, .. } = options;
    choose_gemm(&plan)?;
    let interruption = Interruption::at_once()?;
    directory::open(run_dir)?;
    let hold = Hold::take(run_dir)?;
    forget::check_none(run_dir)?;
    directory::claim(run_dir, resume.is_some())?;
    let (mut session, saved) = match ready(&plan, options, &mut line) {
        Ok(ready) => ready,
        Err(error) => {
            hold.tell_first(&Status::failed(&error));
            return Err(error);
        }
    };
    let printer = Arc::new(Mutex::new(Printer::new(line, &session)));
    let stop = Arc::new(options.stop_after.map_or_else(Stop::default, |updates| Stop::after(updates - 1)));
    if hosts.is_none() {
        // Before the banner: from its first line on, a signal ends the run in order.
        stop_on_signal(&interruption, &stop, &printer)?;
    }
    introduce(&session, &plan, run_dir, &mut lock(&printer).line);
    let continuer = Continuer::new(&session.model.config, &options.stages, &session.env.resources, plan.run.seed);
    session.env.resources.insert(Arc::new(Continuation(Box::new(continuer))));
    session.env.resources.insert(Arc::new(Reporter(Box::new(Shared(Arc::clone(&printer))))));
    let (began, schedule) = (Instant::now(), session.env.schedule);
    let mut status = Status::begin(schedule.first, schedule.steps);
    hold.tell(&status)?;
    let job = Job { stages: plan.stages.clone(), env: session.env.clone(), saved, prefetch: plan.run.prefetch };
    let ended = match hosts {
        None => alone(job, stop),
        Some(hosts) => hosts.invitation().and_then(|invitation| {
            let (noted, said) = (Arc::clone(&printer), Arc::clone(&printer));
            lock(&printer).line.note(&invitation);
            let on_signal = |stop| interruption.ask(stop, move |note| lock(&noted).line.warn(note));
            let run = HeadRun { plan: &plan, session: &session, job, version };
            run.run(hosts, on_signal, move |notice| lock(&said).line.note(&notice.to_string()))
        }),
    };
    interruption.over();
    let stopped = ended.as_ref().ok().and_then(|ended| ended.stopped);
    let times = ended.map(|ended| times(&ended.timings, began.elapsed()));
    let mut printer = lock(&printer);
    printer.line.finish();
    status.end(&times, printer.last.as_ref().map_or(schedule.first, |last| last.step));
    let told = hold.tell(&status);
    drop(hold);
    let report = told.and_then(|()| report::write(run_dir));
    if times.is_ok() && stopped.is_none() {
        printer.results(run_dir);
    }
    match report {
        Ok(path) => printer.line.note(&format!("The report is {}", path.display())),
        // That there is no report is no reason to call the run failed.
        Err(error) => printer.line.warn(&format!("warning: cannot write the report: {error:#}")),
    }
    printer.times(&times?);
    if speed::was_exceeded(options.workers, session.model.precision, printer.usual().1) {
        let why =
            "the run was faster than the machine's measured rate, so MFU is too high: other programs were running";
        printer.line.note(&format!("note: {why} when it was measured; the next run measures it again"));
    }
    match stopped {
        None => Ok(()),
        Some(done) => {
            let left = train::checkpoint::list(run_dir)?.pop().filter(|(step, _)| *step == done);
            let is_kept = left.is_some();
            let interrupted = interruption.interrupted(done, schedule.steps, left.map(|(_, path)| path));
            if interrupted.code > SIGNALLED {
                return Err(interrupted.into());
            }
            // It was asked to by `--stop-after`, and is to go on.
            anyhow::ensure!(is_kept, "{interrupted}");
            printer.line.note(&interrupted.to_string());
            Ok(())
        }
    }
}

/// Prints the banner, the shares of a mixture's sources, and the notes.
fn introduce(session: &Session, plan: &Plan, run_dir: &Path, line: &mut Line) {
    let columns = line.columns();
    line.note(&banner(&introduction(session, plan, run_dir), columns));
    if !session.uses.is_empty() {
        line.note(&format!("\n{}\n", sources(&session.uses, columns)));
    }
    session.notes.iter().for_each(|note| line.note(&format!("note: {note}")));
}

/// From here on, the first signal asks the run to stop after the current step.
fn stop_on_signal(interruption: &Interruption, stop: &Arc<Stop>, printer: &Arc<Mutex<Printer>>) -> Result<()> {
    let (stop, noted) = (Arc::clone(stop), Arc::clone(printer));
    interruption.ask(move |_| stop.ask(), move |note| lock(&noted).line.warn(note))
}

/// Runs the graph in this process, until its last step or until it is asked to `stop`.
fn alone(mut job: Job, stop: Arc<Stop>) -> Result<Hosted> {
    job.env.resources.insert(Arc::clone(&stop));
    let timings = execute(job)?;
    Ok(Hosted { timings, stopped: stop.last().map(|last| last + 1) })
}

/// Everything that is done before training: the session, and the state that stages resume from.
fn ready(plan: &Plan, options: &Options, line: &mut Line) -> Result<(Session, Vec<Saved>)> {
    let Options { resume, run_dir, workers, stop_after, stages, version } = options;
    let from = match resume {
        Some(checkpoint) => directory::resumed(run_dir, checkpoint.as_deref())?,
        None => None,
    };
    let known = if from.is_some() { directory::known(run_dir)? } else { Resources::default() };
    let prepared = prepare(plan, known, *workers, line)?;
    line.finish();
    let mut session = Session::new(plan, prepared, *workers, Some(run_dir.clone()))?;
    if resume.is_some() && from.is_none() {
        session
            .notes
            .push(format!("{} has no checkpoint to resume from: the run starts from the beginning", run_dir.display()));
    }
    let saved = begin(&mut session, plan, stages, from)?;
    stop_after.map_or(Ok(()), |updates| check_stop_after(updates, session.env.schedule))?;
    let tokenizer = session.env.resources.get::<TokenizerJson>();
    session.env.resources.insert(Arc::new(Limit { gemm_gflops: speed::full_speed(*workers, session.model.precision) }));
    directory::describe(
        run_dir,
        &format!("millrace {version}"),
        plan,
        &session,
        tokenizer.as_ref().map(|tokenizer| &*tokenizer.json),
    )?;
    if let Some(quarantine) = session.env.resources.get::<text::Quarantine>() {
        quarantine.write(run_dir)?;
    }
    Ok((session, saved))
}

/// Whether a run can be stopped after so many updates.
fn check_stop_after(updates: u64, Schedule { first, steps, .. }: Schedule) -> Result<()> {
    let why = match updates {
        _ if updates <= first => format!("the run has done {first} steps already; give more"),
        _ if updates >= steps => format!("the run ends after {steps} steps; give fewer, or leave it out"),
        _ => return Ok(()),
    };
    Err(Usage(format!("--stop-after {updates} would change nothing: {why}")).into())
}

/// Selects the GEMM backend that `run.gemm` names.
///
/// # Errors
/// [`Usage`] if it is not available on this machine.
pub fn choose_gemm(plan: &Plan) -> Result<()> {
    gemm::choose(&plan.run.gemm).map_err(|error| Usage(error.to_string()).into())
}

/// Prepares the data and prints what a run would do.
///
/// # Errors
/// [`Usage`], or whatever fails while the data is prepared.
pub fn dry_run(plan: &Plan, workers: usize, run_dir: &Path, mut line: Line) -> Result<(Explanation, String)> {
    choose_gemm(plan)?;
    let _interruption = Interruption::at_once()?;
    let program = calibrate::program(workers);
    let prepared = prepare(plan, Resources::default(), workers, &mut line)?;
    line.finish();
    let made: BTreeSet<&str> = prepared.resources.all::<Cache>().flat_map(|(_, cache)| cache.made()).collect();
    let made: Vec<String> = made.into_iter().map(str::to_owned).collect();
    let session = Session::new(plan, prepared, workers, None)?;
    explain::dry_run(plan, &session, run_dir, &made, program)
}

/// What decides the results of a run, from its prepared data, and what it takes, if `program` is given: the bytes
/// that the program used before ([`calibrate::program`]).
///
/// # Errors
/// [`Usage`], or whatever fails while the data is prepared.
pub fn assess(plan: &Plan, workers: usize, program: Option<u64>, line: &mut Line) -> Result<Assessment> {
    let prepared = prepare(plan, Resources::default(), workers, line)?;
    line.finish();
    let session = Session::new(plan, prepared, workers, None)?;
    let explanation = program.map(|program| explain::of_session(plan, &session, program)).transpose()?;
    let fingerprint = (*session.fingerprint).clone();
    Ok(Assessment { explanation, fingerprint, steps: session.env.schedule.steps, notes: session.notes })
}

/// See [`assess`].
pub struct Assessment {
    /// Its memory and time, if asked for.
    pub explanation: Option<Explanation>,
    /// What decides its results.
    pub fingerprint: Fingerprint,
    /// Its updates.
    pub steps: u64,
    /// Notes on its configuration and data.
    pub notes: Vec<String>,
}

/// Sets where the run starts: at a checkpoint, from a model's weights, or from the seed. Returns the state of its lanes.
///
/// # Errors
/// [`Usage`] if the run contradicts the checkpoint or the weights.
pub(super) fn begin(
    session: &mut Session,
    plan: &Plan,
    stages: &[StageType],
    from: Option<(PathBuf, State)>,
) -> Result<Vec<Saved>> {
    let Some((checkpoint, state)) = from else {
        if let Some(folder) = plan.run.initial_checkpoint.as_ref().map(Path::new) {
            compare_model(session, plan, stages, folder)?;
            session.env.resources.insert(Arc::new(Start::Weights(folder.into())));
        }
        return Ok(Vec::new());
    };
    let rounding = |stage: &PlannedStage| {
        let values = plan.values(&stage.id, &[Effect::Rounding]);
        values.map(|(key, _)| format!("{}.{key}", stage.id)).collect::<Vec<_>>()
    };
    let rounding: Vec<String> = plan.stages.iter().flat_map(rounding).collect();
    let then = state.fingerprint.as_ref();
    session.notes.extend(resume_checks::compare_to_resume(&checkpoint, then, &session.fingerprint, &rounding)?);
    session.notes.push(format!("resuming from {} after {} steps", checkpoint.display(), state.step));
    if state.step > session.env.schedule.steps {
        let (done, asked) = (state.step, session.env.schedule.steps);
        return Err(Usage(format!("the checkpoint is at step {done}, past the end of the run at {asked}")).into());
    }
    if let (Some(then), Some((stage, rate))) = (&state.fingerprint, &session.learning_rate) {
        let steps = state.step..session.env.schedule.steps;
        session.notes.extend(resume_checks::compare_learning_rate(&checkpoint, then, stage, rate, steps)?);
    }
    if let Some(run_dir) = &session.env.run_dir {
        let aside = train::checkpoint::set_aside_after(run_dir, state.step)?;
        let moved =
            aside.iter().map(|path| format!("a later checkpoint is no longer part of the run: {}", path.display()));
        session.notes.extend(moved);
    }
    session.env.schedule.first = state.step;
    session.env.resources.insert(Arc::new(Start::Resume(checkpoint)));
    Ok(state.saved.into_iter().map(|(stage, lane, state)| Saved { stage, lane, state: Snapshot::of(state) }).collect())
}

/// Refuses weights that mean something else in the run's model than in the one that they are from.
///
/// # Errors
/// [`Usage`] with every difference that `run.accept_differences` does not name, or with a name there that differs not;
/// if the model cannot be read.
fn compare_model(session: &mut Session, plan: &Plan, stages: &[StageType], folder: &Path) -> Result<()> {
    let at = folder.display();
    let key = "run.initial_checkpoint";
    let model = ModelFolder::open(folder, stages).with_context(|| format!("`{key}`: cannot start from {at}"))?;
    let tokenizer = session.env.resources.get::<TokenizerJson>();
    let differences = model.differences(&session.model.config, tokenizer.as_ref().map(|tokenizer| &*tokenizer.json))?;
    let accepted = &plan.run.accept_differences;
    if let Some(name) = accepted.iter().find(|name| differences.iter().all(|(other, _)| other != *name)) {
        return Err(Usage(format!("`run.accept_differences` names {name:?}, which does not differ from {at}")).into());
    }
    let (accepted, refused): (Vec<_>, Vec<_>) = differences.into_iter().partition(|(name, _)| accepted.contains(name));
    session.notes.extend(accepted.into_iter().map(|(_, how)| format!("{how} (`run.accept_differences`)")));
    if refused.is_empty() {
        return Ok(());
    }
    let list: String = refused.iter().map(|(_, how)| format!("  {how}\n")).collect();
    let names: Vec<String> = refused.iter().map(|(name, _)| format!("{name:?}")).collect();
    let next = format!("Change the run, or accept it: --set 'run.accept_differences=[{}]'", names.join(", "));
    Err(Usage(format!("the weights of `{key}` {at} would mean something else in this run:\n{list}{next}")).into())
}

fn introduction(session: &Session, plan: &Plan, run_dir: &Path) -> Banner {
    let (env, shape) = (&session.env, session.env.shape);
    let sequences = shape.micro_batches as usize * shape.sequences;
    Banner {
        run: plan.run.name.clone(),
        cpu: cpu::description(),
        cores: cores(),
        workers: env.workers,
        gemm: gemm::description(session.model.precision),
        model: Some(session.model.summary.clone()),
        parameters: session.model.parameter_count() as u64,
        source: first_and_others(&session.sources, |source| &source.name),
        licence: first_and_others(&session.sources, |source| &source.licence),
        corpus: env.corpus,
        batch: Some(format!(
            "{sequences} sequences of {} tokens ({} x {}), {} steps",
            shape.length, shape.micro_batches, shape.sequences, env.schedule.steps
        )),
        run_dir: Some(run_dir.display().to_string()),
    }
}

/// The sources of the corpus on one line.
fn first_and_others(sources: &[Attribution], said: fn(&Attribution) -> &String) -> Option<String> {
    let mut said: Vec<&String> = sources.iter().map(said).filter(|said| !said.is_empty()).collect();
    said.dedup();
    let (first, others) = said.split_first()?;
    Some(if others.is_empty() { (*first).clone() } else { format!("{first} and {} more", others.len()) })
}

//! Evaluation: a training graph whose only step validates.
use super::session::Session;
use super::{choose_gemm, directory, resume_checks};
use crate::engine::{Job, execute};
use crate::plan::{Overrides, Plan, Scope};
use crate::prepare_stages::prepare;
use crate::pretrained::ModelFolder;
use crate::problem::Usage;
use crate::show::{Line, Unit, Work};
use anyhow::{Context, Result};
use contract::{
    CODE_VERSION, CorpusPart, DocumentStart, Kind, Precision, Resources, Schedule, StageType, Step, ValidationStride,
    lock,
};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Instant;
use text::HoldOutAll;
use train::checkpoint::{STATE_FILE, read_state};
use train::record::{Report, Reporter, SourceLine, StepLine};
use train::weights::Start;

/// The longest windows that files are evaluated in, in tokens, whatever the model's context.
const MOST_CONTEXT: usize = 4096;
/// Tokens of a micro-batch for files.
const MICRO_BATCH: usize = 4096;
/// Lanes for files, each with a micro-batch: at most so many workers read and compute at the same time.
const LANES: usize = 32;

/// How to evaluate.
pub struct Options<'a> {
    /// See [`ValidationStride`]; if not given, that of the run, or the length of a window.
    pub stride: Option<usize>,
    /// Precision of matrix products; if not given, that of the run, or f32.
    pub precision: Option<Precision>,
    /// Worker threads.
    pub workers: Option<usize>,
    /// The registry of stages.
    pub stages: &'a [StageType],
}

/// The files to evaluate on.
pub struct Data<'a> {
    /// Files, folders and patterns.
    pub paths: &'a [String],
    /// The column or key with the text.
    pub column: Option<&'a str>,
}

/// The result of an evaluation.
pub struct Evaluation {
    /// The folder with the weights.
    pub checkpoint: PathBuf,
    /// Number of updates of the checkpoint, if it is one of a run.
    pub step: Option<Step>,
    /// Mean cross-entropy in nats per token.
    pub loss: f64,
    /// Bits per byte of text; `None` if only tokens are available.
    pub bits_per_byte: Option<f64>,
    /// The same by source, in a run that mixes several.
    pub sources: BTreeMap<String, SourceLine>,
    /// The size of the validation data.
    pub part: CorpusPart,
    /// Precision of matrix products.
    pub precision: Precision,
    /// The length of a window, in tokens.
    pub context: usize,
    /// See [`ValidationStride`].
    pub stride: usize,
}

/// Evaluates the last checkpoint of the run in `run` on its held-out documents.
///
/// # Errors
/// If there is no run or no checkpoint, or if its input is missing or has changed.
pub fn of_run(run: &Path, options: &Options, mut line: Line) -> Result<Evaluation> {
    let at = run.display();
    let absolute = std::path::absolute(run)?;
    let run = if directory::enter(&absolute)?.is_some() { &absolute } else { run };
    let Some((checkpoint, state)) = directory::resumed(run, None)? else {
        return Err(Usage(format!("{at} has no checkpoint yet; see `checkpoint.interval`")).into());
    };
    let load = |set: &[String]| {
        let (fingerprint, workers) = (state.fingerprint.as_ref(), options.workers);
        directory::plan_of(run, fingerprint, workers, options.stages, Scope::Evaluate, set)
    };
    let (mut plan, mut asked) = (load(&[])?, Vec::new());
    if let Some(precision) = options.precision {
        let models = plan.stages.iter().filter(|stage| stage.settings.gives().contains(&Kind::Activations));
        asked.extend(models.map(|model| format!("{}.precision", model.id)));
        plan = load(&asked.iter().map(|key| format!("{key}=\"{precision}\"")).collect::<Vec<_>>())?;
    }
    // The code that updated the weights may have changed since.
    let optimizers = plan.stages.iter().filter(|stage| stage.settings.gives().contains(&Kind::OptimizerState));
    let versions = optimizers.map(|optimizer| format!("{}: {CODE_VERSION}", optimizer.id));
    let ignored: Vec<String> = asked.into_iter().chain(versions).collect();
    let session = session(&plan, directory::known(run)?, &mut line)?;
    resume_checks::compare_to_evaluate(&checkpoint, state.fingerprint.as_ref(), &session.fingerprint, &ignored)?;
    if session.env.corpus.is_none_or(|corpus| corpus.validation.rows == 0) {
        return Err(Usage("there are no validation documents to evaluate on; give files with --data".into()).into());
    }
    let found = execute_one_step(plan, session, checkpoint, state.step, options.stride, line)?;
    Ok(Evaluation { step: Some(state.step), ..found })
}

/// Evaluates the model in `folder`, which is one in Hugging Face's layout, on all documents of `data`.
///
/// # Errors
/// If the model or its tokenizer is not supported, or a file cannot be read.
pub fn of_folder(folder: &Path, data: &Data, options: &Options, mut line: Line) -> Result<Evaluation> {
    let open = || -> Result<_> {
        let model = ModelFolder::open(folder, options.stages)?;
        let tokenizer = model.tokenizer()?;
        Ok((model, tokenizer))
    };
    let (model, tokenizer) = open().with_context(|| format!("cannot evaluate {}", folder.display()))?;
    let state = folder.join(STATE_FILE).is_file().then(|| read_state(folder)).transpose()?;
    let plan = plan_for(&model, data, options)?;
    let mut known = Resources::default();
    known.insert(Arc::new(HoldOutAll));
    known.insert(Arc::new(tokenizer));
    let mut session = session(&plan, known, &mut line)?;
    if let Some(token) = model.begin_of_text() {
        session.env.resources.insert(Arc::new(DocumentStart(token)));
    }
    if session.env.corpus.is_none_or(|corpus| corpus.validation.rows == 0) {
        return Err(Usage(format!("{} has no documents", data.paths.join(", "))).into());
    }
    // The first step at which anything is validated.
    let found = execute_one_step(plan, session, folder.to_owned(), 1, options.stride, line)?;
    Ok(Evaluation { step: state.map(|state| state.step), ..found })
}

/// The built-in training graph, reading `data` and computing `model`.
fn plan_for(model: &ModelFolder, data: &Data, options: &Options) -> Result<Plan> {
    let length = model.model.facts.context.min(MOST_CONTEXT);
    let mut set = vec![
        "run.max_steps=1".to_owned(),
        format!("read.paths={}", serde_json::to_string(data.paths)?),
        format!("pack.sequence_length={length}"),
        format!("pack.micro_batch_size={}", (MICRO_BATCH / length).max(1)),
        format!("pack.micro_batches={LANES}"),
        format!("pack.lanes={LANES}"),
    ];
    set.extend(data.column.map(|column| format!("read.column={}", serde_json::Value::from(column))));
    let overrides = Overrides { set, workers: options.workers, ..Overrides::default() };
    let mut plan = Plan::load("builtin:base".as_ref(), &overrides, options.stages)?;
    for stage in &mut plan.stages {
        if stage.settings.gives().contains(&Kind::Activations) {
            stage.settings = (model.model.forward)(options.precision.unwrap_or_default());
        }
    }
    let problems = plan.stage("read").map(|read| read.settings.check_files(plan.goal, plan.run.seed));
    if let Some(problem) = problems.into_iter().flatten().next() {
        let option = if problem.key == Some("column") { "column" } else { "data" };
        let message = format!("--{option}: {}", problem.message);
        return Err(if problem.failed { anyhow::Error::msg(message) } else { Usage(message).into() });
    }
    Ok(plan)
}

/// Prepares the data of `plan`.
fn session(plan: &Plan, known: Resources, line: &mut Line) -> Result<Session> {
    choose_gemm(plan)?;
    let workers = plan.run.workers.unwrap_or_else(crate::machine::cores);
    let prepared = prepare(plan, known, workers, line)?;
    line.finish();
    Session::new(plan, prepared, workers, None)
}

/// Runs the graph from `step` to `step` with the weights in `checkpoint`.
fn execute_one_step(
    plan: Plan,
    mut session: Session,
    checkpoint: PathBuf,
    step: Step,
    stride: Option<usize>,
    line: Line,
) -> Result<Evaluation> {
    let (context, precision) = (session.env.shape.length, session.model.precision);
    let resources = &mut session.env.resources;
    let stride = stride.or_else(|| resources.get::<ValidationStride>().map(|stride| stride.0)).unwrap_or(context);
    if stride > context {
        let why =
            format!("--stride {stride} is longer than a window of {context} tokens: tokens between would be left out");
        return Err(Usage(why).into());
    }
    let part = session.env.corpus.unwrap_or_default().validation;
    let watched = Watched { line, began: Instant::now(), tokens: part.tokens, last: None };
    let watched = Arc::new(Mutex::new(watched));
    resources.insert(Arc::new(ValidationStride(stride)));
    resources.insert(Arc::new(Start::Weights(checkpoint.clone())));
    resources.insert(Arc::new(Reporter(Box::new(Shared(Arc::clone(&watched))))));
    session.env.schedule = Schedule { first: step, steps: step, evaluate: Some(1), checkpoint: None };
    let job = Job { stages: plan.stages, env: session.env, saved: Vec::new(), prefetch: plan.run.prefetch };
    execute(job)?;
    let mut watched = lock(&watched);
    watched.line.finish();
    let last = watched.last.take().context("the configuration has no `evaluate` or no `record` stage")?;
    let loss = last.validation_loss.context("nothing was validated")?;
    let StepLine { bits_per_byte, sources, .. } = last;
    Ok(Evaluation { checkpoint, step: None, loss, bits_per_byte, sources, part, precision, context, stride })
}

/// Shows progress, and keeps the result.
struct Watched {
    line: Line,
    began: Instant,
    /// Tokens to evaluate.
    tokens: u64,
    last: Option<StepLine>,
}

struct Shared(Arc<Mutex<Watched>>);

impl Report for Shared {
    fn step(&self, _line: &StepLine) {}

    fn validating(&self, tokens: u64) {
        let mut watched = lock(&self.0);
        let (total, spent) = (watched.tokens, watched.began.elapsed());
        let verb = "Evaluating".to_owned();
        watched.line.work(&Work { verb, done: tokens, total, unit: Unit::Things("tokens"), spent });
    }

    fn validated(&self, line: &StepLine) {
        lock(&self.0).last = Some(line.clone());
    }
}

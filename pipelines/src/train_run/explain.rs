//! The output of `pipeline explain` and `pipeline run --dry-run`: the graph, and estimates of memory and time.
use super::calibrate;
use super::scaling::{Hosts, Times, scaling};
use super::session::{NO_MODEL, Session, batch_shape, due, idle_workers};
use crate::machine::cores;
use crate::plan::Plan;
use crate::problem::Usage;
use crate::show::{Explanation, Length, Scaling, graph, inputs};
use anyhow::Result;
use contract::{BatchShape, Env, Facts, Kind, Memory, ModelFacts, Packing, Resources, Schedule, SourceSizes, Updates};
use std::path::Path;
use std::sync::Arc;

/// Columns of the output.
pub const COLUMNS: usize = 80;

/// Explains a configuration without reading its corpus, also its run on several `hosts` if given.
///
/// # Errors
/// [`Usage`] if it has no model or produces no batches; an error if measuring a micro-batch fails.
pub fn explain(plan: &Plan, hosts: Option<Hosts>) -> Result<Explanation> {
    let workers = plan.run.workers.unwrap_or_else(cores);
    let shape = batch_shape(plan)?;
    let facts = Facts { length: shape.length, ..vocabulary(plan)? };
    let mut resources = Resources::default();
    resources.insert(Arc::new(facts));
    plan.mixture().into_iter().for_each(|mixture| resources.insert(Arc::new(mixture)));
    let model = plan.model(&facts).map(Arc::new);
    let updates = model.as_ref().and_then(|model| plan.updates(model));
    updates.into_iter().for_each(|updates| resources.insert(Arc::new(updates)));
    let env = Env::without_training(workers, shape.lanes, plan.run.max_steps.unwrap_or(0), resources);
    let schedule = Schedule { evaluate: due(plan).evaluate, ..env.schedule };
    let env = Env { seed: plan.run.seed, schedule, shape, model, ..env };
    let length = Length { steps: plan.run.max_steps, epochs: plan.run.max_epochs };
    let mut explanation = of(plan, &env, length, calibrate::program(workers), hosts)?;
    explanation.notes.extend(idle_workers(plan, workers));
    explanation.sources =
        super::mixing::over_run(plan, shape, &SourceSizes::default(), plan.run.max_steps.unwrap_or(0))?;
    if plan.mixture().is_some_and(|mixture| mixture.max_epochs.iter().any(Option::is_some)) {
        let note = "how often sources are passed over is not known before their tokens are counted, so limits of \
                    epochs are not part of this: `pipeline run --dry-run` counts";
        explanation.notes.push(note.into());
    }
    if !plan.stages.iter().any(|stage| stage.settings.takes().is_empty() && stage.memory(&env) != Memory::default()) {
        let note = "how long the corpus is, is not known: preparing and reading it is not counted, and the pool of \
                    training sequences is counted in full; `pipeline run --dry-run` prepares it, and knows";
        explanation.notes.push(note.into());
    }
    Ok(explanation)
}

/// Explains a run whose data is prepared. `made`: the derived data that had to be computed and is in the cache now;
/// `program`: the bytes that the program used before ([`calibrate::program`]).
///
/// # Errors
/// If a file that was read before no longer exists.
pub fn dry_run(
    plan: &Plan,
    session: &Session,
    run_dir: &Path,
    made: &[String],
    program: u64,
) -> Result<(Explanation, String)> {
    let mut explanation = of_session(plan, session, program)?;
    explanation.notes.clone_from(&session.notes);
    explanation.sources.clone_from(&session.uses);
    explanation.notes.push(match made {
        [] => "all data derived from the corpus was in the cache".into(),
        made => format!("derived from the corpus and cached: {}", made.join(", ")),
    });
    explanation.notes.push(format!("nothing was trained; a run would write its files to {}", run_dir.display()));
    let text = format!("{}\n\n{}{}", graph(plan, COLUMNS), inputs(plan, COLUMNS)?, explanation.render(COLUMNS));
    Ok((explanation, text))
}

/// The estimates for a run whose data is prepared.
///
/// # Errors
/// If measuring a micro-batch fails.
pub fn of_session(plan: &Plan, session: &Session, program: u64) -> Result<Explanation> {
    let env = &session.env;
    let (steps, tokens) = (env.schedule.steps, env.corpus.map_or(0, |corpus| corpus.train.tokens));
    let filled = Packing::of_all(&env.resources).map_or(1.0, |packing| packing.filled());
    let epochs = (tokens > 0).then(|| (steps * env.shape.tokens()) as f64 * filled / tokens as f64);
    of(plan, env, Length { steps: Some(steps), epochs }, program, None)
}

/// The vocabulary, as far as the configuration alone determines it.
fn vocabulary(plan: &Plan) -> Result<Facts> {
    let known = plan.stages.iter().map(|stage| stage.settings.vocabulary(plan.run.seed));
    match known.filter_map(Result::transpose).next() {
        Some(facts) => facts,
        None => Err(Usage("no stage determines the vocabulary: add one that tokenizes or reads tokens".into()).into()),
    }
}

fn of(plan: &Plan, env: &Env, length: Length, program: u64, hosts: Option<Hosts>) -> Result<Explanation> {
    let Some(model) = &env.model else {
        return Err(Usage(NO_MODEL.into()).into());
    };
    let mut memory = vec![("program".to_owned(), program)];
    let (of_stages, late) = memory_of_stages(plan, env);
    memory.extend(of_stages);
    memory.extend(hosts.map(|_| ("last commit, on the head".to_owned(), of_a_commit(plan, env))));
    let sum = |memory: &[(String, u64)]| memory.iter().map(|(_, bytes)| bytes).sum::<u64>();
    let speed = calibrate::speed(plan, env, model, sum(&memory))?;
    let between = (sum(&memory) - program) / BETWEEN_BUFFERS;
    memory.push(("other buffers".to_owned(), speed.beside + between));
    // A run measures the machine before it trains, which needs more memory than training a small model.
    let sources = plan.stages.iter().filter(|stage| stage.settings.takes().is_empty());
    let before = program + sources.map(|stage| stage.memory(env).permanent).sum::<u64>();
    let measuring =
        (before + super::speed::full_speed_bytes(env.workers, model.precision)).saturating_sub(sum(&memory));
    memory.push(("measuring the machine, before".to_owned(), measuring));
    memory.retain(|(_, bytes)| *bytes > 0);
    let peak = sum(&memory);
    let by_hosts = match hosts {
        Some(hosts) => by_hosts(plan, env, model, &speed, hosts)?,
        None => Vec::new(),
    };
    let BatchShape { micro_batches, sequences, length: tokens, .. } = env.shape;
    Ok(Explanation {
        model: model.summary.clone(),
        parameters: groups(model),
        flops_per_token: model.flops_per_token,
        batch: [u64::from(micro_batches), sequences as u64, tokens as u64],
        workers: env.workers,
        length,
        memory,
        peak_mb: peak >> 20,
        peak_mb_if_delayed: (peak + late) >> 20,
        tok_per_sec: speed.tok_per_sec(&env.shape, env.workers),
        most_workers: micro_batches,
        with_more_workers: with_more_workers(&speed, env),
        measured: speed.measured,
        corpus: env.corpus,
        packing: Packing::of_all(&env.resources),
        sources: Vec::new(),
        notes: Vec::new(),
        scaling: by_hosts.last().cloned(),
        by_hosts,
    })
}

/// Predictions for 1, 2, … `hosts`.
fn by_hosts(
    plan: &Plan,
    env: &Env,
    model: &ModelFacts,
    speed: &calibrate::Speed,
    hosts: Hosts,
) -> Result<Vec<Scaling>> {
    // Like a micro-batch, an update is only run if the run fits into memory.
    let update = if speed.was_run { calibrate::update(plan, env, model)? } else { 0.0 };
    let times = Times { workers: env.workers, micro_batch: speed.micro_batch, update };
    let updates = plan.updates(model).unwrap_or_else(|| Updates::of_whole_tensors(model));
    let of = |count| scaling(Hosts { count, ..hosts }, &updates.sections(env.workers, count), &env.shape, times);
    Ok((1..=hosts.count).map(of).collect())
}

/// The expected rate with twice as many workers, four times as many and so on, up to one per micro-batch.
fn with_more_workers(speed: &calibrate::Speed, env: &Env) -> Vec<(usize, f64)> {
    let more = (1..=3).map(|doublings| env.workers << doublings).filter(|n| *n <= env.shape.micro_batches as usize);
    more.map(|workers| (workers, speed.tok_per_sec(&env.shape, workers))).collect()
}

/// Bytes of the state that a commit keeps in memory: the parameters, and what the optimizer knows of them.
fn of_a_commit(plan: &Plan, env: &Env) -> u64 {
    let updates = plan.stages.iter().filter(|stage| stage.settings.gives().contains(&Kind::OptimizerState));
    updates.map(|stage| stage.memory(env).permanent).sum()
}

/// The fraction of the pool, as 1 in this many bytes, that is unused because the gaps between pieces are too small.
const BETWEEN_BUFFERS: u64 = 12;

/// Memory of each stage in the phase of a step that needs the most memory in total, and what all need in addition if
/// workers are late.
fn memory_of_stages(plan: &Plan, env: &Env) -> (Vec<(String, u64)>, u64) {
    let all: Vec<Memory> = plan.stages.iter().map(|stage| stage.memory(env)).collect();
    let sum = all.iter().copied().fold(Memory::default(), Memory::with);
    let phase = sum.largest_phase();
    // Scratch memory is reused, so only one stage, the one that needs the most, counts with it.
    let mut scratch = Some(sum.phases()[phase][1]);
    let here = |memory: &Memory| {
        let [held, own_scratch] = memory.phases()[phase];
        memory.permanent + held + scratch.take_if(|most| *most == own_scratch).unwrap_or_default()
    };
    (plan.stages.iter().map(|stage| stage.id.clone()).zip(all.iter().map(here)).collect(), sum.late)
}

/// Number of parameters of each part of the model: names up to the layer number.
fn groups(model: &ModelFacts) -> Vec<(String, u64)> {
    let mut groups: Vec<(String, u64)> = Vec::new();
    for spec in &model.parameters {
        let parts: Vec<&str> = spec.name.split('.').collect();
        let number = parts.iter().position(|part| part.parse::<u32>().is_ok());
        let group = parts[..number.unwrap_or(parts.len() - 1).max(1)].join(".");
        match groups.iter_mut().find(|(name, _)| *name == group) {
            Some((_, n)) => *n += spec.len() as u64,
            None => groups.push((group, spec.len() as u64)),
        }
    }
    groups
}

//! A plan together with its prepared data.
use crate::plan::{Plan, PlannedStage};
use crate::problem::Usage;
use crate::show::SourceUse;
use crate::train_run::mixing;
use anyhow::Result;
use compute::kernels::gemm;
use contract::{
    BatchShape, Due, Effect, Env, Facts, ModelFacts, Packing, Prepared, Schedule, SourceSizes, Updates,
    ValidationStride,
};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use text::{Attribution, HoldOutAll, Quarantine};
use train::checkpoint::{Fingerprint, TokenizerJson};
use train::optimize::RateSettings;
use train::optimize::schedule::LearningRateSchedule;

/// The error for a graph without a model. (A graph in which no stage computes activations is not a plan.)
pub const NO_MODEL: &str = "no stage has a model: use a stage type that has one (`pipeline stages` lists all types)";

/// Everything that is known about a run once its data is prepared.
pub struct Session {
    /// The environment of stages, for worker 0.
    pub env: Env,
    /// The model.
    pub model: Arc<ModelFacts>,
    /// What must not change when the run is resumed.
    pub fingerprint: Arc<Fingerprint>,
    /// The stage that determines the learning rate, and the learning rate.
    pub learning_rate: Option<(String, LearningRateSchedule)>,
    /// Source and licence of the corpus.
    pub sources: Vec<Attribution>,
    /// Documents that stages drop, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// What the run trains on of each source, if it mixes several.
    pub uses: Vec<SourceUse>,
    /// Notes to print before the run starts.
    pub notes: Vec<String>,
}

impl Session {
    /// Combines `plan` with its prepared data. The run starts at step 0.
    ///
    /// # Errors
    /// [`Usage`] if they contradict each other.
    pub fn new(plan: &Plan, mut prepared: Prepared, workers: usize, run_dir: Option<PathBuf>) -> Result<Self> {
        let shape = batch_shape(plan)?;
        let Some((vocabulary, tokenizer_json)) = prepared.vocabulary.take() else {
            return Err(
                Usage("no stage determines the vocabulary: add one that tokenizes or reads tokens".into()).into()
            );
        };
        let facts = Facts { length: shape.length, ..vocabulary };
        let Some(model) = plan.model(&facts).map(Arc::new) else {
            return Err(Usage(NO_MODEL.into()).into());
        };
        plan.check_keys(&model)?;
        let mut notes = std::mem::take(&mut prepared.notes);
        let mut quarantine = Quarantine::default();
        prepared.resources.all::<Quarantine>().for_each(|(_, of_source)| quarantine.merge(&of_source));
        if !quarantine.is_empty() {
            notes.push(format!("{} (see {})", quarantine.summary(), text::input::quarantine::FILE));
        }
        let due = due(plan);
        let corpus = prepared.corpus();
        let mut evaluate = due.evaluate;
        if evaluate.is_some() && corpus.validation.rows == 0 {
            notes.push("there are no validation documents, so nothing is validated".into());
            evaluate = None;
        }
        let steps = match prepared.resources.get::<HoldOutAll>() {
            Some(_) => 0,
            None => steps(plan, shape, corpus.train.tokens, Packing::of_all(&prepared.resources))?,
        };
        let mut sizes = SourceSizes(prepared.corpora.clone());
        for (source, corpus) in &mut sizes.0 {
            let packing = prepared.resources.of::<Packing>(source).unwrap_or_default();
            corpus.train.tokens = packing.positions_of(corpus.train.tokens);
        }
        let uses = mixing::over_run(plan, shape, &sizes, steps)?;
        notes.extend(plan.notes(Some(steps)));
        notes.extend(mixing::notes(&uses, &sizes, steps));
        notes.extend(idle_workers(plan, workers));
        let rate = prepared.resources.all::<RateSettings>().next();
        let learning_rate = rate.map(|(stage, rate)| (stage.to_owned(), rate.over(steps)));
        let mut configuration = deciding(plan, &prepared.fingerprint);
        if let Some((stage, _)) = &learning_rate {
            // Whether it is given or follows from the length of the run makes no difference.
            configuration.remove(&format!("{stage}.schedule_steps"));
        }
        // Nor does it make one whether the number of lanes is given or the default.
        let packs = plan.stages.iter().find(|stage| stage.settings.batch_shape().is_some());
        configuration.extend(packs.map(|stage| (format!("{}.lanes", stage.id), shape.lanes.to_string())));
        let updates = plan.updates(&model);
        let fingerprint = Arc::new(Fingerprint {
            configuration,
            blas_core: products(&model, updates.as_ref()),
            schedule_steps: learning_rate.as_ref().map(|(_, rate)| rate.steps),
        });
        let sources = prepared.resources.all::<Vec<Attribution>>().flat_map(|(_, all)| (*all).clone());
        let mut sources: Vec<Attribution> = sources.collect();
        sources.dedup();
        let mut resources = prepared.resources;
        resources.insert(Arc::new(sizes));
        plan.mixture().into_iter().for_each(|mixture| resources.insert(Arc::new(mixture)));
        resources.insert(Arc::new(quarantine));
        resources.insert(Arc::new(facts));
        resources.insert(Arc::clone(&fingerprint));
        updates.into_iter().for_each(|updates| resources.insert(Arc::new(updates)));
        if let Some(stride) = plan.stages.iter().find_map(|stage| stage.settings.validation_stride()) {
            resources.insert(Arc::new(ValidationStride(stride)));
        }
        if let Some(json) = tokenizer_json {
            let end_of_text = text::tokenizer::hugging_face::spelling(&json, facts.end_of_text);
            resources.insert(Arc::new(TokenizerJson { json, end_of_text }));
        }
        let env = Env {
            seed: plan.run.seed,
            schedule: Schedule { first: 0, steps, evaluate, checkpoint: due.checkpoint },
            shape,
            model: Some(Arc::clone(&model)),
            corpus: Some(corpus),
            run_dir,
            ..Env::without_training(workers, shape.lanes, steps, resources)
        };
        Ok(Self { env, model, fingerprint, learning_rate, sources, dropped: prepared.dropped, uses, notes })
    }
}

/// What computes the products of the model and of its updates: [`gemm::description`].
fn products(model: &ModelFacts, updates: Option<&Updates>) -> String {
    let of_model = gemm::description(model.precision);
    match updates.and_then(|updates| updates.precision) {
        Some(precision) if precision != model.precision => {
            format!("{of_model} (updates: {})", gemm::description(precision))
        }
        _ => of_model,
    }
}

/// The schedule that follows from the stages of `plan`.
pub fn due(plan: &Plan) -> Due {
    let all = plan.stages.iter().map(|stage| stage.settings.due());
    all.fold(Due::default(), |one, other| Due {
        evaluate: one.evaluate.or(other.evaluate),
        checkpoint: one.checkpoint.or(other.checkpoint),
    })
}

pub fn batch_shape(plan: &Plan) -> Result<BatchShape> {
    let shape = plan.stages.iter().find_map(|stage| stage.settings.batch_shape());
    shape.ok_or_else(|| {
        Usage(
            "no stage produces batches: add one that packs tokens into sequences (`pipeline stages` lists all types)"
                .into(),
        )
        .into()
    })
}

/// A note if there are more workers than micro-batches.
pub fn idle_workers(plan: &Plan, workers: usize) -> Option<String> {
    let packs = |stage: &PlannedStage| Some((stage.id.clone(), stage.settings.batch_shape()?.micro_batches));
    let (pack, leaves) = plan.stages.iter().find_map(packs)?;
    (workers > leaves as usize).then(|| {
        let busy = match leaves {
            1 => "1 micro-batch keeps 1".into(),
            n => format!("{n} micro-batches keep {n}"),
        };
        let next = format!("raise `{pack}.micro_batches` (and lower `{pack}.micro_batch_size` to keep the batch)");
        format!("{busy} of {workers} workers busy: {next}, or lower `run.workers`")
    })
}

/// Number of updates: `max_steps`, or as many as `max_epochs` passes over the training documents take.
fn steps(plan: &Plan, shape: BatchShape, tokens: u64, packing: Option<Packing>) -> Result<u64> {
    if let Some(why) = shape.unfilled(tokens) {
        let next = "set `pack.sequence_length` lower or read more";
        return Err(Usage(format!("the training documents have {why}; {next}")).into());
    }
    let epochs = match (plan.run.max_steps, plan.run.max_epochs) {
        (Some(steps), _) => return Ok(steps),
        (None, epochs) => epochs.unwrap_or(1.0),
    };
    let filled = packing.map_or(1.0, |packing| packing.filled());
    let steps = (epochs * tokens as f64 / (shape.tokens() as f64 * filled)).ceil();
    Ok((steps as u64).max(1))
}

/// Every setting that affects results, by name, and the hashes of the input.
fn deciding(plan: &Plan, hashes: &[(String, String)]) -> BTreeMap<String, String> {
    let mut deciding: BTreeMap<String, String> = hashes.iter().cloned().collect();
    deciding.insert("run.seed".into(), plan.run.seed.to_string());
    for stage in &plan.stages {
        let values = plan.values(&stage.id, &Effect::ON_BITS);
        deciding.extend(values.map(|(key, value)| (format!("{}.{key}", stage.id), value.to_string())));
    }
    deciding
}

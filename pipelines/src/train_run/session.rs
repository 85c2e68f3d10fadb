//! A plan and its data become a graph with everything that its stages may know.
use super::prepare::Prepared;
use crate::plan::Plan;
use crate::problem::Usage;
use anyhow::Result;
use compute::kernels::gemm;
use contract::{BatchShape, Env, Facts, ModelFacts, Schedule};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use text::tokenizer::stage::Choice;
use text::{Attribution, Tokenize, Tokenizer};
use train::checkpoint::{Checkpoint, Fingerprint, TokenizerJson};
use train::evaluate::Evaluate;

/// What is known of a run when its data is.
pub struct Session {
    /// What stages may know, for worker 0.
    pub env: Env,
    /// The model.
    pub model: Arc<ModelFacts>,
    /// What must not change when the run goes on later.
    pub fingerprint: Arc<Fingerprint>,
    /// Whose text it learns from.
    pub sources: Vec<Attribution>,
    /// Said before the run starts.
    pub notes: Vec<String>,
}

impl Session {
    /// Brings together what `plan` says and what its data is. The run starts at step 0.
    ///
    /// # Errors
    /// [`Usage`] if they do not fit.
    pub fn new(plan: &Plan, prepared: Prepared, workers: usize, run_dir: Option<PathBuf>) -> Result<Self> {
        let shape = batch_shape(plan)?;
        let facts = Facts { length: shape.length, ..prepared.facts };
        let model = plan.stages.iter().find_map(|stage| stage.settings.model(&facts));
        let Some(model) = model.map(Arc::new) else {
            return Err(Usage("there is no model: add a stage of type `gpt2` or `llama`".into()).into());
        };
        let mut notes = Vec::new();
        if let Some(tokenizer) = prepared.resources.get::<Tokenizer>()
            && let Some(why) = tokenizer.slow_because()
        {
            notes.push(format!("the tokenizer is one for Hugging Face's library, which is slower: {why}"));
        }
        if let Some((_, tokenize)) = plan.settings::<Tokenize>()
            && let Choice::Train(asked) = tokenize.choice()
            && facts.vocabulary < asked as usize
        {
            let there = facts.vocabulary;
            notes.push(format!("the tokenizer has {there} ids, not {asked}: every word of the corpus is one already"));
        }
        if prepared.skipped > 0 {
            notes.push(format!("{} empty documents are passed over", prepared.skipped));
        }
        if !prepared.quarantine.is_empty() {
            let file = text::input::quarantine::FILE;
            notes.push(format!("{} (see {file})", prepared.quarantine.summary()));
        }
        let mut evaluate = plan.settings::<Evaluate>().and_then(|(_, s)| interval(s.interval));
        if evaluate.is_some() && prepared.corpus.validation.rows == 0 {
            notes.push("nothing is held out, so nothing is validated".into());
            evaluate = None;
        }
        let steps = steps(plan, shape, prepared.corpus.train.tokens)?;
        let checkpoint = plan.settings::<Checkpoint>().and_then(|(_, s)| interval(s.interval));
        let fingerprint = Arc::new(Fingerprint {
            configuration: deciding(plan, &prepared.hashes),
            blas_core: gemm::kernel(model.precision),
        });
        let mut resources = prepared.resources;
        resources.insert(Arc::new(prepared.quarantine));
        resources.insert(Arc::new(facts));
        resources.insert(Arc::clone(&fingerprint));
        if let Some(json) = prepared.tokenizer_json {
            resources.insert(Arc::new(TokenizerJson(json)));
        }
        let env = Env {
            worker: 0,
            workers,
            seed: plan.run.seed,
            schedule: Schedule { first: 0, steps, evaluate, checkpoint },
            shape,
            model: Some(Arc::clone(&model)),
            corpus: Some(prepared.corpus),
            run_dir,
            resources,
        };
        Ok(Self { env, model, fingerprint, sources: prepared.sources, notes })
    }
}

fn interval(steps: u64) -> Option<u64> {
    (steps > 0).then_some(steps)
}

pub fn batch_shape(plan: &Plan) -> Result<BatchShape> {
    let shape = plan.stages.iter().find_map(|stage| stage.settings.batch_shape());
    shape.ok_or_else(|| Usage("nothing makes batches: add a stage of type `concat`".into()).into())
}

/// Updates in the run: as many as asked for, or as it takes to see the training documents so often.
fn steps(plan: &Plan, shape: BatchShape, tokens: u64) -> Result<u64> {
    if tokens < (shape.length + 1) as u64 {
        let why = format!("the training documents have {tokens} tokens: fewer than one sequence of {}", shape.length);
        return Err(Usage(format!("{why}; set `pack.sequence_length` lower or read more")).into());
    }
    let epochs = match (plan.run.max_steps, plan.run.max_epochs) {
        (Some(steps), _) => return Ok(steps),
        (None, epochs) => epochs.unwrap_or(1.0),
    };
    let steps = (epochs * tokens as f64 / shape.tokens() as f64).ceil();
    Ok((steps as u64).max(1))
}

/// Every setting from which numbers follow, by its name.
fn deciding(plan: &Plan, hashes: &[(&'static str, String)]) -> BTreeMap<String, String> {
    // What a run is called, where it lies, how long it goes on and what it reports changes no number of a step; what
    // is read is known by its content, and so is what of it cannot be read.
    const FREE: [&str; 3] = ["evaluate", "checkpoint", "record"];
    const FREE_KEYS: [&str; 4] = ["cache", "paths", "on_bad_data", "max_bad_fraction"];
    let mut deciding: BTreeMap<String, String> =
        hashes.iter().map(|(name, hash)| (format!("content of {name}"), hash.clone())).collect();
    deciding.insert("run.seed".into(), plan.run.seed.to_string());
    for (id, table) in &plan.resolved.stages {
        let type_name = plan.stage(id).map_or("", |stage| stage.type_name);
        if FREE.contains(&type_name) {
            continue;
        }
        for (key, entry) in table.entries.iter().filter(|(key, _)| !FREE_KEYS.contains(&key.as_str())) {
            deciding.insert(format!("{id}.{key}"), entry.value.to_string());
        }
    }
    deciding
}

//! The documents of a run and the steps that train on them, from its prepared data.
use super::session::Session;
use crate::plan::Plan;
use anyhow::{Context, Result};
use contract::Env;
use std::sync::Arc;
use text::{CorpusIndex, Lineage, SourceDocuments};

/// Sources with their ids, in the order of the mixture.
pub type Sources = Vec<(String, SourceDocuments)>;

/// The sources of `plan`, in the order of its mixture.
///
/// # Errors
/// If one keeps no index of its documents.
pub fn sources(plan: &Plan, env: &Env) -> Result<Sources> {
    let ids = match plan.mixture() {
        Some(mixture) => mixture.sources,
        None => env.resources.all::<CorpusIndex>().map(|(id, _)| id.to_owned()).collect(),
    };
    let source = |id: String| {
        let documents = SourceDocuments::of(&env.resources, &id);
        let documents = documents.with_context(|| format!("the source `{id}` keeps no index of its documents"))?;
        Ok((id, documents))
    };
    ids.into_iter().map(source).collect()
}

/// The lineage of the run that is called `name`.
///
/// # Errors
/// If its batches are made by a stage that does not tell which sequences it draws.
pub fn lineage(name: &str, plan: &Plan, session: &Session, sources: &Sources) -> Result<Lineage> {
    let env = &session.env;
    let draws = plan.stages.iter().find_map(|stage| stage.settings.draws(&stage.env(env)));
    let draws = draws.with_context(|| {
        format!("the stage that makes batches in {name} does not tell which sequences it draws (`Settings::draws`)")
    })?;
    let indices: Vec<Arc<CorpusIndex>> = sources.iter().map(|(_, source)| Arc::clone(&source.index)).collect();
    Ok(Lineage::new(draws, env.shape, env.seed, &indices))
}

//! Splits the plan of a preparation: what is done to every row, and what is done to those that are kept.
use crate::engine::Stages;
use crate::plan::{Edge, Plan, PlannedStage, Wired, upstream};
use crate::problem::Usage;
use anyhow::Result;
use contract::{Attribution, Effect, Kind, Resources};
use std::sync::Arc;
use text::input::ingest::DocumentFile;
use text::prepare::scan_rows::{MixedSource, RowSource};
use text::prepare::write::UnwrittenRows;
use text::prepare::write::files::{FORMAT, Footer};
use text::support::cache::key;
use text::{Cache, Deduplicate, ScanRows, Signatures, SourceFiles, Tokenizer, Write};

/// The two graphs of a preparation: lists of stages. Stages of the plan keep their ids. The ids of the others contain a
/// space, which those of a plan cannot.
pub struct Graphs {
    /// Every row passes through it once: `scan_rows → … → signatures`. The sources of the plan have provided the files to
    /// scan. If it mixes sources, each has a stage `scan_rows` with its id.
    pub rows: Vec<Wired>,
    /// Writes shards with the rows that are kept: `kept → tokenize → parquet`.
    pub shards: Stages,
}

impl Graphs {
    /// Splits `plan`.
    pub fn of(plan: &Plan) -> Self {
        let mut rows = vec![Wired::new("scan rows", Arc::new(ScanRows { source: 0 }))];
        let mut shards: Stages = vec![("kept rows".into(), Arc::new(UnwrittenRows))];
        let mixed = plan.mixture();
        if mixed.is_some() {
            rows.clear();
        }
        for at in plan.order() {
            let PlannedStage { id, settings, inputs, .. } = &plan.stages[at];
            let fed = |wired: Wired| match &mixed {
                None => wired,
                // The stages of several sources are not one below the other.
                Some(_) => Wired { inputs: Some(ids(plan, inputs.iter().flatten())), ..wired },
            };
            if settings.takes().is_empty() {
                let source = mixed.as_ref().and_then(|mixed| mixed.sources.iter().position(|source| source == id));
                rows.extend(source.map(|source| Wired::new(id, Arc::new(ScanRows { source }))));
            } else if settings.gives() == [Kind::Rows] {
                rows.push(fed(Wired::new(id, Arc::clone(settings))));
            } else {
                shards.push((id.clone(), Arc::clone(settings)));
            }
        }
        let last = rows.last().map(|last| vec![last.id.clone()]);
        rows.push(Wired { inputs: last, ..Wired::new("row signatures", Arc::new(Signatures)) });
        Self { rows, shards }
    }
}

/// The ids of the stages that `edges` come from.
fn ids<'a>(plan: &Plan, edges: impl Iterator<Item = &'a Edge>) -> Vec<String> {
    edges.map(|edge| plan.stages[edge.from].id.clone()).collect()
}

/// A source of a preparation.
pub struct PreparedSource {
    /// The id of its stage.
    pub id: String,
    /// Its input.
    pub read: Arc<SourceFiles>,
    /// If sources are mixed: a key of its stage and of the stages that only its rows pass.
    key: Option<String>,
}

/// A preparation.
pub struct Preparation {
    /// The sources, in the order in which their rows are numbered.
    pub sources: Vec<PreparedSource>,
    /// The settings for finding near-duplicates, if that is done.
    pub deduplicate: Option<Arc<Deduplicate>>,
    /// The tokenizer, if there is one.
    pub tokenizer: Option<Arc<Tokenizer>>,
    /// The settings of the output.
    pub write: Arc<Write>,
    /// The id of the stage with these settings.
    pub write_id: String,
    /// The two graphs.
    pub graphs: Graphs,
    /// Resources that the stages of the plan have provided.
    pub resources: Resources,
    /// A key of everything that a row's entry in the catalog depends on, except the row itself, its source and the stages
    /// that only rows of this source pass.
    pub chain: String,
    /// A key of everything that the files depend on, except the input.
    pub configuration: String,
}

impl Preparation {
    /// Splits `plan`. `resources` have been provided by its stages; they determine the role of each.
    ///
    /// # Errors
    /// [`Usage`] if it does not lead from documents to a stage that writes them; if a file that a stage depends on cannot
    /// be read.
    pub fn of(plan: &Plan, resources: &Resources) -> Result<Self> {
        let sources = sources(plan, resources)?;
        let above: Vec<usize> = mixture(plan).map_or_else(Vec::new, |at| upstream(&plan.stages, at));
        let (mut write, mut deduplicate, mut tokenizer) = (None, None, None);
        let mut chain = vec![format!("rows {FORMAT} {}", env!("CARGO_PKG_VERSION"))];
        for at in plan.order().into_iter().filter(|at| !above.contains(at)) {
            let stage = &plan.stages[at];
            let id = &stage.id;
            if let Some(found) = resources.of::<Deduplicate>(id) {
                deduplicate = Some(found);
            } else if let Some(found) = resources.of::<Write>(id) {
                write = Some((found, id.clone()));
            } else if let Some(found) = resources.of::<Tokenizer>(id) {
                tokenizer = Some(found);
            } else if stage.settings.mixes().is_some() {
                chain.push("sources are mixed".into());
            } else if resources.of::<SourceFiles>(id).is_none() {
                chain.push(row_stage(plan, at)?);
            }
        }
        let (false, Some((write, write_id))) = (sources.is_empty(), write) else {
            let why = "a preparation begins with a stage that reads documents and ends in one of type `parquet`";
            return Err(Usage(why.into()).into());
        };
        chain.push(format!("keep {}", write.keep_dropped));
        chain.push(deduplicate.as_deref().map(Deduplicate::signature_key).unwrap_or_default());
        let chain = key(&chain.iter().map(String::as_str).collect::<Vec<_>>());
        let mut all = vec![table(plan, |_| true)];
        if let Some(mixture) = plan.mixture() {
            // Where stages stand decides whose rows pass them.
            all.extend([mixture.sources.join(" "), chain.clone()]);
            all.extend(sources.iter().filter_map(|source| source.key.clone()));
        }
        let configuration = key(&all.iter().map(String::as_str).collect::<Vec<_>>());
        let (graphs, resources) = (Graphs::of(plan), resources.clone());
        Ok(Self { sources, deduplicate, tokenizer, write, write_id, graphs, resources, chain, configuration })
    }

    /// The sources, for the stages that read their rows.
    pub fn row_sources(&self) -> Vec<RowSource> {
        let source = |PreparedSource { id, read, key }: &PreparedSource| RowSource {
            files: read.files.clone(),
            on_bad_data: read.on_bad_data,
            withdrawn: read.withdrawn.clone(),
            split: read.split,
            mixed: key.clone().map(|key| MixedSource { stage: id.clone(), key }),
        };
        self.sources.iter().map(source).collect()
    }

    /// The files of all sources.
    pub fn files(&self) -> impl Iterator<Item = &DocumentFile> {
        self.sources.iter().flat_map(|source| &source.read.files)
    }

    /// The known sources of the texts of each source.
    pub fn attributions(&self) -> Vec<&[Attribution]> {
        self.sources.iter().map(|source| &source.read.attributions[..]).collect()
    }

    /// The cache of the first source.
    pub fn cache(&self) -> Cache {
        self.sources.first().map_or_else(|| Cache::new(None), |source| source.read.cache.clone())
    }

    /// The metadata in the footers of files.
    pub fn footer(&self) -> Footer {
        let vocabulary = self.tokenizer.as_ref().map(|tokenizer| tokenizer.vocabulary().clone());
        let are_mixed = self.sources.iter().any(|source| source.key.is_some());
        Footer { vocabulary, configuration: self.configuration.clone(), are_mixed }
    }
}

/// The stage that mixes sources.
fn mixture(plan: &Plan) -> Option<usize> {
    plan.stages.iter().position(|stage| stage.settings.mixes().is_some())
}

/// The sources of `plan`, in the order in which a mixture takes them.
fn sources(plan: &Plan, resources: &Resources) -> Result<Vec<PreparedSource>> {
    let read = |id: &str| {
        let type_name = plan.stage(id).map_or("", |stage| stage.type_name);
        let why = format!("`{id}` (type `{type_name}`) provides nothing that a preparation works with");
        resources.of::<SourceFiles>(id).ok_or(Usage(why))
    };
    let Some(at) = mixture(plan) else {
        let source = plan.stages.iter().filter(|stage| stage.settings.takes().is_empty());
        let source = source.map(|stage| Ok(PreparedSource { id: stage.id.clone(), read: read(&stage.id)?, key: None }));
        return source.collect();
    };
    let names = plan.mixture().map(|mixture| mixture.sources).unwrap_or_default();
    let of_port = |(id, edges): (String, &Vec<Edge>)| {
        let mut made_of = vec![format!("source {id}")];
        for edge in edges {
            let above = upstream(&plan.stages, edge.from).into_iter().chain([edge.from]);
            let stages = above.filter(|at| !plan.stages[*at].settings.takes().is_empty());
            made_of.extend(stages.map(|at| row_stage(plan, at)).collect::<Result<Vec<_>>>()?);
        }
        let key = key(&made_of.iter().map(String::as_str).collect::<Vec<_>>());
        Ok(PreparedSource { read: read(&id)?, id, key: Some(key) })
    };
    names.into_iter().zip(&plan.stages[at].inputs).map(of_port).collect()
}

/// Everything that the results of a stage that works row by row depend on, except the row.
///
/// # Errors
/// [`Usage`] if the stage does something else; if a file that it depends on cannot be read.
fn row_stage(plan: &Plan, at: usize) -> Result<String> {
    let stage = &plan.stages[at];
    let id = &stage.id;
    if stage.settings.gives() != [Kind::Rows] || stage.settings.takes().is_empty() {
        let why = format!("`{id}` (type `{}`) provides nothing that a preparation works with", stage.type_name);
        return Err(Usage(why).into());
    }
    let dependencies = stage.settings.dependencies()?;
    let lines = dependencies.iter().map(|(name, value)| format!("{id}: {name}: {value}\n"));
    Ok(table(plan, |other| other == *id) + &lines.collect::<String>())
}

/// The settings of stages in the order of the plan, except for locations.
fn table(plan: &Plan, of: impl Fn(&str) -> bool) -> String {
    let mut text = String::new();
    for stage in plan.stages.iter().filter(|stage| of(&stage.id)) {
        let values = plan.values(&stage.id, &[Effect::Results, Effect::Rounding, Effect::Failure]);
        values
            .filter(|(key, _)| *key != "inputs")
            .for_each(|(key, value)| text += &format!("{}.{key} = {value}\n", stage.id));
    }
    text
}

//! Splits the plan of a preparation: what is done to every row, and what is done to those that are kept.
use crate::engine::Stages;
use crate::plan::Plan;
use crate::problem::Usage;
use anyhow::Result;
use contract::{Effect, Kind, Resources};
use std::sync::Arc;
use text::prepare::write::UnwrittenRows;
use text::prepare::write::files::{FORMAT, Footer};
use text::support::cache::key;
use text::{Deduplicate, ScanRows, Signatures, SourceFiles, Tokenizer, Write};

/// The two graphs of a preparation: lists of stages. Stages of the plan keep their ids. The ids of the others contain a
/// space, which those of a plan cannot.
pub struct Graphs {
    /// Every row passes through it once: `scan_rows → … → signatures`. The source of the plan has provided the files to
    /// scan.
    pub rows: Stages,
    /// Writes shards with the rows that are kept: `kept → tokenize → parquet`.
    pub shards: Stages,
}

impl Graphs {
    /// Splits `plan`.
    pub fn of(plan: &Plan) -> Self {
        let mut rows: Stages = vec![("scan rows".into(), Arc::new(ScanRows))];
        let mut shards: Stages = vec![("kept rows".into(), Arc::new(UnwrittenRows))];
        for at in plan.order() {
            let stage = &plan.stages[at];
            if !stage.settings.takes().is_empty() {
                let graph = if stage.settings.gives() == [Kind::Rows] { &mut rows } else { &mut shards };
                graph.push((stage.id.clone(), Arc::clone(&stage.settings)));
            }
        }
        rows.push(("row signatures".into(), Arc::new(Signatures)));
        Self { rows, shards }
    }
}

/// A preparation.
pub struct Preparation {
    /// The input.
    pub read: Arc<SourceFiles>,
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
    /// A key of everything that a row's entry in the catalog depends on, except the row itself.
    pub chain: String,
    /// A key of everything that the files depend on, except the input.
    pub configuration: String,
}

impl Preparation {
    /// Splits `plan`. `resources` have been provided by its stages; they determine the role of each.
    ///
    /// # Errors
    /// [`Usage`] if it is not a chain from documents to a stage that writes them; if a file that a stage depends on cannot
    /// be read.
    pub fn of(plan: &Plan, resources: &Resources) -> Result<Self> {
        let (mut read, mut write, mut deduplicate, mut tokenizer) = (None, None, None, None);
        let mut chain = vec![format!("rows {FORMAT} {}", env!("CARGO_PKG_VERSION"))];
        for at in plan.order() {
            let stage = &plan.stages[at];
            let id = &stage.id;
            if let Some(found) = resources.of::<SourceFiles>(id) {
                read = Some(found);
            } else if let Some(found) = resources.of::<Deduplicate>(id) {
                deduplicate = Some(found);
            } else if let Some(found) = resources.of::<Write>(id) {
                write = Some((found, id.clone()));
            } else if let Some(found) = resources.of::<Tokenizer>(id) {
                tokenizer = Some(found);
            } else if stage.settings.gives() == [Kind::Rows] && !stage.settings.takes().is_empty() {
                let dependencies = stage.settings.dependencies()?;
                let lines = dependencies.iter().map(|(name, value)| format!("{id}: {name}: {value}\n"));
                chain.push(table(plan, |other| other == *id) + &lines.collect::<String>());
            } else {
                let why = format!("`{id}` (type `{}`) provides nothing that a preparation works with", stage.type_name);
                return Err(Usage(why).into());
            }
        }
        let (Some(read), Some((write, write_id))) = (read, write) else {
            let why = "a preparation begins with a stage that reads documents and ends in one of type `parquet`";
            return Err(Usage(why.into()).into());
        };
        chain.push(format!("keep {}", write.keep_dropped));
        chain.push(deduplicate.as_deref().map(Deduplicate::signature_key).unwrap_or_default());
        let chain = key(&chain.iter().map(String::as_str).collect::<Vec<_>>());
        let configuration = key(&[&table(plan, |_| true)]);
        let (graphs, resources) = (Graphs::of(plan), resources.clone());
        Ok(Self { read, deduplicate, tokenizer, write, write_id, graphs, resources, chain, configuration })
    }

    /// The metadata in the footers of files.
    pub fn footer(&self) -> Footer {
        let vocabulary = self.tokenizer.as_ref().map(|tokenizer| tokenizer.vocabulary().clone());
        Footer { vocabulary, configuration: self.configuration.clone() }
    }
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

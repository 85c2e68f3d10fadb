//! The plan of a preparation, taken apart: what is done to every row, and what is done to those that are kept.
use crate::plan::Plan;
use crate::problem::Usage;
use anyhow::Result;
use contract::{Effect, Kind, Resources, Settings};
use std::sync::Arc;
use text::prepare::write::files::{FORMAT, Footer};
use text::support::cache::key;
use text::{Deduplicate, SourceFiles, Tokenizer, Write};

/// A preparation.
pub struct Preparation {
    /// What is read.
    pub read: Arc<SourceFiles>,
    /// What is done to every row, in order.
    pub above: Vec<(String, Arc<dyn Settings>)>,
    /// How near-duplicates are found, if they are.
    pub deduplicate: Option<Arc<Deduplicate>>,
    /// What makes tokens, with its name in the plan, if anything does.
    pub tokenize: Option<(String, Arc<dyn Settings>)>,
    /// Its tokenizer.
    pub tokenizer: Option<Arc<Tokenizer>>,
    /// What is written.
    pub write: Arc<Write>,
    /// What writes it, with its name in the plan.
    pub writer: (String, Arc<dyn Settings>),
    /// Names everything that a row's line of the catalog follows from, but for the row.
    pub chain: String,
    /// Names everything that the files follow from, but for what is read.
    pub configuration: String,
}

impl Preparation {
    /// Takes `plan` apart. `resources` are what its stages have provided: by them it is known what each is for.
    ///
    /// # Errors
    /// [`Usage`] if it is not a chain from documents to a stage that writes them.
    pub fn of(plan: &Plan, resources: &Resources) -> Result<Self> {
        let (mut read, mut write, mut deduplicate, mut tokenize) = (None, None, None, None);
        let mut above: Vec<(String, Arc<dyn Settings>)> = Vec::new();
        let mut chain = vec![format!("rows {FORMAT} {}", env!("CARGO_PKG_VERSION"))];
        for at in plan.order() {
            let stage = &plan.stages[at];
            let (id, named) = (&stage.id, || (stage.id.clone(), Arc::clone(&stage.settings)));
            if let Some(found) = resources.of::<SourceFiles>(id) {
                read = Some(found);
            } else if let Some(found) = resources.of::<Deduplicate>(id) {
                deduplicate = Some(found);
            } else if let Some(found) = resources.of::<Write>(id) {
                write = Some((named(), found));
            } else if let Some(tokenizer) = resources.of::<Tokenizer>(id) {
                tokenize = Some((named(), tokenizer));
            } else if stage.settings.gives() == [Kind::Rows] && !stage.settings.takes().is_empty() {
                chain.push(table(plan, |other| other == *id));
                above.push(named());
            } else {
                let why = format!("`{id}` (type `{}`) provides nothing that a preparation works with", stage.type_name);
                return Err(Usage(why).into());
            }
        }
        let (Some(read), Some((writer, write))) = (read, write) else {
            let why = "a preparation begins with a stage that reads documents and ends in one of type `parquet`";
            return Err(Usage(why.into()).into());
        };
        chain.push(format!("keep {}", write.keep_dropped));
        chain.push(deduplicate.as_deref().map(Deduplicate::signature_key).unwrap_or_default());
        let chain = key(&chain.iter().map(String::as_str).collect::<Vec<_>>());
        let configuration = key(&[&table(plan, |_| true)]);
        let (tokenize, tokenizer) = tokenize.unzip();
        Ok(Self { read, above, deduplicate, tokenize, tokenizer, write, writer, chain, configuration })
    }

    /// What the footers of files say.
    pub fn footer(&self) -> Footer {
        let vocabulary = self.tokenizer.as_ref().map(|tokenizer| tokenizer.vocabulary().clone());
        Footer { vocabulary, configuration: self.configuration.clone() }
    }
}

/// The settings of stages in the order of the plan, but for where things are.
fn table(plan: &Plan, of: impl Fn(&str) -> bool) -> String {
    let mut text = String::new();
    for stage in plan.stages.iter().filter(|stage| of(&stage.id)) {
        let values = plan.values(&stage.id, &[Effect::Results, Effect::Failure]);
        values
            .filter(|(key, _)| *key != "inputs")
            .for_each(|(key, value)| text += &format!("{}.{key} = {value}\n", stage.id));
    }
    text
}

//! The plan of a preparation, taken apart: what is done to every row, and what is done to those that are kept.
use crate::plan::{Plan, PlannedStage};
use crate::problem::Usage;
use anyhow::Result;
use contract::{Kind, Settings};
use std::sync::{Mutex, PoisonError};
use text::prepare::write::files::{FORMAT, Footer};
use text::support::cache::key;
use text::tokenizer::stage::Choice;
use text::{Cache, Deduplicate, ReadDocuments, Tokenize, Tokenizer, Write};

/// A preparation.
pub struct Preparation {
    /// What is read.
    pub read: ReadDocuments,
    /// What is done to every row, in order.
    above: Mutex<Vec<(String, Box<dyn Settings>)>>,
    /// How near-duplicates are found, if they are.
    pub deduplicate: Option<Deduplicate>,
    /// What makes tokens, with its name in the plan, if anything does.
    pub tokenize: Option<(String, Tokenize)>,
    /// What is written.
    pub write: Write,
    /// Its name in the plan.
    pub write_id: String,
    /// The run's seed.
    pub seed: u64,
    /// Names everything that a row's line of the catalog follows from, but for the row.
    pub chain: String,
    /// Names everything that the files follow from, but for what is read.
    pub configuration: String,
}

impl Preparation {
    /// Takes `plan` apart.
    ///
    /// # Errors
    /// [`Usage`] if it is not a chain from `documents` to `parquet`.
    pub fn of(plan: Plan) -> Result<Self> {
        let refuse = |why: String| Err(Usage(why).into());
        let configuration = table(&plan, |_| true);
        let seed = plan.run.seed;
        let (mut read, mut write, mut deduplicate, mut tokenize) = (None, None, None, None);
        let mut above: Vec<(String, Box<dyn Settings>)> = Vec::new();
        let mut chain = vec![format!("rows {FORMAT} {}", env!("CARGO_PKG_VERSION"))];
        let order = plan.order();
        let tables: Vec<String> = plan.stages.iter().map(|stage| table(&plan, |id| id == stage.id)).collect();
        let mut stages: Vec<Option<PlannedStage>> = plan.stages.into_iter().map(Some).collect();
        for at in order {
            let Some(PlannedStage { id, type_name, settings, .. }) = stages[at].take() else { continue };
            let any = settings.as_any();
            let takes: Vec<Kind> = settings.takes().iter().map(|port| port.kind).collect();
            if let Some(found) = any.downcast_ref::<ReadDocuments>() {
                read = Some(found.clone());
            } else if let Some(found) = any.downcast_ref::<Deduplicate>() {
                if deduplicate.replace(found.clone()).is_some() {
                    return refuse(format!(
                        "`{id}` is the second stage of its kind: one stage of type `minhash` is enough"
                    ));
                }
            } else if let Some(found) = any.downcast_ref::<Write>() {
                write = Some((id, found.clone()));
            } else if let Some(found) = any.downcast_ref::<Tokenize>() {
                tokenize = Some((id, found.clone()));
            } else if takes == [Kind::Rows] && settings.gives() == [Kind::Rows] {
                if deduplicate.is_some() {
                    return refuse(format!("`{id}` stands below the stage that deduplicates: move it above"));
                }
                chain.push(tables[at].clone());
                above.push((id, settings));
            } else {
                return refuse(format!("`{id}` (type `{type_name}`) has no place in a graph that ends in `parquet`"));
            }
        }
        let (Some(read), Some((write_id, write))) = (read, write) else {
            return refuse("nothing is read: a preparation begins with a stage of type `documents`".into());
        };
        if read.validation_every.is_some() {
            return refuse("`validation_every` holds out rows by their place, which changes with the input: use `validation_fraction`".into());
        }
        if let Some((id, Choice::Train(_))) = tokenize.as_ref().map(|(id, tokenize)| (id, tokenize.choice())) {
            return refuse(format!(
                "`{id}` would train a tokenizer, on documents that change: name \"gpt2\" or a tokenizer.json"
            ));
        }
        let tokenize = tokenize.filter(|_| write.tokens);
        chain.push(format!("keep {}", write.keep_dropped));
        chain.push(deduplicate.as_ref().map(Deduplicate::signature_key).unwrap_or_default());
        let chain = key(&chain.iter().map(String::as_str).collect::<Vec<_>>());
        let above = Mutex::new(above);
        Ok(Self {
            read,
            above,
            deduplicate,
            tokenize,
            write,
            write_id,
            seed,
            chain,
            configuration: key(&[&configuration]),
        })
    }

    /// What is done to every row, once.
    pub fn take_above(&self) -> Vec<(String, Box<dyn Settings>)> {
        std::mem::take(&mut *self.above.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Opens the tokenizer, if there is one.
    pub fn tokenizer(&self, cache: &Cache) -> Result<Option<Tokenizer>> {
        let Some((_, tokenize)) = &self.tokenize else { return Ok(None) };
        let (end, problem) =
            (&tokenize.end_of_text, |name: &str, why| text::TextProblem::Tokenizer { name: name.into(), why });
        let opened = match tokenize.choice() {
            Choice::Gpt2 => Tokenizer::gpt2(cache, end)?,
            Choice::File(path) => Tokenizer::from_file(&path, end)?,
            Choice::Train(_) => return Err(problem("train", "is not for preparation".into()).into()),
        };
        match tokenize.vocabulary_size {
            Some(size) if size != opened.vocabulary_size() => {
                let why = format!("it has {} ids, not {size} as vocabulary_size says", opened.vocabulary_size());
                Err(problem(&tokenize.tokenizer, why).into())
            }
            _ => Ok(Some(opened)),
        }
    }

    /// What the footers of files say.
    pub fn footer(&self, tokenizer: Option<&Tokenizer>) -> Footer {
        let vocabulary = tokenizer.map(|tokenizer| tokenizer.vocabulary().clone());
        Footer { vocabulary, configuration: self.configuration.clone() }
    }
}

/// The settings of stages in the order of the plan, but for where things are.
fn table(plan: &Plan, of: impl Fn(&str) -> bool) -> String {
    const FREE: [&str; 3] = ["paths", "cache", "inputs"];
    let mut text = String::new();
    for (id, table) in plan.resolved.stages.iter().filter(|(id, _)| of(id)) {
        for (key, entry) in table.entries.iter().filter(|(key, _)| !FREE.contains(&key.as_str())) {
            text += &format!("{id}.{key} = {}\n", entry.value);
        }
    }
    text
}

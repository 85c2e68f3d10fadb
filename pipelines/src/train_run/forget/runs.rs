//! The run as it was, and the run without the documents.
use super::super::lineage::{Sources, sources};
use super::super::session::Session;
use super::super::train::choose_gemm;
use super::super::{directory, resume_checks};
use super::Options;
use super::named::{Withdrawal, lists, named};
use crate::plan::{Overrides, Plan, Scope};
use crate::prepare_stages::prepare;
use crate::problem::Usage;
use crate::show::Line;
use anyhow::{Context, Error, Result};
use contract::{Resources, StageType};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use text::CorpusIndex;
use text::corpus::epoch_order::ORDER;
use text::corpus::withdrawal::WITHDRAWN;
use train::checkpoint::Fingerprint;

/// The beginnings of the names in a fingerprint that say what the data is.
const DATA: [&str; 5] = ["content of documents", "content of tokens", TOKENIZER, ORDER, WITHDRAWN];
/// The beginning of the name that says what the tokenizer is.
const TOKENIZER: &str = "content of tokenizer";

/// What there is of the run as it was, and of the run without the documents.
pub struct Both<T> {
    /// Of the run as it was.
    pub old: T,
    /// Of the run without the documents.
    pub new: T,
}

/// The run as it was, and the run without the documents.
pub struct Runs {
    /// Their plans. That of the new one names temporary lists.
    pub plans: Both<Plan>,
    /// Their data.
    pub sessions: Both<Session>,
    /// Their sources.
    pub sources: Both<Sources>,
    /// The documents that are withdrawn now.
    pub withdrawn: Vec<Withdrawal>,
    /// All ids that are withdrawn, of each source of which some are withdrawn now.
    pub lists: BTreeMap<String, BTreeSet<String>>,
    /// Changes of the configuration other than the lists.
    pub set: Vec<String>,
    /// Whether the tokenizer is another one, because it was trained on the documents.
    pub tokenizer_changes: bool,
    /// Worker threads.
    pub workers: usize,
    /// The registry of stages.
    pub stages: Vec<StageType>,
}

/// How the documents differ.
pub struct Changes {
    /// Training documents that are no longer there.
    pub removed: u64,
    /// Training documents that were not there before.
    pub added: u64,
    /// Whether other documents are held out.
    pub validation: bool,
}

impl Runs {
    /// Prepares the data of both.
    ///
    /// # Errors
    /// As [`assess`](super::assess).
    pub fn prepare(run: &Path, name: &str, options: &Options, line: &mut Line) -> Result<Self> {
        let then = directory::fingerprint(run)?;
        let overrides = directory::overrides(run, then.as_ref(), options.workers)?;
        let file = run.join(directory::CONFIG_FILE);
        let load =
            |overrides: &Overrides| Plan::checked(&file, overrides, options.stages, Scope::Resume).map_err(Error::new);
        let old_plan = load(&overrides)?;
        choose_gemm(&old_plan)?;
        let workers = old_plan.run.workers.unwrap_or_else(crate::machine::cores);
        let old = Session::new(&old_plan, prepare(&old_plan, directory::known(run)?, workers, line)?, workers, None)?;
        let then = then.with_context(|| format!("{name} does not record what decides its results"))?;
        require_same(name, &then, &old.fingerprint)?;
        let old_sources = sources(&old_plan, &old.env)?;
        let withdrawn = named(name, &old_sources, options.documents)?;
        let lists = lists(&old_sources, &withdrawn);
        let folder = tempfile::tempdir().context("there is no room for a list of documents")?;
        let mut changed = overrides.clone();
        changed.set.extend(options.set.iter().cloned());
        for (source, ids) in &lists {
            let path = folder.path().join(format!("{source}.txt"));
            std::fs::write(&path, text_of(ids)).with_context(|| format!("cannot write {}", path.display()))?;
            changed.set.push(directory::set_list(source, &path));
        }
        let new_plan = load(&changed)?;
        // A tokenizer that was trained on the documents is trained again.
        let new = Session::new(&new_plan, prepare(&new_plan, Resources::default(), workers, line)?, workers, None)?;
        let tokenizer_changes = require_other_data(&old.fingerprint, &new.fingerprint)?;
        let new_sources = sources(&new_plan, &new.env)?;
        Ok(Self {
            plans: Both { old: old_plan, new: new_plan },
            sessions: Both { old, new },
            sources: Both { old: old_sources, new: new_sources },
            withdrawn,
            lists,
            set: options.set.to_vec(),
            tokenizer_changes,
            workers,
            stages: options.stages.to_vec(),
        })
    }

    /// Whether anything differs: not if the documents have been withdrawn before.
    pub fn differ(&self) -> bool {
        self.sessions.old.fingerprint != self.sessions.new.fingerprint
    }

    /// How the documents differ.
    pub fn changes(&self) -> Changes {
        let hashes = |sources: &Sources, of: fn(&CorpusIndex) -> &Vec<u64>| {
            let mut hashes: Vec<(usize, u64)> = Vec::new();
            for (number, (_, source)) in sources.iter().enumerate() {
                hashes.extend(of(&source.index).iter().map(|hash| (number, *hash)));
            }
            hashes.sort_unstable();
            hashes
        };
        let train = |sources| hashes(sources, |index| &index.train.hashes);
        let validation = |sources| hashes(sources, |index| &index.validation.hashes);
        let Both { old, new } = &self.sources;
        let (before, after) = (train(old), train(new));
        let stay = common(&before, &after);
        Changes {
            removed: before.len() as u64 - stay,
            added: after.len() as u64 - stay,
            validation: validation(old) != validation(new),
        }
    }
}

/// How many elements two sorted lists have in common.
fn common<T: Ord>(one: &[T], other: &[T]) -> u64 {
    let (mut a, mut b, mut common) = (0, 0, 0);
    while let (Some(x), Some(y)) = (one.get(a), other.get(b)) {
        match x.cmp(y) {
            std::cmp::Ordering::Less => a += 1,
            std::cmp::Ordering::Greater => b += 1,
            std::cmp::Ordering::Equal => (a, b, common) = (a + 1, b + 1, common + 1),
        }
    }
    common
}

/// The file with these ids.
pub fn text_of(ids: &BTreeSet<String>) -> String {
    ids.iter().map(|id| format!("{id}\n")).collect()
}

/// Refuses a run whose data, settings or code are not what they were.
fn require_same(name: &str, then: &Fingerprint, now: &Fingerprint) -> Result<()> {
    let (differing, _) = resume_checks::differences(then, now);
    if differing.is_empty() {
        return Ok(());
    }
    let list = differing.join("\n");
    let next =
        "Restore these: what is to be forgotten must still be there, so that the steps that have seen it are found";
    Err(Usage(format!("{name} was trained with other settings, data or code than there are now:\n{list}\n{next}"))
        .into())
}

/// Refuses to change anything but the data. Returns whether the tokenizer changes with it.
fn require_other_data(old: &Fingerprint, new: &Fingerprint) -> Result<bool> {
    let keys: BTreeSet<&String> = old.configuration.keys().chain(new.configuration.keys()).collect();
    let changed: Vec<&String> =
        keys.into_iter().filter(|key| old.configuration.get(*key) != new.configuration.get(*key)).collect();
    let other = changed.iter().find(|key| !DATA.iter().any(|name| key.starts_with(name)));
    if let Some(key) = other {
        let why = format!("`--set` says where the data is now; `{key}` would change as well, which is another run");
        return Err(Usage(why).into());
    }
    Ok(changed.iter().any(|key| key.starts_with(TOKENIZER)))
}

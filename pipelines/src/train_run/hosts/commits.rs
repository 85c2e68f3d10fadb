//! The head's commits: in memory, as checkpoints of the run, and as files that other hosts download.
//!
//! A commit is written as files when a generation begins at it, that is, when a host was lost or joins: then other hosts
//! download it and the head itself reads it.
use super::job::{From, HostJob};
use crate::hosts::net::driver::{NotPersisted, Store};
use crate::hosts::net::transfer::{Blob, Source};
use crate::hosts::{Epoch, RunId, Step};
use anyhow::{Context, Result, anyhow};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use train::checkpoint::Commit;

/// The file of a run directory that says which head owns it.
pub const HOSTS_FILE: &str = "hosts.json";
/// The folder in a run directory for commits that hosts begin at.
const FOLDER: &str = ".commits";
/// The blob with the [`HostJob`].
pub const JOB: &str = "job.json";

/// The contents of [`HOSTS_FILE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Owner {
    run: u64,
    /// How many times a head has taken the directory over.
    incarnation: u64,
}

/// The commits of a run.
pub struct Commits {
    run_dir: PathBuf,
    owner: Owner,
    job: HostJob,
    first: First,
    checkpoint_every: Step,
    state: Mutex<State>,
    /// Locked while a commit is written as files, which may take seconds. The driver never waits for it.
    writing: Mutex<()>,
}

/// The state that this head begins with.
struct First {
    step: Step,
    from: From,
    /// Where its files are, if there are any.
    folder: Option<PathBuf>,
}

#[derive(Default)]
struct State {
    /// What the current generation has gathered, by step, and is no commit yet.
    gathered: BTreeMap<(Epoch, Step), Commit>,
    commits: BTreeMap<Step, Arc<Commit>>,
    last: Step,
    /// Commits that are to be written as checkpoints.
    due: BTreeSet<Step>,
    /// Commits that other hosts obtain.
    obtained: BTreeSet<Step>,
    /// Commits that are files.
    folders: BTreeMap<Step, PathBuf>,
    /// What hosts were told about commits.
    blobs: BTreeMap<Step, Vec<Blob>>,
}

impl Commits {
    /// Takes over a run directory, in which this process alone runs. The run begins at `step`, as `job` says, whose files
    /// are in `folder`.
    ///
    /// # Errors
    /// If the directory cannot be written.
    pub fn take_over(
        run_dir: &Path,
        job: HostJob,
        step: Step,
        folder: Option<PathBuf>,
        checkpoint_every: Step,
    ) -> Result<Self> {
        let path = run_dir.join(HOSTS_FILE);
        let before = fs::read_to_string(&path).ok().and_then(|text| serde_json::from_str::<Owner>(&text).ok());
        let mut random = [0; size_of::<u64>()];
        getrandom::fill(&mut random).map_err(|error| anyhow!("the system has no random numbers: {error}"))?;
        let new = Owner { run: u64::from_le_bytes(random), incarnation: 0 };
        let owner = before.filter(|_| step > 0).unwrap_or(new);
        let owner = Owner { incarnation: owner.incarnation + 1, ..owner };
        let text = serde_json::to_string(&owner)?;
        contract::files::write_whole(&path, |out| Ok(out.write_all(text.as_bytes())?))?;
        match fs::remove_dir_all(run_dir.join(FOLDER)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", run_dir.join(FOLDER).display()));
            }
            _ => {}
        }
        let first = First { step, from: job.from, folder };
        let state = Mutex::new(State { last: step, ..State::default() });
        let (run_dir, writing) = (run_dir.into(), Mutex::default());
        Ok(Self { run_dir, owner, job, first, checkpoint_every, state, writing })
    }

    /// The run, for the protocol, and how often a head has taken it over.
    pub fn run(&self) -> (RunId, u64) {
        (RunId(self.owner.run), self.owner.incarnation)
    }

    /// The last commit.
    pub fn last(&self) -> Step {
        self.lock().last
    }

    /// The graph has gathered the state after a step. If it is to become a commit, [`commit`](Store::commit) says so.
    pub fn gathered(&self, epoch: Epoch, commit: Commit) {
        self.lock().gathered.insert((epoch, commit.step()), commit);
    }

    /// The files of a commit that is not the first: a checkpoint.
    ///
    /// # Errors
    /// If it is not here any more, or cannot be written.
    pub fn folder(&self, step: Step) -> Result<PathBuf> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(folder) = self.lock().folders.get(&step) {
            return Ok(folder.clone());
        }
        let commit = self.commit_of(step)?;
        let all = self.run_dir.join(FOLDER);
        let folder = all.join(format!("step-{step:08}"));
        fs::create_dir_all(&all).with_context(|| format!("cannot make {}", all.display()))?;
        commit.write_to(&folder).with_context(|| format!("cannot write {}", folder.display()))?;
        self.lock().folders.insert(step, folder.clone());
        Ok(folder)
    }

    /// A commit in memory.
    fn commit_of(&self, step: Step) -> Result<Arc<Commit>> {
        let commit = self.lock().commits.get(&step).cloned();
        commit.with_context(|| format!("there is no commit of step {step}"))
    }

    /// Whether the run of this head begins at this step, and not at a commit of its own.
    pub fn is_first(&self, step: Step) -> bool {
        step == self.first.step
    }

    /// The source of the state at a step, and the folder of its files.
    fn files(&self, step: Step) -> Result<(From, Option<PathBuf>)> {
        match self.is_first(step) {
            true => Ok((self.first.from, self.first.folder.clone())),
            false => Ok((From::Checkpoint, Some(self.folder(step)?))),
        }
    }

    fn description(&self, from: From) -> Result<Vec<u8>> {
        Ok(serde_json::to_vec(&self.job.with(from))?)
    }

    fn list(&self, step: Step) -> Result<Vec<Blob>> {
        if let Some(blobs) = self.lock().blobs.get(&step) {
            return Ok(blobs.clone());
        }
        let (from, folder) = self.files(step)?;
        let job = self.description(from)?;
        let mut blobs = vec![Blob { name: JOB.into(), length: job.len() as u64, hash: *blake3::hash(&job).as_bytes() }];
        if let Some(folder) = &folder {
            for name in files_of_state(folder)? {
                let mut hasher = blake3::Hasher::new();
                hasher.update_reader(File::open(folder.join(&name))?)?;
                blobs.push(Blob { name, length: hasher.count(), hash: *hasher.finalize().as_bytes() });
            }
        }
        self.lock().blobs.insert(step, blobs.clone());
        Ok(blobs)
    }

    fn drop_old(&self, state: &mut State) {
        let State { last, due, obtained, .. } = state;
        let is_old = |step: &Step| *step < *last && !due.contains(step) && !obtained.contains(step);
        let steps = state.commits.keys().chain(state.folders.keys()).chain(state.blobs.keys());
        let old: BTreeSet<Step> = steps.copied().filter(is_old).collect();
        for step in old {
            state.commits.remove(&step);
            state.blobs.remove(&step);
            // What cannot be removed now is removed when the run is resumed.
            let _ = state.folders.remove(&step).map(fs::remove_dir_all);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The names of the files in a model's or checkpoint's folder with parameters and optimizer state.
fn files_of_state(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.ends_with(".safetensors") || name == train::weights::INDEX_FILE {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// The files for other hosts are of no use after the run.
impl Drop for Commits {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(self.run_dir.join(FOLDER));
    }
}

impl Store for Commits {
    fn commit(&self, epoch: Epoch, step: Step) {
        let mut state = self.lock();
        let Some(commit) = state.gathered.remove(&(epoch, step)) else { return };
        state.gathered.retain(|(_, other), _| *other > step);
        state.commits.insert(step, Arc::new(commit));
        state.last = step;
        if step.is_multiple_of(self.checkpoint_every) {
            state.due.insert(step);
        }
        self.drop_old(&mut state);
    }

    fn discard(&self, epoch: Epoch) {
        self.lock().gathered.retain(|(other, _), _| *other != epoch);
    }

    fn keep(&self, steps: &BTreeSet<Step>) {
        let mut state = self.lock();
        state.obtained.clone_from(steps);
        self.drop_old(&mut state);
    }

    fn persist(&self, step: Step) -> Result<(), NotPersisted> {
        if !self.is_owner() {
            return Err(NotPersisted::Fenced);
        }
        let written = self.commit_of(step).and_then(|commit| commit.write());
        written.map_err(|error| NotPersisted::Failed(format!("{error:#}")))?;
        let mut state = self.lock();
        state.due.remove(&step);
        self.drop_old(&mut state);
        Ok(())
    }

    fn is_owner(&self) -> bool {
        let text = fs::read_to_string(self.run_dir.join(HOSTS_FILE));
        let owner = text.ok().and_then(|text| serde_json::from_str::<Owner>(&text).ok());
        owner.is_none_or(|owner| owner == self.owner)
    }
}

impl Source for Commits {
    fn blobs(&self, step: Step) -> Option<Vec<Blob>> {
        self.list(step).ok()
    }

    fn read(&self, step: Step, name: &str, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let (from, folder) = self.files(step).map_err(io::Error::other)?;
        if name == JOB {
            let job = self.description(from).map_err(io::Error::other)?;
            return job.get(usize::try_from(offset).unwrap_or(usize::MAX)..).unwrap_or_default().read(into);
        }
        let folder = folder.ok_or(io::ErrorKind::NotFound)?;
        let mut file = File::open(folder.join(name))?;
        file.seek(SeekFrom::Start(offset))?;
        let mut read = 0;
        while read < into.len() {
            match file.read(&mut into[read..])? {
                0 => break,
                count => read += count,
            }
        }
        Ok(read)
    }
}

//! A host that joins a run: it has neither the configuration nor the data.
use super::commits::JOB;
use super::engine::{About, HostEngine, Trainer};
use super::hello;
use super::job::HostJob;
use crate::engine::{Job, Stop, WorkerTiming};
use crate::hosts::net::driver::MemberDriver;
use crate::hosts::net::listener::bind;
use crate::hosts::net::secret::Secret;
use crate::hosts::net::transfer::{Download, Fault};
use crate::hosts::{Config, EngineEvent, Outcome, Step};
use crate::machine::cores;
use crate::problem::Usage;
use crate::train_run::interruption::{Interrupted, Interruption};
use anyhow::{Context, Error, Result, anyhow, bail};
use compute::kernels::gemm;
use contract::StageType;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The longest description of a run.
const LONGEST_JOB: u64 = 16 << 20;

/// How a host joins a run.
pub struct JoinOptions {
    /// The head's `HOST:PORT`.
    pub head: String,
    /// The file of the secret.
    pub secret: PathBuf,
    /// Where other hosts connect to this one (`HOST:PORT`).
    pub listen: Option<String>,
    /// The GEMM backend.
    pub gemm: String,
    /// How many workers compute; `None`: as many as there are cores, at most as many as at the head.
    pub workers: Option<usize>,
    /// The registry of stages.
    pub stages: Vec<StageType>,
    /// The version of this program.
    pub version: String,
}

/// Takes part in a run until it ends. `say` prints a line for the user.
///
/// # Errors
/// [`Usage`] if an option is invalid; if the head cannot be reached or does not admit this host; the failure of the run;
/// [`Interrupted`] if the run or this host was asked to stop.
pub fn join(options: JoinOptions, say: impl Fn(&str) + Clone + Send + 'static) -> Result<()> {
    let JoinOptions { head, secret, listen, gemm, workers, stages, version } = options;
    gemm::choose(&gemm).map_err(|error| Usage(error.to_string()))?;
    let interruption = Interruption::at_once()?;
    let secret = Secret::read(&secret)?;
    let socket = bind(&listen.unwrap_or_else(|| format!("{}:0", address_towards(&head))))?;
    // An address that stands for all addresses of this machine is replaced by the one that reaches the head.
    let address = socket.local_addr().ok().filter(|address| !address.ip().is_unspecified());
    let address = address.map(|address| address.to_string()).unwrap_or_default();
    let hello = hello(&version, address, workers.unwrap_or_else(cores));
    let name = hello.name.clone();
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let state = Mutex::default();
    let trainer = Arc::new(MemberTrainer { stages, workers, folder: folder.path().into(), state });
    let (notify, done) = (say.clone(), say.clone());
    let config = Config::default();
    let driver = MemberDriver {
        config,
        head: head.clone(),
        secret,
        socket,
        hello,
        say: Box::new(move |n| notify(&n.to_string())),
    };
    let outcome = driver.run(|events| {
        let signals = events.clone();
        interruption.ask(move |signal| signals.signal(signal), move |note| say(note))?;
        let report = Arc::new(move |event: EngineEvent| events.engine(event));
        Ok(Box::new(HostEngine::new(Arc::clone(&trainer), name, report)))
    })?;
    interruption.over();
    if outcome == Outcome::Done {
        done("the run is complete");
    }
    trainer.result(outcome, &head)
}

/// The address of this machine from which it reaches the head: others that reach the head are likely to reach this host
/// there. Sends nothing.
fn address_towards(head: &str) -> IpAddr {
    let towards = || -> std::io::Result<SocketAddr> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect(head)?;
        socket.local_addr()
    };
    // A head that cannot be reached is reported when it is dialled.
    towards().map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |address| address.ip())
}

/// What a member trains.
struct MemberTrainer {
    stages: Vec<StageType>,
    /// How many workers the user wants to compute.
    workers: Option<usize>,
    /// For the files of commits.
    folder: PathBuf,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The commits that are here.
    jobs: BTreeMap<Step, HostJob>,
    /// The first error of this host.
    error: Option<Error>,
}

impl MemberTrainer {
    fn folder(&self, step: Step) -> PathBuf {
        self.folder.join(format!("step-{step:08}"))
    }

    /// The description and the files of a commit.
    fn fetch(download: &Download, step: Step, folder: &Path) -> Result<HostJob> {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let mut job = None;
        for blob in download.blobs(step)? {
            if blob.name == JOB {
                job = Some(serde_json::from_slice(&download.to_memory(step, &blob, LONGEST_JOB)?)?);
            } else {
                download.to_file(step, &blob, folder)?;
            }
        }
        job.context("the head does not describe the run")
    }

    fn result(&self, outcome: Outcome, head: &str) -> Result<()> {
        let interrupted = |signal: u8, message: String| Err(Interrupted::by(signal, message).into());
        match outcome {
            Outcome::Done => Ok(()),
            Outcome::Interrupted { signal } => interrupted(signal, "the run was stopped at the head".into()),
            Outcome::Left { signal } => interrupted(signal, "this host has left the run, which goes on".into()),
            Outcome::Failed(failure) => {
                Err(self.lock().error.take().unwrap_or_else(|| anyhow!("the run failed: {failure}")))
            }
            Outcome::Rejected(why) => bail!("the head {head} does not admit this host: {why}"),
            Outcome::Unreachable { cause } => bail!("cannot join the run at {head}: {cause}"),
            Outcome::NoState { cause } => bail!("cannot take part in the run: {cause}"),
            Outcome::HeadLost => bail!("the head {head} was lost and did not come back"),
            Outcome::Stuck => bail!("the workers of this host do not stop"),
            Outcome::Superseded => bail!("another head has taken over the run"),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Trainer for MemberTrainer {
    fn obtain(&self, step: Step, download: Option<Download>) -> Result<bool> {
        if self.lock().jobs.contains_key(&step) {
            return Ok(true);
        }
        let download = download.context("there is no head to download from")?;
        match Self::fetch(&download, step, &self.folder(step)) {
            Ok(job) => {
                let (at_head, plural) = (job.workers, if job.workers == 1 { "" } else { "s" });
                if let Some(wanted) = self.workers.filter(|wanted| *wanted > at_head) {
                    bail!(
                        "the head has {at_head} worker{plural}, and no host can have more, so not {wanted}: join with \
                         --workers {at_head} at most, or start the head with more"
                    );
                }
                self.lock().jobs.insert(step, job);
                Ok(true)
            }
            Err(error) if matches!(error.downcast_ref(), Some(Fault::Cancelled)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn job(self: &Arc<Self>, _: &About, from: Step, stop: &Arc<Stop>) -> Result<Job> {
        let job = self.lock().jobs.get(&from).cloned();
        let job = job.with_context(|| format!("the state of step {from} is not here"))?;
        job.job(&self.folder(from), from, &self.stages, stop)
    }

    /// Removes the files of older commits. Those of the commit that the current generation began at have been read.
    fn committed(&self, step: Step) {
        let mut state = self.lock();
        let old: Vec<Step> = state.jobs.keys().copied().filter(|other| *other < step).collect();
        for step in old {
            state.jobs.remove(&step);
            // What cannot be removed is removed with the temporary folder.
            let _ = std::fs::remove_dir_all(self.folder(step));
        }
    }

    fn ended(&self, _: &About, _: Vec<WorkerTiming>) {}

    fn failed(&self, error: Error) {
        self.lock().error.get_or_insert(error);
    }
}

//! The head: the host that has the configuration, the data and the run directory.
use super::commits::Commits;
use super::engine::{About, HostEngine, Trainer};
use super::hello;
use super::job::{From, HostJob};
use super::status::StatusWriter;
use crate::engine::{Job, Stop, WorkerTiming};
use crate::hosts::net::driver::{Events, HeadDriver};
use crate::hosts::net::secret::Secret;
use crate::hosts::net::transfer::Download;
use crate::hosts::{Config, EngineEvent, HeadEvent, HeadStart, Notice, Outcome, Step};
use crate::machine::{Processes, host_name};
use crate::plan::Plan;
use crate::problem::Usage;
use crate::train_run::session::Session;
use anyhow::{Context, Error, Result, anyhow, bail};
use contract::{CommitEvery, Saved, Schedule, Snapshot};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use train::checkpoint::{CommitSink, read_state};
use train::weights::Start;

/// How other hosts take part in a run.
pub struct HeadOptions {
    /// Where they connect.
    pub socket: TcpListener,
    /// The file of the secret, which is created if it is not there.
    pub secret: PathBuf,
    /// How many hosts, the head included, training needs at any time.
    pub min_hosts: usize,
    /// How many it needs to begin.
    pub first_hosts: usize,
    /// Steps between commits.
    pub commit_every: u64,
    /// The commands of hosts on this machine, which are started with the run and end with it.
    pub hosts: Vec<Command>,
}

impl HeadOptions {
    /// How other hosts join, for the user. Creates the secret if it is not there: a program that reads this may start a
    /// host at once.
    ///
    /// # Errors
    /// If the system does not say where the socket listens; if the secret cannot be created or read.
    pub fn invitation(&self) -> Result<String> {
        Secret::create_or_read(&self.secret)?;
        let (address, secret) = (self.socket.local_addr()?, self.secret.display());
        let host = match address.ip().is_unspecified() {
            true => format!("{}:{}", host_name(), address.port()),
            false => address.to_string(),
        };
        Ok(format!("Hosts   pipeline join {host} --secret-file {secret}"))
    }
}

/// How a run on several hosts has ended.
pub struct Hosted {
    /// The time that this host's workers took, except in generations that ended when a host was lost.
    pub timings: Vec<WorkerTiming>,
    /// The number of updates after which the run was stopped; `None` if it is complete.
    pub stopped: Option<Step>,
}

/// A run that other hosts take part in.
pub struct HeadRun<'a> {
    /// The configuration.
    pub plan: &'a Plan,
    /// What is known of it.
    pub session: &'a Session,
    /// Its graph.
    pub job: Job,
    /// The version of this program.
    pub version: &'a str,
}

impl HeadRun<'_> {
    /// Runs the graph with all hosts that join. `on_signal` is given what is to be called with the number of a signal that
    /// stops the run; `say` tells the user.
    ///
    /// # Errors
    /// [`Usage`] if the run has no checkpoints; the first failure of any stage on any host.
    pub fn run(
        self,
        options: HeadOptions,
        on_signal: impl FnOnce(Box<dyn Fn(u8) + Send>) -> Result<()>,
        mut say: impl FnMut(Notice) + 'static,
    ) -> Result<Hosted> {
        let HeadOptions { socket, secret, min_hosts, first_hosts, commit_every, hosts } = options;
        let Schedule { first, steps, checkpoint, .. } = self.job.env.schedule;
        let Some(checkpoint_every) = checkpoint else {
            bail!(Usage("a run on several hosts needs checkpoints: set `checkpoint.interval`".into()));
        };
        let commits = Arc::new(self.commits(commit_every, checkpoint_every)?);
        let (run, incarnation) = commits.run();
        let hello = hello(self.version, socket.local_addr()?.to_string(), self.job.env.workers);
        let name = hello.name.clone();
        let status = Arc::new(self.status());
        let noted = Arc::clone(&status);
        let trainer = Arc::new(HeadTrainer {
            job: self.job,
            commit_every,
            commits: Arc::clone(&commits),
            events: OnceLock::new(),
            state: Mutex::default(),
            status,
        });
        let driver = HeadDriver {
            config: Config { min_hosts, first_hosts, checkpoint_every, ..Config::default() },
            start: HeadStart { run, incarnation, hello, commit: first, steps },
            secret: Secret::create_or_read(&secret)?,
            socket,
            store: Arc::clone(&commits) as _,
            source: commits,
            say: Box::new(move |notice| {
                noted.note(&notice);
                say(notice);
            }),
        };
        let mut processes = Processes::default();
        let outcome = driver.run(|events| {
            let signals = events.clone();
            on_signal(Box::new(move |signal| signals.signal(signal)))?;
            let _ = trainer.events.set(events.clone());
            for mut host in hosts {
                processes.add(host.spawn().context("cannot start a process of the run")?);
            }
            let report = Arc::new(move |event: EngineEvent| events.engine(event));
            Ok(Box::new(HostEngine::new(Arc::clone(&trainer), name, report)))
        })?;
        processes.wait();
        trainer.result(outcome)
    }

    fn status(&self) -> StatusWriter {
        let env = &self.job.env;
        let run_dir = env.run_dir.clone().unwrap_or_default();
        StatusWriter::new(&run_dir, env.shape.micro_batches, env.schedule.first)
    }

    fn commits(&self, commit_every: u64, checkpoint_every: Step) -> Result<Commits> {
        let env = &self.job.env;
        let (from, folder) = From::of(env.resources.get::<Start>().as_deref());
        let job = HostJob::new(self.plan, self.session, commit_every, from)?;
        let run_dir = env.run_dir.clone().unwrap_or_default();
        Commits::take_over(&run_dir, job, env.schedule.first, folder, checkpoint_every)
    }
}

/// What the head trains.
struct HeadTrainer {
    /// The graph from the step that this head began at.
    job: Job,
    commit_every: u64,
    commits: Arc<Commits>,
    events: OnceLock<Events<HeadEvent>>,
    state: Mutex<State>,
    status: Arc<StatusWriter>,
}

#[derive(Default)]
struct State {
    timings: Vec<WorkerTiming>,
    /// The first error of this host.
    error: Option<Error>,
    /// The last step of the generation, whose state has been gathered before the generation has ended.
    last: Option<Step>,
}

impl HeadTrainer {
    /// Takes what the graph of a generation gathers.
    fn sink(self: &Arc<Self>, generation: &About, stop: &Arc<Stop>) -> CommitSink {
        let (trainer, generation, stop) = (Arc::clone(self), generation.clone(), Arc::clone(stop));
        CommitSink(Box::new(move |commit| {
            let step = commit.step();
            trainer.commits.gathered(generation.epoch, commit);
            if step == trainer.job.env.schedule.steps || stop.last() == Some(step - 1) {
                // It counts when the generation has come to its end: it may still have to validate.
                trainer.lock().last = Some(step);
            } else {
                trainer.complete(&generation, step, false);
            }
            Ok(())
        }))
    }

    /// Tells the driver that the state after a step is complete. Every host has finished the step then, and has the same
    /// state: so the parts of all are there.
    fn complete(&self, generation: &About, step: Step, last: bool) {
        let Some(events) = self.events.get() else { return };
        generation.members.iter().for_each(|host| events.part(generation.epoch, step, *host, last));
    }

    /// The result of the run.
    fn result(&self, outcome: Outcome) -> Result<Hosted> {
        self.status.write();
        let mut state = self.lock();
        let timings = std::mem::take(&mut state.timings);
        match outcome {
            Outcome::Done => Ok(Hosted { timings, stopped: None }),
            Outcome::Interrupted { .. } => Ok(Hosted { timings, stopped: Some(self.commits.last()) }),
            Outcome::Failed(failure) => Err(state.error.take().unwrap_or_else(|| anyhow!("{failure}"))),
            Outcome::Superseded => bail!("another head has taken over the run directory"),
            Outcome::Stuck => bail!("the workers of this host do not stop"),
            Outcome::NoState { cause } => bail!("{cause}"),
            other => bail!("the run has ended as {other:?}"),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Trainer for HeadTrainer {
    fn obtain(&self, _: Step, _: Option<Download>) -> Result<bool> {
        Ok(true)
    }

    fn job(self: &Arc<Self>, generation: &About, from: Step, stop: &Arc<Stop>) -> Result<Job> {
        // Of a generation that broke after its last step.
        self.lock().last = None;
        let Job { stages, env, saved, prefetch } = &self.job;
        let mut job = Job { stages: stages.clone(), env: env.clone(), saved: saved.clone(), prefetch: *prefetch };
        if !self.commits.is_first(from) {
            let folder = self.commits.folder(from)?;
            let saved = read_state(&folder)?.saved.into_iter();
            job.saved = saved.map(|(stage, lane, state)| Saved { stage, lane, state: Snapshot::of(state) }).collect();
            job.env.schedule.first = from;
            job.env.resources.insert(Arc::new(Start::Resume(folder)));
        }
        job.env.resources.insert(Arc::new(CommitEvery(self.commit_every)));
        job.env.resources.insert(Arc::new(self.sink(generation, stop)));
        Ok(job)
    }

    fn committed(&self, step: Step) {
        self.status.committed(step);
    }

    fn ended(&self, generation: &About, timings: Vec<WorkerTiming>) {
        let last = {
            let mut state = self.lock();
            let known = state.timings.len();
            state.timings.iter_mut().zip(&timings).for_each(|(all, one)| all.add(one));
            state.timings.extend(timings.into_iter().skip(known));
            state.last.take()
        };
        last.into_iter().for_each(|step| self.complete(generation, step, true));
    }

    fn failed(&self, error: Error) {
        self.lock().error.get_or_insert(error);
    }
}

//! Runs generations on a host: one after the other, each in a thread.
use crate::engine::{
    Activity, Broken, Cancellation, Cancelled, Connections, InStage, Job, Stop, WorkerTiming, execute_together,
};
use crate::hosts::net::driver::{Engine, Generation};
use crate::hosts::net::transfer::Download;
use crate::hosts::{EngineEvent, Epoch, Failure, HostId, Step, Work};
use crate::panics;
use anyhow::{Error, Result};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// How often the driver is told how far the workers have got.
const REPORT: Duration = Duration::from_millis(500);

/// What is different at the head and at other hosts.
pub trait Trainer: Send + Sync + 'static {
    /// Obtains the state of a commit. False if that was cancelled.
    ///
    /// # Errors
    /// If the state cannot be stored.
    fn obtain(&self, step: Step, download: Option<Download>) -> Result<bool>;
    /// The graph of a generation.
    ///
    /// # Errors
    /// If it cannot be made.
    fn job(self: &Arc<Self>, generation: &About, from: Step, stop: &Arc<Stop>) -> Result<Job>;
    /// There is a new commit.
    fn committed(&self, step: Step);
    /// A generation has come to its end.
    fn ended(&self, generation: &About, timings: Vec<WorkerTiming>);
    /// A generation has failed on this host.
    fn failed(&self, error: Error);
}

/// A generation.
#[derive(Clone)]
pub struct About {
    /// Its name.
    pub epoch: Epoch,
    /// Its members.
    pub members: Vec<HostId>,
}

/// To whom events go.
pub type Report = Arc<dyn Fn(EngineEvent) + Send + Sync>;

/// The engine of a host.
pub struct HostEngine<T> {
    trainer: Arc<T>,
    report: Report,
    /// The host's name in messages.
    name: String,
    running: Option<Running>,
}

/// A generation that was started and not stopped yet.
struct Running {
    stop: Arc<Stop>,
    cancellation: Cancellation,
    /// Dropped when the generation is to stop.
    stopped: Sender<()>,
}

impl<T: Trainer> HostEngine<T> {
    /// An engine that reports to `report`.
    pub fn new(trainer: Arc<T>, name: String, report: Report) -> Self {
        Self { trainer, report, name, running: None }
    }
}

impl<T: Trainer> Engine for HostEngine<T> {
    fn obtain(&mut self, step: Step, download: Option<Download>) {
        let (trainer, report) = (Arc::clone(&self.trainer), Arc::clone(&self.report));
        let obtain = move || match panics::catch(|| trainer.obtain(step, download)) {
            Ok(true) => report(EngineEvent::Obtained { step }),
            // Another commit is wanted, or none.
            Ok(false) => {}
            Err(error) => {
                let cause = format!("{:#}", error.context(format!("cannot obtain the state of step {step}")));
                report(EngineEvent::CannotObtain { step, cause });
            }
        };
        spawn("obtain", obtain);
    }

    fn start(&mut self, generation: Generation) {
        let (stop, cancellation) = (Arc::new(Stop::default()), Cancellation::default());
        let (stopped, until_stopped) = channel();
        self.running = Some(Running { stop: Arc::clone(&stop), cancellation: cancellation.clone(), stopped });
        let training = Training {
            trainer: Arc::clone(&self.trainer),
            report: Arc::clone(&self.report),
            name: self.name.clone(),
            stop,
            cancellation,
            until_stopped,
        };
        spawn("generation", move || training.run(generation));
    }

    fn stop(&mut self, _: Epoch) {
        if let Some(running) = self.running.take() {
            running.cancellation.cancel();
            drop(running.stopped);
        }
    }

    fn drain(&mut self, _: Epoch) {
        self.running.iter().for_each(|running| running.stop.ask());
    }

    fn committed(&mut self, step: Step) {
        self.trainer.committed(step);
    }
}

/// Starts a thread. If the system refuses, nothing is reported, as if this host hung: the head decides what to do.
fn spawn(name: &str, work: impl FnOnce() + Send + 'static) {
    let _ = std::thread::Builder::new().name(name.into()).spawn(work);
}

/// A generation on its thread.
struct Training<T> {
    trainer: Arc<T>,
    report: Report,
    name: String,
    stop: Arc<Stop>,
    cancellation: Cancellation,
    until_stopped: Receiver<()>,
}

impl<T: Trainer> Training<T> {
    fn run(self, generation: Generation) {
        let Generation { epoch, from, members, workers: computing, index, sockets } = generation;
        let about = About { epoch, members };
        let activity = Arc::new(Activity::default());
        let (over, watching) = self.watch(epoch, from, Arc::clone(&activity));
        let trained = panics::catch(|| {
            let mut job = self.trainer.job(&about, from, &self.stop)?;
            job.env.resources.insert(Arc::clone(&self.stop));
            job.env.resources.insert(activity);
            let (traffic, cancellation) = (Arc::default(), self.cancellation.clone());
            execute_together(job, Connections { process: index, computing, sockets, traffic, cancellation })
        });
        drop(over);
        let _ = watching.map(std::thread::JoinHandle::join);
        match trained {
            Ok(timings) => self.trainer.ended(&about, timings),
            Err(error) => self.tell(&about, error),
        }
        // Ends when the driver stops the generation.
        let _ = self.until_stopped.recv();
        (self.report)(EngineEvent::Stopped { epoch });
    }

    /// Reports how far the workers have got, until what it returns is dropped.
    fn watch(
        &self,
        epoch: Epoch,
        from: Step,
        activity: Arc<Activity>,
    ) -> (Sender<()>, Option<std::thread::JoinHandle<()>>) {
        let (over, until_over) = channel();
        let report = Arc::clone(&self.report);
        let watch = move || {
            while until_over.recv_timeout(REPORT) == Err(RecvTimeoutError::Timeout) {
                let step = activity.step().max(from);
                let work = Work { step, units: activity.calls(), waiting: activity.is_idle() };
                report(EngineEvent::Work { epoch, work });
            }
        };
        (over, std::thread::Builder::new().name("watch".into()).spawn(watch).ok())
    }

    /// Tells the driver why the generation has ended early.
    fn tell(&self, about: &About, error: Error) {
        let epoch = about.epoch;
        if error.is::<Cancelled>() {
            return;
        }
        if let Some(Broken { process, .. }) = error.downcast_ref() {
            let peer = about.members.get(*process).copied().unwrap_or(HostId::HEAD);
            return (self.report)(EngineEvent::Broken { epoch, peer });
        }
        let failure = failure(&self.name, &error);
        self.trainer.failed(error);
        (self.report)(EngineEvent::Failed { epoch, failure });
    }
}

/// What other hosts are told about an error.
fn failure(host: &str, error: &Error) -> Failure {
    let causes: Vec<String> = error.chain().map(ToString::to_string).collect();
    match error.downcast_ref::<InStage>() {
        Some(InStage { stage, step }) => {
            let cause = causes.get(1..).unwrap_or_default().join(": ");
            Failure { host: host.into(), stage: stage.clone(), step: *step, cause }
        }
        None => Failure { host: host.into(), stage: "(engine)".into(), step: None, cause: causes.join(": ") },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::anyhow;

    #[test]
    fn a_failure_says_where_it_happened() {
        let error =
            anyhow!("no space").context("cannot write").context(InStage { stage: "loss".into(), step: Some(7) });
        assert_eq!(failure("ant", &error).to_string(), "ant: stage `loss`, step 7: cannot write: no space");
        assert_eq!(failure("ant", &anyhow!("no")).to_string(), "ant: stage `(engine)`: no");
    }
}

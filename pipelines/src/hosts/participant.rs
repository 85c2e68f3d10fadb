//! The part of a host in generations, the head's own included: it drives the local engine and reports to the head.
//!
//! At most one engine exists at a time. Whatever the head asks next, the engine of the previous generation is stopped
//! first, and `Prepared` means that it has stopped.
use super::messages::{EngineAction, EngineEvent, Report};
use super::types::{Epoch, Peer, Step, Work};
use std::time::Duration;

/// How far this host is on the way into a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Not asked to take part.
    Idle,
    /// Stops the previous engine and obtains the commit.
    Preparing,
    /// Has told the head that it is prepared.
    Prepared,
    /// The engine connects to the other members.
    Connecting,
    /// Has told the head that it is connected.
    Connected,
    /// The dataflow runs.
    Training,
}

/// A generation that the head has asked this host to take part in.
#[derive(Debug)]
struct Plan {
    epoch: Epoch,
    from: Step,
    members: Vec<Peer>,
}

/// The sockets or the dataflow of a generation.
#[derive(Debug)]
struct Engine {
    epoch: Epoch,
    /// Since when it has been asked to stop.
    stopping: Option<Duration>,
}

/// The state of a host's own part.
#[derive(Debug)]
pub struct Participant {
    stage: Stage,
    plan: Option<Plan>,
    engine: Option<Engine>,
    /// The commit whose state is here, ready to begin from.
    holds: Option<Step>,
    obtaining: Option<Step>,
    work: Work,
    /// Why the commit that is wanted cannot be obtained. Without it, this host is useless.
    pub cannot_obtain: Option<String>,
    /// For the engine, in order.
    pub actions: Vec<EngineAction>,
    /// For the head, in order.
    pub reports: Vec<Report>,
}

impl Default for Participant {
    fn default() -> Self {
        Self {
            stage: Stage::Idle,
            plan: None,
            engine: None,
            holds: None,
            obtaining: None,
            work: Work::default(),
            cannot_obtain: None,
            actions: Vec::new(),
            reports: Vec::new(),
        }
    }
}

impl Participant {
    /// Stops the engine and gets ready for a generation.
    pub fn prepare(&mut self, now: Duration, epoch: Epoch, from: Step, members: Vec<Peer>) {
        self.idle(now);
        self.plan = Some(Plan { epoch, from, members });
        self.stage = Stage::Preparing;
        if self.holds != Some(from) {
            self.obtain(from);
        }
        self.report_prepared();
    }

    /// Connects to the other members.
    pub fn connect(&mut self, epoch: Epoch) {
        let Some(plan) = self.plan.as_ref().filter(|plan| plan.epoch == epoch && self.stage == Stage::Prepared) else {
            return;
        };
        self.engine = Some(Engine { epoch, stopping: None });
        self.stage = Stage::Connecting;
        self.actions.push(EngineAction::Connect { epoch, members: plan.members.clone() });
    }

    /// Runs the dataflow.
    pub fn start(&mut self, epoch: Epoch) {
        let Some(plan) = self.plan.as_ref().filter(|plan| plan.epoch == epoch && self.stage == Stage::Connected) else {
            return;
        };
        self.stage = Stage::Training;
        self.work = Work { step: plan.from, ..Work::default() };
        // The engine takes the state over; a copy for another attempt is the engine's business.
        self.holds = None;
        self.actions.push(EngineAction::Start { epoch, from: plan.from });
    }

    /// Stops the engine and waits to be asked again.
    pub fn idle(&mut self, now: Duration) {
        self.plan = None;
        self.stage = Stage::Idle;
        if let Some(engine) = self.engine.as_mut().filter(|engine| engine.stopping.is_none()) {
            engine.stopping = Some(now);
            self.actions.push(EngineAction::Stop { epoch: engine.epoch });
        }
    }

    /// There is a new commit.
    pub fn committed(&mut self, step: Step) {
        self.actions.push(EngineAction::Committed { step });
    }

    /// A head has admitted this host: forgets what belongs to another head, and obtains the last commit. If the commit
    /// is older than the one that the host's first generation begins at, that shows at least that it can. Newer ones
    /// are not followed, since their state is different as a whole.
    pub fn join(&mut self, commit: Step) {
        self.holds = None;
        self.obtaining = None;
        self.committed(commit);
        self.obtain(commit);
    }

    /// How far the workers have got, while they train.
    pub fn work(&self) -> Option<(Epoch, Work)> {
        let plan = self.plan.as_ref().filter(|_| self.stage == Stage::Training)?;
        Some((plan.epoch, self.work))
    }

    /// Since when the engine has been asked to stop.
    pub fn stopping(&self) -> Option<Duration> {
        self.engine.as_ref().and_then(|engine| engine.stopping)
    }

    /// Handles an event of the engine.
    pub fn on(&mut self, now: Duration, event: EngineEvent) {
        match event {
            EngineEvent::Obtained { step } if self.obtaining == Some(step) => {
                self.obtaining = None;
                self.holds = Some(step);
                match self.stage {
                    Stage::Idle => self.reports.push(Report::Holds { step }),
                    _ => self.report_prepared(),
                }
            }
            EngineEvent::CannotObtain { step, cause } if self.obtaining == Some(step) => {
                self.cannot_obtain = Some(cause)
            }
            EngineEvent::Stopped { epoch } if self.engine.as_ref().is_some_and(|engine| engine.epoch == epoch) => {
                self.engine = None;
                self.report_prepared();
            }
            EngineEvent::Connected { epoch } if self.is_in(epoch) && self.stage == Stage::Connecting => {
                self.stage = Stage::Connected;
                self.reports.push(Report::Connected { epoch });
            }
            EngineEvent::CannotConnect { epoch, peer } if self.is_in(epoch) && self.stage == Stage::Connecting => {
                self.reports.push(Report::CannotConnect { epoch, peer });
            }
            EngineEvent::Broken { epoch, peer } if self.is_in(epoch) => {
                self.idle(now);
                self.reports.push(Report::Broken { epoch, peer });
            }
            EngineEvent::Failed { epoch, failure } if self.is_in(epoch) => self.reports.push(Report::Failed(failure)),
            EngineEvent::Work { epoch, work } if self.is_in(epoch) => self.work = work,
            // About an engine that has been asked to stop, or a commit that is not wanted any more.
            _ => {}
        }
    }

    /// Whether this is the generation of an engine that has not been asked to stop.
    fn is_in(&self, epoch: Epoch) -> bool {
        self.engine.as_ref().is_some_and(|engine| engine.epoch == epoch && engine.stopping.is_none())
    }

    fn obtain(&mut self, step: Step) {
        if self.obtaining != Some(step) {
            self.obtaining = Some(step);
            self.actions.push(EngineAction::Obtain { step });
        }
    }

    fn report_prepared(&mut self) {
        let Some(plan) = self.plan.as_ref().filter(|_| self.stage == Stage::Preparing) else { return };
        if self.engine.is_none() && self.holds == Some(plan.from) {
            self.stage = Stage::Prepared;
            self.reports.push(Report::Prepared { epoch: plan.epoch });
        }
    }
}

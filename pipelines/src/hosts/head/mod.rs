//! The head: admits hosts, and decides about generations, commits and the end of the run.
//!
//! - [`generation`]: from a commit to a generation that trains, and its end
//! - [`commits`]: parts, commits in memory and on disk, the end of the run
//! - [`watch`]: everything that time decides
mod commits;
mod generation;
mod watch;

use super::messages::{HeadAction, HeadEvent, Loss, Report, ToHead, ToMember};
use super::notice::Notice;
use super::participant::Participant;
use super::types::{Config, Epoch, Failure, Hello, HostId, Link, Outcome, Rejection, RunId, Step, Work};
use generation::{Forming, Training};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// What a head knows when it begins.
#[derive(Clone, Debug)]
pub struct HeadStart {
    /// The run.
    pub run: RunId,
    /// Its incarnation, which is in the run directory already.
    pub incarnation: u64,
    /// Itself: name, address, version and backend.
    pub hello: Hello,
    /// The commit on disk, or 0.
    pub commit: Step,
    /// The last step of the run.
    pub steps: Step,
}

/// An admitted host.
#[derive(Debug)]
struct Host {
    link: Link,
    hello: Hello,
    last_heard: Duration,
    /// Whether it has obtained a commit, so that it can take part.
    holds: bool,
    /// The signal by which it was asked to leave.
    leaving: Option<u8>,
    /// Whether it was told that it may leave. It stays in the list until its link is closed.
    released: bool,
    /// When it was set aside last, and until when it is not asked to take part unless it is needed.
    aside_since: Duration,
    aside_until: Duration,
    /// How many times it has been set aside since it last took part in a commit.
    times_aside: u32,
    /// Whether it has been asked to take part in a generation, and not told to be idle since.
    asked: bool,
    watch: Watch,
}

/// The progress of a host's workers, and when it last changed.
#[derive(Clone, Copy, Debug, Default)]
struct Watch {
    work: Work,
    changed: Duration,
}

impl Watch {
    fn update(&mut self, now: Duration, work: Work) {
        if (work.step, work.units) != (self.work.step, self.work.units) {
            self.changed = now;
        }
        self.work = work;
    }
}

#[derive(Debug)]
enum Phase {
    /// Too few hosts.
    Gathering,
    /// A generation is being prepared or connected.
    Forming(Forming),
    /// A generation trains.
    Training(Training),
    /// The run is ending; the last commit is being written.
    Closing(Outcome),
    /// The run is over; members are closing their links.
    Over {
        outcome: Outcome,
        /// When the head stops waiting for them.
        until: Duration,
    },
    /// The process ends.
    Exited,
}

/// The state of the head. It learns about the world from [`HeadEvent`]s alone, and changes it by [`HeadAction`]s.
#[derive(Debug)]
pub struct Head {
    config: Config,
    start: HeadStart,
    now: Duration,
    participant: Participant,
    watch: Watch,
    hosts: BTreeMap<HostId, Host>,
    next_host: u32,
    /// When a host was lost last.
    last_loss: Duration,
    generation: u64,
    phase: Phase,
    /// How many hosts there were when the user was last told that they are too few.
    gathered: usize,
    /// When the last change of generations began, and how long it took.
    changing: Duration,
    change: Duration,
    /// The connections that have ended generations since the last commit.
    breaks: Vec<(HostId, HostId)>,
    /// Generations in a row that stalled without a commit and without a culprit.
    stalls: u32,
    /// The last commit in memory.
    commit: Step,
    /// The last commit that is on disk, or will be when the writes that have been asked for are done.
    persisted: Step,
    persisting: Option<Step>,
    last_persisted: Duration,
    to_persist: VecDeque<Step>,
    /// The signal by which the run was asked to stop.
    signal: Option<u8>,
    next_beat: Duration,
    next_owner_check: Duration,
    out: Vec<HeadAction>,
}

impl Head {
    /// A head that begins at `now`. Its first event must be a [`HeadEvent::Tick`].
    pub fn new(config: Config, start: HeadStart, now: Duration) -> Self {
        Self {
            now,
            participant: Participant::default(),
            watch: Watch::default(),
            hosts: BTreeMap::new(),
            next_host: HostId::HEAD.0 + 1,
            last_loss: Duration::ZERO,
            generation: 0,
            phase: Phase::Gathering,
            gathered: 0,
            changing: now,
            change: Duration::ZERO,
            breaks: Vec::new(),
            stalls: 0,
            commit: start.commit,
            persisted: start.commit,
            persisting: None,
            last_persisted: now,
            to_persist: VecDeque::new(),
            signal: None,
            next_beat: now,
            next_owner_check: now,
            out: Vec::new(),
            config,
            start,
        }
    }

    /// Handles an event at `now`, and returns what is to be done, in this order.
    pub fn on(&mut self, now: Duration, event: HeadEvent) -> Vec<HeadAction> {
        self.now = self.now.max(now);
        if matches!(self.phase, Phase::Exited) {
            return Vec::new();
        }
        match event {
            HeadEvent::Tick => self.tick(),
            HeadEvent::Admitted { link, hello } => self.admit(link, hello),
            HeadEvent::Message { link, message } => self.message(link, message),
            HeadEvent::Closed { link } => {
                if let Some(host) = self.host_of(link) {
                    self.lose(&[host], Loss::Closed);
                }
            }
            HeadEvent::Engine(event) => {
                self.participant.on(self.now, event);
                if let Some(cause) = self.participant.cannot_obtain.take() {
                    self.fail(&cause);
                }
            }
            HeadEvent::Part { epoch, step, from, last } => self.part(epoch, step, from, last),
            HeadEvent::Persisted { step } => self.on_persisted(step),
            HeadEvent::PersistFailed { step, cause } => {
                let (host, stage) = (self.start.hello.name.clone(), "checkpoint".to_owned());
                self.end(Outcome::Failed(Failure { host, stage, step: Some(step), cause }));
            }
            HeadEvent::Fenced => self.on_fenced(),
            HeadEvent::Signal { signal } => self.on_signal(signal),
        }
        self.handle_own_reports();
        self.exit_if_over();
        std::mem::take(&mut self.out)
    }

    /// What the head's own participant says takes the same way as what members say.
    fn handle_own_reports(&mut self) {
        loop {
            self.out.extend(self.participant.actions.drain(..).map(HeadAction::Engine));
            if self.participant.reports.is_empty() {
                return;
            }
            for report in std::mem::take(&mut self.participant.reports) {
                self.report(HostId::HEAD, report);
            }
        }
    }

    fn admit(&mut self, link: Link, hello: Hello) {
        let ours = &self.start.hello;
        let why = if ours.version != hello.version {
            Some(Rejection::Version { head: ours.version.clone(), host: hello.version.clone() })
        } else if ours.backend != hello.backend {
            Some(Rejection::Backend { head: ours.backend.clone(), host: hello.backend.clone() })
        } else {
            None
        };
        if let Some(why) = why {
            self.send(link, ToMember::Rejected(why.clone()));
            self.out.push(HeadAction::Close { link });
            self.say(Notice::Refused { name: hello.name, why });
            return;
        }
        let host = HostId(self.next_host);
        self.next_host += 1;
        if let Phase::Over { outcome, .. } = &self.phase {
            // It was lost when the others were told.
            let message = ToMember::Dismissed(outcome.clone());
            self.send(link, message);
        } else {
            let (run, incarnation, commit) = (self.start.run, self.start.incarnation, self.commit);
            self.send(link, ToMember::Welcome { run, incarnation, host, commit });
            self.say(Notice::Joined { name: hello.name.clone() });
        }
        let admitted = Host {
            link,
            hello,
            last_heard: self.now,
            holds: false,
            leaving: None,
            released: false,
            aside_since: Duration::ZERO,
            aside_until: Duration::ZERO,
            times_aside: 0,
            asked: false,
            watch: Watch::default(),
        };
        self.hosts.insert(host, admitted);
    }

    fn message(&mut self, link: Link, message: ToHead) {
        let Some(id) = self.host_of(link) else { return };
        let training = self.training_epoch();
        let Some(host) = self.hosts.get_mut(&id) else { return };
        host.last_heard = self.now;
        match message {
            ToHead::Beat { work } => {
                if let Some((_, work)) = work.filter(|(epoch, _)| Some(*epoch) == training) {
                    host.watch.update(self.now, work);
                }
            }
            ToHead::Report(report) => self.report(id, report),
            ToHead::Leave { signal } => {
                host.leaving = Some(signal);
                self.on_leave(id);
            }
            ToHead::Goodbye => drop(self.hosts.remove(&id)),
        }
    }

    /// Removes hosts, whose generation ends if they were in one.
    fn lose(&mut self, lost: &[HostId], loss: Loss) {
        self.last_loss = self.now;
        for host in lost {
            let Some(host) = self.hosts.remove(host) else { continue };
            if loss != Loss::Closed {
                self.send(host.link, ToMember::Expelled(loss));
                self.out.push(HeadAction::Close { link: host.link });
            }
            if !host.released && !matches!(self.phase, Phase::Over { .. }) {
                self.say(Notice::Lost { name: host.hello.name, loss });
            }
        }
        self.without(lost);
    }

    fn report(&mut self, from: HostId, report: Report) {
        match report {
            Report::Holds { .. } => self.on_holds(from),
            Report::Prepared { epoch } => self.on_prepared(epoch, from),
            Report::Connected { epoch } => self.on_connected(epoch, from),
            Report::CannotConnect { epoch, peer } => self.on_cannot_connect(epoch, from, peer),
            Report::Broken { epoch, peer } => self.on_broken(epoch, from, peer),
            // Of any generation: a failure is a property of the host, not of results that might be stale.
            Report::Failed(failure) => self.end(Outcome::Failed(failure)),
        }
    }

    fn host_of(&self, link: Link) -> Option<HostId> {
        self.hosts.iter().find(|(_, host)| host.link == link).map(|(id, _)| *id)
    }

    fn send(&mut self, link: Link, message: ToMember) {
        self.out.push(HeadAction::Send { link, message });
    }

    fn send_to(&mut self, host: HostId, message: ToMember) {
        if let Some(host) = self.hosts.get(&host) {
            self.out.push(HeadAction::Send { link: host.link, message });
        }
    }

    fn send_all(&mut self, message: &ToMember) {
        let links = self.hosts.values().map(|host| host.link);
        self.out.extend(links.map(|link| HeadAction::Send { link, message: message.clone() }));
    }

    fn say(&mut self, notice: Notice) {
        self.out.push(HeadAction::Say(notice));
    }

    fn training_epoch(&self) -> Option<Epoch> {
        match &self.phase {
            Phase::Training(training) => Some(training.epoch),
            _ => None,
        }
    }
}

//! A joined host. It does what the head says; on its own it decides only how long to wait for the head, and when to
//! leave.
use super::messages::{EngineEvent, Loss, MemberAction, MemberEvent, Report, ToHead, ToMember};
use super::notice::Notice;
use super::participant::Participant;
use super::types::{Config, Failure, Link, Outcome, RunId, Step};
use std::time::Duration;

/// How a member is connected to the head.
#[derive(Debug)]
enum Session {
    /// Between two attempts.
    Pausing { until: Duration },
    /// The driver connects and proves the secret.
    Dialling { deadline: Duration },
    /// Connected; the head has not answered yet.
    Greeting { link: Link, deadline: Duration },
    /// Admitted.
    Joined { link: Link, last_heard: Duration, next_beat: Duration },
    /// The process ends.
    Exited,
}

/// The state of a joined host. It learns about the world from [`MemberEvent`]s alone, and changes it by
/// [`MemberAction`]s.
#[derive(Debug)]
pub struct Member {
    config: Config,
    session: Session,
    now: Duration,
    participant: Participant,
    attempts: u64,
    started: Duration,
    /// The run, and its newest incarnation that this process has seen.
    known: Option<(RunId, u64)>,
    /// Since when the head is lost.
    lost: Option<Duration>,
    /// Why the last attempt to reach the head failed.
    unreachable: String,
    /// The signal by which this process was asked to stop, and when.
    leaving: Option<(u8, Duration)>,
    /// A stage failed here, and when.
    failed: Option<(Failure, Duration)>,
    out: Vec<MemberAction>,
}

impl Member {
    /// A member that begins at `now`. Its first event must be a [`MemberEvent::Tick`].
    pub fn new(config: Config, now: Duration) -> Self {
        Self {
            config,
            session: Session::Pausing { until: now },
            now,
            participant: Participant::default(),
            attempts: 0,
            started: now,
            known: None,
            lost: None,
            unreachable: "it does not answer".to_owned(),
            leaving: None,
            failed: None,
            out: Vec::new(),
        }
    }

    /// Handles an event at `now`, and returns what is to be done, in this order.
    pub fn on(&mut self, now: Duration, event: MemberEvent) -> Vec<MemberAction> {
        self.now = self.now.max(now);
        if matches!(self.session, Session::Exited) {
            return Vec::new();
        }
        match event {
            MemberEvent::Tick => self.tick(),
            MemberEvent::Linked { attempt, link } => self.on_linked(attempt, link),
            MemberEvent::DialFailed { attempt, cause } => {
                if attempt == self.attempts && matches!(self.session, Session::Dialling { .. }) {
                    self.unreachable = cause;
                    self.pause();
                }
            }
            MemberEvent::Message { link, message } if self.link() == Some(link) => self.message(link, message),
            MemberEvent::Closed { link } if self.link() == Some(link) => self.lose_head(),
            MemberEvent::Message { .. } | MemberEvent::Closed { .. } => {}
            MemberEvent::Engine(event) => self.on_engine(event),
            MemberEvent::Signal { signal } => self.on_signal(signal),
        }
        self.flush();
        std::mem::take(&mut self.out)
    }

    /// When the next [`Tick`](MemberEvent::Tick) is due.
    pub fn deadline(&self) -> Duration {
        let mut deadline = match &self.session {
            Session::Pausing { until } => *until,
            Session::Dialling { deadline } | Session::Greeting { deadline, .. } => *deadline,
            Session::Joined { last_heard, next_beat, .. } => (*last_heard + self.config.silence).min(*next_beat),
            Session::Exited => return Duration::MAX,
        };
        let limits = [
            self.participant.stopping().map(|since| since + self.config.stop_limit),
            self.leaving.as_ref().map(|(_, since)| *since + self.config.leave_limit),
            self.failed.as_ref().map(|(_, since)| *since + self.config.fail_limit),
        ];
        limits.into_iter().flatten().for_each(|limit| deadline = deadline.min(limit));
        deadline
    }

    fn tick(&mut self) {
        let now = self.now;
        if let Some(outcome) = self.out_of_time() {
            return self.exit(outcome);
        }
        match &mut self.session {
            Session::Pausing { until } if now >= *until => self.dial(),
            Session::Dialling { deadline } if now >= *deadline => self.pause(),
            Session::Greeting { link, deadline } if now >= *deadline => {
                let link = *link;
                self.out.push(MemberAction::Close { link });
                self.pause();
            }
            Session::Joined { link, last_heard, .. } if now >= *last_heard + self.config.silence => {
                let link = *link;
                self.out.push(MemberAction::Close { link });
                self.lose_head();
            }
            Session::Joined { link, next_beat, .. } if now >= *next_beat => {
                *next_beat = now + self.config.heartbeat;
                let message = ToHead::Beat { work: self.participant.work() };
                self.out.push(MemberAction::Send { link: *link, message });
            }
            _ => {}
        }
    }

    /// What ends the process because of a limit.
    fn out_of_time(&self) -> Option<Outcome> {
        let passed = |since: Duration, limit: Duration| self.now >= since + limit;
        if let Some((failure, since)) = &self.failed
            && passed(*since, self.config.fail_limit)
        {
            return Some(Outcome::Failed(failure.clone()));
        }
        if let Some((signal, since)) = self.leaving
            && passed(since, self.config.leave_limit)
        {
            return Some(Outcome::Left { signal });
        }
        if self.participant.stopping().is_some_and(|since| passed(since, self.config.stop_limit)) {
            return Some(Outcome::Stuck);
        }
        if self.lost.is_some_and(|since| passed(since, self.config.patience)) {
            return Some(Outcome::HeadLost);
        }
        if self.known.is_none() && passed(self.started, self.config.first_contact) {
            return Some(Outcome::Unreachable { cause: self.unreachable.clone() });
        }
        None
    }

    fn dial(&mut self) {
        self.attempts += 1;
        self.session = Session::Dialling { deadline: self.now + self.config.dial_limit };
        self.out.push(MemberAction::Dial { attempt: self.attempts });
    }

    fn pause(&mut self) {
        self.session = Session::Pausing { until: self.now + self.config.retry };
    }

    fn on_linked(&mut self, attempt: u64, link: Link) {
        match self.session {
            Session::Dialling { .. } if attempt == self.attempts => {
                self.session = Session::Greeting { link, deadline: self.now + self.config.dial_limit };
            }
            // An attempt that was given up.
            _ => self.out.push(MemberAction::Close { link }),
        }
    }

    fn message(&mut self, link: Link, message: ToMember) {
        if let Session::Joined { last_heard, .. } = &mut self.session {
            *last_heard = self.now;
        }
        match message {
            ToMember::Welcome { run, incarnation, commit, .. } => self.on_welcome(link, run, incarnation, commit),
            ToMember::Rejected(why) => self.exit(Outcome::Rejected(why)),
            ToMember::Beat => {}
            ToMember::Committed { step } => self.participant.committed(step),
            ToMember::Prepare { epoch, from, members } => self.participant.prepare(self.now, epoch, from, members),
            ToMember::Connect { epoch } => self.participant.connect(epoch),
            ToMember::Start { epoch } => self.participant.start(epoch),
            ToMember::Idle => self.participant.idle(self.now),
            ToMember::Expelled(loss) => self.on_expelled(link, loss),
            ToMember::Dismissed(outcome) => {
                self.out.push(MemberAction::Send { link, message: ToHead::Goodbye });
                self.exit(outcome);
            }
        }
    }

    fn on_welcome(&mut self, link: Link, run: RunId, incarnation: u64, commit: Step) {
        if self.known.is_some_and(|(known, newest)| known == run && newest > incarnation) {
            self.out.push(MemberAction::Say(Notice::OldHead));
            self.out.push(MemberAction::Close { link });
            return self.pause();
        }
        self.known = Some((run, incarnation));
        self.lost = None;
        self.session = Session::Joined { link, last_heard: self.now, next_beat: self.now };
        self.out.push(MemberAction::Say(Notice::Welcomed));
        self.participant.join(commit);
    }

    fn on_expelled(&mut self, link: Link, loss: Loss) {
        self.out.push(MemberAction::Say(Notice::Expelled(loss)));
        self.out.push(MemberAction::Close { link });
        self.lose_head();
    }

    /// The head is gone, for this process at least: stops the workers and looks for it.
    fn lose_head(&mut self) {
        if let Some((failure, _)) = &self.failed {
            return self.exit(Outcome::Failed(failure.clone()));
        }
        if let Some((signal, _)) = self.leaving {
            return self.exit(Outcome::Left { signal });
        }
        if self.known.is_none() {
            self.unreachable = "the head closed the connection".to_owned();
        } else if self.lost.is_none() {
            self.lost = Some(self.now);
            self.out.push(MemberAction::Say(Notice::HeadLost));
        }
        self.participant.idle(self.now);
        self.pause();
    }

    fn on_signal(&mut self, signal: u8) {
        match self.session {
            Session::Joined { link, .. } if self.leaving.is_none() => {
                self.leaving = Some((signal, self.now));
                self.out.push(MemberAction::Send { link, message: ToHead::Leave { signal } });
            }
            _ => self.exit(Outcome::Left { signal }),
        }
    }

    fn on_engine(&mut self, event: EngineEvent) {
        self.participant.on(self.now, event);
        if let Some(cause) = self.participant.cannot_obtain.take() {
            self.exit(Outcome::NoState { cause });
        }
    }

    /// Passes on what the participant wants done and reported.
    fn flush(&mut self) {
        self.out.extend(self.participant.actions.drain(..).map(MemberAction::Engine));
        for report in std::mem::take(&mut self.participant.reports) {
            if let Report::Failed(failure) = &report
                && self.failed.is_none()
            {
                self.failed = Some((failure.clone(), self.now));
            }
            // Otherwise nobody is there to hear it.
            if let Session::Joined { link, .. } = self.session {
                self.out.push(MemberAction::Send { link, message: ToHead::Report(report) });
            }
        }
    }

    fn exit(&mut self, outcome: Outcome) {
        self.session = Session::Exited;
        self.out.push(MemberAction::Exit(outcome));
    }

    fn link(&self) -> Option<Link> {
        match self.session {
            Session::Greeting { link, .. } | Session::Joined { link, .. } => Some(link),
            _ => None,
        }
    }
}

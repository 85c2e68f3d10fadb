//! Parts, commits in memory and on disk, and the end of the run.
use super::{Head, Phase};
use crate::hosts::messages::{HeadAction, ToMember};
use crate::hosts::notice::Ending;
use crate::hosts::types::{Epoch, HostId, Outcome, Step};
use std::time::Duration;

impl Head {
    /// A part has arrived. The step is a commit when the parts of all members are there.
    pub(super) fn part(&mut self, epoch: Epoch, step: Step, from: HostId, last: bool) {
        let Phase::Training(training) = &mut self.phase else { return };
        if training.epoch != epoch || !training.members.contains(&from) || step <= self.commit {
            return;
        }
        let parts = training.parts.entry(step).or_default();
        parts.insert(from);
        if *parts == training.members {
            training.parts.retain(|other, _| *other > step);
            self.committed(epoch, step, last);
        }
    }

    fn committed(&mut self, epoch: Epoch, step: Step, last: bool) {
        self.commit = step;
        self.stalls = 0;
        self.breaks.clear();
        self.out.push(HeadAction::Commit { epoch, step });
        self.participant.committed(step);
        self.send_all(&ToMember::Committed { step });
        if let Phase::Training(training) = &self.phase {
            for id in &training.members {
                if let Some(host) = self.hosts.get_mut(id) {
                    host.times_aside = 0;
                }
            }
        }
        if step == self.start.steps {
            self.end_generation(Ending::Drained);
            return self.finish(Outcome::Done);
        }
        if step.is_multiple_of(self.config.checkpoint_every) {
            self.persist(step);
        }
        if last {
            self.end_generation(Ending::Drained);
            self.begin();
        }
    }

    /// Writes a commit to disk, after those that are due before it.
    fn persist(&mut self, step: Step) {
        if step <= self.persisted {
            return;
        }
        self.persisted = step;
        self.to_persist.push_back(step);
        self.persist_next();
    }

    fn persist_next(&mut self) {
        if self.persisting.is_none() {
            self.persisting = self.to_persist.pop_front();
            self.out.extend(self.persisting.map(|step| HeadAction::Persist { step }));
        }
    }

    pub(super) fn on_persisted(&mut self, step: Step) {
        if self.persisting == Some(step) {
            self.persisting = None;
            self.last_persisted = self.now;
            self.persist_next();
            self.end_if_persisted();
        }
    }

    /// Ends the run when the last commit is on disk.
    pub(super) fn finish(&mut self, outcome: Outcome) {
        self.participant.idle(self.now);
        self.send_all(&ToMember::Idle);
        self.phase = Phase::Closing(outcome);
        self.persist(self.commit);
        self.end_if_persisted();
    }

    fn end_if_persisted(&mut self) {
        if let Phase::Closing(outcome) = &self.phase
            && self.persisting.is_none()
        {
            self.end(outcome.clone());
        }
    }

    /// Ends the run now, on every host. The first reason stays.
    pub(super) fn end(&mut self, outcome: Outcome) {
        if matches!(self.phase, Phase::Over { .. } | Phase::Exited) {
            return;
        }
        self.participant.idle(self.now);
        self.send_all(&ToMember::Dismissed(outcome.clone()));
        let failed = matches!(outcome, Outcome::Failed(_));
        let linger = if failed { self.config.fail_limit } else { self.config.linger };
        self.phase = Phase::Over { outcome, until: self.now + linger };
    }

    /// Another head has taken over. Members of this one are not dismissed: they look for the other.
    pub(super) fn on_fenced(&mut self) {
        if matches!(self.phase, Phase::Over { .. }) {
            return;
        }
        self.out.extend(self.hosts.values().map(|host| HeadAction::Close { link: host.link }));
        self.hosts.clear();
        self.out.push(HeadAction::Exit(Outcome::Superseded));
        self.phase = Phase::Exited;
    }

    pub(super) fn on_signal(&mut self, signal: u8) {
        self.signal = Some(signal);
        match &self.phase {
            Phase::Training(_) => self.drain(),
            Phase::Gathering | Phase::Forming(_) => self.finish(Outcome::Interrupted { signal }),
            Phase::Closing(_) | Phase::Over { .. } | Phase::Exited => {}
        }
    }

    /// Exits when the run is over and every member has closed its link, or they have had their time.
    pub(super) fn exit_if_over(&mut self) {
        let lost_lately = self.last_loss > Duration::ZERO && self.now < self.last_loss + 2 * self.config.silence;
        if let Phase::Over { outcome, until } = &self.phase
            && (self.now >= *until || self.hosts.is_empty() && !lost_lately)
        {
            self.out.push(HeadAction::Exit(outcome.clone()));
            self.phase = Phase::Exited;
        }
    }
}

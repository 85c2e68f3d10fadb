//! Everything that time decides. Only on [`Tick`](crate::hosts::HeadEvent::Tick), before which the driver has delivered
//! everything that had arrived: otherwise a head that was stopped for a while would find everybody silent.
use super::{Head, Phase};
use crate::hosts::messages::{HeadAction, Loss, ToMember};
use crate::hosts::notice::Ending;
use crate::hosts::types::{Failure, HostId, Outcome};
use std::time::Duration;

impl Head {
    /// When the next [`Tick`](crate::hosts::HeadEvent::Tick) is due.
    pub fn deadline(&self) -> Duration {
        let mut deadline = match &self.phase {
            Phase::Forming(forming) => self.next_beat.min(forming.deadline),
            Phase::Over { until, .. } => return *until,
            Phase::Exited => return Duration::MAX,
            _ => self.next_beat,
        };
        for host in self.hosts.values() {
            deadline = deadline.min(host.last_heard + self.config.silence);
        }
        deadline
    }

    pub(super) fn tick(&mut self) {
        if self.now >= self.next_beat {
            self.next_beat = self.now + self.config.heartbeat;
            self.send_all(&ToMember::Beat);
        }
        if matches!(self.phase, Phase::Over { .. }) {
            return;
        }
        if self.now >= self.next_owner_check {
            // A head that was stopped while another one took over would otherwise keep members that find it, until its
            // next checkpoint is due.
            self.next_owner_check = self.now + self.config.silence;
            self.out.push(HeadAction::CheckOwner);
        }
        if matches!(self.phase, Phase::Gathering) {
            self.begin();
        }
        self.expel_silent();
        self.check_own_engine();
        match &self.phase {
            Phase::Forming(forming) if self.now >= forming.deadline => self.give_up_forming(),
            Phase::Training(_) => {
                self.check_progress();
                self.drain_for_joiners();
            }
            _ => {}
        }
    }

    fn expel_silent(&mut self) {
        let silent = |host: &super::Host| self.now >= host.last_heard + self.config.silence;
        let silent: Vec<HostId> = self.hosts.iter().filter(|(_, host)| silent(host)).map(|(id, _)| *id).collect();
        if !silent.is_empty() {
            self.lose(&silent, Loss::Silent);
        }
    }

    fn check_own_engine(&mut self) {
        let late = |since: Duration| self.now >= since + self.config.stop_limit;
        if self.participant.stopping().is_some_and(late) && !matches!(self.phase, Phase::Closing(_)) {
            self.fail("its workers do not stop");
        }
    }

    pub(super) fn fail(&mut self, cause: &str) {
        let (host, stage) = (self.start.hello.name.clone(), "(engine)".to_owned());
        self.end(Outcome::Failed(Failure { host, stage, step: Some(self.watch.work.step), cause: cause.to_owned() }));
    }

    /// If nobody finishes any work, those that do not wait for others hang.
    fn check_progress(&mut self) {
        if let Some((_, work)) = self.participant.work() {
            self.watch.update(self.now, work);
        }
        let Phase::Training(training) = &self.phase else { return };
        let members = training.members.iter().filter_map(|id| Some((*id, self.hosts.get(id)?.watch)));
        let members: Vec<_> = members.collect();
        let changed = members.iter().map(|(_, watch)| watch.changed).chain([self.watch.changed]).max();
        let changed = changed.unwrap_or_default().max(self.last_persisted);
        // A dataflow may wait for the disk: it does not reach the next checkpoint before the last one is written.
        if self.persisting.is_some() || self.now < changed + self.config.stall {
            return;
        }
        let hung: Vec<HostId> = members.iter().filter(|(_, watch)| !watch.work.waiting).map(|(id, _)| *id).collect();
        if !self.watch.work.waiting {
            return self.fail("its workers hang");
        }
        if !hung.is_empty() {
            return self.lose(&hung, Loss::Hung);
        }
        self.stalls += 1;
        if self.stalls >= self.config.stalls {
            return self.fail("no host makes progress, though all hosts answer and wait for each other");
        }
        self.end_generation(Ending::Stalled);
        self.begin();
    }

    /// Ends the generation for the sake of hosts that wait, but so seldom that it takes little of the time.
    fn drain_for_joiners(&mut self) {
        let Phase::Training(training) = &self.phase else { return };
        let least = self.config.settle.max(self.change * self.config.settle_factor);
        if self.now >= training.since + least && self.someone_waits(&training.members) {
            self.drain();
        }
    }
}

//! From a commit to a generation that trains, and its end.
//!
//! A generation is *formed* in two rounds, so that it is known who keeps it from starting: first every member stops
//! what it runs and obtains the commit, then all connect to each other. Hosts that do not are set aside and the next
//! attempt is made without them.
use super::{Head, Phase, Watch};
use crate::hosts::messages::{HeadAction, ToMember};
use crate::hosts::notice::{Ending, Notice, Obstacle};
use crate::hosts::types::{Epoch, Hello, HostId, Outcome, Peer, Step, Work};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A generation that does not train yet.
#[derive(Debug)]
pub(super) struct Forming {
    pub(super) epoch: Epoch,
    members: BTreeSet<HostId>,
    /// Whether all members are prepared, and connect.
    connecting: bool,
    /// Who is done with this round.
    done: BTreeSet<HostId>,
    /// Pairs of members that cannot connect.
    complaints: Vec<(HostId, HostId)>,
    pub(super) deadline: Duration,
}

impl Forming {
    /// Whether a report of a host belongs to this round.
    fn expects(&self, epoch: Epoch, from: HostId, connecting: bool) -> bool {
        self.epoch == epoch && self.connecting == connecting && self.members.contains(&from)
    }
}

/// A generation that trains.
#[derive(Debug)]
pub(super) struct Training {
    pub(super) epoch: Epoch,
    pub(super) members: BTreeSet<HostId>,
    pub(super) since: Duration,
    /// The head has asked for its end at a commit.
    pub(super) draining: bool,
    /// Whose parts of a step have arrived.
    pub(super) parts: BTreeMap<Step, BTreeSet<HostId>>,
}

impl Head {
    /// Begins the next generation from the last commit, with every host that can take part. If they are too few, waits.
    pub(super) fn begin(&mut self) {
        if let Some(signal) = self.signal {
            return self.finish(Outcome::Interrupted { signal });
        }
        if self.commit >= self.start.steps {
            // The previous head died between the last commit and its exit.
            return self.finish(Outcome::Done);
        }
        self.release_leavers();
        let members = self.choose_members();
        let needed = self.needed();
        let enough = members.len() >= needed;
        for (id, host) in &mut self.hosts {
            let asked = std::mem::replace(&mut host.asked, enough && members.contains(id));
            if asked && !host.asked {
                self.out.push(HeadAction::Send { link: host.link, message: ToMember::Idle });
            }
        }
        if !enough {
            self.phase = Phase::Gathering;
            self.participant.idle(self.now);
            if std::mem::replace(&mut self.gathered, members.len()) != members.len() {
                self.say(Notice::Gathering { present: members.len(), needed });
            }
            return;
        }
        if !matches!(self.phase, Phase::Forming(_)) {
            self.changing = self.now;
        }
        self.gathered = 0;
        self.generation += 1;
        let epoch = Epoch { incarnation: self.start.incarnation, generation: self.generation };
        let peers: Vec<Peer> = members.iter().map(|id| self.peer(*id)).collect();
        let from = self.commit;
        for id in &members {
            self.send_to(*id, ToMember::Prepare { epoch, from, members: peers.clone() });
        }
        self.participant.prepare(self.now, epoch, from, peers);
        self.phase = Phase::Forming(Forming {
            epoch,
            members,
            connecting: false,
            done: BTreeSet::new(),
            complaints: Vec::new(),
            deadline: self.now + self.config.prepare_limit,
        });
    }

    /// A member, as others reach it.
    fn peer(&self, host: HostId) -> Peer {
        let hello = self.hello(host);
        let workers = hello.workers.min(self.start.hello.workers);
        Peer { host, address: hello.address.clone(), workers }
    }

    fn hello(&self, host: HostId) -> &Hello {
        self.hosts.get(&host).map_or(&self.start.hello, |host| &host.hello)
    }

    /// How many hosts the next generation needs.
    fn needed(&self) -> usize {
        let first = if self.generation == 0 { self.config.first_hosts } else { 0 };
        self.config.min_hosts.max(first)
    }

    /// The head and every host that can take part. If they are too few, also hosts that have been set aside, though not
    /// at once, or the head would try without a pause.
    fn choose_members(&self) -> BTreeSet<HostId> {
        let able = |aside: bool| {
            let hosts = self.hosts.iter().filter(|(_, host)| host.holds && host.leaving.is_none());
            hosts.filter(move |(_, host)| aside == (host.aside_until > self.now))
        };
        let mut members: BTreeSet<HostId> = able(false).map(|(id, _)| *id).chain([HostId::HEAD]).collect();
        let rested = able(true).filter(|(_, host)| self.now >= host.aside_since + self.config.set_aside);
        let mut aside: Vec<_> = rested.map(|(id, host)| (host.aside_until, *id)).collect();
        aside.sort_unstable();
        let missing = self.needed().saturating_sub(members.len());
        members.extend(aside.into_iter().take(missing).map(|(_, id)| id));
        members
    }

    /// Whether a host that does not take part could, so that a generation should end for its sake.
    pub(super) fn someone_waits(&self, members: &BTreeSet<HostId>) -> bool {
        self.hosts.iter().any(|(id, host)| {
            host.holds && host.leaving.is_none() && host.aside_until <= self.now && !members.contains(id)
        })
    }

    pub(super) fn on_holds(&mut self, from: HostId) {
        if let Some(host) = self.hosts.get_mut(&from) {
            host.holds = true;
        }
        if matches!(self.phase, Phase::Gathering) {
            self.begin();
        }
    }

    pub(super) fn on_prepared(&mut self, epoch: Epoch, from: HostId) {
        let Phase::Forming(forming) = &mut self.phase else { return };
        if !forming.expects(epoch, from, false) {
            return;
        }
        forming.done.insert(from);
        if forming.done == forming.members {
            forming.connecting = true;
            forming.done.clear();
            forming.deadline = self.now + self.config.connect_limit;
            let members: Vec<HostId> = forming.members.iter().copied().collect();
            members.into_iter().for_each(|id| self.send_to(id, ToMember::Connect { epoch }));
            self.participant.connect(epoch);
        }
    }

    pub(super) fn on_connected(&mut self, epoch: Epoch, from: HostId) {
        let Phase::Forming(forming) = &mut self.phase else { return };
        if !forming.expects(epoch, from, true) {
            return;
        }
        forming.done.insert(from);
        if forming.done == forming.members {
            if forming.complaints.is_empty() { self.train() } else { self.give_up_forming() }
        }
    }

    pub(super) fn on_cannot_connect(&mut self, epoch: Epoch, from: HostId, peer: HostId) {
        let Phase::Forming(forming) = &mut self.phase else { return };
        if !forming.expects(epoch, from, true) {
            return;
        }
        forming.complaints.push((from, peer));
        forming.done.insert(from);
        if forming.done == forming.members {
            self.give_up_forming();
        }
    }

    /// A connection of the generation failed. Often one of its ends is dead, which shows soon; if it happens again and
    /// again, one of its ends is set aside.
    pub(super) fn on_broken(&mut self, epoch: Epoch, from: HostId, peer: HostId) {
        match &self.phase {
            Phase::Training(training) if training.epoch == epoch => self.end_generation(Ending::Broken),
            Phase::Forming(forming) if forming.epoch == epoch => {}
            // What is reported later only follows from that.
            _ => return,
        }
        self.breaks.push((from, peer));
        if self.breaks.len() >= self.config.breaks {
            let mut breaks = std::mem::take(&mut self.breaks);
            breaks.retain(|(a, b)| [a, b].iter().all(|id| **id == HostId::HEAD || self.hosts.contains_key(id)));
            let culprits = fewest_culprits(&breaks);
            self.set_aside(&culprits[..culprits.len().min(1)], Obstacle::Disconnected);
        }
        self.begin();
    }

    /// Sets the culprits aside and makes another attempt.
    pub(super) fn give_up_forming(&mut self) {
        let Phase::Forming(forming) = &self.phase else { return };
        let missing = forming.members.difference(&forming.done).copied();
        let mut culprits = fewest_culprits(&forming.complaints);
        if culprits.is_empty() {
            culprits.extend(missing);
        }
        let why = if forming.connecting { Obstacle::Unconnected } else { Obstacle::Unprepared };
        self.set_aside(&culprits, why);
        self.begin();
    }

    fn set_aside(&mut self, culprits: &[HostId], why: Obstacle) {
        for id in culprits {
            let Some(host) = self.hosts.get_mut(id) else { continue };
            let duration = self.config.set_aside * 2_u32.pow(host.times_aside.min(6));
            host.times_aside += 1;
            host.aside_since = self.now;
            host.aside_until = self.now + duration;
            let name = host.hello.name.clone();
            self.say(Notice::SetAside { name, why, seconds: duration.as_secs() });
        }
    }

    fn train(&mut self) {
        let Phase::Forming(forming) = &mut self.phase else { return };
        let (epoch, members) = (forming.epoch, std::mem::take(&mut forming.members));
        let watch = Watch { work: Work { step: self.commit, ..Work::default() }, changed: self.now };
        self.watch = watch;
        for id in &members {
            self.send_to(*id, ToMember::Start { epoch });
            if let Some(host) = self.hosts.get_mut(id) {
                host.watch = watch;
            }
        }
        self.participant.start(epoch);
        self.change = self.now.saturating_sub(self.changing);
        let hosts = members.iter().map(|id| self.hello(*id).name.clone()).collect();
        let workers = members.iter().map(|id| self.peer(*id).workers).collect();
        self.say(Notice::Training { epoch, hosts, workers, from: self.commit });
        let (since, parts) = (self.now, BTreeMap::new());
        self.phase = Phase::Training(Training { epoch, members, since, draining: false, parts });
    }

    /// Ends the generation that trains; the caller decides what comes next.
    pub(super) fn end_generation(&mut self, why: Ending) {
        let Phase::Training(training) = &self.phase else { return };
        let epoch = training.epoch;
        self.out.push(HeadAction::Discard { epoch });
        if self.commit < self.start.steps {
            self.say(Notice::Ended { epoch, why, commit: self.commit });
        }
        self.phase = Phase::Gathering;
    }

    /// Hosts are gone or leave: the generation that they are in cannot go on.
    pub(super) fn without(&mut self, gone: &[HostId]) {
        match &self.phase {
            Phase::Training(training) if gone.iter().any(|id| training.members.contains(id)) => {
                self.end_generation(Ending::Lost);
                self.begin();
            }
            Phase::Forming(forming) if gone.iter().any(|id| forming.members.contains(id)) => self.begin(),
            _ => {}
        }
    }

    /// Ends the generation after the current step.
    pub(super) fn drain(&mut self) {
        if let Phase::Training(training) = &mut self.phase
            && !training.draining
        {
            training.draining = true;
            self.out.push(HeadAction::Drain { epoch: training.epoch });
        }
    }

    pub(super) fn on_leave(&mut self, id: HostId) {
        match &self.phase {
            Phase::Training(training) if training.members.contains(&id) => self.drain(),
            Phase::Forming(forming) if forming.members.contains(&id) => self.begin(),
            _ => self.release_leavers(),
        }
    }

    /// Dismisses hosts that want to leave and are not in a generation.
    fn release_leavers(&mut self) {
        for host in self.hosts.values_mut().filter(|host| !host.released) {
            let Some(signal) = host.leaving else { continue };
            host.released = true;
            let message = ToMember::Dismissed(Outcome::Left { signal });
            self.out.push(HeadAction::Send { link: host.link, message });
            self.out.push(HeadAction::Say(Notice::Released { name: host.hello.name.clone() }));
        }
    }
}

/// A small set of hosts without which no complaint is left: again and again the one in most complaints, among equals
/// the one that joined last. Never the head, which every generation needs.
fn fewest_culprits(complaints: &[(HostId, HostId)]) -> Vec<HostId> {
    let mut left = complaints.to_vec();
    let mut culprits = Vec::new();
    while !left.is_empty() {
        let mut counts: BTreeMap<HostId, usize> = BTreeMap::new();
        for id in left.iter().flat_map(|(from, peer)| [from, peer]).filter(|id| **id != HostId::HEAD) {
            *counts.entry(*id).or_default() += 1;
        }
        let Some((culprit, _)) = counts.into_iter().max_by_key(|(id, count)| (*count, *id)) else { break };
        left.retain(|(from, peer)| *from != culprit && *peer != culprit);
        culprits.push(culprit);
    }
    culprits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_in_most_complaints_is_to_blame() {
        let culprits = |pairs: &[(u32, u32)]| {
            let complaints: Vec<_> = pairs.iter().map(|(a, b)| (HostId(*a), HostId(*b))).collect();
            fewest_culprits(&complaints).into_iter().map(|id| id.0).collect::<Vec<_>>()
        };
        assert!(culprits(&[]).is_empty());
        assert_eq!(culprits(&[(0, 2), (1, 2), (2, 3)]), [2]);
        assert_eq!(culprits(&[(1, 2), (2, 1)]), [2], "among equals the one that joined last");
        assert_eq!(culprits(&[(0, 1), (2, 3)]), [3, 1]);
        assert_eq!(culprits(&[(0, 1)]), [1], "never the head");
    }
}

//! Wrong variants of the protocol, to test that the checks can fail. They are made at the boundary: by changing what
//! goes into the state machines or comes out of them, or what the layer below promises. The protocol itself contains no
//! trace of them.
use super::world::{MS, Pid, What, World};
use crate::hosts::{
    Config, EngineEvent, Epoch, HeadAction, HeadEvent, HostId, Link, MemberEvent, Outcome, Report, Step, ToHead,
    ToMember,
};
use std::time::Duration;

/// A wrong variant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// The head takes a part of an earlier generation for one of the current generation.
    PartsOfAnyGeneration,
    /// A host takes the failure of a socket of an earlier generation for one of the current generation.
    FailuresOfAnyGeneration,
    /// A commit is made when the first part has arrived.
    CommitsWithFirstPart,
    /// A generation starts when the first member is connected.
    StartsWithFirstMember,
    /// The disk accepts what a replaced head writes.
    DoesNotFenceOldHead,
    /// A member accepts an older incarnation of the head.
    AcceptsOldIncarnation,
    /// A resumed head believes that it had one more step on disk.
    ResumesTooLate,
    /// Engines are considered stopped when they have been asked to.
    DoesNotWaitForStop,
    /// A member begins at the commit that it has, not at the one it was told.
    BeginsAtOwnCommit,
    /// A generation begins one commit earlier than the last.
    BeginsAtEarlierCommit,
    /// Members are not told of the last one of them.
    ForgetsMember,
    /// The head ends the run before the last commit is on disk.
    EndsBeforeDisk,
    /// A failure does not reach the other hosts.
    FailureStaysLocal,
    /// The head exits at once, without waiting for members to read why.
    DoesNotLinger,
    /// Silent hosts are noticed too late.
    NoticesTooLate,
    /// Hosts are found silent after a single lost segment.
    NoticesTooEarly,
    /// Nobody notices a host whose workers hang.
    IgnoresHangs,
    /// Every host that waits is mistaken for one that hangs.
    BlamesThoseWhoWait,
    /// Generations end as soon as somebody joins.
    JoinersFirst,
    /// Hosts that join are never asked to take part, unless the head has too few.
    ForgetsJoiners,
    /// A host whose connections always break is never set aside.
    NeverSetsAside,
    /// `Broken` is ignored.
    IgnoresBroken,
    /// Timers fire before what has arrived is delivered.
    KeepsDeadLinks,
}

/// All of them, and in how many seeds each must be found.
pub const ALL: &[(Wrong, u64)] = &[
    (Wrong::PartsOfAnyGeneration, 1000),
    (Wrong::FailuresOfAnyGeneration, 300),
    (Wrong::CommitsWithFirstPart, 100),
    (Wrong::StartsWithFirstMember, 100),
    (Wrong::DoesNotFenceOldHead, 1000),
    (Wrong::AcceptsOldIncarnation, 10000),
    (Wrong::ResumesTooLate, 100),
    (Wrong::DoesNotWaitForStop, 100),
    (Wrong::BeginsAtOwnCommit, 1000),
    (Wrong::BeginsAtEarlierCommit, 100),
    (Wrong::ForgetsMember, 100),
    (Wrong::EndsBeforeDisk, 100),
    (Wrong::FailureStaysLocal, 300),
    (Wrong::DoesNotLinger, 100),
    (Wrong::NoticesTooLate, 100),
    (Wrong::NoticesTooEarly, 100),
    (Wrong::IgnoresHangs, 300),
    (Wrong::BlamesThoseWhoWait, 300),
    (Wrong::JoinersFirst, 100),
    (Wrong::ForgetsJoiners, 300),
    (Wrong::NeverSetsAside, 1000),
    (Wrong::IgnoresBroken, 300),
    (Wrong::KeepsDeadLinks, 300),
];

impl Wrong {
    /// The variants that are wrong limits.
    pub fn configure(self, config: &mut Config) {
        match self {
            Self::DoesNotLinger => config.linger = Duration::ZERO,
            Self::NoticesTooLate => config.silence = Duration::from_millis(6_000),
            Self::NoticesTooEarly => config.silence = Duration::from_millis(1_100),
            Self::IgnoresHangs => config.stall = Duration::from_secs(10_000),
            Self::ForgetsJoiners => config.settle = Duration::from_secs(1_000),
            Self::NeverSetsAside => config.breaks = usize::MAX,
            Self::JoinersFirst => (config.settle, config.settle_factor) = (Duration::from_secs(1), 1),
            _ => {}
        }
    }
}

impl World {
    fn is(&self, wrong: Wrong) -> bool {
        self.wrong == Some(wrong)
    }

    /// The generation that the head has prepared last.
    fn newest(&self) -> Option<(Epoch, Vec<HostId>)> {
        self.checks.newest().map(|(epoch, members)| (epoch, members.to_vec()))
    }

    /// The open links of a head.
    fn links_of(&self, head: Pid) -> Vec<Link> {
        let links = self.network.links.iter().enumerate();
        links.filter(|(_, link)| link.ends[1] == head && link.open[1]).map(|(at, _)| Link(at as u64)).collect()
    }

    /// What a head is told.
    pub fn wrong_head_event(&mut self, pid: Pid, event: HeadEvent) -> Option<HeadEvent> {
        let Some(wrong) = self.wrong else { return Some(event) };
        let newest = self.newest();
        match (wrong, event) {
            (Wrong::PartsOfAnyGeneration, HeadEvent::Part { step, from, last, epoch }) => {
                let epoch = newest.map_or(epoch, |(newest, _)| newest);
                Some(HeadEvent::Part { epoch, step, from, last })
            }
            (Wrong::CommitsWithFirstPart, HeadEvent::Part { epoch, step, from, last }) => {
                let others = newest.map(|(_, members)| members).unwrap_or_default();
                for other in others.into_iter().filter(|other| *other != from) {
                    self.head_event_as_is(pid, HeadEvent::Part { epoch, step, from: other, last });
                }
                Some(HeadEvent::Part { epoch, step, from, last })
            }
            (Wrong::StartsWithFirstMember, HeadEvent::Engine(EngineEvent::Connected { epoch })) => {
                for link in self.links_of(pid) {
                    let message = ToHead::Report(Report::Connected { epoch });
                    self.head_event_as_is(pid, HeadEvent::Message { link, message });
                }
                Some(HeadEvent::Engine(EngineEvent::Connected { epoch }))
            }
            (
                Wrong::IgnoresBroken,
                HeadEvent::Message { message: ToHead::Report(Report::Broken { .. }), .. }
                | HeadEvent::Engine(EngineEvent::Broken { .. }),
            )
            | (Wrong::KeepsDeadLinks, HeadEvent::Closed { .. }) => None,
            (Wrong::BlamesThoseWhoWait, HeadEvent::Message { link, message: ToHead::Beat { work } }) => {
                let work = work.map(|(epoch, work)| (epoch, crate::hosts::Work { waiting: false, ..work }));
                Some(HeadEvent::Message { link, message: ToHead::Beat { work } })
            }
            (_, event) => Some(event),
        }
    }

    /// What a head wants done.
    pub fn wrong_head_action(&mut self, pid: Pid, action: HeadAction) -> Option<HeadAction> {
        let Some(wrong) = self.wrong else { return Some(action) };
        match (wrong, action) {
            (Wrong::EndsBeforeDisk, HeadAction::Persist { step }) => {
                self.after(MS, What::Claimed { pid, step });
                None
            }
            (Wrong::FailureStaysLocal, HeadAction::Send { message: ToMember::Dismissed(Outcome::Failed(_)), .. }) => {
                None
            }
            (Wrong::BeginsAtEarlierCommit, HeadAction::Send { link, message }) => {
                let earlier = self.scenario.commit_every;
                let message = match message {
                    ToMember::Prepare { epoch, from, members } if from > earlier => {
                        ToMember::Prepare { epoch, from: from - earlier, members }
                    }
                    message => message,
                };
                Some(HeadAction::Send { link, message })
            }
            (
                Wrong::ForgetsMember,
                HeadAction::Send { link, message: ToMember::Prepare { epoch, from, mut members } },
            ) => {
                if members.len() > 2 && link.0 % 2 == 0 {
                    members.remove(1);
                }
                Some(HeadAction::Send { link, message: ToMember::Prepare { epoch, from, members } })
            }
            (_, action) => Some(action),
        }
    }

    /// What a member is told.
    pub fn wrong_member_event(&mut self, pid: Pid, event: MemberEvent) -> Option<MemberEvent> {
        let Some(wrong) = self.wrong else { return Some(event) };
        match (wrong, event) {
            (
                Wrong::AcceptsOldIncarnation,
                MemberEvent::Message { link, message: ToMember::Welcome { run, incarnation, host, commit } },
            ) => {
                let incarnation = incarnation.max(self.processes[pid].incarnation);
                Some(MemberEvent::Message { link, message: ToMember::Welcome { run, incarnation, host, commit } })
            }
            (Wrong::FailuresOfAnyGeneration, MemberEvent::Engine(EngineEvent::Broken { epoch, peer })) => {
                let current = self.processes[pid].engine.map(|engine| self.meshes[engine.mesh].epoch);
                Some(MemberEvent::Engine(EngineEvent::Broken { epoch: current.unwrap_or(epoch), peer }))
            }
            (
                Wrong::BeginsAtOwnCommit,
                MemberEvent::Message { link, message: ToMember::Prepare { epoch, from, members } },
            ) => {
                let from = self.processes[pid].copies.last().map_or(from, |(step, _)| *step);
                Some(MemberEvent::Message { link, message: ToMember::Prepare { epoch, from, members } })
            }
            (_, event) => Some(event),
        }
    }

    /// Whether the disk accepts everything.
    pub fn wrong_fence(&self) -> bool {
        self.is(Wrong::DoesNotFenceOldHead)
    }

    /// Where a head resumes.
    pub fn wrong_resume(&self, commit: Step) -> Step {
        if self.is(Wrong::ResumesTooLate) && commit > 0 { commit + 1 } else { commit }
    }

    /// Whether an engine that is asked to stop says at once that it has, and goes on.
    pub fn wrong_stop(&mut self, pid: Pid, epoch: Epoch) -> bool {
        if !self.is(Wrong::DoesNotWaitForStop) {
            return false;
        }
        self.after(0, What::Engine { pid, event: EngineEvent::Stopped { epoch } });
        true
    }
}

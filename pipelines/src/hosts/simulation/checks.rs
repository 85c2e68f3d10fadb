//! What must be true, checked after every event that could make it false.
use super::network::{HEAD, MEMBER};
use super::process::VERSION;
use super::training::{EVERY_LEAF_ONCE, initial_hash, next_hash};
use super::world::{Check, Pid, Process, Role, Running, S, Time, What, World};
use crate::hosts::{Ending, Epoch, HostId, Loss, Notice, Obstacle, Outcome, Report, Step, ToHead, ToMember};
use std::collections::BTreeSet;
use std::sync::OnceLock;

/// How long after a generation the next one trains at the latest, if nothing else goes wrong.
const NEXT: Time = 10 * S;
/// How long a generation trains at least before it is ended for the sake of hosts that join.
pub const SETTLE: Time = 10 * S;

/// What the checks remember.
#[derive(Default)]
pub struct Checks {
    /// The first thing that was not true.
    pub violation: Option<String>,
    powerless: Vec<(usize, Time)>,
    /// Some process hung.
    pub hung: bool,
    /// How many generations waited for ever.
    pub stuck: u32,
    pub interrupted: bool,
    /// Heads that another one was started beside.
    pub replaced: Vec<Pid>,
    /// A stage failed on purpose, with this cause.
    failed: bool,
    /// The members and the commit of each generation, as first heard of.
    generations: Vec<(Epoch, Vec<HostId>, Option<Step>)>,
    /// The last generation that each incarnation has started.
    started: Vec<Epoch>,
    /// When a step was done, by a head that is not replaced.
    pub last_progress: Time,
    /// The head has told its members that the run is over.
    pub dismissing: bool,
    /// When a process was started last.
    pub last_join: Time,
    /// When the last fault so far is over.
    pub busy_until: Time,
    /// What has happened, of what can happen.
    pub seen: BTreeSet<String>,
    /// How many generations trained.
    pub trained: u64,
    /// How long it took at most until a dead or stopped host was noticed.
    pub detection: Time,
    /// How long it took at most from the end of a generation to the next, if nothing else went wrong.
    pub change: Time,
}

impl Checks {
    /// A machine is without power until then.
    pub fn lose_power(&mut self, machine: usize, until: Time) {
        self.powerless.push((machine, until));
    }

    /// Whether a machine is without power.
    pub fn without_power(&self, machine: usize, now: Time) -> bool {
        self.powerless.iter().any(|(other, until)| *other == machine && *until > now)
    }

    fn generation(&mut self, epoch: Epoch, members: &[HostId]) -> &mut (Epoch, Vec<HostId>, Option<Step>) {
        let at = self.generations.iter().rposition(|(other, ..)| *other == epoch).unwrap_or_else(|| {
            self.generations.push((epoch, members.to_vec(), None));
            self.generations.len() - 1
        });
        &mut self.generations[at]
    }

    /// The generation that was prepared last, and its members.
    pub fn newest(&self) -> Option<(Epoch, &[HostId])> {
        self.generations.last().map(|(epoch, members, _)| (*epoch, &members[..]))
    }
}

/// The name of a variant.
fn variant(value: &impl std::fmt::Debug) -> String {
    format!("{value:?}").chars().take_while(|c| c.is_alphanumeric()).collect()
}

/// The state after `step` updates in a run without faults.
fn expected(step: Step) -> u64 {
    static STATES: OnceLock<Vec<u64>> = OnceLock::new();
    let states = STATES.get_or_init(|| {
        let next = |hash: &u64, step: Step| next_hash(*hash, step, EVERY_LEAF_ONCE);
        (0..200).fold(vec![initial_hash()], |mut states, step| {
            states.push(next(&states[states.len() - 1], step));
            states
        })
    });
    states.get(step as usize).copied().unwrap_or_default()
}

impl World {
    /// Something that must be true is not.
    pub fn fail(&mut self, violation: String) {
        self.note(|_| format!("## {violation}"));
        let now = self.now as f64 / S as f64;
        self.checks.violation.get_or_insert_with(|| format!("at {now:.3} s: {violation}"));
    }

    /// Fails unless something is true.
    pub fn must(&mut self, truth: bool, otherwise: impl FnOnce() -> String) {
        if !truth {
            self.fail(otherwise());
        }
    }

    /// Whether a head has ended the run.
    pub fn is_over(&self) -> bool {
        let ended = |head: &Pid| {
            matches!(
                self.processes[*head].outcome,
                Some((_, Outcome::Done | Outcome::Interrupted { .. } | Outcome::Failed(_)))
            )
        };
        self.heads.iter().any(ended)
    }

    /// Everybody agrees who is in a generation.
    pub fn check_members(&mut self, pid: Pid, epoch: Epoch, members: &[HostId]) {
        let agrees = self.checks.generation(epoch, members).1 == members;
        self.must(agrees, || format!("p{pid} has other members of generation {epoch} than others: {members:?}"));
    }

    /// Of a message from a head: hosts are not expelled without a reason, and generations begin at the last commit.
    pub fn check_message(&mut self, pid: Pid, link: usize, message: &ToMember) {
        let now = self.now;
        let victim = self.network.links[link].ends[MEMBER];
        match message {
            ToMember::Prepare { epoch, from, members } => {
                let members: Vec<HostId> = members.iter().map(|peer| peer.host).collect();
                self.check_members(pid, *epoch, &members);
                self.checks.generation(*epoch, &members).2 = Some(*from);
                let commit = self.processes[pid].commit;
                self.must(*from == commit, || format!("{epoch} begins at step {from}; the last commit is {commit}"));
            }
            ToMember::Expelled(Loss::Silent) => {
                let reason = |pid: Pid| {
                    let process = &self.processes[pid];
                    process.running != Running::Alive || process.disturbed + 5 * S >= now
                };
                let truth = reason(victim) || reason(pid);
                self.must(truth, || format!("p{victim} is expelled as silent, but nothing disturbed it"));
            }
            ToMember::Expelled(Loss::Hung) => {
                let process = &self.processes[victim];
                let truth = process.hung || process.running != Running::Alive || process.disturbed + 5 * S >= now;
                self.must(truth, || format!("p{victim} is expelled because it hangs, but it does not"));
            }
            ToMember::Dismissed(outcome) if !matches!(outcome, Outcome::Left { .. }) => self.checks.dismissing = true,
            _ => {}
        }
    }

    /// The workers of a host begin to train.
    pub fn check_start(&mut self, pid: Pid, epoch: Epoch, from: Step) {
        if matches!(self.processes[pid].role, Role::Head(_)) {
            let started = self.checks.started.iter().filter(|other| other.incarnation == epoch.incarnation).max();
            let increases = started.is_none_or(|started| *started < epoch);
            self.must(increases, || format!("generation {epoch} is started after a later one"));
            self.checks.started.push(epoch);
            self.processes[pid].training_since = self.now;
            self.checks.trained += 1;
            let commit = self.processes[pid].commit;
            self.must(from == commit, || format!("the head begins at step {from}; the last commit is {commit}"));
            return;
        }
        let newest = self.processes[pid].incarnation;
        self.must(newest <= epoch.incarnation, || format!("p{pid} obeys incarnation {}", epoch.incarnation));
        let asked = self.checks.generations.iter().find(|(other, ..)| *other == epoch).and_then(|(.., from)| *from);
        self.must(asked == Some(from), || format!("p{pid} begins {epoch} at step {from} instead of {asked:?}"));
    }

    /// A step is done by all members of a generation: it must be the last one that its head has started. So there are
    /// never two generations of one incarnation; of an old incarnation, nothing reaches the disk.
    pub fn check_update(&mut self, mesh: usize, step: Step) {
        let epoch = self.meshes[mesh].epoch;
        let started = self.checks.started.iter().filter(|other| other.incarnation == epoch.incarnation).max().copied();
        self.must(started == Some(epoch), || format!("{epoch} does step {step}, though {started:?} was started"));
        if epoch.incarnation == self.disk.incarnation {
            self.checks.last_progress = self.now;
        }
    }

    /// Generations end for the sake of hosts that join only if they have trained for a while.
    pub fn check_drain(&mut self, pid: Pid) {
        let for_others = self.checks.interrupted || self.processes.iter().any(|process| process.leaving);
        let settled = self.now >= self.processes[pid].training_since + SETTLE;
        self.must(for_others || settled, || format!("p{pid} ends a generation that has just begun"));
    }

    /// A commit consists of one part from every member, computed in its generation from the commit before.
    pub fn check_commit(&mut self, pid: Pid, epoch: Epoch, step: Step) {
        let commit = self.processes[pid].commit;
        self.must(step > commit, || format!("commit {step} comes after commit {commit}"));
        let members = self.checks.generations.iter().find(|(other, ..)| *other == epoch);
        let members = members.map(|(_, members, _)| members.clone()).unwrap_or_default();
        let staged = &self.processes[pid].staged;
        let part = |host: HostId| staged.iter().find(|p| p.epoch == epoch && p.step == step && p.from == host);
        let missing: Vec<HostId> = members.iter().copied().filter(|host| part(*host).is_none()).collect();
        let different = members.iter().any(|host| part(*host).is_some_and(|part| part.hash != expected(step)));
        self.must(missing.is_empty() && !members.is_empty(), || {
            format!("commit {step} of generation {epoch} without the parts of {missing:?}")
        });
        self.must(!different, || format!("commit {step} of generation {epoch} differs from an undisturbed run"));
    }

    /// What reaches the disk is written by the head that owns it, moves forward, and is what an undisturbed run has.
    pub fn check_written(&mut self, pid: Pid, step: Step, copy: Option<(Step, u64)>) {
        let owner = self.disk.incarnation == self.processes[pid].incarnation;
        self.must(owner, || format!("p{pid} writes to the disk of another incarnation"));
        let before = self.disk.step;
        self.must(step > before, || format!("step {step} is written after step {before}"));
        let hash = copy.map(|(_, hash)| hash);
        self.must(hash == Some(expected(step)), || format!("step {step} on disk differs from an undisturbed run"));
    }

    /// A process ends only for a reason.
    pub fn check_exit(&mut self, pid: Pid, outcome: &Outcome) {
        let (step, steps, commit) = (self.disk.step, self.scenario.steps, self.processes[pid].commit);
        let is_head = matches!(self.processes[pid].role, Role::Head(_));
        let reason = match outcome {
            Outcome::Done => step == steps,
            Outcome::Interrupted { .. } => self.checks.interrupted && (!is_head || step >= commit),
            Outcome::Failed(_) => !is_head || self.may_fail(),
            Outcome::Left { .. } => self.processes[pid].leaving,
            Outcome::Rejected(_) => self.processes[pid].version != VERSION,
            Outcome::Superseded => self.checks.replaced.contains(&pid),
            Outcome::Stuck => self.processes[pid].hung,
            // Simulated disks of joined hosts have no faults.
            Outcome::NoState { .. } => false,
            Outcome::Unreachable { .. } | Outcome::HeadLost => true,
        };
        self.must(reason, || format!("p{pid} ends without a reason: {outcome:?}"));
        self.checks.seen.insert(format!("{} {}", if is_head { "head" } else { "member" }, variant(outcome)));
        if is_head && !matches!(outcome, Outcome::Superseded) {
            let head = pid;
            let told = |pid: Pid| {
                self.processes[pid].link.is_some_and(|link| {
                    let link = &self.network.links[link];
                    link.admitted + S < self.now
                        && link.open[MEMBER]
                        && link.open[HEAD]
                        && link.ends[HEAD] == head
                        && self.is_undisturbed(pid)
                })
            };
            let pids: Vec<Pid> = (0..self.processes.len()).filter(|pid| told(*pid)).collect();
            self.after(2 * S, What::Check(Check::Told { pids, outcome: outcome.clone() }));
        }
    }

    /// Whether something has happened for which a head may let the run fail.
    fn may_fail(&self) -> bool {
        let full = |at: Step| self.heads.iter().any(|head| self.processes[*head].commit >= at);
        let stuck = self.checks.stuck >= self.config.stalls;
        self.checks.failed || self.checks.hung || stuck || self.scenario.disk_full_at.is_some_and(full)
    }

    /// Remembers what has happened.
    pub fn see(&mut self, notice: &Notice) {
        let seen = match notice {
            Notice::Lost { loss, .. } => format!("Lost {loss:?}"),
            Notice::SetAside { why, .. } => format!("SetAside {why:?}"),
            Notice::Ended { why, .. } => format!("Ended {why:?}"),
            Notice::Expelled(loss) => format!("Expelled {loss:?}"),
            other => variant(other),
        };
        self.checks.seen.insert(seen);
    }

    /// What the head says about hosts and generations.
    pub fn check_notice(&mut self, pid: Pid, notice: &Notice) {
        self.see(notice);
        let named = |name: &str| name[1..].parse::<Pid>().unwrap_or_default();
        match notice {
            Notice::Refused { name, .. } => {
                let reason = self.processes[named(name)].version != VERSION;
                self.must(reason, || format!("{name} is refused without a reason"));
            }
            Notice::Lost { name, .. } => {
                let Process { running, down_since, .. } = self.processes[named(name)];
                let able = self.processes[pid].disturbed + 5 * S < self.now && self.network.lossy_until < down_since;
                if running != Running::Alive && down_since > 0 && able {
                    self.checks.detection = self.checks.detection.max(self.now - down_since);
                }
            }
            Notice::SetAside { name, why, .. } => {
                let other = &self.processes[named(name)];
                let slow =
                    self.scenario.slow_machine == Some(other.machine) || self.now < self.network.lossy_until + 5 * S;
                let mut cuts = self.network.cuts.iter().filter(|cut| [cut.from, cut.to].contains(&other.machine));
                let cut = cuts.any(|cut| cut.until + 10 * S >= self.now);
                let disturbed = cut || other.disturbed + 10 * S >= self.now || other.running != Running::Alive;
                let blind = self.processes[pid].disturbed + 10 * S >= self.now;
                let bad = self.network.bad_pairs.iter().any(|(a, b, _)| [*a, *b].contains(&other.machine));
                let broken = self.meshes.iter().filter(|mesh| mesh.broken.is_some()).count();
                let breaks = *why == Obstacle::Disconnected && broken >= self.config.breaks;
                // Of two that cannot connect, the one that nothing disturbs may be to blame.
                let pair = *why == Obstacle::Unconnected && self.checks.busy_until + 10 * S >= self.now;
                let reason = pair || slow || disturbed || other.hung || blind || bad || breaks;
                self.must(reason, || format!("{name} is set aside, but nothing disturbs it"));
            }
            Notice::Ended { epoch, why, .. } => {
                let stuck = self.checks.stuck > 0 || self.checks.busy_until + 20 * S >= self.now;
                self.must(*why != Ending::Stalled || stuck, || format!("generation {epoch} has not stalled"));
                let reason = *why != Ending::Broken
                    || self.meshes.iter().any(|mesh| mesh.epoch == *epoch && mesh.broken.is_some());
                self.must(reason, || format!("generation {epoch} ends, but its sockets have not failed"));
                let since = self.now;
                self.processes[pid].generation_ended = Some(since);
                self.after(NEXT, What::Check(Check::Next { head: pid, since }));
            }
            Notice::Training { .. } => {
                let since = self.processes[pid].generation_ended.take().unwrap_or(self.now);
                let forming = self.processes[pid].forming.take().unwrap_or(self.now);
                self.processes[pid].change = self.now - since.min(forming);
                if self.quiet_since(since) && self.checks.last_join < since {
                    self.checks.change = self.checks.change.max(self.now - since);
                }
            }
            _ => {}
        }
    }

    /// Of a message to a head: sockets have failed if a member says so.
    pub fn check_report(&mut self, pid: Pid, message: &ToHead) {
        if let ToHead::Report(Report::Broken { epoch, .. }) = message {
            let own = self.processes[pid].engine.map(|engine| self.meshes[engine.mesh].seats[engine.seat].host);
            let mesh = self.meshes.iter().find(|mesh| mesh.epoch == *epoch);
            let broken = mesh.is_some_and(|mesh| mesh.broken.is_some() && mesh.broken != own);
            self.must(broken, || format!("p{pid} finds {epoch} broken, but its sockets have not failed"));
        }
    }

    /// A member is welcomed: not by an old head.
    pub fn check_welcome(&mut self, pid: Pid) {
        let Some(link) = self.processes[pid].link else { return };
        let head = self.network.links[link].ends[HEAD];
        let (known, incarnation) = (self.processes[pid].incarnation, self.processes[head].incarnation);
        self.must(known <= incarnation, || format!("p{pid} obeys incarnation {incarnation} after {known}"));
    }

    /// A stage fails on purpose.
    pub fn expect_failures(&mut self) {
        self.checks.failed = true;
    }
}
